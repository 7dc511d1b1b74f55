//! Waiting until what a lock protects has become what one needs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::error::{Cancelled, WouldBlock};
use crate::runtime::scope::What;
use crate::sync::lock::{Acquire, Lock, LockGuard, LockStatistics};
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// A place to wait, with a lock held, for news about what the lock protects. A clone is another handle of the same
/// condition; several conditions may share a lock.
///
/// Waiting and notifying take the guard of the lock: neither can be done without holding it.
///
/// # Examples
/// ```
/// use proactor::{spawn, sync::Condition};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let jobs = Condition::new(Vec::new());
///     let worker = jobs.clone();
///     let worker = spawn(async move {
///         let waiting = worker.acquire().await?;
///         let mut jobs = worker.wait_for(waiting, |jobs| !jobs.is_empty()).await?;
///         Ok::<_, proactor::Cancelled>(jobs.pop())
///     });
///     let mut guard = jobs.acquire().await?;
///     guard.push("a job");
///     jobs.notify(&guard, 1);
///     drop(guard);
///     assert_eq!(worker.await??, Some("a job"));
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[doc(alias = "Condvar")]
pub struct Condition<T = ()> {
    lock: Lock<T>,
    waiters: Rc<Waiters>,
}

/// What is known about a [`Condition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConditionStatistics {
    /// Futures that wait to be notified.
    pub tasks_waiting: usize,
    /// Those of the lock.
    pub lock_statistics: LockStatistics,
}

impl<T> Condition<T> {
    /// A condition with a lock of its own around `value`.
    pub fn new(value: T) -> Self {
        Self::with_lock(Lock::new(value))
    }

    /// A condition on what `lock` protects.
    pub fn with_lock(lock: Lock<T>) -> Self {
        Self { lock, waiters: Rc::default() }
    }

    /// The lock.
    pub fn lock(&self) -> &Lock<T> {
        &self.lock
    }

    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the lock goes to the next who waits. The place in the queue is given up.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn acquire(&self) -> Acquire<T> {
        self.lock.acquire()
    }

    /// As [`Lock::acquire_nowait`].
    ///
    /// # Errors
    /// [`WouldBlock`], if the lock is not free.
    pub fn acquire_nowait(&self) -> Result<LockGuard<T>, WouldBlock> {
        self.lock.acquire_nowait()
    }

    /// Whether somebody has the lock.
    #[doc(alias = "locked")]
    pub fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// Releases the lock, waits to be notified, and completes when the lock is had again.
    ///
    /// What was waited for may be over again by then: [`wait_for`](Self::wait_for) looks.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a notification that came already goes to the next who waits. The lock stays released.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled. The lock is released then; unlike in asyncio it is not taken once more.
    ///
    /// # Panics
    /// If the guard is of another lock.
    #[track_caller]
    pub fn wait(&self, guard: LockGuard<T>) -> ConditionWait<T> {
        self.check(&guard);
        let notified = Wait::new(Notified { waiters: self.waiters.clone() }, ());
        ConditionWait { guard: Some(guard), notified, was_notified: false, acquire: self.acquire() }
    }

    /// Waits until `predicate` is true of what the lock protects; completes at once if it is. It is looked at after each
    /// notification, with the lock held.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a notification that came already goes to the next who waits. The lock stays released.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled. The lock is released then.
    ///
    /// # Panics
    /// If the guard is of another lock.
    #[doc(alias = "wait_while")]
    #[track_caller]
    pub fn wait_for(
        &self,
        mut guard: LockGuard<T>,
        mut predicate: impl FnMut(&mut T) -> bool,
    ) -> impl Future<Output = Result<LockGuard<T>, Cancelled>> {
        self.check(&guard);
        let condition = self.clone();
        async move {
            while !predicate(&mut guard) {
                guard = condition.wait(guard).await?;
            }
            Ok(guard)
        }
    }

    /// Wakes the `count` that have waited the longest, or as many as there are; each goes on when it has got the lock.
    ///
    /// # Panics
    /// If the guard is of another lock.
    #[track_caller]
    pub fn notify(&self, guard: &LockGuard<T>, count: usize) {
        self.check(guard);
        self.waiters.grant_many(count);
    }

    /// Wakes all who wait now; each goes on when it has got the lock.
    ///
    /// # Panics
    /// If the guard is of another lock.
    #[track_caller]
    pub fn notify_all(&self, guard: &LockGuard<T>) {
        self.check(guard);
        self.waiters.grant_all();
    }

    /// How many wait, for this and for the lock.
    pub fn statistics(&self) -> ConditionStatistics {
        let lock_statistics = self.lock.statistics();
        ConditionStatistics { tasks_waiting: self.waiters.len(), lock_statistics }
    }

    #[track_caller]
    fn check(&self, guard: &LockGuard<T>) {
        assert!(LockGuard::lock(guard).is_same(&self.lock), "the guard is not of the lock of this condition");
    }
}

impl<T> Clone for Condition<T> {
    fn clone(&self) -> Self {
        Self { lock: self.lock.clone(), waiters: self.waiters.clone() }
    }
}

impl<T: Default> Default for Condition<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for Condition<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("lock", &self.lock)
            .field("tasks_waiting", &self.waiters.len())
            .finish_non_exhaustive()
    }
}

/// A notification, which is had only by waiting for it.
struct Notified {
    waiters: Rc<Waiters>,
}

impl Source for Notified {
    type Value = ();
    type Error = Cancelled;

    const WHAT: What = What(&"a notification");

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    fn attempt(&self, (): ()) -> Attempt<(), Cancelled> {
        Attempt::Wait(())
    }

    fn left(&self, was_granted: bool) {
        if was_granted {
            self.waiters.grant_many(1);
        }
    }
}

/// The future of [`Condition::wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct ConditionWait<T = ()> {
    /// Held until this is in the queue of those to be notified.
    guard: Option<LockGuard<T>>,
    notified: Wait<Notified>,
    /// Somebody else is to be notified instead if this one never gets the lock.
    was_notified: bool,
    acquire: Acquire<T>,
}

impl<T> Future for ConditionWait<T> {
    type Output = Result<LockGuard<T>, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.was_notified {
            let notified = Pin::new(&mut this.notified).poll(cx);
            if this.notified.has_begun() {
                drop(this.guard.take());
            }
            ready!(notified).map_err(|((), cancelled)| cancelled)?;
            this.was_notified = true;
        }
        let acquired = ready!(Pin::new(&mut this.acquire).poll(cx));
        this.was_notified = false;
        if acquired.is_err() {
            this.notified.source().left(true);
        }
        Poll::Ready(acquired)
    }
}

impl<T> Drop for ConditionWait<T> {
    fn drop(&mut self) {
        if self.was_notified {
            self.notified.source().left(true);
        }
    }
}

impl<T> fmt::Debug for ConditionWait<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionWait")
            .field("notified", &self.notified)
            .field("acquire", &self.acquire)
            .finish_non_exhaustive()
    }
}
