//! One worker: its thread, its loop, and what its function sees of it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::error::{Cancelled, JoinError, panic_message};
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::runtime::{EventLoop, spawn};
use crate::workers::failure::{WorkerFailed, WorkerFailure};
use crate::workers::phase::{Change, Phase, Signal};

/// What the function of a worker is told about it. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) cpu: Option<usize>,
    pub(super) clean_up: Duration,
    pub(super) signal: Arc<Signal>,
}

impl Worker {
    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The CPU that it is kept on, if it is.
    pub fn cpu(&self) -> Option<usize> {
        self.cpu
    }

    /// Completes when the workers are asked to end.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn stopping(&self) -> Stopping {
        Stopping { change: Change::of(&self.signal), waiter: Waiter::new() }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("index", &self.index)
            .field("count", &self.count)
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

/// The future of [`Worker::stopping`].
#[must_use = "futures do nothing unless awaited"]
pub struct Stopping {
    change: Change,
    waiter: Waiter,
}

impl Future for Stopping {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.change.poll_phase(Phase::Stopping, cx).is_ready() {
            self.waiter.clear();
            return Poll::Ready(Ok(()));
        }
        ready!(check(cx))?;
        self.waiter.register_for(cx, What(&"the end of the workers"));
        Poll::Pending
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").finish_non_exhaustive()
    }
}

/// Runs the function in the loop until it is done, then ends what it has left there. None: it ended well, or because it
/// was cancelled by the end of all.
pub(super) fn run<F, E>(event_loop: EventLoop, worker: Worker, main: F) -> Option<WorkerFailed>
where
    F: AsyncFn(Worker) -> Result<(), E> + 'static,
    E: fmt::Display + 'static,
{
    let (index, clean_up, signal) = (worker.index, worker.clean_up, worker.signal.clone());
    let change = Change::of(&signal);
    // The panics of tasks are caught by the loop; what panics here is a callback, or a destructor. What is left is ended
    // and closed after that too.
    let ran = contained(|| event_loop.run_until_complete(main_task(change, worker, main)));
    let ended = contained(|| event_loop.end_tasks(signal.left_of(clean_up)));
    // Not only dropped: others may hold it.
    let closed = contained(|| event_loop.close());
    let failure = match ran {
        Ok(None) => ended.and(closed).err(),
        Ok(failure) => failure,
        Err(failure) => Some(failure),
    };
    failure.map(|failure| WorkerFailed { worker: index, failure })
}

fn contained<T>(f: impl FnOnce() -> io::Result<T>) -> Result<T, WorkerFailure> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| WorkerFailure::Error(error.to_string())),
        Err(payload) => Err(panicked(payload.as_ref())),
    }
}

fn panicked(payload: &(dyn std::any::Any + Send)) -> WorkerFailure {
    WorkerFailure::Panicked(panic_message(payload).unwrap_or("(no message)").to_owned())
}

/// Runs the function in a task, which is cancelled when the time of all workers is over.
async fn main_task<F, E>(mut change: Change, worker: Worker, main: F) -> Option<WorkerFailure>
where
    F: AsyncFn(Worker) -> Result<(), E> + 'static,
    E: fmt::Display + 'static,
{
    let text = async move { main(worker).await.map_err(|error| error.to_string()) };
    let mut task = pin!(spawn(text));
    let mut cancelled = false;
    let ended = poll_fn(|cx| {
        if !cancelled && change.poll_phase(Phase::Cancelled, cx).is_ready() {
            cancelled = true;
            task.cancel("the workers have to end");
        }
        task.as_mut().poll(cx)
    });
    match ended.await {
        Ok(Ok(())) => None,
        // A function that is cancelled says so, or fails on its way out.
        _ if cancelled => None,
        Ok(Err(text)) => Some(WorkerFailure::Error(text)),
        Err(JoinError::Panicked(payload)) => Some(panicked(payload.as_ref())),
        Err(error) => Some(WorkerFailure::Error(error.to_string())),
    }
}
