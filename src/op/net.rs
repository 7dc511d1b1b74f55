//! Operations on sockets.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns the buffer, the address or the message header that its submission points to, or
//! holds a reference to the resource that does.

use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use socket2::SockAddr;

use crate::buf::{Chunk, IoBuf, IoBufMut, Pool};
use crate::driver::{Answer, Attempt, Features, Op, Route, Step, Wakers};
use crate::op::Descriptor;
use crate::sys::{file, socket};

/// The group of the buffer ring, as the ring driver registered it.
const BUFFER_GROUP: u16 = 0;
/// What a socket receives into when the pool is at its limit.
const SPARE_SIZE: usize = 4096;
/// The most bytes of one send or receive.
const LEN_MAX: usize = 0x7fff_f000;

/// A listener, which owns the connections that its accept brings.
pub(crate) trait AcceptTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// A connection came. Returns whether that is enough for now.
    fn accepted(&self, connection: OwnedFd, wakers: &mut Wakers) -> bool;
    /// The accept ended: with an error, or because it was stopped (-ECANCELED).
    fn accept_over(&self, result: i32, wakers: &mut Wakers);
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
        match Attempt::from_result(socket::accept(self.fd())) {
            Attempt::Complete(answer) => Attempt::Complete(Answer { more: answer.result >= 0, ..answer }),
            other => other,
        }
    }

    fn complete(&mut self, answer: Answer, wakers: &mut Wakers) -> Step {
        if answer.result < 0 {
            return Step::Done(answer.result);
        }
        let enough = self.target.accepted(file::own(answer.result), wakers);
        match (answer.more, enough) {
            (true, false) => Step::More,
            (true, true) => Step::Stop,
            (false, false) => Step::Again,
            (false, true) => Step::Done(-libc::ECANCELED),
        }
    }

    fn settle(&mut self, result: i32, wakers: &mut Wakers) {
        self.target.accept_over(result, wakers);
    }
}

/// A stream socket, which owns the bytes that its receive brings.
pub(crate) trait ReceiveTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// Bytes came. Returns whether that is enough for now.
    fn received(&self, chunk: Chunk, wakers: &mut Wakers) -> bool;
    /// The receive ended: 0 at the end of the stream, -ENOBUFS for want of buffers, -ECANCELED because it was
    /// stopped, `SHOTS_OVER` because the kernel wants it armed anew; or with an error.
    fn receive_over(&self, result: i32, wakers: &mut Wakers);
    /// Bytes that a receive into a buffer of its own brought, and that nobody fetched: the next to be received.
    fn unclaimed(&self, bytes: &[u8], wakers: &mut Wakers);
    /// A receive into a buffer of its own is over.
    fn receive_into_over(&self, wakers: &mut Wakers);
}

/// The result of a multishot receive that ended with data: arm it again.
pub(crate) const SHOTS_OVER: i32 = 1;

/// Receives as long as the stream goes on: multishot `IORING_OP_RECV` into pooled buffers (6.0). Before that, a poll
/// and then a receive for each chunk, so that an idle connection holds no buffer there either.
pub(crate) struct ReceiveMulti<T> {
    target: Rc<T>,
    stage: ReceiveStage,
    /// Where bytes go when the pool is at its limit.
    spare: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReceiveStage {
    /// The kernel takes buffers from the ring.
    Multishot,
    /// Waiting until there is something.
    Poll,
    /// Receiving into this pooled buffer, or into the spare one.
    Single(Option<u16>),
}

impl<T: ReceiveTarget> ReceiveMulti<T> {
    /// `spare`: the pool had no buffer; receive into a small one of its own, once.
    pub(crate) fn new(target: Rc<T>, spare: bool) -> Self {
        let multishot = target.descriptor().driver().pool().has_ring();
        let stage = match (multishot, spare) {
            (true, false) => ReceiveStage::Multishot,
            (true, true) => ReceiveStage::Single(None),
            (false, _) => ReceiveStage::Poll,
        };
        Self { target, stage, spare: None }
    }

    fn fd(&self) -> RawFd {
        self.target.descriptor().number()
    }

    fn pool(&self) -> &Rc<Pool> {
        self.target.descriptor().driver().pool()
    }

    /// A place for the next bytes: a pooled buffer, or the spare one. Submitted again, it keeps the one it has.
    fn place(&mut self) -> (*mut u8, usize, Option<u16>) {
        if let ReceiveStage::Single(Some(id)) = self.stage {
            return (self.pool().address(id).cast_mut(), self.pool().buffer_size(), Some(id));
        }
        match self.pool().take() {
            Some(taken) => (taken.address, taken.size, Some(taken.id)),
            None => {
                let spare = self.spare.get_or_insert_with(|| Vec::with_capacity(SPARE_SIZE));
                (spare.as_mut_ptr(), SPARE_SIZE, None)
            }
        }
    }

