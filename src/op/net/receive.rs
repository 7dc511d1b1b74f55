//! Receiving bytes.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::os::fd::RawFd;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::buf::{BufferId, Chunk, IoBufMut, Pool};
use crate::driver::{Aftermath, Answer, Attempt, BUFFER_GROUP, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::sys::file::LEN_MAX;
use crate::sys::socket;

/// What a socket receives into when the pool is at its limit.
const SPARE_SIZE: usize = 4096;

/// A stream socket, which owns the bytes that its receive brings.
pub(crate) trait ReceiveTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// Bytes came. Returns whether that is enough for now.
    fn received(&self, chunk: Chunk, after: &mut Aftermath) -> bool;
    /// The receive ended: 0 at the end of the stream, -ENOBUFS for want of buffers, -ECANCELED because it was
    /// stopped, `SHOTS_OVER` because the kernel wants it armed anew; or with an error.
    fn receive_over(&self, result: i32, after: &mut Aftermath);
    /// Bytes that a receive into a buffer of its own brought, and that nobody fetched: the next to be received.
    fn unclaimed(&self, bytes: &[u8], after: &mut Aftermath);
    /// A receive of another kind begins, if nothing receives; it ends by `receive_into_over`.
    fn begin_single(&self) -> bool;
    /// A receive into a buffer of its own, whose future was dropped, is over.
    fn receive_into_over(&self, result: i32, after: &mut Aftermath);
    /// Whether a receive that brings less than fits has taken all there was.
    fn short_means_all(&self) -> bool;
}

/// The result of a multishot receive that ended with data: arm it again.
pub(crate) const SHOTS_OVER: i32 = 1;

/// Receives as long as the stream goes on: multishot `IORING_OP_RECV` into pooled buffers (6.0). Before that, a poll
/// and then a receive for each chunk, so that an idle connection holds no buffer there either.
pub(crate) struct ReceiveMulti<T> {
    target: Rc<T>,
    stage: ReceiveStage,
    /// The pooled buffer that a single receive was submitted with.
    taken: Option<BufferId>,
    /// Where bytes go when the pool is at its limit.
    spare: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReceiveStage {
    /// On epoll: trying, into a pooled buffer.
    Try,
    /// The kernel takes buffers from the ring.
    Multishot,
    /// Waiting until there is something.
    Poll,
    /// Receiving into the buffer that was taken, or into the spare one.
    Single,
}

impl<T: ReceiveTarget> ReceiveMulti<T> {
    /// `spare`: the pool had no buffer; receive into a small one of its own, once.
    pub(crate) fn new(target: Rc<T>, spare: bool) -> Self {
        let driver = target.descriptor().driver();
        let stage = match (driver.wants_nonblocking(), driver.pool().has_ring()) {
            (true, _) => ReceiveStage::Try,
            (false, true) if spare => ReceiveStage::Single,
            (false, true) => ReceiveStage::Multishot,
            (false, false) => ReceiveStage::Poll,
        };
        Self { target, stage, taken: None, spare: None }
    }

    fn fd(&self) -> RawFd {
        self.target.descriptor().number()
    }

    fn pool(&self) -> &Rc<Pool> {
        self.target.descriptor().driver().pool()
    }

    /// A place for the next bytes: a pooled buffer, or the spare one. Submitted again, it keeps the one it has.
    fn place(&mut self) -> (*mut u8, usize) {
        if let Some(id) = self.taken {
            return (self.pool().address(id.into()).cast_mut(), self.pool().buffer_size());
        }
        match self.pool().take() {
            Some(taken) => {
                self.taken = Some(taken.id);
                (taken.address, taken.size)
            }
            None => {
                let spare = self.spare.get_or_insert_with(|| Vec::with_capacity(SPARE_SIZE));
                (spare.as_mut_ptr(), SPARE_SIZE)
            }
        }
    }

    /// The chunk that a completion brought; `count` bytes.
    #[inline]
    fn chunk(&mut self, answer: Answer, count: usize) -> Chunk {
        let pool = self.pool().clone();
        if let Some(id) = answer.buffer() {
            // The kernel filled it, or (on epoll) an attempt, which had taken it from the pool.
            let first = match self.stage {
                ReceiveStage::Try => pool.address(id.into()),
                _ => pool.filled(id),
            };
            return Chunk::pooled(pool, id, first, count);
        }
        self.single_chunk(pool, count)
    }

    fn single_chunk(&mut self, pool: Rc<Pool>, count: usize) -> Chunk {
        if let Some(id) = self.taken.take() {
            let first = pool.address(id.into());
            return Chunk::pooled(pool, id, first, count);
        }
        let mut spare = self.spare.take().expect("bytes without a buffer");
        // SAFETY: the kernel initialised `count` bytes, at most the capacity.
        unsafe { spare.set_len(count) };
        Chunk::heap(pool, spare)
    }

    /// Gives back a buffer that nothing was received into.
    fn put_back(&mut self, answer: Answer) {
        if let Some(id) = answer.buffer() {
            self.pool().filled(id);
            self.pool().release(id.into());
        }
        if let Some(id) = self.taken.take() {
            self.pool().release(id.into());
        }
    }
}

impl<T: ReceiveTarget> Op for ReceiveMulti<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let fd = Fd(self.fd());
        Some(match self.stage {
            ReceiveStage::Try => return None,
            ReceiveStage::Multishot => opcode::RecvMulti::new(fd, BUFFER_GROUP).build(),
            ReceiveStage::Poll => opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32).build(),
            ReceiveStage::Single => {
                let (address, len) = self.place();
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
        let (address, len) = self.place();
        // SAFETY: the place is ours: a pooled buffer with a reference for us, or the spare one.
        let result = unsafe { socket::receive(self.fd(), address, len) };
        let id = self.taken.take();
        if result <= 0 {
            if let Some(id) = id {
                self.pool().release(id.into());
            }
            self.spare = None;
            return Attempt::from_result(result);
        }
        // A short receive took all there was (as a rule): the next edge tells of more.
        let answer = Answer::one_of_many(result, id);
        match (result as usize) < len && self.target.short_means_all() {
            true => Attempt::Drained(answer),
            false => Attempt::Complete(answer),
        }
    }

    fn complete(&mut self, answer: Answer, after: &mut Aftermath) -> Step {
        if self.stage == ReceiveStage::Poll {
            if answer.result < 0 {
                return Step::Done(answer.result);
            }
            self.stage = ReceiveStage::Single;
            return Step::Again;
        }
        let Ok(count @ 1..) = usize::try_from(answer.result) else {
            self.put_back(answer);
            return Step::Done(answer.result);
        };
        let chunk = self.chunk(answer, count);
        let enough = self.target.received(chunk, after);
        match (self.stage, answer.more()) {
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

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.receive_over(result, after);
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
            Attempt::Complete(answer)
                if result > 0 && (result as usize) < len && self.target.short_means_all() =>
            {
                Attempt::Drained(answer)
            }
            other => other,
        }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        if let Ok(count) = usize::try_from(answer.result) {
            // SAFETY: the kernel initialised `count` bytes, at most the capacity.
            unsafe { self.buf.set_len(count) };
        }
        Step::Done(answer.result)
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        if let Ok(count @ 1..) = usize::try_from(result) {
            // SAFETY: the kernel initialised `count` bytes of the buffer, which is still ours.
            let bytes = unsafe { std::slice::from_raw_parts(self.buf.as_ptr(), count) };
            self.target.unclaimed(bytes, after);
        }
        self.target.receive_into_over(result, after);
    }
}
