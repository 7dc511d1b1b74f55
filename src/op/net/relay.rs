//! Bytes from stream to stream, inside the kernel.
//!
//! One splice where one of the two is a pipe; else two through a pipe: nothing is copied, which for bulk costs a third of receiving and sending (6.18, loopback,
//! seconds of CPU per GiB: 0.15 to 0.18 through a pipe of 1 MiB, 0.39 to 0.55 with buffers of 256 KiB, 0.55 to 0.69
//! with 32 KiB). On the ring a thread of the kernel does each of the two, for some 10 us, so little is better received
//! and sent.

use std::os::fd::RawFd;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::relays::{PIPE_SIZE, Pipe, Relays};
use crate::driver::{Aftermath, Answer, Attempt, Driver, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::op::net::{Medium, ReceiveTarget, SendOp, SendTarget};
use crate::sys::{socket, transfer};

/// With less than this at a time it is not worth it.
pub(crate) const WORTH: u64 = 32 << 10;
/// So often one operation fills the pipe; then others may send.
const FILLS_MAX: u32 = 16;
/// Instead of a count: there is nothing, or no room.
const NOTHING: i32 = i32::MAX;

/// Waits until there are bytes, or their end: `IORING_OP_POLL_ADD` (5.1). Nothing else receives meanwhile.
pub(crate) struct WaitForBytes<S: ReceiveTarget> {
    from: Rc<S>,
    begun: bool,
}

impl<S: ReceiveTarget> WaitForBytes<S> {
    pub(crate) fn new(from: Rc<S>) -> Self {
        Self { from, begun: false }
    }

    fn begin(&mut self) {
        self.begun = self.begun || self.from.begin_single();
    }

    /// It is over; the receiving side is free again.
    pub(crate) fn end(self) {
        let mut after = Aftermath::default();
        self.release(&mut after);
        after.run();
    }

    fn release(&self, after: &mut Aftermath) {
        if self.begun {
            self.from.receive_into_over(1, after);
        }
    }
}

impl<S: ReceiveTarget> Op for WaitForBytes<S> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        self.begin();
        let fd = Fd(self.from.descriptor().number());
        Some(opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32).build())
    }

    fn route(&self) -> Route {
        Route::Readable(self.from.descriptor().number())
    }

    fn attempt(&mut self) -> Attempt {
        self.begin();
        match socket::poll_now(self.from.descriptor().number(), libc::POLLIN | libc::POLLRDHUP) {
            0 => Attempt::Wait,
            result => Attempt::from_result(result),
        }
    }

    fn settle(&mut self, _: i32, after: &mut Aftermath) {
        self.release(after);
    }
}

/// Whether a signal may end the process where a splice meets a connection that is gone: splice(2) in the loop's thread
/// knows no `MSG_NOSIGNAL`. The threads of the ring get no signals.
pub(crate) fn splice_may_kill(driver: &Driver) -> bool {
    driver.wants_nonblocking() && transfer::sigpipe_kills()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What came into the pipe.
    Fill,
    /// What is in the pipe to the socket.
    Drain,
    /// Until the socket takes more.
    Stalled,
    /// From one to the other, of which one is a pipe.
    Move,
    /// Until the other one takes more.
    MoveStalled,
    /// Nothing is left to do.
    Over,
}

/// Moves what there is now: `IORING_OP_SPLICE` (5.7), or splice(2).
pub(crate) struct Relay<S: ReceiveTarget, T: SendTarget> {
    from: Rc<S>,
    to: Rc<T>,
    state: Box<State>,
}

struct State {
    stage: Stage,
    begun: bool,
    /// How much may still be received.
    left: u64,
    pipe: Option<Pipe>,
    in_pipe: u64,
    /// The other side said that it takes more, and nothing has gone there since.
    has_room: bool,
    /// A splice was cut off, and did not say how far it came.
    is_unsure: bool,
    fills: u32,
    relayed: Relayed,
    /// What receiving came to: bytes, the end, or an error.
    received: i32,
}

/// How far it came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Relayed {
    pub(crate) bytes: u64,
    /// The kernel cannot do it with these.
    pub(crate) is_refused: bool,
}

