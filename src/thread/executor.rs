//! Pools of threads of a program's own.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::driver::workers::Workers;
use crate::error::Cancelled;
use crate::runtime::core::{self, Core, Elsewhere};
use crate::runtime::park::block_on;
use crate::runtime::scope::What;
use crate::runtime::timeout;
use crate::runtime::wait::{Waiter, check};
use crate::thread::job::{Job, Pool, may_block};

/// How an [`Executor`] shall be made.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ExecutorBuilder {
    workers_max: usize,
    name: String,
}

impl ExecutorBuilder {
    /// The most threads at a time, at least one; further functions wait their turn. Default: four more than there are
    /// processors, at most 32.
    pub fn max_workers(mut self, count: usize) -> Self {
        self.workers_max = count.max(1);
        self
    }

    /// What the threads are called, before a number. Linux shows 15 bytes of a thread's name. Default: `executor`.
    ///
    /// A zero byte, which no name can have, and what follows it are left out.
    pub fn thread_name_prefix(mut self, prefix: &str) -> Self {
        self.name = prefix.split('\0').next().unwrap_or_default().to_owned();
        self
    }

    /// Makes the executor. Threads are made when there is work for them.
    pub fn build(self) -> Executor {
        let pool = Arc::new(Workers::named(self.name, self.workers_max));
        Executor { owner: Arc::new(Owner(pool)) }
    }
}

/// A pool of threads. Cheap to clone; when the last clone is dropped, the pool does what it was given and ends.
///
/// # Examples
/// ```
/// use proactor::thread::Executor;
/// # fn main() -> std::io::Result<()> {
/// let executor = Executor::builder().max_workers(2).thread_name_prefix("hash").build();
/// let mut sum = executor.submit(|| (1..=10).sum::<u32>())?;
/// assert_eq!(sum.wait(None)?, 55);
/// executor.shutdown_blocking(None)
/// # }
/// ```
#[doc(alias = "ThreadPoolExecutor")]
#[derive(Clone)]
pub struct Executor {
    owner: Arc<Owner>,
}

/// Waits in a loop for the end of a pool's threads.
struct Ended {
    pool: Pool,
    waiter: Waiter,
}

impl Future for Ended {
    type Output = Result<(), Cancelled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.pool.poll_ended(cx).is_ready() {
            self.waiter.clear();
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(check(cx))?;
        self.waiter.register_for(cx, What(&"the end of an executor"));
        Poll::Pending
    }
}

/// Its threads hold the pool, but not this.
struct Owner(Pool);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Executor {
    /// With the defaults of [`ExecutorBuilder`].
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A builder, for what differs from the defaults.
    pub fn builder() -> ExecutorBuilder {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        ExecutorBuilder { workers_max: (processors + 4).min(32), name: "executor".to_owned() }
    }

    /// Gives `function` to a thread of this pool.
    ///
    /// In a loop, [`run_in_executor`](crate::event_loop::run_in_executor) does this and waits.
    ///
    /// # Errors
    /// If the executor was shut down, or if it has no thread and none can be made.
    pub fn submit<T: Send + 'static>(
        &self,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Job<T>> {
        Job::start(self.pool(), function)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.owner.0
    }

    /// Takes no functions any more. Those that it was given before are run; nobody waits for that here.
    pub fn close(&self) {
        self.pool().close();
    }

    /// Takes no functions any more, and completes when those that it was given are done and the threads have ended.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the executor is closed and goes on by itself.
    ///
    /// # Errors
    /// [`TimedOut`](crate::TimedOut), as an [`io::Error`], if that takes longer than `limit`; the threads go on.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn shutdown(&self, limit: Option<Duration>) -> impl Future<Output = io::Result<()>> + use<> {
        self.shutdown_in(&core::current(), limit)
    }

    pub(crate) fn shutdown_in(
        &self,
        core: &Rc<Core>,
        limit: Option<Duration>,
    ) -> impl Future<Output = io::Result<()>> + use<> {
        self.close();
        let elsewhere = Elsewhere::new(core);
        let ended = Ended { pool: self.pool().clone(), waiter: Waiter::new() };
        async move {
            let _elsewhere = elsewhere;
            match limit {
                Some(limit) => timeout(limit, ended).await??,
                None => ended.await?,
            }
            Ok(())
        }
    }

    /// As [`shutdown`](Self::shutdown), for a thread that runs no loop.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown), and on the thread of an event loop, which would stand still.
    pub fn shutdown_blocking(&self, limit: Option<Duration>) -> io::Result<()> {
        may_block()?;
        self.close();
        Ok(block_on(pin!(poll_fn(|cx| self.pool().poll_ended(cx))), limit)?)
    }
}

impl Default for Executor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}
