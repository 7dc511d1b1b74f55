//! The way back: what a function that runs in a thread can ask of the loop that waits for it.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Cancelled;
use crate::runtime::{Canceller, LoopHandle};

/// Which loop waits for the function that runs on this thread.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) handle: LoopHandle,
    /// The wait was cancelled or given up.
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) guest: Arc<Guest>,
}

/// The task that a function in a thread has in the loop, and waits for. It goes when the loop gives the function up.
#[derive(Default)]
pub(crate) struct Guest(Mutex<Stay>);

#[derive(Default)]
struct Stay {
    canceller: Option<Arc<Canceller>>,
    is_over: bool,
}

impl Guest {
    fn stay(&self) -> MutexGuard<'_, Stay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What cancels the next task. An error if the function was given up before.
    fn enter(&self) -> io::Result<Arc<Canceller>> {
        let mut stay = self.stay();
        if stay.is_over {
            return Err(Cancelled::with_message(GIVEN_UP).into());
        }
        Ok(stay.canceller.insert(Arc::default()).clone())
    }

    fn leave(&self) {
        self.stay().canceller = None;
    }

    /// The function was given up.
    pub(crate) fn send_away(&self) {
        let canceller = {
            let mut stay = self.stay();
            stay.is_over = true;
            stay.canceller.take()
        };
        if let Some(canceller) = canceller {
            canceller.cancel(GIVEN_UP);
        }
    }
}

const GIVEN_UP: &str = "nobody waits for the function in the thread any more";

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
/// The task is cancelled when the wait for this thread is given up: dropped, or cancelled with
/// [`abandon_on_cancel`](crate::thread::to_thread::RunSync::abandon_on_cancel). A wait that a cancel does not end does not
/// end the task either.
///
/// # Errors
/// If this thread runs no function of [`to_thread::run_sync`](crate::thread::to_thread::run_sync), if the loop ended, or
/// if the task panicked. [`Cancelled`], as an [`io::Error`], if the task was cancelled, or the wait for this thread given
/// up before.
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
    let host = Host::here()?;
    let canceller = host.guest.enter()?;
    let result = host.handle.spawn_with(canceller, function).and_then(|mut task| task.wait(None));
    host.guest.leave();
    result
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
