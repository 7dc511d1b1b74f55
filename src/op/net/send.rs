//! Sending bytes.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::mem::MaybeUninit;
use std::rc::Rc;

use bytes::Bytes;
use io_uring::squeue::Entry;

use crate::buf::IoBuf;
use crate::driver::blocking::Call;
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::op::net::Record;
use crate::op::net::medium::Medium;
use crate::sys::file::LEN_MAX;

/// A stream socket, which has one send in flight at a time.
pub(crate) trait SendTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    fn medium(&self) -> Medium;
    /// The send that had the turn is over, and no future of its own will say so.
    fn send_over(&self, result: i32, after: &mut Aftermath);
    /// The send that had the turn ended, and a future will fetch the result, or be dropped. Whether it is over by that: one
    /// that was cancelled half-way goes on if its future is dropped, so it keeps the turn.
    fn send_ended(&self, result: i32, after: &mut Aftermath) -> bool {
        let is_over = passes_turn(result);
        if is_over {
            self.send_over(result, after);
        }
        is_over
    }
    /// The batch of queued bytes that had the turn is over.
    fn batch_over(&self, batch: Box<Batch>, result: i32, after: &mut Aftermath);
    /// The queued record that had the turn is over.
    fn record_over(&self, record: Box<Record>, result: i32, after: &mut Aftermath);
}

/// Whether a send that ended with this does not go on, whatever becomes of its future.
#[inline]
pub(crate) fn passes_turn(result: i32) -> bool {
    result != -libc::ECANCELED
}

/// A send of the caller's own buffers.
pub(crate) trait SendOp: Op {
    type Bufs;
    /// The buffers, and how many bytes of them were sent.
    fn into_parts(self) -> (Self::Bufs, usize);
}

/// `MSG_WAITALL` makes the kernel go on after a short send by itself; before 6.0 it loses the count when cancelled.
pub(super) fn send_flags(features: &Features) -> i32 {
    libc::MSG_NOSIGNAL | if features.lossless_waitall { libc::MSG_WAITALL } else { 0 }
}

/// Sends all of one buffer: `IORING_OP_SEND` (5.6).
pub(crate) struct SendAll<T: SendTarget, B> {
    target: Rc<T>,
    buf: B,
    sent: usize,
}

impl<T: SendTarget, B: IoBuf> SendAll<T, B> {
    pub(crate) fn new(target: Rc<T>, buf: B) -> Self {
        Self { target, buf, sent: 0 }
    }

    #[inline]
    fn rest(&self) -> (*const u8, usize) {
        // SAFETY: `sent` is at most the length.
        let address = unsafe { self.buf.as_ptr().add(self.sent) };
        (address, (self.buf.len() - self.sent).min(LEN_MAX))
    }
}

impl<T: SendTarget, B: IoBuf> SendOp for SendAll<T, B> {
    type Bufs = B;

    #[inline]
    fn into_parts(self) -> (B, usize) {
        (self.buf, self.sent)
    }
}

impl<T: SendTarget, B: IoBuf> Op for SendAll<T, B> {
    #[inline]
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let (address, len) = self.rest();
        let fd = self.target.descriptor().number();
        Some(self.target.medium().send(fd, address, len, features))
    }

    fn route(&self) -> Route {
        self.target.medium().writable(self.target.descriptor().number())
    }

    fn call(&mut self) -> Call {
        let (address, len) = self.rest();
        Medium::send_in_pool(self.target.descriptor().number(), address, len)
    }

    fn attempt(&mut self) -> Attempt {
        let (address, len) = self.rest();
        let (fd, medium) = (self.target.descriptor().number(), self.target.medium());
        // SAFETY: the buffer is ours and has `len` more bytes.
        Attempt::from_result(unsafe { medium.send_now(fd, address, len) })
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        self.sent += count;
        if self.sent < self.buf.len() && count > 0 { Step::Again } else { Step::Done(0) }
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

/// The most buffers of one vectored send.
pub(crate) const BATCH_BUFFERS_MAX: usize = 64;

/// Buffers for one vectored send, and the kernel's view of what is left of them. Reused by its stream.
pub(crate) struct Batch {
    parts: [libc::iovec; BATCH_BUFFERS_MAX],
    first: usize,
    count: usize,
    message: MaybeUninit<libc::msghdr>,
    /// What keeps the bytes of `parts` in place.
    pub(crate) owners: Vec<Bytes>,
}

impl Batch {
    pub(crate) fn new() -> Box<Self> {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Self {
            parts: [none; BATCH_BUFFERS_MAX],
            first: 0,
            count: 0,
            message: MaybeUninit::zeroed(),
            owners: Vec::new(),
        })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.owners.len() == BATCH_BUFFERS_MAX
    }

    /// Points `parts` to what the owners hold.
    pub(crate) fn fill(&mut self) {
        (self.first, self.count) = (0, self.owners.len());
        for (part, owner) in self.parts.iter_mut().zip(&self.owners) {
            *part = libc::iovec { iov_base: owner.as_ptr().cast_mut().cast(), iov_len: owner.len() };
        }
    }

    /// Notes that `sent` more bytes are gone; true if any are left.
    fn advance(&mut self, sent: usize) -> bool {
        self.first += skip(&mut self.parts[self.first..self.count], sent);
        self.first < self.count
    }

    fn message(&mut self) -> *const libc::msghdr {
        point(&mut self.message, &mut self.parts[self.first..self.count])
    }
}

