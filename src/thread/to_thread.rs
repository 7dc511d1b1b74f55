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
use crate::sync::{AcquireToken, CapacityLimiter, CapacityToken};
use crate::thread::from_thread::{Guest, Host};
use crate::thread::job::{InPool, Pool};

/// Of the default limiter, as in AnyIO.
const TOKENS: usize = 40;

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
/// [`JoinError::Panicked`] if the function panicked. [`JoinError::WaitCancelled`] if the wait was cancelled before the
/// function was given to a thread; after that only with [`abandon_on_cancel`](RunSync::abandon_on_cancel).
/// [`JoinError::Cancelled`] if there is no thread and none can be made.
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
    RunSync { core: core::current(), abandons: false, limiter: None, stage: Stage::New(function) }
}

/// The limiter that [`run_sync`] uses where none is given: one for each loop, of 40 tokens, which can be changed by
/// [`set_total_tokens`](CapacityLimiter::set_total_tokens).
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn current_default_thread_limiter() -> CapacityLimiter {
    default_limiter(&core::current())
}

fn default_limiter(core: &Core) -> CapacityLimiter {
    struct Default(CapacityLimiter);
    core.locals.get(|| Default(CapacityLimiter::new(TOKENS))).0.clone()
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
pub struct RunSync<F, T: Send + 'static> {
    core: Rc<Core>,
    abandons: bool,
    limiter: Option<CapacityLimiter>,
    stage: Stage<F, T>,
}

enum Stage<F, T: Send + 'static> {
    New(F),
    /// Waits for the limiter.
    Acquiring(F, AcquireToken),
    Running(InPool<T>),
    Over,
}

impl<F, T: Send + 'static> RunSync<F, T> {
    /// Whether cancelling the wait ends it at once, although the function goes on, unheard; it can ask
    /// [`from_thread::check_cancelled`](crate::thread::from_thread::check_cancelled). Without this a cancelled wait goes
    /// on until the function is done, and gives its result. Default: off.
    #[doc(alias = "cancellable")]
    pub fn abandon_on_cancel(mut self, on: bool) -> Self {
        self.abandons = on;
        self
    }

    /// The limiter that says when the function may begin: it takes a token, and gives it back when the function is done,
    /// abandoned or not. Default: [`current_default_thread_limiter`].
    pub fn limiter(mut self, limiter: &CapacityLimiter) -> Self {
        self.limiter = Some(limiter.clone());
        self
    }
}

impl<F, T> RunSync<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    fn start(&self, function: F, token: CapacityToken) -> Result<InPool<T>, JoinError> {
        let (cancelled, guest) = (Arc::<AtomicBool>::default(), Arc::<Guest>::default());
        let handle = LoopHandle::of(&self.core);
        let host = Host { handle, cancelled: cancelled.clone(), guest: guest.clone() };
        match InPool::start(&self.core, &THREADS, move || host.run(function)) {
            Ok(job) => Ok(job.abandons(self.abandons).tells(cancelled, guest).holds(token)),
            Err(error) => Err(JoinError::Cancelled(Cancelled::with_message(&error.to_string()))),
        }
    }
}

impl<F, T: Send + 'static> Unpin for RunSync<F, T> {}

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
                    let limiter = self.limiter.take().unwrap_or_else(|| default_limiter(&self.core));
                    self.stage = Stage::Acquiring(function, limiter.acquire());
                }
                Stage::Acquiring(function, mut wait) => match Pin::new(&mut wait).poll(cx) {
                    Poll::Ready(Ok(token)) => self.stage = Stage::Running(self.start(function, token)?),
                    Poll::Ready(Err(cancelled)) => {
                        return Poll::Ready(Err(JoinError::WaitCancelled(cancelled)));
                    }
                    Poll::Pending => {
                        self.stage = Stage::Acquiring(function, wait);
                        return Poll::Pending;
                    }
                },
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

impl<F, T: Send + 'static> fmt::Debug for RunSync<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSync").finish_non_exhaustive()
    }
}
