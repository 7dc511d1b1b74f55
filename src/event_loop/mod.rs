//! The loop as asyncio shows it: callbacks, soon or later, handles to take them back, and how new loops are made.

mod exception;
mod executor;
mod signal;

pub use crate::runtime::exception::{ExceptionContext, ExceptionHandler, ExceptionKind, Panicked};
pub use exception::call_exception_handler;
pub use executor::{InExecutor, run_in_executor, set_default_executor, shutdown_default_executor};

pub use signal::{add_signal_handler, remove_signal_handler};

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::error::Closed;
use crate::future::Future;
use crate::runtime::calls::CallKey;
use crate::runtime::core::{self, Core};
use crate::runtime::{EventLoop, Task, TaskFactory};

/// A callback that was given to the loop. Dropping the handle changes nothing.
pub struct Handle {
    core: Weak<Core>,
    key: CallKey,
    cancelled: Cell<bool>,
}

impl Handle {
    fn new(core: &Rc<Core>, key: CallKey) -> Self {
        Self { core: Rc::downgrade(core), key, cancelled: Cell::new(false) }
    }

    /// Takes the callback back: it never runs. Returns false if it ran already, or was cancelled before.
    pub fn cancel(&self) -> bool {
        let cancelled = self.core.upgrade().is_some_and(|core| core.cancel_call(self.key));
        if cancelled {
            self.cancelled.set(true);
        }
        cancelled
    }

    /// Whether [`cancel`](Self::cancel) took the callback back before it ran.
    pub fn cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Whether the callback neither ran nor was cancelled.
    pub fn is_pending(&self) -> bool {
        self.core.upgrade().is_some_and(|core| core.is_call_pending(self.key))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("pending", &self.is_pending()).finish_non_exhaustive()
    }
}

/// A callback that was given to the loop for a certain time.
#[derive(Debug)]
pub struct TimerHandle {
    handle: Handle,
    when: Instant,
}

impl TimerHandle {
    /// When the callback is due, on the loop's clock.
    pub fn when(&self) -> Instant {
        self.when
    }

    /// As [`Handle::cancel`].
    pub fn cancel(&self) -> bool {
        self.handle.cancel()
    }

    /// As [`Handle::cancelled`].
    pub fn cancelled(&self) -> bool {
        self.handle.cancelled()
    }

    /// As [`Handle::is_pending`].
    pub fn is_pending(&self) -> bool {
        self.handle.is_pending()
    }
}

fn open(core: &Rc<Core>) -> io::Result<&Rc<Core>> {
    if core.closed.get() { Err(Closed::new("the event loop").into()) } else { Ok(core) }
}

#[track_caller]
fn soon(core: &Rc<Core>, f: Box<dyn FnOnce()>) -> io::Result<Handle> {
    Ok(Handle::new(core, open(core)?.call_soon(f, Some(Location::caller()))))
}

#[track_caller]
fn at(core: &Rc<Core>, when: Instant, f: Box<dyn FnOnce()>) -> io::Result<TimerHandle> {
    let key = open(core)?.call_at(when, f, Location::caller());
    Ok(TimerHandle { handle: Handle::new(core, key), when })
}

/// `delay` from now; the farthest time there is for delays beyond the end of the clock.
fn after(core: &Core, delay: Duration) -> Instant {
    let now = core.clock.now();
    let century = Duration::from_secs(100 * 365 * 86_400);
    now.checked_add(delay).unwrap_or_else(|| now + century)
}

impl EventLoop {
    /// Makes the loop call `factory` for each task that is spawned in it from now on, before it runs; `None` for nothing.
    /// For logs and counts: what a task is, its type says.
    pub fn set_task_factory(&self, factory: Option<TaskFactory>) {
        let before = self.core.task_factory.replace(factory);
        drop(before);
    }

    /// What [`set_task_factory`](Self::set_task_factory) has set.
    #[doc(alias = "get_task_factory")]
    pub fn task_factory(&self) -> Option<TaskFactory> {
        self.core.task_factory.borrow().clone()
    }

    /// Makes a task of `future`, as [`spawn`](crate::spawn) does in the loop that runs. If this one is closed, the task
    /// is cancelled.
    #[doc(alias = "create_task")]
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: std::future::Future + 'static,
        F::Output: 'static,
    {
        self.core.spawn(future, Location::caller())
    }

    /// A future of this loop, without a result.
    pub fn create_future<T: 'static>(&self) -> Future<T> {
        Future::in_loop(self.core.clone())
    }

    /// Calls `f` in the next turn of the loop, after everything that is ready already.
    ///
    /// # Errors
    /// If the loop is closed.
    #[track_caller]
    pub fn call_soon(&self, f: impl FnOnce() + 'static) -> io::Result<Handle> {
        soon(&self.core, Box::new(f))
    }

    /// Calls `f` after `delay`. Callbacks for the same time are called in the order in which they were given.
    ///
    /// # Errors
    /// If the loop is closed.
    #[track_caller]
    pub fn call_later(&self, delay: Duration, f: impl FnOnce() + 'static) -> io::Result<TimerHandle> {
        at(&self.core, after(&self.core, delay), Box::new(f))
    }

    /// Calls `f` at `when`, on the loop's clock.
    ///
    /// # Errors
    /// If the loop is closed.
    #[track_caller]
    pub fn call_at(&self, when: Instant, f: impl FnOnce() + 'static) -> io::Result<TimerHandle> {
        at(&self.core, when, Box::new(f))
    }
}

/// [`EventLoop::call_soon`] of the loop that runs on this thread.
///
/// # Errors
/// If none does.
#[track_caller]
pub fn call_soon(f: impl FnOnce() + 'static) -> io::Result<Handle> {
    soon(&running()?, Box::new(f))
}

/// [`EventLoop::call_later`] of the loop that runs on this thread.
///
/// # Errors
/// If none does.
#[track_caller]
pub fn call_later(delay: Duration, f: impl FnOnce() + 'static) -> io::Result<TimerHandle> {
    let core = running()?;
    at(&core, after(&core, delay), Box::new(f))
}

/// [`EventLoop::call_at`] of the loop that runs on this thread.
///
/// # Errors
/// If none does.
#[track_caller]
pub fn call_at(when: Instant, f: impl FnOnce() + 'static) -> io::Result<TimerHandle> {
    at(&running()?, when, Box::new(f))
}

/// [`EventLoop::stop`] of the loop that runs on this thread.
///
/// # Errors
/// If none does.
pub fn stop() -> io::Result<()> {
    running()?.stopping.set(true);
    Ok(())
}

/// The time on the clock of the loop that runs on this thread.
///
/// # Errors
/// If none does.
pub fn time() -> io::Result<Instant> {
    Ok(running()?.clock.now())
}

fn running() -> io::Result<Rc<Core>> {
    core::try_current().ok_or_else(|| io::Error::other("no event loop is running on this thread"))
}
