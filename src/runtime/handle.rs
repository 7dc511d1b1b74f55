//! The loop as other threads see it: a handle to call and spawn into it, and to wait for what comes of that.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::driver::DriverReport;
use crate::error::JoinError;
use crate::runtime::core::{self, Core};
use crate::runtime::outcome::{Arrival, Outcome, Promise};
use crate::runtime::park::block_on;
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
        let promise = Promise::new(&outcome, "the event loop ended");
        let spawned_at = Location::caller();
        self.call_soon_threadsafe(move || {
            let task = core::current().spawn(async move { function().await }, spawned_at);
            drop(core::current().spawn(
                async move {
                    promise.settle(task.await);
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

/// A task in another thread's loop. Wait for it, or await it in a loop of your own; dropping it detaches the task.
pub struct RemoteTask<T> {
    outcome: Arc<Outcome<T>>,
    remote: &'static Remote,
}

impl<T> RemoteTask<T> {
    /// Blocks this thread until the task is over, or for at most `limit`.
    ///
    /// # Errors
    /// [`TimedOut`](crate::TimedOut) (and the task goes on), or why the task gave no result, both as an [`io::Error`]. On the loop's own
    /// thread, where it would wait for itself.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<T> {
        if core::try_current().is_some_and(|core| std::ptr::eq(core.remote, self.remote)) {
            return Err(io::Error::other("the loop's own thread cannot block on its task: await it instead"));
        }
        Ok(block_on(pin!(Arrival(&self.outcome)), limit)??)
    }
}

impl<T> Future for RemoteTask<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.outcome.poll(cx)
    }
}

impl<T> fmt::Debug for RemoteTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTask").finish_non_exhaustive()
    }
}
