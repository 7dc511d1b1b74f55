//! Receiving messages, which come whole, with an address, control messages and descriptors.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::buf::{Chunk, IoBufMut, Pool};
use crate::driver::{Aftermath, Answer, Attempt, Features, MESSAGE_GROUP, Op, Route, Step};
use crate::op::Descriptor;
use crate::op::net::SHOTS_OVER;
use crate::op::net::landing::Landing;
use crate::sys::file::LEN_MAX;
use crate::sys::message::{self, Header, Layout, Lengths};
use crate::sys::socket;

/// A socket of messages, which owns those that its receive brings.
pub(crate) trait MessageTarget: IncomingTarget {
    /// A message came. Returns whether that is enough for now.
    fn arrived(&self, arrival: Arrival, after: &mut Aftermath) -> bool;
    /// The receive ended: -ENOBUFS for want of buffers, -ECANCELED because it was stopped, `SHOTS_OVER` because it has to
    /// be armed anew; or with an error.
    fn messages_over(&self, result: i32, after: &mut Aftermath);
}

/// A socket that receives into a buffer of the caller, and more than bytes.
pub(crate) trait IncomingTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// What a receive into a buffer of its own brought, and nobody fetched: the next to be received.
    fn unfetched(&self, arrival: Arrival, after: &mut Aftermath);
    /// A receive into a buffer of its own, whose future was dropped, is over.
    fn incoming_over(&self, result: i32, after: &mut Aftermath);
    /// Whether the socket knows no messages: what does not fit stays there.
    fn is_stream(&self) -> bool;
}

/// A received message.
pub(crate) struct Arrival {
    /// The rooms in front of the bytes.
    front: Chunk,
    layout: Layout,
    lengths: Lengths,
    pub(crate) data: Chunk,
    /// Descriptors that came with it.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Arrival {
    /// Takes a buffer apart that was filled as `layout` says.
    fn new(mut whole: Chunk, layout: Layout) -> Self {
        // SAFETY: the kernel, or `Layout::finish`, wrote the lengths.
        let lengths = Lengths::read(unsafe { whole.part(0, 16) }, layout);
        let front = whole.split_to(layout.bytes_at());
        let mut arrival = Self { front, layout, lengths, data: whole, fds: Vec::new() };
        if lengths.control > 0 {
            arrival.fds = message::descriptors(arrival.control());
        }
        arrival
    }

    /// The sender's address, as the kernel has it.
    pub(crate) fn name(&self) -> &[u8] {
        // SAFETY: the kernel wrote an address of this length.
        unsafe { self.front.part(16, self.lengths.name) }
    }

    pub(crate) fn control(&self) -> &[u8] {
        // SAFETY: the kernel wrote control messages of this length.
        unsafe { self.front.part(16 + self.layout.name, self.lengths.control) }
    }

    /// How long the message was when it was sent.
    pub(crate) fn sent(&self) -> usize {
        self.lengths.sent.max(self.data.len())
    }

    pub(crate) fn flags(&self) -> i32 {
        self.lengths.flags
    }
}

/// The flags of each receive: descriptors must not get into child processes, and the length is that of the message, not of
/// what found room (of a stream it would be thrown away).
fn flags(is_stream: bool) -> i32 {
    libc::MSG_CMSG_CLOEXEC | if is_stream { 0 } else { libc::MSG_TRUNC }
}

/// Receives one message after the other: multishot `IORING_OP_RECVMSG` into pooled buffers (6.0). Before that, a poll and
/// then a receive for each message.
pub(crate) struct ReceiveMessages<T> {
    target: Rc<T>,
    stage: Stage,
    landing: Landing,
    layout: Layout,
    header: Header,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On epoll: trying, into a pooled buffer.
    Try,
    /// The kernel takes buffers from the ring.
    Multishot,
    /// Waiting until there is something.
    Poll,
    /// Receiving into the buffer that was taken, or into the spare one.
    Single,
}

impl<T: MessageTarget> ReceiveMessages<T> {
    /// `spare`: the pool had no buffer; receive into one of its own, once.
    pub(crate) fn new(target: Rc<T>, layout: Layout, spare: bool) -> Self {
        let driver = target.descriptor().driver();
        let stage = match (driver.wants_nonblocking(), driver.message_pool().has_ring()) {
            (true, _) => Stage::Try,
            (false, true) if !spare => Stage::Multishot,
            // A spare buffer is big: it is made when there is something to receive.
            (false, _) => Stage::Poll,
        };
        Self { target, stage, landing: Landing::default(), layout, header: Header::new() }
    }

