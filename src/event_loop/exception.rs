//! Who hears of what goes wrong where nobody waits for it, and the debug mode.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::event_loop::running;
use crate::runtime::EventLoop;
use crate::runtime::exception::{self, ExceptionContext, ExceptionHandler};

impl EventLoop {
    /// Makes `handler` hear of what goes wrong in this loop where nobody waits for it: callbacks that panic, tasks that
    /// fail and whose results nobody fetches, and in [debug mode](Self::set_debug) what that finds. `None` brings the
    /// [default](Self::default_exception_handler) back. The loop goes on in any case, also if the handler panics.
    ///
    /// # Examples
    /// ```
    /// use std::cell::RefCell;
    /// use std::rc::Rc;
    ///
    /// use proactor::EventLoop;
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let heard = Rc::new(RefCell::new(Vec::new()));
    /// let log = heard.clone();
    /// event_loop.set_exception_handler(Some(Rc::new(move |context| log.borrow_mut().push(context.to_string()))));
    /// event_loop.run_until_complete(async {
    ///     drop(proactor::spawn(async { Err::<(), _>(std::io::Error::other("no such luck")) }).set_name("player"));
    ///     proactor::yield_now().await;
    /// })?;
    /// assert!(heard.borrow()[0].starts_with("a task failed, and nobody waits for it: no such luck; player is over"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_exception_handler(&self, handler: Option<ExceptionHandler>) {
        let before = self.core.exceptions.handler.replace(handler);
        drop(before);
    }

    /// What [`set_exception_handler`](Self::set_exception_handler) has set.
    #[doc(alias = "get_exception_handler")]
    pub fn exception_handler(&self) -> Option<ExceptionHandler> {
        self.core.exceptions.handler.borrow().clone()
    }

    /// What is done without a handler: one line on standard error, as std does with a panic. With the feature `log` it is
    /// a record for the `log` crate instead: an error, or, for what only the debug mode tells, a warning.
    pub fn default_exception_handler(&self, context: &ExceptionContext) {
        exception::tell(context);
    }

    /// Tells the handler.
    pub fn call_exception_handler(&self, context: &ExceptionContext) {
        self.core.call_exception_handler(context);
    }

    /// Switches the debug mode on or off. In it the handler also hears of callbacks and of polls of tasks that took
    /// longer than the [limit](Self::set_slow_callback_duration), with the place where they came from, and of tasks that
    /// are not done when the loop closes. It costs two looks at the clock for each of them.
    ///
    /// What asyncio checks besides is an error of the compiler here (a loop that is used by another thread), or a warning
    /// of it (a future that nobody awaits).
    pub fn set_debug(&self, on: bool) {
        self.core.exceptions.debug.set(on);
    }

    /// Whether the debug mode is on.
    #[doc(alias = "get_debug")]
    pub fn debug(&self) -> bool {
        self.core.exceptions.debug.get()
    }

    /// How long a callback, or a task in one poll, may take before the debug mode tells of it. Default: 100 ms.
    pub fn set_slow_callback_duration(&self, limit: Duration) {
        self.core.exceptions.slow.set(limit);
    }

    /// What [`set_slow_callback_duration`](Self::set_slow_callback_duration) has set.
    pub fn slow_callback_duration(&self) -> Duration {
        self.core.exceptions.slow.get()
    }
}

/// [`EventLoop::call_exception_handler`] of the loop that runs on this thread.
///
/// # Errors
/// If none does.
pub fn call_exception_handler(context: &ExceptionContext) -> io::Result<()> {
    let core: Rc<_> = running()?;
    core.call_exception_handler(context);
    Ok(())
}
