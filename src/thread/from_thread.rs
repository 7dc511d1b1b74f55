//! The way back: what a function that runs in a thread can ask of the loop that waits for it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Cancelled;
use crate::runtime::LoopHandle;

/// Which loop waits for the function that runs on this thread.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) handle: LoopHandle,
    /// The wait was cancelled or given up.
    pub(crate) cancelled: Arc<AtomicBool>,
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

impl Host {
    /// Runs `function` as one that this loop waits for.
    pub(crate) fn run<T>(self, function: impl FnOnce() -> T) -> T {
        struct Restore(Option<Host>);
        impl Drop for Restore {
            fn drop(&mut self) {
                HOST.set(self.0.take());
            }
        }
        let _restore = Restore(HOST.replace(Some(self)));
        function()
    }

    fn here() -> io::Result<Self> {
        let host = HOST.with_borrow(Clone::clone);
        host.ok_or_else(|| io::Error::other("this thread runs no function of to_thread::run_sync"))
    }
}

/// Runs an async closure as a task in the loop that waits for this thread, and blocks until it is done. The closure is
/// sent there; its future is made there and need not be `Send`.
///
/// # Errors
/// If this thread runs no function of [`to_thread::run_sync`](crate::thread::to_thread::run_sync), if the loop ended, or
/// if the task panicked or was cancelled.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use proactor::thread::{from_thread, to_thread};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let in_thread = || from_thread::run(async || proactor::sleep(Duration::from_millis(1)).await.is_ok());
///     assert!(to_thread::run_sync(in_thread).await??);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn run<T, F>(function: F) -> io::Result<T>
where
    F: AsyncFnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Host::here()?.handle.spawn(function)?.wait(None)
}

/// Calls `function` on the thread of the loop that waits for this thread, and blocks until it returns.
///
/// # Errors
/// As [`run`].
#[track_caller]
pub fn run_sync<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    Host::here()?.handle.spawn(async move || function())?.wait(None)
}

/// Asks whether the wait for this thread was cancelled. A function that takes long asks now and then, and returns early
/// by `?`.
///
/// # Errors
/// [`Cancelled`], as an [`io::Error`], if the task that waits was cancelled, or gave up waiting. Another error if this
/// thread runs no function of [`to_thread::run_sync`](crate::thread::to_thread::run_sync).
pub fn check_cancelled() -> io::Result<()> {
    match Host::here()?.cancelled.load(Ordering::SeqCst) {
        false => Ok(()),
        true => Err(Cancelled::default().into()),
    }
}
