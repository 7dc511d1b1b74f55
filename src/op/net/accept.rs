//! Accepting connections.

use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::sys::{file, socket};

/// A listener, which owns the connections that its accept brings.
pub(crate) trait AcceptTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// A connection came. Returns whether that is enough for now.
    fn accepted(&self, connection: OwnedFd, after: &mut Aftermath) -> bool;
    /// The accept ended: with an error, or because it was stopped (-ECANCELED).
    fn accept_over(&self, result: i32, after: &mut Aftermath);
}

/// Accepts connections one after the other: multishot `IORING_OP_ACCEPT` (5.19), one by one before that.
pub(crate) struct AcceptMulti<T> {
    target: Rc<T>,
}

impl<T: AcceptTarget> AcceptMulti<T> {
    pub(crate) fn new(target: Rc<T>) -> Self {
        Self { target }
    }

    fn fd(&self) -> RawFd {
        self.target.descriptor().number()
    }
}

impl<T: AcceptTarget> Op for AcceptMulti<T> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let fd = Fd(self.fd());
        Some(if features.multishot_accept {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let null = std::ptr::null_mut();
            opcode::Accept::new(fd, null, null.cast()).flags(libc::SOCK_CLOEXEC).build()
        })
    }

    fn route(&self) -> Route {
        Route::Readable(self.fd())
    }

    fn attempt(&mut self) -> Attempt {
        match socket::accept(self.fd()) {
            result @ 0.. => Attempt::Complete(Answer::one_of_many(result, None)),
            error => Attempt::from_result(error),
        }
    }

    fn complete(&mut self, answer: Answer, after: &mut Aftermath) -> Step {
        if answer.result < 0 {
            return Step::Done(answer.result);
        }
        let enough = self.target.accepted(file::own(answer.result), after);
        match (answer.more(), enough) {
            (true, false) => Step::More,
            (true, true) => Step::Stop,
            (false, false) => Step::Again,
            (false, true) => Step::Done(-libc::ECANCELED),
        }
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.accept_over(result, after);
    }
}
