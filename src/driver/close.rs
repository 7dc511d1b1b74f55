//! Closing a descriptor, where somebody waits for it, or where it may take its time.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::blocking::Call;
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::sys::file;

/// Closes a descriptor: `IORING_OP_CLOSE` (5.6), or close(2) in a thread.
pub(crate) struct Close {
    /// Ours until somebody has closed it: dropped before that (on a loop that is gone), it is closed all the same.
    fd: Option<OwnedFd>,
    /// close(2) may wait: for a peer, or for a file to be written back. Then it is for a thread, and for one of ours:
    /// where no thread can be made, kernels before 6.11 (and its stable releases) try for ever and close nothing.
    lingers: bool,
}

impl Close {
    pub(crate) fn new(fd: OwnedFd, lingers: bool) -> Self {
        Self { fd: Some(fd), lingers }
    }

    fn number(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    fn close_now(&mut self) -> i32 {
        self.fd.take().map_or(0, |fd| file::close(fd.into_raw_fd()))
    }
}

impl Op for Close {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        (!self.lingers).then(|| opcode::Close::new(Fd(self.number())).build())
    }

    fn route(&self) -> Route {
        if self.lingers { Route::Pool } else { Route::Now }
    }

    fn attempt(&mut self) -> Attempt {
        Attempt::Complete(Answer::once(self.close_now()))
    }

    fn call(&mut self) -> Call {
        Call::Close { fd: self.number() }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        if -answer.result == libc::ECANCELED {
            // Before it began (a shutdown cancels everything): nobody else will close it now.
            return Step::Done(self.close_now());
        }
        // It was closed, whatever the kernel says: the number is not ours any more.
        let _ = self.fd.take().map(IntoRawFd::into_raw_fd);
        Step::Done(if matches!(-answer.result, libc::EINTR | 512..=516) { 0 } else { answer.result })
    }

    /// The number may belong to somebody else by then.
    fn may_repeat(&self) -> bool {
        false
    }

    /// What is to be closed is closed, whoever waits for it.
    fn is_cancelled_by_drop(&self) -> bool {
        false
    }
}
