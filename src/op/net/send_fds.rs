//! Sending bytes of a stream, and descriptors with them.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::buf::IoBuf;
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::net::{SendOp, SendTarget, WithFds};
use crate::sys::file::LEN_MAX;
use crate::sys::message::Header;
use crate::sys::socket;

/// Sends all of a buffer, and descriptors with its first bytes: `IORING_OP_SENDMSG` (5.3).
pub(crate) struct SendFds<T: SendTarget, B> {
    target: Rc<T>,
    what: WithFds<B>,
    header: Header,
    control: Vec<usize>,
    sent: usize,
}

impl<T: SendTarget, B: IoBuf> SendFds<T, B> {
    pub(crate) fn new(target: Rc<T>, buf: B, fds: Vec<OwnedFd>) -> Self {
        let what = WithFds { buf, fds };
        let mut control = Vec::new();
        what.write_rights(&mut control);
        Self { target, what, header: Header::new(), control, sent: 0 }
    }

    fn header(&mut self) -> *const libc::msghdr {
        // SAFETY: `sent` is at most the length.
        let rest = unsafe { self.what.buf.as_ptr().add(self.sent) };
        self.header.set_bytes(rest.cast_mut(), (self.what.buf.len() - self.sent).min(LEN_MAX));
        // They went with the first bytes.
        let control_len = if self.sent == 0 { size_of_val(&self.control[..]) } else { 0 };
        self.header.set_control(self.control.as_mut_ptr().cast(), control_len);
        self.header.complete()
    }
}

impl<T: SendTarget, B: IoBuf> SendOp for SendFds<T, B> {
    type Bufs = (B, Vec<OwnedFd>);

    fn into_parts(self) -> (Self::Bufs, usize) {
        ((self.what.buf, self.what.fds), self.sent)
    }
}

impl<T: SendTarget, B: IoBuf> Op for SendFds<T, B> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.target.descriptor().number());
        Some(opcode::SendMsg::new(fd, self.header()).flags(libc::MSG_NOSIGNAL as u32).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.target.descriptor().number();
        // SAFETY: the header and what it points to are ours.
        Attempt::from_result(unsafe { socket::sendmsg(fd, self.header()) })
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        self.sent += count;
        if self.sent < self.what.buf.len() && count > 0 { Step::Again } else { Step::Done(0) }
    }

    fn ended(&mut self, result: i32, after: &mut Aftermath) -> bool {
        self.target.send_ended(result, after)
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.send_over(result, after);
    }

    /// Half a message must not stay unsent: it goes on until the stream is closed.
    fn is_cancelled_by_drop(&self) -> bool {
        false
    }
}
