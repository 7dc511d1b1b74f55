//! Connecting sockets.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use socket2::SockAddr;

use crate::driver::{Answer, Attempt, Features, Op, Route};
use crate::op::Descriptor;
use crate::sys::socket;

/// Connects a socket: `IORING_OP_CONNECT` (5.5).
pub(crate) struct Connect {
    socket: Rc<Descriptor>,
    address: SockAddr,
    started: bool,
    queue_full: bool,
}

impl Connect {
    pub(crate) fn new(socket: Rc<Descriptor>, address: SockAddr) -> Self {
        Self { socket, address, started: false, queue_full: false }
    }

    /// The queue of a UNIX listener was full, and no readiness tells when it is not: try again a little later.
    pub(crate) fn is_queue_full(&self) -> bool {
        self.queue_full
    }
}

impl Op for Connect {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.socket.number());
        Some(opcode::Connect::new(fd, self.address.as_ptr().cast(), self.address.len()).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.socket.number())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.socket.number();
        if self.started {
            return match socket::poll_now(fd, libc::POLLOUT) {
                0 => Attempt::Wait,
                _ => Attempt::Complete(Answer::once(socket::take_error(fd))),
            };
        }
        // SAFETY: the address is ours.
        let result = unsafe { socket::connect(fd, self.address.as_ptr().cast(), self.address.len()) };
        match -result {
            libc::EINPROGRESS => {
                self.started = true;
                Attempt::Wait
            }
            libc::EAGAIN => {
                self.queue_full = true;
                Attempt::Complete(Answer::once(-libc::ECONNREFUSED))
            }
            _ => Attempt::from_result(result),
        }
    }
}