    /// The chunk that a completion brought; `count` bytes.
    fn chunk(&mut self, answer: &Answer, count: usize) -> Chunk {
        let pool = self.pool().clone();
        let pooled = match self.stage {
            ReceiveStage::Multishot => answer.buffer.inspect(|id| pool.filled(*id)),
            ReceiveStage::Single(id) => id,
            ReceiveStage::Poll => answer.buffer, // epoll: `attempt` took it
        };
        match pooled {
            Some(id) => Chunk::pooled(pool, id, count),
            None => {
                let mut spare = self.spare.take().expect("bytes without a buffer");
                // SAFETY: the kernel initialised `count` bytes, at most the capacity.
                unsafe { spare.set_len(count) };
                Chunk::heap(spare)
            }
        }
    }

    /// Gives back a buffer that nothing was received into.
    fn put_back(&self, answer: &Answer) {
        match (self.stage, answer.buffer) {
            (ReceiveStage::Multishot, Some(id)) => {
                self.pool().filled(id);
                self.pool().release(id);
            }
            (ReceiveStage::Single(Some(id)), _) => self.pool().release(id),
            _ => {}
        }
    }
}

impl<T: ReceiveTarget> Op for ReceiveMulti<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.fd());
        Some(match self.stage {
            ReceiveStage::Multishot => opcode::RecvMulti::new(fd, BUFFER_GROUP).build(),
            ReceiveStage::Poll => opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32).build(),
            ReceiveStage::Single(_) => {
                let (address, len, id) = self.place();
                self.stage = ReceiveStage::Single(id);
                opcode::Recv::new(fd, address, len as u32).build()
            }
        })
    }

    fn route(&self) -> Route {
        Route::Readable(self.fd())
    }

    fn attempt(&mut self) -> Attempt {
        if self.spare.is_some() {
            return Attempt::Later; // its bytes are not delivered yet
        }
        let (address, len, id) = self.place();
        // SAFETY: the place is ours: a pooled buffer with a reference for us, or the spare one.
        let result = unsafe { socket::receive(self.fd(), address, len) };
        if result <= 0 {
            if let Some(id) = id {
                self.pool().release(id);
            }
            self.spare = None;
            return Attempt::from_result(result);
        }
        // A short receive took all there was: the next edge tells of more.
        let drained = (result as usize) < len;
        Attempt::Complete(Answer { result, buffer: id, more: true, drained })
    }

    fn complete(&mut self, answer: Answer, wakers: &mut Wakers) -> Step {
        let is_epoll = self.target.descriptor().driver().wants_nonblocking();
        if self.stage == ReceiveStage::Poll && !is_epoll {
            if answer.result < 0 {
                return Step::Done(answer.result);
            }
            self.stage = ReceiveStage::Single(None);
            return Step::Again;
        }
        let Ok(count @ 1..) = usize::try_from(answer.result) else {
            self.put_back(&answer);
            return Step::Done(answer.result);
        };
        let chunk = self.chunk(&answer, count);
        let enough = self.target.received(chunk, wakers);
        match (self.stage, answer.more) {
            (_, true) if enough => Step::Stop,
            (_, true) => Step::More,
            (ReceiveStage::Multishot, false) => Step::Done(SHOTS_OVER),
            // One by one: the pool may have buffers again, or the receiver enough.
            _ if enough || self.pool().has_ring() => Step::Done(SHOTS_OVER),
            _ => {
                self.stage = ReceiveStage::Poll;
                Step::Again
            }
        }
    }

    fn settle(&mut self, result: i32, wakers: &mut Wakers) {
        self.target.receive_over(result, wakers);
    }
}

/// Receives once into a buffer of the caller: `IORING_OP_RECV` (5.6).
pub(crate) struct ReceiveInto<T: ReceiveTarget, B> {
    target: Rc<T>,
    buf: B,
}

impl<T: ReceiveTarget, B: IoBufMut> ReceiveInto<T, B> {
    pub(crate) fn new(target: Rc<T>, buf: B) -> Self {
        Self { target, buf }
    }

    pub(crate) fn into_buf(self) -> B {
        self.buf
    }

    fn len(&self) -> usize {
        self.buf.capacity().min(LEN_MAX)
    }
}