/// Sends a batch of queued bytes: `IORING_OP_SENDMSG` (5.3).
pub(crate) struct SendBatch<T: SendTarget> {
    target: Rc<T>,
    batch: Option<Box<Batch>>,
}

impl<T: SendTarget> SendBatch<T> {
    pub(crate) fn new(target: Rc<T>, batch: Box<Batch>) -> Self {
        Self { target, batch: Some(batch) }
    }

    fn batch(&mut self) -> &mut Batch {
        self.batch.as_mut().expect("the batch goes back when it is over")
    }
}

impl<T: SendTarget> Op for SendBatch<T> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let (fd, medium) = (self.target.descriptor().number(), self.target.medium());
        // SAFETY: the header and what it points to are in our batch.
        Some(unsafe { medium.send_parts(fd, self.batch().message(), features) })
    }

    fn route(&self) -> Route {
        self.target.medium().writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let (fd, medium) = (self.target.descriptor().number(), self.target.medium());
        // SAFETY: as above.
        Attempt::from_result(unsafe { medium.send_parts_now(fd, self.batch().message()) })
    }

    fn call(&mut self) -> Call {
        let fd = self.target.descriptor().number();
        // SAFETY: as above, and a batch holds something.
        unsafe { Medium::send_parts_in_pool(fd, self.batch().message()) }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        if self.batch().advance(count) && count > 0 { Step::Again } else { Step::Done(0) }
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        if let Some(batch) = self.batch.take() {
            self.target.batch_over(batch, result, after);
        }
    }
}

/// Sends all of several buffers of the caller: `IORING_OP_SENDMSG` (5.3), for up to as many as fit in a message.
pub(crate) struct SendVectored<T: SendTarget, B> {
    target: Rc<T>,
    bufs: Vec<B>,
    /// What is left of each buffer, for the kernel.
    parts: Vec<libc::iovec>,
    first: usize,
    sent: usize,
    message: Box<MaybeUninit<libc::msghdr>>,
}

impl<T: SendTarget, B: IoBuf> SendVectored<T, B> {
    pub(crate) fn new(target: Rc<T>, bufs: Vec<B>) -> Self {
        let part = |buf: &B| libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        // Without the empty ones, "nothing was sent" means that nothing can be sent.
        let parts = bufs.iter().filter(|buf| !buf.is_empty()).map(part).collect();
        Self { target, bufs, parts, first: 0, sent: 0, message: Box::new(MaybeUninit::zeroed()) }
    }

    fn message(&mut self) -> *const libc::msghdr {
        let end = (self.first + BATCH_BUFFERS_MAX).min(self.parts.len());
        point(&mut self.message, &mut self.parts[self.first..end])
    }
}

impl<T: SendTarget, B: IoBuf> SendOp for SendVectored<T, B> {
    type Bufs = Vec<B>;

    fn into_parts(self) -> (Vec<B>, usize) {
        (self.bufs, self.sent)
    }
}

impl<T: SendTarget, B: IoBuf> Op for SendVectored<T, B> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let (fd, medium) = (self.target.descriptor().number(), self.target.medium());
        // SAFETY: the header, the parts and the buffers are ours.
        Some(unsafe { medium.send_parts(fd, self.message(), features) })
    }

    fn route(&self) -> Route {
        self.target.medium().writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let (fd, medium) = (self.target.descriptor().number(), self.target.medium());
        // SAFETY: as above.
        Attempt::from_result(unsafe { medium.send_parts_now(fd, self.message()) })
    }

    fn call(&mut self) -> Call {
        let fd = self.target.descriptor().number();
        if self.first == self.parts.len() {
            return Medium::send_in_pool(fd, std::ptr::null(), 0);
        }
        // SAFETY: as above, and there is a part.
        unsafe { Medium::send_parts_in_pool(fd, self.message()) }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        self.sent += count;
        let skipped = skip(&mut self.parts[self.first..], count);
        self.first += skipped;
        if self.first < self.parts.len() && count > 0 { Step::Again } else { Step::Done(0) }
    }

    fn ended(&mut self, result: i32, after: &mut Aftermath) -> bool {
        self.target.send_ended(result, after)
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.send_over(result, after);
    }

    /// Half a message must not stay unsent, as for `SendAll`.
    fn is_cancelled_by_drop(&self) -> bool {
        false
    }
}

/// Points a message header, which was zeroed once, to `parts`.
fn point(message: &mut MaybeUninit<libc::msghdr>, parts: &mut [libc::iovec]) -> *const libc::msghdr {
    // SAFETY: zeroes are a valid message header.
    let header = unsafe { message.assume_init_mut() };
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len() as _;
    header
}

/// Notes that `sent` bytes of `parts` are gone; returns how many parts are gone wholly.
fn skip(parts: &mut [libc::iovec], mut sent: usize) -> usize {
    for (gone, part) in parts.iter_mut().enumerate() {
        if sent < part.iov_len {
            // SAFETY: `sent` is below the length of this part.
            part.iov_base = unsafe { part.iov_base.byte_add(sent) };
            part.iov_len -= sent;
            return gone;
        }
        sent -= part.iov_len;
    }
    parts.len()
}
