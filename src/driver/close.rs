//! Closing a descriptor, where somebody waits for it, or where it may take its time.

use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;

use crate::driver::blocking::Call;
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::sys::file;

/// Closes a descriptor: `IORING_OP_CLOSE` (5.6).
pub(crate) struct Close {
    fd: RawFd,
    /// close(2) may wait: for a peer, or for a file to be written back. Then it is for a thread.
    lingers: bool,
}

impl Close {
    pub(crate) fn new(fd: OwnedFd, lingers: bool) -> Self {
        Self { fd: fd.into_raw_fd(), lingers }
    }
}

impl Op for Close {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let entry = opcode::Close::new(Fd(self.fd)).build();
        Some(if self.lingers { entry.flags(Flags::ASYNC) } else { entry })
    }

    fn route(&self) -> Route {
        if self.lingers { Route::Pool } else { Route::Now }
    }

    fn attempt(&mut self) -> Attempt {
        Attempt::Complete(Answer::once(file::close(self.fd)))
    }

    fn call(&mut self) -> Call {
        Call::Close { fd: self.fd }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        Step::Done(match -answer.result {
            // Cancelled before it began (a shutdown cancels everything): nobody else will close it now.
            libc::ECANCELED => file::close(self.fd),
            // Linux has closed the descriptor all the same.
            libc::EINTR | 512..=516 => 0,
            _ => answer.result,
        })
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
