//! Who runs next: the loop, its tasks and wakers, its timers, and the door for other threads.

pub(crate) mod away;
pub(crate) mod budget;
pub(crate) mod calls;
pub(crate) mod cancelling;
mod clock;
pub(crate) mod core;
mod event_loop;
pub(crate) mod exception;
mod foreign;
mod handle;
pub(crate) mod here;
mod inspect;
mod locals;
pub(crate) mod outcome;
pub(crate) mod park;
pub(crate) mod polling;
pub(crate) mod readiness;
mod remote;
pub(crate) mod scope;
pub(crate) mod task;
mod time;
mod timer;
pub(crate) mod wait;
mod waker;

pub(crate) use event_loop::Owner;
pub use event_loop::{Builder, EventLoop};
pub(crate) use handle::Canceller;
pub use handle::{LoopHandle, RemoteTask};
pub(crate) use inspect::current_task_id;
pub use inspect::{TaskFactory, TaskInfo, TaskState, TaskTree, all_tasks, current_task, task_tree};
pub(crate) use task::contain;
pub use task::{Task, TaskId};
pub use time::{Interval, Sleep, Timeout, interval, sleep, sleep_until, timeout};

use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::driver::Metrics;
use crate::op::Nop;
use crate::runtime::here::PutOff;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, outcome};

/// Makes an event loop, runs `main` in it, closes it, and gives the result of `main`.
///
/// Tasks that are not done when `main` is are cancelled, and have ten seconds to end; then they are dropped. `PROACTOR_DRIVER` chooses the driver; see
/// [`DriverChoice`](crate::DriverChoice).
///
/// # Errors
/// The error of `main`; or why no loop could be made, or could not go on.
///
/// # Examples
/// ```
/// use proactor::net::{TcpListener, TcpStream};
///
/// fn main() -> std::io::Result<()> {
///     proactor::run(async {
///         let listener = TcpListener::bind("127.0.0.1:0").await?;
///         let client = TcpStream::connect(listener.local_addr()?).await?;
///         let server = listener.accept().await?;
///         client.send("hello").await?;
///         assert_eq!(&server.receive().await?.unwrap()[..], b"hello");
///         Ok(())
///     })
/// }
/// ```
pub fn run<T, E: From<io::Error>>(main: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    EventLoop::policy().run(main)
}

/// Makes a task of `future` in the loop of this thread; it runs beside the caller from the next turn on.
///
/// # Panics
/// If no event loop runs on this thread.
#[doc(alias = "create_task")]
#[doc(alias = "ensure_future")]
#[track_caller]
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    core::current().spawn(future, Location::caller())
}

/// The handle of the loop that runs on this thread.
///
/// # Errors
/// If none does.
#[doc(alias = "get_running_loop")]
#[doc(alias = "get_event_loop")]
pub fn current() -> io::Result<LoopHandle> {
    match core::try_current() {
        Some(core) => Ok(LoopHandle::of(&core)),
        None => Err(io::Error::other("no event loop is running on this thread")),
    }
}

/// What the loop of this thread has done so far.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn metrics() -> Metrics {
    core::current().metrics()
}

/// Lets everything else that is ready run first.
///
/// # Cancel safety
/// *Nothing is lost.*
pub fn yield_now() -> YieldNow {
    YieldNow(Yield::default())
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct YieldNow(Yield);

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.0.poll(cx);
        if polled.is_pending() {
            here::put_off(PutOff::Yield);
        }
        polled
    }
}

/// Waits until everything has run that was ready when it was first polled.
#[derive(Debug, Default)]
pub(crate) struct Yield {
    /// Where the ready queue ended then.
    end: Option<u64>,
}

impl Yield {
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(core) = core::try_current() else { return Poll::Ready(()) };
        let end = *self.end.get_or_insert_with(|| core.ready_end() + 1);
        // Woken by another at the same time, the task may stand before the end.
        if core.ready_begin() >= end {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Goes once through the driver and back: what an operation costs at least, for benches and health checks.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// If the kernel refuses even that.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Kernel
/// `IORING_OP_NOP` (5.1); on the epoll driver it completes at once.
#[track_caller]
pub fn nop() -> impl Future<Output = io::Result<()>> {
    let ask = Ask::new(&core::current().driver, Nop, What(&"a nop"));
    async move {
        let (result, Nop) = ask.await;
        outcome(result).map(drop)
    }
}