impl<T: ReceiveTarget, B: IoBufMut> Op for ReceiveInto<T, B> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let len = self.len() as u32;
        Some(opcode::Recv::new(Fd(self.target.descriptor().number()), self.buf.as_mut_ptr(), len).build())
    }

    fn route(&self) -> Route {
        Route::Readable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let len = self.len();
        // SAFETY: the buffer is ours and has room for `len` bytes.
        let result =
            unsafe { socket::receive(self.target.descriptor().number(), self.buf.as_mut_ptr(), len) };
        match Attempt::from_result(result) {
            Attempt::Complete(answer) => {
                Attempt::Complete(Answer { drained: result > 0 && (result as usize) < len, ..answer })
            }
            other => other,
        }
    }

    fn complete(&mut self, answer: Answer, _: &mut Wakers) -> Step {
        if let Ok(count) = usize::try_from(answer.result) {
            // SAFETY: the kernel initialised `count` bytes, at most the capacity.
            unsafe { self.buf.set_len(count) };
        }
        Step::Done(answer.result)
    }

    fn settle(&mut self, result: i32, wakers: &mut Wakers) {
        if let Ok(count @ 1..) = usize::try_from(result) {
            // SAFETY: the kernel initialised `count` bytes of the buffer, which is still ours.
            let bytes = unsafe { std::slice::from_raw_parts(self.buf.as_ptr(), count) };
            self.target.unclaimed(bytes, wakers);
        }
        self.target.receive_into_over(wakers);
    }
}

/// A stream socket, which has one send in flight at a time.
pub(crate) trait SendTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// The send that had the turn is over, and no future of its own will say so.
    fn send_over(&self, result: i32, wakers: &mut Wakers);
    /// The batch of queued bytes that had the turn is over.
    fn batch_over(&self, batch: Box<Batch>, result: i32, wakers: &mut Wakers);
}

/// `MSG_WAITALL` makes the kernel go on after a short send by itself; before 6.0 it loses the count when cancelled.
fn send_flags(features: &Features) -> i32 {
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

    /// The buffer, and how many bytes of it were sent.
    pub(crate) fn into_parts(self) -> (B, usize) {
        (self.buf, self.sent)
    }

    fn rest(&self) -> (*const u8, usize) {
        // SAFETY: `sent` is at most the length.
        let address = unsafe { self.buf.as_ptr().add(self.sent) };
        (address, (self.buf.len() - self.sent).min(LEN_MAX))
    }
}

impl<T: SendTarget, B: IoBuf> Op for SendAll<T, B> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let (address, len) = self.rest();
        let fd = Fd(self.target.descriptor().number());
        Some(opcode::Send::new(fd, address, len as u32).flags(send_flags(features)).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let (address, len) = self.rest();
        // SAFETY: the buffer is ours and has `len` more bytes.
        Attempt::from_result(unsafe { socket::send(self.target.descriptor().number(), address, len) })
    }

    fn complete(&mut self, answer: Answer, _: &mut Wakers) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        self.sent += count;
        if self.sent < self.buf.len() && count > 0 { Step::Again } else { Step::Done(0) }
    }

    fn settle(&mut self, result: i32, wakers: &mut Wakers) {
        self.target.send_over(result, wakers);
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

    pub(crate) fn clear(&mut self) {
        self.owners.clear();
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
        let fd = Fd(self.target.descriptor().number());
        let message = self.batch().message();
        Some(opcode::SendMsg::new(fd, message).flags(send_flags(features) as u32).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.target.descriptor().number();
        // SAFETY: the header and what it points to are in our batch.
        Attempt::from_result(unsafe { socket::sendmsg(fd, self.batch().message()) })
    }

    fn complete(&mut self, answer: Answer, _: &mut Wakers) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        if self.batch().advance(count) && count > 0 { Step::Again } else { Step::Done(0) }
    }

    fn settle(&mut self, result: i32, wakers: &mut Wakers) {
        if let Some(batch) = self.batch.take() {
            self.target.batch_over(batch, result, wakers);
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
        let parts = bufs.iter().map(part).collect();
        Self { target, bufs, parts, first: 0, sent: 0, message: Box::new(MaybeUninit::zeroed()) }
    }

    /// The buffers, and how many bytes of them were sent.
    pub(crate) fn into_parts(self) -> (Vec<B>, usize) {
        (self.bufs, self.sent)
    }

    fn message(&mut self) -> *const libc::msghdr {
        let end = (self.first + BATCH_BUFFERS_MAX).min(self.parts.len());
        point(&mut self.message, &mut self.parts[self.first..end])
    }
}

impl<T: SendTarget, B: IoBuf> Op for SendVectored<T, B> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let fd = Fd(self.target.descriptor().number());
        Some(opcode::SendMsg::new(fd, self.message()).flags(send_flags(features) as u32).build())
    }

    fn route(&self) -> Route {
        Route::Writable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let fd = self.target.descriptor().number();
        // SAFETY: the header, the parts and the buffers are ours.
        Attempt::from_result(unsafe { socket::sendmsg(fd, self.message()) })
    }

    fn complete(&mut self, answer: Answer, _: &mut Wakers) -> Step {
        let Ok(count) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        self.sent += count;
        let skipped = skip(&mut self.parts[self.first..], count);
        self.first += skipped;
        if self.first < self.parts.len() && count > 0 { Step::Again } else { Step::Done(0) }
    }

    fn settle(&mut self, result: i32, wakers: &mut Wakers) {
        self.target.send_over(result, wakers);
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
