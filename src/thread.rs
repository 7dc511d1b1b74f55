//! Work that blocks, in threads beside the loop.

/// Running a function in a thread, for a task of the loop.
pub mod to_thread {
    use std::fmt;
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use crate::error::{Cancelled, JoinError};
    use crate::op;
    use crate::runtime::core;

    /// Runs `function` in a thread of the pool and completes with its result. For what blocks or computes for long,
    /// and would hold up everything else on the loop's thread. The pool is shared by all loops and has at most 64
    /// threads; more work waits its turn.
    ///
    /// # Cancel safety
    /// *May have happened*: a function that no thread has begun is not run; one that was begun runs to its end, and
    /// its result is dropped.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] if the function panicked, [`JoinError::Cancelled`] if the loop ended.
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
    #[doc(alias = "run_in_executor")]
    #[track_caller]
    pub fn run_sync<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> RunSync<T> {
        let driver = core::current().driver.clone();
        RunSync { work: Box::pin(async move { op::run_in_pool(&driver, function).await }) }
    }

    /// The future of [`run_sync`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct RunSync<T> {
        work: Pin<Box<dyn Future<Output = op::PoolResult<T>>>>,
    }

    impl<T> Future for RunSync<T> {
        type Output = Result<T, JoinError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            self.work.as_mut().poll(cx).map(|outcome| match outcome {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(panic)) => Err(JoinError::Panicked(panic)),
                Err(error) => Err(JoinError::Cancelled(Cancelled::with_message(&error.to_string()))),
            })
        }
    }

    impl<T> fmt::Debug for RunSync<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("RunSync").finish_non_exhaustive()
        }
    }
}
