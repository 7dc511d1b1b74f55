//! Sending TLS records that the kernel encrypts, of other types than those that carry bytes of a stream.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::net::SendTarget;
use crate::sys::message::Header;
use crate::sys::{kernel_tls, socket};

/// A record to be encrypted by the kernel.
pub(crate) struct Record {
    /// Its type, as TLS numbers them.
    pub(crate) kind: u8,
    pub(crate) bytes: Vec<u8>,
    /// What comes behind it is sent with these keys.
    pub(crate) next_keys: Option<kernel_tls::Keys>,
}

/// Sends a record: `IORING_OP_SENDMSG` (5.3).
pub(crate) struct SendRecord<T: SendTarget> {
    target: Rc<T>,
    record: Option<Box<Record>>,
    /// The socket has room. Asked for first, since a record that the kernel keeps open must get out whole: on a full socket
    /// Linux would forget of what type this one is.
    has_room: bool,
    header: Header,
    control: Vec<usize>,
}

impl<T: SendTarget> SendRecord<T> {
    pub(crate) fn new(target: Rc<T>, record: Box<Record>) -> Self {
        let mut control = Vec::new();
        kernel_tls::push_record_type(&mut control, record.kind);
        Self { target, record: Some(record), has_room: false, header: Header::new(), control }
    }

    fn header(&mut self) -> *const libc::msghdr {
        let record = self.record.as_mut().expect("it goes back when it is sent");
        self.header.set_bytes(record.bytes.as_mut_ptr(), record.bytes.len());
        self.header.set_control(self.control.as_mut_ptr().cast(), size_of_val(&self.control[..]));
        self.header.complete()
    }
}

impl<T: SendTarget> Op for SendRecord<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.target.descriptor().number());
        if !self.has_room {
            return Some(opcode::PollAdd::new(fd, libc::POLLOUT as u32).build());
        }
        Some(opcode::SendMsg::new(fd, self.header()).flags(libc::MSG_NOSIGNAL as u32).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.target.descriptor().number();
        if socket::poll_now(fd, libc::POLLOUT) == 0 {
            return Attempt::from_result(-libc::EAGAIN);
        }
        self.has_room = true;
        // SAFETY: the header and what it points to are ours.
        Attempt::from_result(unsafe { socket::sendmsg(fd, self.header()) })
    }

    /// The kernel takes a record as a whole.
    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let had_room = std::mem::replace(&mut self.has_room, true);
        if had_room || answer.result < 0 { Step::Done(answer.result) } else { Step::Again }
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        if let Some(record) = self.record.take() {
            self.target.record_over(record, result, after);
        }
    }
}