impl<S: ReceiveTarget, T: SendTarget> Relay<S, T> {
    /// Of `left` bytes at most. None if there is no pipe.
    pub(crate) fn new(from: Rc<S>, to: Rc<T>, left: u64) -> Option<Self> {
        // Splices that block would hold threads for as long as the peers like. (Pipes are told each time.)
        let is_ready =
            |medium, descriptor: &Descriptor| medium == Medium::Pipe || descriptor.make_nonblocking();
        if !is_ready(from.medium(), from.descriptor()) || !is_ready(to.medium(), to.descriptor()) {
            return None;
        }
        let moves = from.medium() == Medium::Pipe || to.medium() == Medium::Pipe;
        let (stage, pipe) = match moves {
            true => (Stage::Move, None),
            false => (Stage::Fill, Some(from.descriptor().driver().relays().take_pipe()?)),
        };
        let state = State {
            stage,
            begun: false,
            left,
            pipe,
            in_pipe: 0,
            has_room: false,
            is_unsure: false,
            fills: 0,
            relayed: Relayed::default(),
            received: 1,
        };
        Some(Self { from, to, state: Box::new(state) })
    }

    /// What one splice may bring.
    fn room(&self) -> usize {
        self.state.left.min(PIPE_SIZE as u64) as usize
    }

    fn relays(&self) -> &Relays {
        self.from.descriptor().driver().relays()
    }

    fn pipe(&self) -> (RawFd, RawFd) {
        self.state.pipe.as_ref().map_or((-1, -1), |pipe| (pipe.reader(), pipe.writer()))
    }

    /// Nobody else may receive meanwhile; if somebody does, nothing is done.
    fn begin(&mut self) {
        if !self.state.begun {
            self.state.begun = self.from.begin_single();
            if !self.state.begun {
                self.state.stage = Stage::Over;
            }
        }
    }

    /// The socket takes no more: a pipe waits with it if there are enough; else what is in it goes back.
    fn stalls(&mut self) {
        self.state.stage = if self.relays().has_spare_pipes() { Stage::Stalled } else { Stage::Over };
    }

    fn advance(&mut self, result: i32) -> Step {
        let state = &mut *self.state;
        match (state.stage, u64::try_from(result).ok()) {
            (Stage::Over, _) => Step::Done(0),
            (_, None) if result == -libc::ECANCELED => {
                state.is_unsure = true;
                Step::Done(result)
            }
            (Stage::Fill | Stage::Move, _) if result == NOTHING => Step::Done(0),
            (Stage::Move, Some(count @ 1..)) => {
                state.fills += 1;
                state.left -= count;
                state.relayed.bytes += count;
                state.has_room = false;
                if state.left == 0 || state.fills == FILLS_MAX { Step::Done(0) } else { Step::Again }
            }
            (Stage::Fill, Some(count @ 1..)) => {
                state.fills += 1;
                state.left -= count;
                state.in_pipe = count;
                state.stage = Stage::Drain;
                Step::Again
            }
            (Stage::Fill | Stage::Drain | Stage::Move, None)
                if matches!(-result, libc::EINVAL | libc::EOPNOTSUPP) =>
            {
                state.relayed.is_refused = true;
                Step::Done(0)
            }
            // Reading a pipe does not fail, and of writing one there is but one failure.
            (Stage::Move, None) if self.to.medium() != Medium::Pipe || -result == libc::EPIPE => {
                Step::Done(result)
            }
            // The end of the stream, or an error: the receiving side's.
            (Stage::Fill | Stage::Move, _) => {
                state.received = result;
                Step::Done(0)
            }
            (Stage::Drain, Some(count)) => {
                state.in_pipe -= count;
                state.relayed.bytes += count;
                if state.in_pipe > 0 {
                    self.stalls();
                    return Step::Again;
                }
                if state.left == 0 || state.fills == FILLS_MAX {
                    return Step::Done(0);
                }
                state.stage = Stage::Fill;
                Step::Again
            }
            (Stage::Stalled, Some(_)) => {
                state.stage = Stage::Drain;
                Step::Again
            }
            (Stage::MoveStalled, Some(_)) => {
                (state.stage, state.has_room) = (Stage::Move, true);
                Step::Again
            }
            (Stage::Drain | Stage::Stalled | Stage::MoveStalled, None) => Step::Done(result),
        }
    }

