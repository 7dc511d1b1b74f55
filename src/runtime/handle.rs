//! The loop as other threads see it: a handle to call and spawn into it, and to wait for what comes of that.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::driver::DriverReport;
use crate::error::JoinError;
use crate::runtime::away::Away;
use crate::runtime::core::{self, Core};
use crate::runtime::outcome::{Arrival, Outcome, Promise};
use crate::runtime::park::block_on;
use crate::runtime::remote::Remote;
use crate::runtime::scope::What;
use crate::runtime::task::Task;

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
        self.spawn_with(Arc::default(), function)
    }

    /// As `spawn`, with a canceller that was made before.
    #[track_caller]
    pub(crate) fn spawn_with<T, F>(&self, canceller: Arc<Canceller>, function: F) -> io::Result<RemoteTask<T>>
    where
        F: AsyncFnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let outcome = Arc::new(Outcome::default());
        // Whatever becomes of the closure (run, refused, dropped by a closing loop), the waiting side hears of it.
        let promise = Promise::new(&outcome, "the event loop ended");
        let theirs = canceller.clone();
        let spawned_at = Location::caller();
        self.call_soon_threadsafe(move || {
            let core = core::current();
            let task = core.spawn(async move { function().await }, spawned_at);
            drop(core.spawn(Relay { task, promise: Some(promise), canceller: theirs }, spawned_at));
        })?;
        Ok(RemoteTask { outcome, canceller, remote: self.remote, away: Away::default() })
    }

    /// Whether the loop runs on this thread.
    pub(crate) fn is_current(&self) -> bool {
        core::try_current().is_some_and(|core| std::ptr::eq(core.remote, self.remote))
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

/// Brings the request to cancel a task into its loop.
#[derive(Default)]
pub(crate) struct Canceller {
    state: Mutex<(Option<Arc<str>>, Option<Waker>)>,
}

impl Canceller {
    pub(crate) fn cancel(&self, message: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Some(message.into());
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The request, if there is one; else the task of `cx` is woken by the next.
    fn poll(&self, cx: &Context<'_>) -> Option<Arc<str>> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let old = state.1.replace(waker);
        let request = state.0.take();
        drop(state);
        drop(old);
        request
    }
}

/// Stands between a task and the other thread: brings the result there, and the request to cancel here.
struct Relay<T> {
    task: Task<T>,
    promise: Option<Promise<T>>,
    canceller: Arc<Canceller>,
}

impl<T> Future for Relay<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(result) = Pin::new(&mut self.task).poll(cx) {
            if let Some(promise) = self.promise.take() {
                promise.settle(result);
            }
            return Poll::Ready(());
        }
        while let Some(message) = self.canceller.poll(cx) {
            self.task.cancel(&message);
        }
        Poll::Pending
    }
}

const REMOTE: What = What(&"a task of another thread's loop");

/// A task in another thread's loop. Wait for it, or await it in a loop of your own; dropping it detaches the task.
///
/// # Cancel safety
/// *Nothing is lost*: the task goes on.
#[doc(alias = "wrap_future")]
pub struct RemoteTask<T> {
    outcome: Arc<Outcome<T>>,
    canceller: Arc<Canceller>,
    remote: &'static Remote,
    away: Away,
}

impl<T> RemoteTask<T> {
    /// Blocks this thread until the task is over, or for at most `limit`.
    ///
    /// # Errors
    /// [`TimedOut`](crate::TimedOut) (and the task goes on), or why the task gave no result, both as an [`io::Error`]. On
    /// the loop's own thread, where it would wait for itself.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<T> {
        if core::try_current().is_some_and(|core| std::ptr::eq(core.remote, self.remote)) {
            return Err(io::Error::other("the loop's own thread cannot block on its task: await it instead"));
        }
        Ok(block_on(pin!(Arrival(&self.outcome)), limit)??)
    }

    /// Asks the task to stop, as [`Task::cancel`] does. False if it is over already.
    pub fn cancel(&self, message: &str) -> bool {
        let is_running = !self.is_finished();
        if is_running {
            self.canceller.cancel(message);
        }
        is_running
    }

    /// Whether the task is over: waiting for it would not wait.
    #[doc(alias = "done")]
    pub fn is_finished(&self) -> bool {
        self.outcome.is_settled()
    }

    /// Calls `callback` when the task is over: on the loop's thread, or here and now if it is over already.
    pub fn add_done_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.outcome.on_settled(Box::new(callback));
    }
}

impl<T> Future for RemoteTask<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.away.poll(&this.outcome, cx, REMOTE)
    }
}

impl<T> fmt::Debug for RemoteTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTask").finish_non_exhaustive()
    }
}
