//! The loop as other threads see it: a handle to call and spawn into it, and to wait for what comes of that.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::driver::DriverReport;
use crate::error::{Cancelled, JoinError, TimedOut};
use crate::runtime::core::{self, Core};
use crate::runtime::remote::Remote;

/// The one way into an event loop from other threads. Cheap to clone; it does not keep the loop alive.
#[derive(Clone)]
pub struct LoopHandle {
    remote: &'static Remote,
    epoch: u64,
    report: Arc<DriverReport>,
}

impl LoopHandle {
    pub(crate) fn of(core: &Core) -> Self {
        Self { remote: core.remote, epoch: core.epoch, report: core.driver.report().clone() }
    }

    /// Makes the loop call `function`, soon, on its own thread. Calls from one thread are made in their order.
    ///
    /// # Errors
    /// If the loop is closed.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let handle = proactor::current()?;
    ///     let (sender, receiver) = std::sync::mpsc::channel();
    ///     std::thread::spawn(move || handle.call_soon_threadsafe(move || sender.send(1).unwrap()))
    ///         .join()
    ///         .unwrap()?;
    ///     while receiver.try_recv().is_err() {
    ///         proactor::yield_now().await;
    ///     }
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    pub fn call_soon_threadsafe(&self, function: impl FnOnce() + Send + 'static) -> io::Result<()> {
        Ok(self.remote.call(self.epoch, Box::new(function))?)
    }

    /// Spawns a task in the loop. The closure is sent there; its future is made there and need not be `Send`.
    ///
    /// # Errors
    /// If the loop is closed.
    #[doc(alias = "run_coroutine_threadsafe")]
    #[track_caller]
    pub fn spawn<T, F>(&self, function: F) -> io::Result<RemoteTask<T>>
    where
        F: AsyncFnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let outcome = Arc::new(Outcome::default());
        // Whatever becomes of the closure (run, refused, dropped by a closing loop), the waiting side hears of it.
        let promise = Promise(outcome.clone());
        let spawned_at = Location::caller();
        self.call_soon_threadsafe(move || {
            let task = core::current().spawn(async move { function().await }, spawned_at);
            drop(core::current().spawn(
                async move {
                    promise.0.settle(task.await);
                },
                spawned_at,
            ));
        })?;
        Ok(RemoteTask { outcome, remote: self.remote })
    }

    /// Whether the loop is closed.
    pub fn is_closed(&self) -> bool {
        !self.remote.is_open(self.epoch)
    }

    /// Which driver the loop uses, and why.
    pub fn report(&self) -> DriverReport {
        (*self.report).clone()
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").field("loop", &self.remote.id).finish_non_exhaustive()
    }
}

/// Where the result of a task arrives for another thread.
struct Outcome<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    result: Option<Result<T, JoinError>>,
    settled: bool,
    waker: Option<Waker>,
}

impl<T> Default for Outcome<T> {
    fn default() -> Self {
        let state = State { result: None, settled: false, waker: None };
        Self { state: Mutex::new(state), arrived: Condvar::new() }
    }
}

impl<T> Outcome<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result counts.
    fn settle(&self, result: Result<T, JoinError>) {
        let mut state = self.lock();
        if state.settled {
            return;
        }
        state.settled = true;
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Settles the outcome when nobody else did.
struct Promise<T>(Arc<Outcome<T>>);

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.settle(Err(JoinError::Cancelled(Cancelled::with_message("the event loop ended"))));
    }
}

/// A task in another thread's loop. Wait for it, or await it in a loop of your own; dropping it detaches the task.
pub struct RemoteTask<T> {
    outcome: Arc<Outcome<T>>,
    remote: &'static Remote,
}

impl<T> RemoteTask<T> {
    /// Blocks this thread until the task is over, or for at most `limit`.
    ///
    /// # Errors
    /// [`TimedOut`] (and the task goes on), or why the task gave no result, both as an [`io::Error`]. On the loop's own
    /// thread, where it would wait for itself.
    pub fn wait(self, limit: Option<Duration>) -> io::Result<T> {
        if core::try_current().is_some_and(|core| std::ptr::eq(core.remote, self.remote)) {
            return Err(io::Error::other("the loop's own thread cannot block on its task: await it instead"));
        }
        // Beyond the end of the clock is for ever.
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.outcome.lock();
        loop {
            if let Some(result) = state.result.take() {
                return Ok(result?);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => return Err(TimedOut.into()),
                Some(left) => {
                    self.outcome.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.outcome.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl<T> Future for RemoteTask<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut state = self.outcome.lock();
        if let Some(result) = state.result.take() {
            drop(state);
            return Poll::Ready(result);
        }
        assert!(!state.settled, "a task was awaited again after it had given its result");
        let old = state.waker.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl<T> fmt::Debug for RemoteTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTask").finish_non_exhaustive()
    }
}
