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

use crate::buf::{Chunk, IoBufMut, Pool};
use crate::driver::blocking::Call;
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::op::net::landing::Landing;
use crate::op::net::medium::{Medium, Short};
use crate::sys::file::LEN_MAX;
use crate::sys::socket;

/// What a socket receives into when the pool is at its limit.
const SPARE_SIZE: usize = 4096;

/// A stream socket, which owns the bytes that its receive brings.
pub(crate) trait ReceiveTarget: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// On epoll there are bytes, or the end, which [`receive_now`] brings. `until_empty`: a receive that brings less than
    /// fits may leave some, of which nobody would tell.
    fn told(&self, until_empty: bool, after: &mut Aftermath);
    /// Whether it was told so, and has not found out yet that there is nothing left.
    fn was_told(&self) -> bool;
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
    fn short(&self) -> Short;
    /// Whether a receive takes bytes once only, when they are asked for: descriptors may come with later ones.
    fn wants_one(&self) -> bool;
    fn medium(&self) -> Medium;
    /// Whether nobody has opened the other end of a named pipe yet, so that it looks as if it had ended.
    fn awaits_peer(&self) -> bool;
    /// Somebody has.
    fn peer_came(&self);
}

/// The result of a multishot receive that ended with data: arm it again.
pub(crate) const SHOTS_OVER: i32 = 1;

/// Receives as long as the stream goes on: multishot `IORING_OP_RECV` into pooled buffers (6.0). Before that, a poll
/// and then a receive for each chunk, so that an idle connection holds no buffer there either.
pub(crate) struct ReceiveMulti<T> {
    target: Rc<T>,
    stage: ReceiveStage,
    /// Not as long as the stream goes on, but once.
    once: bool,
    landing: Landing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReceiveStage {
    /// On epoll: trying, into a pooled buffer.
    Try,
    /// On epoll: telling the stream, which receives when it is asked.
    Tell,
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
        let once = target.wants_one();
        let is_file = target.medium() == Medium::File;
        let stage = match (driver.wants_nonblocking(), driver.pool().has_ring()) {
            (true, _) if is_file => ReceiveStage::Single,
            (true, _) if target.short() == Short::All => ReceiveStage::Try,
            (true, _) => ReceiveStage::Tell,
            _ if target.awaits_peer() => ReceiveStage::Poll,
            (false, true) if spare || once => ReceiveStage::Single,
            (false, true) => ReceiveStage::Multishot,
            (false, false) => ReceiveStage::Poll,
        };
        Self { target, stage, once, landing: Landing::default() }
    }

    fn fd(&self) -> RawFd {
        self.target.descriptor().number()
    }

    fn pool(&self) -> &Rc<Pool> {
        self.target.descriptor().driver().pool()
    }

    fn attempt_pooled(&mut self) -> Attempt {
        if self.landing.is_occupied() {
            return Attempt::Later; // its bytes are not delivered yet
        }
        let (address, len) = self.place();
        // SAFETY: the place is ours: a pooled buffer with a reference for us, or the spare one.
        let result = unsafe { self.target.medium().receive_now(self.fd(), address, len) };
        if result <= 0 {
            self.landing.clear(self.target.descriptor().driver().pool());
            return Attempt::from_result(result);
        }
        let answer = Answer::one_of_many(result, self.landing.take_pooled());
        // The next event tells of more.
        if (result as usize) < len { Attempt::Drained(answer) } else { Attempt::Complete(answer) }
    }

    /// A place for the next bytes.
    fn place(&mut self) -> (*mut u8, usize) {
        self.landing.place(self.target.descriptor().driver().pool(), SPARE_SIZE)
    }
}

