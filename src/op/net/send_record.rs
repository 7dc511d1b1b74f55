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

/// The types of records, as TLS numbers them.
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;

/// A record to be encrypted by the kernel.
pub(crate) struct Record {
    /// Its type, as TLS numbers them.
    pub(crate) kind: u8,
    pub(crate) bytes: Vec<u8>,
    /// What comes behind it is sent with these keys.
    pub(crate) next_keys: Option<Box<kernel_tls::Keys>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The record that the kernel keeps open, for more of a file, is ended, by nothing that is said to be bytes of the
    /// stream. A record of any other type would end it too. But where it does not get out at once (no memory, or a device
    /// encrypts), Linux before 6.18, and before the updates of older ones of October 2025, forgets what was said of the
    /// type, and sends an alert or a change of keys as bytes of the stream. For nothing there is nothing to forget. (Where a
    /// network adapter encrypts, an empty record of bytes goes out, which TLS allows.)
    Open,
    Record,
    /// An alert ends the stream, which may be closed next: then what the kernel has encrypted, and the socket had no room
    /// for, is tried once more and dropped.
    Room,
}

/// Sends a record: `IORING_OP_SENDMSG` (5.3).
pub(crate) struct SendRecord<T: SendTarget> {
    target: Rc<T>,
    record: Option<Box<Record>>,
    stage: Stage,
    /// On the ring: it waits for room. (The kernel's own wait, Linux before 6.4, loses what was said of the type.)
    is_full: bool,
    header: Header,
    control: Vec<usize>,
}

impl<T: SendTarget> SendRecord<T> {
    pub(crate) fn new(target: Rc<T>, record: Box<Record>) -> Self {
        Self {
            target,
            record: Some(record),
            stage: Stage::Open,
            is_full: false,
            header: Header::new(),
            control: Vec::new(),
        }
    }

    fn record(&mut self) -> &mut Record {
        self.record.as_mut().expect("it goes back when it is sent")
    }

    fn header(&mut self) -> *const libc::msghdr {
        let is_open = self.stage == Stage::Open;
        let record = self.record();
        let (kind, len) = if is_open { (APPLICATION_DATA, 0) } else { (record.kind, record.bytes.len()) };
        let bytes = record.bytes.as_mut_ptr();
        self.header.set_bytes(bytes, len);
        self.control.clear();
        kernel_tls::push_record_type(&mut self.control, kind);
        self.header.set_control(self.control.as_mut_ptr().cast(), size_of_val(&self.control[..]));
        self.header.complete()
    }

    /// What comes after a stage that went well.
    fn goes_on(&mut self) -> Step {
        let is_alert = self.record().kind == ALERT;
        self.stage = match self.stage {
            Stage::Open => Stage::Record,
            Stage::Record if is_alert => Stage::Room,
            _ => return Step::Done(0),
        };
        Step::Again
    }
}

impl<T: SendTarget> Op for SendRecord<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.target.descriptor().number());
        if self.stage == Stage::Room || self.is_full {
            return Some(opcode::PollAdd::new(fd, libc::POLLOUT as u32).build());
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        Some(opcode::SendMsg::new(fd, self.header()).flags(flags as u32).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.target.descriptor().number();
        if self.stage == Stage::Room {
            let is_full = socket::poll_now(fd, libc::POLLOUT) == 0;
            return Attempt::from_result(if is_full { -libc::EAGAIN } else { 0 });
        }
        // SAFETY: the header and what it points to are ours.
        Attempt::from_result(unsafe { socket::sendmsg(fd, self.header()) })
    }

    /// The kernel takes a record as a whole.
    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        match answer.result {
            0.. if std::mem::take(&mut self.is_full) => Step::Again,
            result if result == -libc::EAGAIN => {
                self.is_full = true;
                Step::Again
            }
            // A device encrypts what was open.
            result if result == -libc::EINPROGRESS => self.goes_on(),
            0.. => self.goes_on(),
            result => Step::Done(result),
        }
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        if let Some(record) = self.record.take() {
            self.target.record_over(record, result, after);
        }
    }
}
