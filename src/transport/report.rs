//! Calling the program, and telling the loop's exception handler what goes wrong there.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::runtime::core;
use crate::runtime::exception::{ExceptionContext, ExceptionKind, Panicked};

/// Tells the exception handler what happened to `about`, a transport or a server.
pub(super) fn report<T: Clone + 'static>(
    about: &T,
    kind: ExceptionKind,
    message: impl Into<Cow<'static, str>>,
    error: impl Into<Box<dyn StdError>>,
) {
    if let Some(core) = core::try_current() {
        let context = ExceptionContext::new(message).with_error(error);
        let about: Rc<dyn std::any::Any> = Rc::new(about.clone());
        core.call_exception_handler(&ExceptionContext { kind, about: Some(about), ..context });
    }
}

fn call_as<T: Clone + 'static, R>(
    about: &T,
    callback: &'static str,
    message: impl FnOnce() -> String,
    f: impl FnOnce() -> R,
) -> io::Result<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let panicked = Panicked::new(payload);
        let error = io::Error::other(format!("{callback} {panicked}"));
        report(about, ExceptionKind::Panicked, message(), panicked);
        error
    })
}

/// Calls the program. A panic is told to the exception handler, and becomes an error.
pub(super) fn call<T: Clone + 'static, R>(
    about: &T,
    callback: &'static str,
    f: impl FnOnce() -> R,
) -> io::Result<R> {
    call_as(about, callback, || format!("protocol.{callback}() failed"), f)
}

/// As [`call`], where a panic ends the connection.
pub(super) fn call_fatal<T: Clone + 'static, R>(
    about: &T,
    callback: &'static str,
    f: impl FnOnce() -> R,
) -> io::Result<R> {
    call_as(about, callback, || format!("fatal error: protocol.{callback}() call failed"), f)
}