impl<T: ReceiveTarget> Op for ReceiveMulti<T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let (fd, medium) = (self.fd(), self.target.medium());
        Some(match self.stage {
            ReceiveStage::Try | ReceiveStage::Tell => return None,
            ReceiveStage::Multishot => medium.receive_pooled(fd, self.pool().buffer_size()),
            ReceiveStage::Poll => {
                opcode::PollAdd::new(Fd(fd), (libc::POLLIN | libc::POLLRDHUP) as u32).build()
            }
            ReceiveStage::Single => {
                let (address, len) = self.place();
                medium.receive(fd, address, len)
            }
        })
    }

    fn route(&self) -> Route {
        self.target.medium().readable(self.fd(), self.target.short())
    }

    fn call(&mut self) -> Call {
        let (address, len) = self.place();
        Medium::receive_in_pool(self.fd(), address, len)
    }

    fn attempt(&mut self) -> Attempt {
        if self.target.awaits_peer() {
            if socket::poll_now(self.fd(), libc::POLLIN) == 0 {
                return Attempt::Wait;
            }
            self.target.peer_came();
        }
        match self.stage {
            ReceiveStage::Tell => Attempt::Tell { again: self.target.was_told() },
            _ => self.attempt_pooled(),
        }
    }

    fn complete(&mut self, answer: Answer, after: &mut Aftermath) -> Step {
        if self.stage == ReceiveStage::Poll {
            if answer.result < 0 {
                return Step::Done(answer.result);
            }
            self.target.peer_came();
            self.stage = ReceiveStage::Single;
            return Step::Again;
        }
        let Ok(count @ 1..) = usize::try_from(answer.result) else {
            self.landing.put_back(self.target.descriptor().driver().pool(), answer);
            return Step::Done(answer.result);
        };
        let pool = self.target.descriptor().driver().pool();
        let chunk = self.landing.chunk(pool, answer, count, self.stage == ReceiveStage::Try);
        let enough = self.target.received(chunk, after);
        match (self.stage, answer.more()) {
            (_, true) if enough => Step::Stop,
            (_, true) => Step::More,
            (ReceiveStage::Multishot, false) => Step::Done(SHOTS_OVER),
            // One by one: the pool may have buffers again, or the receiver enough.
            _ if enough || self.once || self.pool().has_ring() => Step::Done(SHOTS_OVER),
            _ if self.target.medium() == Medium::File => Step::Done(SHOTS_OVER),
            _ => {
                self.stage = ReceiveStage::Poll;
                Step::Again
            }
        }
    }

    fn tell(&mut self, until_empty: bool, after: &mut Aftermath) {
        self.target.told(until_empty, after);
    }

    fn cannot_be_told(&mut self) {
        self.stage = ReceiveStage::Try;
    }

    fn interrupted(&mut self, answer: Answer) {
        self.landing.put_back(self.target.descriptor().driver().pool(), answer);
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.receive_over(result, after);
    }
}

/// Receives what is there, without waiting, into a buffer of the pool, or into a small one when the pool is at its limit.
/// Returns also whether it would have held more; or what the call says instead of a count.
#[inline]
pub(crate) fn receive_now<T: ReceiveTarget>(target: &T) -> Result<(Chunk, bool), i32> {
    let pool = target.descriptor().driver().pool();
    let Some(taken) = pool.take() else { return receive_spare(target) };
    // SAFETY: the buffer is ours.
    match unsafe { receive_at(target, taken.address, taken.size) } {
        Ok(count) => Ok((Chunk::pooled(pool.clone(), taken.id, taken.address, count), count < taken.size)),
        Err(result) => {
            pool.release(taken.id.into());
            Err(result)
        }
    }
}

#[cold]
fn receive_spare<T: ReceiveTarget>(target: &T) -> Result<(Chunk, bool), i32> {
    let mut spare = Vec::with_capacity(SPARE_SIZE);
    // SAFETY: the vector has room for so many bytes.
    let count = unsafe { receive_at(target, spare.as_mut_ptr(), SPARE_SIZE) }?;
    // SAFETY: the kernel initialised `count` bytes, at most the capacity.
    unsafe { spare.set_len(count) };
    Ok((Chunk::heap(target.descriptor().driver().pool().clone(), spare), count < SPARE_SIZE))
}

/// # Safety
/// `address` points to `len` bytes that may be written.
#[inline]
unsafe fn receive_at<T: ReceiveTarget>(target: &T, address: *mut u8, len: usize) -> Result<usize, i32> {
    loop {
        // SAFETY: the caller's promise.
        let result = unsafe { target.medium().receive_now(target.descriptor().number(), address, len) };
        match result {
            1.. => return Ok(result as usize),
            _ if -result == libc::EINTR => {}
            _ => return Err(result),
        }
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
        let (fd, len) = (self.target.descriptor().number(), self.len());
        Some(self.target.medium().receive(fd, self.buf.as_mut_ptr(), len))
    }

    fn route(&self) -> Route {
        self.target.medium().readable(self.target.descriptor().number(), self.target.short())
    }

    fn call(&mut self) -> Call {
        let (fd, len) = (self.target.descriptor().number(), self.len());
        Medium::receive_in_pool(fd, self.buf.as_mut_ptr(), len)
    }

    fn attempt(&mut self) -> Attempt {
        let len = self.len();
        // SAFETY: the buffer is ours and has room for `len` bytes.
        let result = unsafe {
            let fd = self.target.descriptor().number();
            self.target.medium().receive_now(fd, self.buf.as_mut_ptr(), len)
        };
        match Attempt::from_result(result) {
            Attempt::Complete(answer) if result > 0 && (result as usize) < len => Attempt::Drained(answer),
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