    fn fd(&self) -> RawFd {
        self.target.descriptor().number()
    }

    fn pool(&self) -> &Rc<Pool> {
        self.target.descriptor().driver().message_pool()
    }

    /// Points the header to a place for the next message.
    fn place(&mut self) -> (*mut u8, usize) {
        let pool = self.target.descriptor().driver().message_pool();
        let (address, len) = self.landing.place(pool, pool.buffer_size());
        // SAFETY: the place is ours, and bigger than the rooms.
        unsafe { self.layout.point(&mut self.header, address, len) };
        (address, len)
    }

    /// Completes a place that `received` bytes came to; returns how much of it is used.
    fn finish(&mut self, received: usize) -> usize {
        let pool = self.target.descriptor().driver().message_pool();
        let (address, len) = self.landing.place(pool, pool.buffer_size());
        // SAFETY: the place that the header points to.
        unsafe { self.layout.finish(&self.header, address, len, received) }
    }
}

impl<T: MessageTarget> Op for ReceiveMessages<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let (fd, flags) = (Fd(self.fd()), flags(false) as u32);
        Some(match self.stage {
            Stage::Try => return None,
            Stage::Multishot => {
                let header = self.header.complete_without_place(self.layout);
                opcode::RecvMsgMulti::new(fd, header, MESSAGE_GROUP).flags(flags).build()
            }
            Stage::Poll => opcode::PollAdd::new(fd, libc::POLLIN as u32).build(),
            Stage::Single => {
                self.place();
                opcode::RecvMsg::new(fd, self.header.complete()).flags(flags).build()
            }
        })
    }

    fn route(&self) -> Route {
        Route::Readable(self.fd())
    }

    fn attempt(&mut self) -> Attempt {
        if self.landing.is_occupied() {
            return Attempt::Later; // its message is not delivered yet
        }
        self.place();
        // SAFETY: the header and the place that it points to are ours.
        let result = unsafe { message::receive(self.fd(), self.header.complete(), flags(false)) };
        let Ok(received) = usize::try_from(result) else {
            self.landing.clear(self.target.descriptor().driver().message_pool());
            return Attempt::from_result(result);
        };
        let used = self.finish(received);
        let answer = Answer::one_of_many(used as i32, self.landing.take_pooled());
        // What follows a message without bytes stays there until the target knows whether that was the end.
        Attempt::Complete(if received == 0 { answer.last() } else { answer })
    }

    fn complete(&mut self, answer: Answer, after: &mut Aftermath) -> Step {
        if self.stage == Stage::Poll {
            if answer.result < 0 {
                return Step::Done(answer.result);
            }
            self.stage = Stage::Single;
            return Step::Again;
        }
        let Ok(mut count) = usize::try_from(answer.result) else {
            self.landing.put_back(self.target.descriptor().driver().message_pool(), answer);
            return Step::Done(answer.result);
        };
        if self.stage == Stage::Single {
            count = self.finish(count);
        }
        let pool = self.target.descriptor().driver().message_pool();
        let whole = self.landing.chunk(pool, answer, count, self.stage == Stage::Try);
        let enough = self.target.arrived(Arrival::new(whole, self.layout), after);
        match (self.stage, answer.more()) {
            (_, true) if enough => Step::Stop,
            (_, true) => Step::More,
            // A message without bytes ends a multishot receive, too.
            (Stage::Multishot | Stage::Try, false) => Step::Done(SHOTS_OVER),
            _ if enough || self.pool().has_ring() => Step::Done(SHOTS_OVER),
            _ => {
                self.stage = Stage::Poll;
                Step::Again
            }
        }
    }

    fn interrupted(&mut self, answer: Answer) {
        self.landing.put_back(self.target.descriptor().driver().message_pool(), answer);
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.landing.clear(self.target.descriptor().driver().message_pool());
        self.target.messages_over(result, after);
    }
}

/// Where a message comes to, but for its bytes. Reused by its socket.
pub(crate) struct Incoming {
    header: Header,
    layout: Layout,
    /// As in front of the bytes in a pooled buffer.
    front: Vec<u8>,
    lengths: Lengths,
    fds: Vec<OwnedFd>,
}

impl Incoming {
    pub(crate) fn new(layout: Layout) -> Self {
        let lengths = Lengths { name: 0, control: 0, sent: 0, flags: 0 };
        let front = vec![0; layout.bytes_at()];
        Self { header: Header::new(), layout, front, lengths, fds: Vec::new() }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.front[16..16 + self.lengths.name]
    }

