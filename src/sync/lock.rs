//! Mutual exclusion between tasks, across their awaits.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Cancelled, WouldBlock};
use crate::runtime::scope::What;
use crate::runtime::{TaskId, current_task_id};
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// A lock, and what it protects: nothing (`Lock::default()`), or a value that only the holder of the guard reaches. A clone
/// is another handle of the same lock.
///
/// It is fair: it goes to whoever waits for it the longest, and nobody takes it in passing. It is not reentrant: who holds
/// it and waits for it waits for ever. That is no error, unlike in AnyIO, since it cannot be told from two futures of one
/// task that take turns; [`statistics`](Self::statistics) name the owner.
///
/// # Examples
/// ```
/// use proactor::sync::Lock;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let lines = Lock::new(Vec::new());
///     let mut guard = lines.acquire().await?;
///     guard.push("one task at a time, even across an await");
///     proactor::yield_now().await;
///     assert!(lines.is_locked());
///     drop(guard);
///     assert!(!lines.is_locked());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[doc(alias = "Mutex")]
pub struct Lock<T = ()> {
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    /// Whose turn it is has been decided: a guard exists, or somebody was granted the lock and does not know it yet.
    is_locked: Cell<bool>,
    waiters: Waiters,
    /// The task that got the guard.
    owner: Cell<Option<TaskId>>,
    /// With the guard while there is one.
    value: Cell<Option<Box<T>>>,
}

/// What is known about a [`Lock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStatistics {
    /// Whether somebody has it.
    pub locked: bool,
    /// The task that got the guard, if one has it. The guard may have gone elsewhere since.
    pub owner: Option<TaskId>,
    /// Futures that wait for it.
    pub tasks_waiting: usize,
}

impl<T> Lock<T> {
    /// A free lock that protects `value`.
    pub fn new(value: T) -> Self {
        let value = Cell::new(Some(Box::new(value)));
        let (is_locked, owner) = (Cell::new(false), Cell::new(None));
        Self { shared: Rc::new(Shared { is_locked, waiters: Waiters::default(), owner, value }) }
    }

    /// Completes with the lock. Dropping the guard releases it.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the lock goes to the next who waits. The place in the queue is given up.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn acquire(&self) -> Acquire<T> {
        Acquire { wait: Wait::new(self.clone(), ()) }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`WouldBlock`], if it is not.
    #[doc(alias = "try_lock")]
    pub fn acquire_nowait(&self) -> Result<LockGuard<T>, WouldBlock> {
        if self.shared.is_locked.replace(true) { Err(WouldBlock) } else { Ok(LockGuard::new(self)) }
    }

    /// Whether somebody has the lock.
    #[doc(alias = "locked")]
    pub fn is_locked(&self) -> bool {
        self.shared.is_locked.get()
    }

    /// Who has it and how many wait.
    pub fn statistics(&self) -> LockStatistics {
        let owner = self.shared.owner.get();
        LockStatistics { locked: self.is_locked(), owner, tasks_waiting: self.shared.waiters.len() }
    }

    /// Whether both are handles of the same lock.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// Hands the lock to the first who waits.
    fn release(&self) {
        if self.shared.waiters.grant().is_none() {
            self.shared.is_locked.set(false);
        }
    }
}

impl<T> Source for Lock<T> {
    type Value = ();
    type Error = Cancelled;

    const WHAT: What = What(&"a lock");

    fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    fn attempt(&self, (): ()) -> Attempt<(), Cancelled> {
        if self.shared.is_locked.replace(true) { Attempt::Wait(()) } else { Attempt::Done }
    }

    fn left(&self, was_granted: bool) {
        if was_granted {
            self.release();
        }
    }
}

impl<T> Clone for Lock<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("locked", &self.is_locked())
            .field("tasks_waiting", &self.shared.waiters.len())
            .finish_non_exhaustive()
    }
}

/// The future of [`Lock::acquire`].
#[must_use = "futures do nothing unless awaited"]
pub struct Acquire<T = ()> {
    wait: Wait<Lock<T>>,
}

impl<T> Future for Acquire<T> {
    type Output = Result<LockGuard<T>, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let acquired = Pin::new(&mut self.wait).poll(cx);
        acquired.map(|acquired| match acquired {
            Ok(()) => Ok(LockGuard::new(self.wait.source())),
            Err(((), cancelled)) => Err(cancelled),
        })
    }
}

impl<T> fmt::Debug for Acquire<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acquire").field(&self.wait).finish()
    }
}

/// Holds a [`Lock`] until it is dropped, and gives access to what the lock protects.
#[must_use = "the lock is released when this is dropped"]
pub struct LockGuard<T = ()> {
    lock: Lock<T>,
    /// There until this is dropped.
    value: Option<Box<T>>,
}

impl<T> LockGuard<T> {
    /// The guard of whoever has got the lock just now.
    fn new(lock: &Lock<T>) -> Self {
        lock.shared.owner.set(current_task_id());
        Self { lock: lock.clone(), value: lock.shared.value.take() }
    }

    /// The lock that it holds.
    pub fn lock(this: &Self) -> &Lock<T> {
        &this.lock
    }
}

const HELD: &str = "a guard has the value until it is dropped";

impl<T> Deref for LockGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().expect(HELD)
    }
}

impl<T> DerefMut for LockGuard<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect(HELD)
    }
}

impl<T> Drop for LockGuard<T> {
    fn drop(&mut self) {
        self.lock.shared.owner.set(None);
        self.lock.shared.value.set(self.value.take());
        self.lock.release();
    }
}

impl<T: fmt::Debug> fmt::Debug for LockGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(&&**self).finish()
    }
}
