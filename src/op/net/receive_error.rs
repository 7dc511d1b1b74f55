//! Reading what the network says of datagrams that were sent: the error queue of a socket.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: the operation owns what its submission points to.

use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step, control};
use crate::op::Descriptor;
use crate::op::net::Incoming;
use crate::sys::message::{self, Layout};

/// The rooms for an address, and for the error with the address of who told of it.
const LAYOUT: Layout = Layout { name: 32, control: 256 };
/// How much of the datagram is kept: what routers give back is not more, as a rule.
const BYTES: usize = 576;

/// A socket whose errors are queued.
pub(crate) trait ErrorTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// An error came: `incoming` says which, and `bytes` are the beginning of the datagram.
    fn error_came(&self, incoming: &Incoming, bytes: &[u8], after: &mut Aftermath);
    /// No more will come: it was stopped, or it failed.
    fn errors_over(&self, result: i32, after: &mut Aftermath);
}

/// Reads the error queue as long as the socket is open: `IORING_OP_POLL_ADD` (5.1) and `IORING_OP_RECVMSG` (5.3). Nobody
/// else may read it, and it must not stay full: a socket with errors in its queue counts as ready for all.
pub(crate) struct ReceiveErrors<T> {
    target: Rc<T>,
    /// For epoll, which tells of errors together with the rest: a second descriptor, so that who waits for datagrams does
    /// not wait behind this.
    watched: Option<Descriptor>,
    polls: bool,
    incoming: Box<Incoming>,
    bytes: Vec<u8>,
}

impl<T: ErrorTarget> ReceiveErrors<T> {
    pub(crate) fn new(target: Rc<T>) -> std::io::Result<Self> {
        let descriptor = target.descriptor();
        let driver = descriptor.driver();
        let watched = match driver.wants_nonblocking() {
            true => Some(Descriptor::new(driver, descriptor.with(|fd| fd.try_clone_to_owned())?)),
            false => None,
        };
        let (polls, incoming) = (watched.is_none(), Box::new(Incoming::new(LAYOUT)));
        Ok(Self { target, watched, polls, incoming, bytes: Vec::with_capacity(BYTES) })
    }

    fn fd(&self) -> i32 {
        self.watched.as_ref().unwrap_or(self.target.descriptor()).number()
    }

    fn header(&mut self) -> *mut libc::msghdr {
        self.incoming.point(self.bytes.as_mut_ptr(), BYTES)
    }

    /// An error that found no room in the queue would keep the socket ready for ever.
    fn take_pending(&self) {
        // Nobody wants to know it; and if this fails, the next receive says so.
        let _ = self.target.descriptor().with(|fd| control::options(fd, |socket| socket.take_error()));
    }
}

const FLAGS: i32 = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;

impl<T: ErrorTarget> Op for ReceiveErrors<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.fd());
        if self.polls {
            return Some(opcode::PollAdd::new(fd, libc::POLLERR as u32).build());
        }
        Some(opcode::RecvMsg::new(fd, self.header()).flags(FLAGS as u32).build())
    }

    fn route(&self) -> Route {
        Route::Readable(self.fd())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.fd();
        // SAFETY: the header and what it points to are ours.
        Attempt::from_result(unsafe { message::receive(fd, self.header(), FLAGS) })
    }

    fn complete(&mut self, answer: Answer, after: &mut Aftermath) -> Step {
        match usize::try_from(answer.result) {
            Ok(_) if self.polls => self.polls = false,
            Ok(received) => {
                self.incoming.note(received);
                // SAFETY: the kernel initialised so many bytes, at most the capacity.
                unsafe { self.bytes.set_len(received.min(BYTES)) };
                self.target.error_came(&self.incoming, &self.bytes, after);
            }
            Err(_) if -answer.result == libc::EAGAIN => {
                self.take_pending();
                self.polls = true;
            }
            Err(_) if -answer.result == libc::EINTR => {}
            Err(_) => return Step::Done(answer.result),
        }
        Step::Again
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.errors_over(result, after);
    }

    /// It sees to that itself: that there is nothing means something here.
    fn may_repeat(&self) -> bool {
        false
    }
}