    pub(crate) fn control(&self) -> &[u8] {
        &self.front[16 + self.layout.name..][..self.lengths.control]
    }

    /// How long the message was when it was sent.
    pub(crate) fn sent(&self) -> usize {
        self.lengths.sent
    }

    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// The header, for bytes that come to `address`.
    pub(super) fn point(&mut self, address: *mut u8, len: usize) -> *mut libc::msghdr {
        let (place, whole) = (self.front.as_mut_ptr(), self.front.len());
        // SAFETY: the rooms are all there is in front.
        unsafe { self.layout.point(&mut self.header, place, whole) };
        self.header.set_bytes(address, len);
        self.header.complete()
    }

    /// The message came; `received` is what the kernel returned.
    pub(super) fn note(&mut self, received: usize) {
        let (name, control, flags) = self.header.outcome();
        let name = (name as usize).min(self.layout.name);
        let control = (control as usize).min(self.layout.control);
        self.lengths = Lengths { name, control, sent: received, flags: flags as i32 };
        if control > 0 {
            self.fds = message::descriptors(self.control());
        }
    }
}

/// Receives one message into a buffer of the caller: `IORING_OP_RECVMSG` (5.3); from a stream `IORING_OP_RECV` (5.6).
pub(crate) struct ReceiveMessageInto<T: IncomingTarget, B> {
    target: Rc<T>,
    incoming: Box<Incoming>,
    buf: B,
}

impl<T: IncomingTarget, B: IoBufMut> ReceiveMessageInto<T, B> {
    pub(crate) fn new(target: Rc<T>, incoming: Box<Incoming>, buf: B) -> Self {
        Self { target, incoming, buf }
    }

    pub(crate) fn into_parts(self) -> (Box<Incoming>, B) {
        (self.incoming, self.buf)
    }

    fn is_plain(&self) -> bool {
        self.target.is_stream() && self.incoming.layout.control == 0
    }

    fn len(&self) -> usize {
        self.buf.capacity().min(LEN_MAX)
    }

    fn header(&mut self) -> *mut libc::msghdr {
        let len = self.len();
        self.incoming.point(self.buf.as_mut_ptr(), len)
    }
}

impl<T: IncomingTarget, B: IoBufMut> Op for ReceiveMessageInto<T, B> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.target.descriptor().number());
        if self.is_plain() {
            return Some(opcode::Recv::new(fd, self.buf.as_mut_ptr(), self.len() as u32).build());
        }
        let flags = flags(self.target.is_stream()) as u32;
        Some(opcode::RecvMsg::new(fd, self.header()).flags(flags).build())
    }

    fn route(&self) -> Route {
        Route::Readable(self.target.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        let (fd, len) = (self.target.descriptor().number(), self.len());
        if self.is_plain() {
            // SAFETY: the buffer is ours and has room for `len` bytes.
            return Attempt::from_result(unsafe { socket::receive(fd, self.buf.as_mut_ptr(), len) });
        }
        let flags = flags(self.target.is_stream());
        // SAFETY: the header and what it points to are ours.
        Attempt::from_result(unsafe { message::receive(fd, self.header(), flags) })
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let Ok(received) = usize::try_from(answer.result) else { return Step::Done(answer.result) };
        if self.is_plain() {
            self.incoming.lengths = Lengths { name: 0, control: 0, sent: received, flags: 0 };
        } else {
            self.incoming.note(received);
        }
        let count = received.min(self.len());
        // SAFETY: the kernel initialised `count` bytes, at most the capacity.
        unsafe { self.buf.set_len(count) };
        Step::Done(count as i32)
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        let is_end = result == 0 && self.target.is_stream() && self.incoming.fds.is_empty();
        if let Ok(count) = usize::try_from(result)
            && !is_end
        {
            let pool = self.target.descriptor().driver().pool().clone();
            // SAFETY: the kernel initialised `count` bytes of the buffer, which is still ours.
            let bytes = unsafe { std::slice::from_raw_parts(self.buf.as_ptr(), count) };
            let front = Chunk::heap(pool.clone(), std::mem::take(&mut self.incoming.front));
            let arrival = Arrival {
                front,
                layout: self.incoming.layout,
                lengths: self.incoming.lengths,
                data: Chunk::heap(pool, bytes.to_vec()),
                fds: self.incoming.take_fds(),
            };
            self.target.unfetched(arrival, after);
        }
        self.target.incoming_over(result, after);
    }
}
