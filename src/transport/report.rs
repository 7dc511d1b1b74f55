//! Calling the program, and telling the loop's exception handler what goes wrong there.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::panic_message;
use crate::runtime::exception::{ExceptionContext, ExceptionKind};
use crate::runtime::{contain, core};

fn report(message: &'static str, kind: ExceptionKind, error: io::Error) {
    if let Some(core) = core::try_current() {
        let context = ExceptionContext::new(message).with_error(error);
        core.call_exception_handler(&ExceptionContext { kind, ..context });
    }
}

/// Calls the program. A panic is told to the exception handler, and becomes an error.
pub(super) fn call<R>(callback: &'static str, f: impl FnOnce() -> R) -> io::Result<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let text = panic_message(payload.as_ref()).unwrap_or("no text").to_owned();
        contain(|| drop(payload));
        let failed = || io::Error::other(format!("{callback} panicked: {text}"));
        report("a protocol failed", ExceptionKind::Panicked, failed());
        failed()
    })
}

/// A server cannot accept for now.
pub(super) fn accept_failed(error: io::Error) {
    report("a server cannot accept connections for now", ExceptionKind::Other, error);
}