    /// What the other side has not got is received next; the receiving side is free again.
    fn give_back(&mut self, after: &mut Aftermath) {
        if let Some(pipe) = self.state.pipe.take() {
            if self.state.in_pipe > 0 || self.state.is_unsure {
                let most = if self.state.is_unsure { PIPE_SIZE } else { self.state.in_pipe as usize };
                let bytes = transfer::drain(pipe.reader(), most);
                if self.state.stage == Stage::Drain {
                    // The other side has got what is not there any more.
                    self.state.relayed.bytes += self.state.in_pipe.saturating_sub(bytes.len() as u64);
                }
                if !bytes.is_empty() {
                    self.from.unclaimed(&bytes, after);
                }
            }
            self.relays().put_back_pipe(pipe);
        }
        if std::mem::take(&mut self.state.begun) {
            self.from.receive_into_over(self.state.received, after);
        }
    }
}

impl<S: ReceiveTarget, T: SendTarget> Op for Relay<S, T> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        self.begin();
        let (from, to) = (Fd(self.from.descriptor().number()), Fd(self.to.descriptor().number()));
        let (reader, writer) = self.pipe();
        Some(match self.state.stage {
            Stage::Move => opcode::Splice::new(from, -1, to, -1, self.room() as u32)
                .flags(libc::SPLICE_F_NONBLOCK)
                .build(),
            Stage::Fill => opcode::Splice::new(from, -1, Fd(writer), -1, self.room() as u32)
                .flags(libc::SPLICE_F_NONBLOCK)
                .build(),
            Stage::Drain => opcode::Splice::new(Fd(reader), -1, to, -1, self.state.in_pipe as u32).build(),
            Stage::Stalled | Stage::MoveStalled => opcode::PollAdd::new(to, libc::POLLOUT as u32).build(),
            Stage::Over => opcode::Nop::new().build(),
        })
    }

    fn route(&self) -> Route {
        if self.state.stage == Stage::Over {
            Route::Now
        } else {
            Route::Writable(self.to.descriptor().number())
        }
    }

    fn attempt(&mut self) -> Attempt {
        self.begin();
        let (reader, writer) = self.pipe();
        match self.state.stage {
            Stage::Fill => {
                match transfer::splice(self.from.descriptor().number(), writer, self.room()) {
                    // The other side's room is not what is missing.
                    error if -error == libc::EAGAIN => Attempt::Complete(Answer::once(NOTHING)),
                    result => Attempt::from_result(result),
                }
            }
            Stage::Drain | Stage::Stalled => {
                self.state.stage = Stage::Drain;
                let to = self.to.descriptor().number();
                Attempt::from_result(transfer::splice(reader, to, self.state.in_pipe as usize))
            }
            Stage::Move | Stage::MoveStalled => {
                self.state.stage = Stage::Move;
                let (from, to) = (self.from.descriptor().number(), self.to.descriptor().number());
                match transfer::splice(from, to, self.room()) {
                    error if -error == libc::EAGAIN && socket::poll_now(from, libc::POLLIN) == 0 => {
                        Attempt::Complete(Answer::once(NOTHING))
                    }
                    result => Attempt::from_result(result),
                }
            }
            Stage::Over => Attempt::Complete(Answer::once(0)),
        }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        self.advance(answer.result)
    }

    fn interrupted(&mut self, _: Answer) {
        match self.state.stage {
            Stage::Fill => self.state.stage = Stage::Over,
            Stage::Drain => self.stalls(),
            // There was nothing to move, or no room. (Some other process may have read what there was.)
            Stage::Move if self.state.has_room => self.state.stage = Stage::Over,
            Stage::Move => self.state.stage = Stage::MoveStalled,
            Stage::Stalled | Stage::MoveStalled | Stage::Over => {}
        }
    }

    fn ended(&mut self, result: i32, after: &mut Aftermath) -> bool {
        let is_over = self.to.send_ended(result, after);
        if is_over {
            self.give_back(after);
        }
        is_over
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.give_back(after);
        self.to.send_over(result, after);
    }
}

impl<S: ReceiveTarget, T: SendTarget> SendOp for Relay<S, T> {
    type Bufs = Relayed;

    fn into_parts(mut self) -> (Relayed, usize) {
        let mut after = Aftermath::default();
        self.give_back(&mut after);
        after.run();
        (self.state.relayed, 0)
    }
}

impl<S: ReceiveTarget, T: SendTarget> Drop for Relay<S, T> {
    /// Never submitted, it still has its pipe, which is empty.
    fn drop(&mut self) {
        if let Some(pipe) = self.state.pipe.take() {
            self.relays().put_back_pipe(pipe);
        }
    }
}
