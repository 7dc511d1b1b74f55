//! A number of permits.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Cancelled, Unbalanced, WouldBlock};
use crate::runtime::scope::What;
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// A number of permits: each [`acquire`](Self::acquire) takes one, and gives it back when its [`SemaphorePermit`] is
/// dropped. A clone is another handle of the same semaphore.
///
/// It is fair: a permit goes to whoever waits for one the longest, and nobody takes it in passing.
///
/// # Examples
/// ```
/// use proactor::{sync::Semaphore, spawn};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let downloads = Semaphore::new(3);
///     let permit = downloads.acquire().await?;
///     let download = spawn(async move {
///         // … and when this is done, the next may begin.
///         drop(permit);
///     });
///     assert_eq!(downloads.value(), 2);
///     download.await?;
///     assert_eq!(downloads.value(), 3);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<Shared>,
}

struct Shared {
    /// Permits to be had. None while somebody waits.
    value: Cell<usize>,
    max_value: Option<usize>,
    waiters: Waiters,
}

/// What is known about a [`Semaphore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SemaphoreStatistics {
    /// Futures that wait for a permit.
    pub tasks_waiting: usize,
}

impl Semaphore {
    /// A semaphore of `initial_value` permits. [`release`](Self::release) may add any number to them.
    pub fn new(initial_value: usize) -> Self {
        Self::with(initial_value, None)
    }

    /// A semaphore of `initial_value` permits that can never have more than `max_value`: a release too many is an error.
    ///
    /// # Panics
    /// If it would have more from the beginning.
    #[doc(alias = "BoundedSemaphore")]
    pub fn bounded(initial_value: usize, max_value: usize) -> Self {
        assert!(initial_value <= max_value, "a semaphore begins with at most `max_value` permits");
        Self::with(initial_value, Some(max_value))
    }

    fn with(initial_value: usize, max_value: Option<usize>) -> Self {
        let value = Cell::new(initial_value);
        Self { shared: Rc::new(Shared { value, max_value, waiters: Waiters::default() }) }
    }

    /// Completes with a permit. Dropping it gives it back; [`SemaphorePermit::forget`] leaves that to
    /// [`release`](Self::release).
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the permit goes to the next who waits. The place in the queue is given up.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn acquire(&self) -> AcquirePermit {
        AcquirePermit { wait: Wait::new(self.clone(), ()) }
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    /// [`WouldBlock`], if there is none.
    #[doc(alias = "try_acquire")]
    pub fn acquire_nowait(&self) -> Result<SemaphorePermit, WouldBlock> {
        if self.take() { Ok(SemaphorePermit::of(self)) } else { Err(WouldBlock) }
    }

    /// Adds a permit: one that was [forgotten](SemaphorePermit::forget), or a new one.
    ///
    /// # Errors
    /// [`Unbalanced`], if it is [bounded](Self::bounded) and has all its permits already.
    pub fn release(&self) -> Result<(), Unbalanced> {
        if self.shared.max_value == Some(self.value()) {
            return Err(Unbalanced::new("the semaphore was released more often than it was acquired"));
        }
        self.give();
        Ok(())
    }

    /// The permits that can be had without waiting.
    pub fn value(&self) -> usize {
        self.shared.value.get()
    }

    /// The most permits that it can have, if it is [bounded](Self::bounded).
    pub fn max_value(&self) -> Option<usize> {
        self.shared.max_value
    }

    /// Whether there is no permit to be had without waiting.
    #[doc(alias = "locked")]
    pub fn is_locked(&self) -> bool {
        self.value() == 0
    }

    /// How many wait.
    pub fn statistics(&self) -> SemaphoreStatistics {
        SemaphoreStatistics { tasks_waiting: self.shared.waiters.len() }
    }

    fn take(&self) -> bool {
        let left = self.value().checked_sub(1);
        left.inspect(|left| self.shared.value.set(*left)).is_some()
    }

    /// Hands a permit to the first who waits.
    fn give(&self) {
        if self.shared.waiters.grant().is_none() {
            self.shared.value.set(self.value() + 1);
        }
    }
}

impl Source for Semaphore {
    type Value = ();
    type Error = Cancelled;

    const WHAT: What = What(&"a permit of a semaphore");

    fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    fn attempt(&self, (): ()) -> Attempt<(), Cancelled> {
        if self.take() { Attempt::Done } else { Attempt::Wait(()) }
    }

    fn left(&self, was_granted: bool) {
        if was_granted {
            self.give();
        }
    }
}

/// One permit: an acquire of the whole.
impl Default for Semaphore {
    fn default() -> Self {
        Self::new(1)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("value", &self.value())
            .field("max_value", &self.max_value())
            .field("tasks_waiting", &self.shared.waiters.len())
            .finish()
    }
}

/// The future of [`Semaphore::acquire`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct AcquirePermit {
    wait: Wait<Semaphore>,
}

impl Future for AcquirePermit {
    type Output = Result<SemaphorePermit, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let acquired = Pin::new(&mut self.wait).poll(cx);
        acquired.map(|acquired| match acquired {
            Ok(()) => Ok(SemaphorePermit::of(self.wait.source())),
            Err(((), cancelled)) => Err(cancelled),
        })
    }
}

/// A permit of a [`Semaphore`], which goes back when this is dropped.
#[derive(Debug)]
#[must_use = "the permit goes back when this is dropped"]
pub struct SemaphorePermit {
    /// `None`: forgotten.
    semaphore: Option<Semaphore>,
}

impl SemaphorePermit {
    fn of(semaphore: &Semaphore) -> Self {
        Self { semaphore: Some(semaphore.clone()) }
    }

    /// Keeps the permit: it comes back only by [`Semaphore::release`], or never.
    pub fn forget(mut self) {
        self.semaphore = None;
    }
}

impl Drop for SemaphorePermit {
    fn drop(&mut self) {
        if let Some(semaphore) = &self.semaphore {
            // An error: somebody released it already, by `Semaphore::release`.
            let _ = semaphore.release();
        }
    }
}
