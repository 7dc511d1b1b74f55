//! Running a function in a thread, for a task of the loop.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use crate::driver::workers::Workers;
use crate::error::{Cancelled, JoinError};
use crate::runtime::LoopHandle;
use crate::runtime::core::{self, Core};
use crate::thread::from_thread::Host;
use crate::thread::job::{InPool, Pool};

/// The threads are shared by all loops; how many work at a time is what the loops' limiters say.
pub(crate) static THREADS: LazyLock<Pool> =
    LazyLock::new(|| Arc::new(Workers::named("worker".to_owned(), usize::MAX)));

/// Runs `function` in a thread and completes with its result. For what blocks or computes for long, and would hold up
/// everything else on the loop's thread.
///
/// The threads are shared by all loops, made when they are needed, and end when they had nothing to do for some seconds.
/// In `function`, [`from_thread`](crate::thread::from_thread) leads back into the loop.
///
/// # Cancel safety
/// *May have happened*: a function that no thread has begun is not run; one that was begun runs to its end, and its
/// result is dropped.
///
/// # Errors
/// [`JoinError::Panicked`] if the function panicked. [`JoinError::Cancelled`] if the wait was cancelled before a thread
/// began the function (after that only with [`abandon_on_cancel`](RunSync::abandon_on_cancel)), or if there is no thread
/// and none can be made.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use proactor::thread::to_thread;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let lines = to_thread::run_sync(|| std::fs::read_to_string("Cargo.toml").map(|text| text.lines().count()));
///     assert!(lines.await?? > 1);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn run_sync<F, T>(function: F) -> RunSync<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    RunSync { core: core::current(), abandons: false, stage: Stage::New(function) }
}

/// How many threads there may be at a time for [`run_sync`], in the whole process and for all loops together, from now
/// on. Further functions wait their turn. Without this only the loops' limiters bound them.
///
/// A function that waits for its loop by [`from_thread::run`](crate::thread::from_thread::run) keeps its thread: if all
/// threads wait for tasks that need a thread themselves, nothing goes on.
pub fn set_threads_max(count: usize) {
    THREADS.set_threads_max(count.max(1));
}

/// The future of [`run_sync`].
#[must_use = "futures do nothing unless awaited"]
pub struct RunSync<F, T> {
    core: Rc<Core>,
    abandons: bool,
    stage: Stage<F, T>,
}

enum Stage<F, T> {
    New(F),
    Running(InPool<T>),
    Over,
}

impl<F, T> RunSync<F, T> {
    /// Whether cancelling the wait ends it at once, although the function goes on, unheard; it can ask
    /// [`from_thread::check_cancelled`](crate::thread::from_thread::check_cancelled). Without this a cancelled wait goes
    /// on until the function is done, and gives its result. Default: off.
    #[doc(alias = "cancellable")]
    pub fn abandon_on_cancel(mut self, on: bool) -> Self {
        self.abandons = on;
        self
    }
}

fn start<F, T>(core: &Rc<Core>, abandons: bool, function: F) -> Result<InPool<T>, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let cancelled = Arc::new(AtomicBool::new(false));
    let host = Host { handle: LoopHandle::of(core), cancelled: cancelled.clone() };
    InPool::start(core, &THREADS, abandons, cancelled, move || host.run(function))
        .map_err(|error| JoinError::Cancelled(Cancelled::with_message(&error.to_string())))
}

impl<F, T> Unpin for RunSync<F, T> {}

impl<F, T> Future for RunSync<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::New(function) => {
                    let job = start(&self.core, self.abandons, function)?;
                    self.stage = Stage::Running(job);
                }
                Stage::Running(mut job) => {
                    let polled = Pin::new(&mut job).poll(cx);
                    if polled.is_pending() {
                        self.stage = Stage::Running(job);
                    }
                    return polled;
                }
                Stage::Over => panic!("a future was polled after it had completed"),
            }
        }
    }
}

impl<F, T> fmt::Debug for RunSync<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSync").finish_non_exhaustive()
    }
}
