//! Threads for functions, as asyncio has them: executors of the program, and the default one of each loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Closed, JoinError};
use crate::event_loop::{open, running};
use crate::runtime::EventLoop;
use crate::runtime::core::Core;
use crate::thread::{Executor, InPool};

/// The default executor of a loop. With the loop it is closed, and not waited for.
#[derive(Default)]
struct DefaultExecutor {
    executor: RefCell<Option<Executor>>,
    is_shut_down: Cell<bool>,
}

impl DefaultExecutor {
    fn of(core: &Core) -> Rc<Self> {
        core.locals.get(Self::default)
    }

    fn get(&self) -> io::Result<Executor> {
        if self.is_shut_down.get() {
            return Err(Closed::new("the default executor").into());
        }
        Ok(self.executor.borrow_mut().get_or_insert_with(Executor::new).clone())
    }
}

impl Drop for DefaultExecutor {
    fn drop(&mut self) {
        if let Some(executor) = self.executor.get_mut() {
            executor.close();
        }
    }
}

fn start<T: Send + 'static>(
    core: &Rc<Core>,
    executor: Option<&Executor>,
    function: impl FnOnce() -> T + Send + 'static,
) -> io::Result<InExecutor<T>> {
    let default = DefaultExecutor::of(open(core)?);
    let executor = executor.map_or_else(|| default.get(), |executor| Ok(executor.clone()))?;
    let wait = InPool::start(core, executor.pool(), function)?.abandons(true);
    Ok(InExecutor { wait })
}

fn set_default(core: &Rc<Core>, executor: Executor) -> io::Result<()> {
    let old = DefaultExecutor::of(open(core)?).executor.replace(Some(executor));
    drop(old);
    Ok(())
}

fn shut_down(core: &Rc<Core>, limit: Option<Duration>) -> impl Future<Output = io::Result<()>> + use<> {
    let default = DefaultExecutor::of(core);
    default.is_shut_down.set(true);
    let ended = default.executor.borrow().as_ref().map(|executor| executor.shutdown_in(core, limit));
    async move {
        match ended {
            Some(ended) => ended.await,
            None => Ok(()),
        }
    }
}

impl EventLoop {
    /// As [`run_in_executor`](crate::event_loop::run_in_executor), of this loop.
    ///
    /// # Errors
    /// As [`run_in_executor`](crate::event_loop::run_in_executor), and if this loop is closed.
    pub fn run_in_executor<T: Send + 'static>(
        &self,
        executor: Option<&Executor>,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<InExecutor<T>> {
        start(&self.core, executor, function)
    }

    /// As [`set_default_executor`](crate::event_loop::set_default_executor), of this loop.
    ///
    /// # Errors
    /// If this loop is closed.
    pub fn set_default_executor(&self, executor: Executor) -> io::Result<()> {
        set_default(&self.core, executor)
    }

    /// As [`shutdown_default_executor`](crate::event_loop::shutdown_default_executor), of this loop, which has to run
    /// the future.
    ///
    /// # Errors
    /// As [`shutdown_default_executor`](crate::event_loop::shutdown_default_executor).
    pub fn shutdown_default_executor(
        &self,
        limit: Option<Duration>,
    ) -> impl Future<Output = io::Result<()>> + use<> {
        shut_down(&self.core, limit)
    }
}

/// Gives `function` to a thread of `executor`, or of the loop's default executor, at once; the future waits for its
/// result. [`to_thread::run_sync`](crate::thread::to_thread::run_sync) is the same with a limiter in place of a pool.
///
/// # Cancel safety
/// *May have happened*: a function that no thread has begun is not run; one that was begun runs to its end, and its
/// result is dropped.
///
/// # Errors
/// If no event loop runs on this thread, if the executor was shut down, or if it has no thread and none can be made. The
/// future: [`JoinError::Panicked`] if the function panicked, [`JoinError::WaitCancelled`] if the wait was cancelled.
///
/// # Examples
/// ```
/// use proactor::event_loop;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let sum = event_loop::run_in_executor(None, || (1..=100).sum::<u32>())?;
///     assert_eq!(sum.await?, 5050);
///     event_loop::shutdown_default_executor(None).await
/// })
/// # }
/// ```
pub fn run_in_executor<T: Send + 'static>(
    executor: Option<&Executor>,
    function: impl FnOnce() -> T + Send + 'static,
) -> io::Result<InExecutor<T>> {
    start(&running()?, executor, function)
}

/// The executor that [`run_in_executor`] uses from now on where none is named. Without this it is one with the defaults
/// of [`Executor::new`], made at the first use.
///
/// # Errors
/// If no event loop runs on this thread.
pub fn set_default_executor(executor: Executor) -> io::Result<()> {
    set_default(&running()?, executor)
}

/// Closes the loop's default executor, for good, and completes when what it was given is done and its threads have ended.
///
/// # Cancel safety
/// *Nothing is lost*: the executor is closed and goes on by itself.
///
/// # Errors
/// [`TimedOut`](crate::TimedOut), as an [`io::Error`], if that takes longer than `limit`; the threads go on. If no event
/// loop runs on this thread.
pub fn shutdown_default_executor(limit: Option<Duration>) -> impl Future<Output = io::Result<()>> {
    let ended = running().map(|core| shut_down(&core, limit));
    async move { ended?.await }
}

/// The future of [`run_in_executor`].
#[must_use = "dropping it takes the function back, if no thread has begun it"]
pub struct InExecutor<T: Send + 'static> {
    wait: InPool<T>,
}

impl<T: Send + 'static> Future for InExecutor<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx)
    }
}

impl<T: Send + 'static> fmt::Debug for InExecutor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InExecutor").finish_non_exhaustive()
    }
}
