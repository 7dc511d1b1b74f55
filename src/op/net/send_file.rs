//! Sending a file.
//!
//! There are three ways, and a transfer may change from one to another:
//!
//! - **Copy**: `IORING_OP_READ` into a block, `IORING_OP_SEND` from it. Any file, any stream.
//! - **Splice**: `IORING_OP_SPLICE` from the file into a pipe, and from the pipe into the socket; into a pipe at once. Nothing is copied, but
//!   a thread of the kernel does each of the two (the ring never tries a splice itself), which costs some 10 us.
//! - **Direct**: sendfile(2) in the loop's thread, where a probe says that the bytes are cached; where it says no, one
//!   block is copied, and reading it lets the kernel read ahead. This is the epoll driver's way, where reads go to the
//!   pool, and the ring's `inline` mode.
//!
//! Seconds of CPU for each GiB that a bare server sent from the page cache to 8 connections on loopback (6.18, Reno,
//! medians; `cargo bench --bench sendfile` measures some of it again):
//!
//! | size | sendfile(2) | READ + SEND | SPLICE + SPLICE |
//! |---|---|---|---|
//! | 16 KiB | 0.72 | 0.90 | 1.15 |
//! | 64 KiB | 0.29 | 0.39 | 0.42 |
//! | 128 KiB | 0.25 | 0.36 | 0.31 |
//! | 1 MiB | 0.22 | 0.48 | 0.19 |
//!
//! Blocks of 32, 128 or 256 KiB were no better than those of 64 KiB beyond the noise, and need more memory.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::blocking::Call;
use crate::driver::relays::{BLOCK_SIZE, PIPE_SIZE, Pipe, Relays, Ticket};
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::op::net::{Medium, SendOp, SendTarget};
use crate::sys::transfer;

/// Up to this size a file is copied, above it is spliced.
const COPY_MAX: u64 = BLOCK_SIZE as u64;
/// What one sendfile(2) is asked to send: the loop's thread does nothing else meanwhile.
const DIRECT_MAX: u64 = 512 << 10;
/// How many of these follow each other without a look at the others.
const DIRECT_TRIES_MAX: usize = 4;
/// Instead of a count: the bytes are not cached. No transfer has so many.
const COLD: i32 = i32::MAX;

/// What a file is to be sent from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: Rc<Descriptor>,
    /// The file's own position is left behind what was sent.
    pub(crate) sets_position: bool,
}

/// What to send, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendFileOptions {
    pub(crate) offset: u64,
    /// All that there is.
    pub(crate) count: Option<u64>,
    /// What the kernel cannot send by itself is read and sent.
    pub(crate) fallback: bool,
    pub(crate) inline: bool,
}

/// Why not all was sent, where the stream is not to blame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FileTrouble {
    /// The kernel cannot send this file to this stream by itself: this errno.
    NotAvailable(i32),
    /// Reading failed with this errno.
    Read(i32),
}

/// How far a transfer came.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) trouble: Option<FileTrouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Copy,
    Splice,
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The file's next bytes into the block.
    Read,
    /// What is in the block to the socket.
    Send,
    /// The file's next bytes into the pipe.
    Fill,
    /// What is in the pipe to the socket.
    Drain,
    /// Until the socket takes more. The pipe is left to whom it may concern.
    Stalled,
    /// The file's next bytes into the pipe that they are sent to.
    Move,
    /// Until that pipe takes more.
    MoveStalled,
    /// sendfile(2).
    Direct,
    /// Until the socket takes more of it.
    DirectStalled,
}

/// Sends a file, or a part of it: READ and SEND (5.6), SPLICE (5.7), or sendfile(2).
pub(crate) struct SendFile<T: SendTarget> {
    target: Rc<T>,
    transfer: Box<Transfer>,
}

struct Transfer {
    source: Source,
    /// Of the next byte that is to be sent.
    offset: u64,
    left: u64,
    /// What the socket has taken. Shared with whoever watches.
    sent: Rc<Cell<u64>>,
    fallback: bool,
    way: Way,
    stage: Stage,
    pipe: Option<Pipe>,
    ticket: Option<Ticket>,
    in_pipe: u64,
    /// A splice was cut off, and did not say how far it came: the pipe may not be empty.
    is_unsure: bool,
    block: Option<Vec<u8>>,
    /// Up to here the file was just read.
    warm_to: u64,
    /// What of the block is to be sent.
    from: usize,
    to: usize,
    trouble: Option<FileTrouble>,
}

impl<T: SendTarget> SendFile<T> {
    pub(crate) fn new(target: Rc<T>, source: Source, options: SendFileOptions) -> Self {
        let driver = target.descriptor().driver();
        let medium = target.medium();
        let is_direct = match medium {
            Medium::Socket | Medium::Records => options.inline || driver.wants_nonblocking(),
            Medium::Pipe => driver.wants_nonblocking(),
            Medium::Shared | Medium::File => false,
        };
        let way = match options.count {
            _ if matches!(medium, Medium::Shared | Medium::File) => Way::Copy,
            _ if is_direct && !transfer::sigpipe_kills() => Way::Direct,
            _ if driver.wants_nonblocking() => Way::Copy,
            // Without a fallback, the kernel shall say whether it can.
            Some(count) if options.fallback && count <= COPY_MAX => Way::Copy,
            _ => Way::Splice,
        };
        let stage = match way {
            Way::Copy => Stage::Read,
            Way::Direct => Stage::Direct,
            // Most files are small: the first block tells.
            Way::Splice if options.fallback && options.count.is_none() => Stage::Read,
            Way::Splice => {
                if medium == Medium::Pipe {
                    Stage::Move
                } else {
                    Stage::Fill
                }
            }
        };
        let transfer = Transfer {
            source,
            offset: options.offset,
            left: options.count.unwrap_or(u64::MAX),
            sent: Rc::default(),
            fallback: options.fallback,
            way,
            stage,
            pipe: None,
            ticket: None,
            in_pipe: 0,
            is_unsure: false,
            block: None,
            warm_to: 0,
            from: 0,
            to: 0,
            trouble: None,
        };
        Self { target, transfer: Box::new(transfer) }
    }

    /// How many bytes the socket has taken so far.
    pub(crate) fn progress(&self) -> Rc<Cell<u64>> {
        self.transfer.sent.clone()
    }

    fn socket(&self) -> RawFd {
        self.target.descriptor().number()
    }

    fn relays(&self) -> &Relays {
        self.target.descriptor().driver().relays()
    }

    /// Where the way goes on.
    fn next_stage(&mut self) -> Stage {
        match self.transfer.way {
            Way::Copy => Stage::Read,
            Way::Direct => Stage::Direct,
            Way::Splice if self.target.medium() == Medium::Pipe => Stage::Move,
            Way::Splice => {
                if self.transfer.pipe.is_none() {
                    self.transfer.pipe = self.relays().take_pipe();
                }
                // A splice into a socket that blocks would hold a thread for as long as the peer likes.
                let can = self.transfer.pipe.is_some() && self.target.descriptor().make_nonblocking();
                if can { Stage::Fill } else { Stage::Read }
            }
        }
    }

    fn goes_on(&mut self) -> Step {
        if self.transfer.left == 0 {
            return Step::Done(0);
        }
        self.transfer.stage = self.next_stage();
        Step::Again
    }

    /// The stream is not to blame, and stays as it is.
    fn fails(&mut self, trouble: FileTrouble) -> Step {
        self.transfer.trouble = Some(trouble);
        Step::Done(0)
    }

    /// The kernel cannot do it this way.
    fn is_unavailable(&mut self, errno: i32) -> Step {
        if !self.transfer.fallback {
            return self.fails(FileTrouble::NotAvailable(errno));
        }
        self.discard_pipe();
        self.transfer.way = Way::Copy;
        self.goes_on()
    }

    /// What is in the pipe will be read again, from the file.
    fn discard_pipe(&mut self) {
        let pipe = match self.transfer.ticket.take() {
            Some(ticket) => self.relays().fetch_pipe(ticket),
            None => self.transfer.pipe.take(),
        };
        match pipe {
            Some(pipe) if self.transfer.in_pipe == 0 && !self.transfer.is_unsure => {
                self.relays().put_back_pipe(pipe);
            }
            Some(pipe) => self.relays().discard_pipe(pipe),
            None => {}
        }
        (self.transfer.in_pipe, self.transfer.is_unsure) = (0, false);
    }

    /// Waits for the peer, and meanwhile leaves the pipe to whom it may concern.
    fn stalls(&mut self) {
        if let Some(pipe) = self.transfer.pipe.take() {
            self.transfer.ticket = Some(self.relays().leave_pipe(pipe));
        }
        self.transfer.stage = Stage::Stalled;
    }

    fn note_sent(&mut self, count: u64) {
        let transfer = &mut *self.transfer;
        transfer.sent.set(transfer.sent.get() + count);
        transfer.offset += count;
        transfer.left -= count;
    }

    /// What READ gets: address and length.
    fn room(&mut self) -> (*mut u8, usize) {
        if self.transfer.block.is_none() {
            self.transfer.block = Some(self.relays().take_block());
        }
        let len = self.transfer.left.min(BLOCK_SIZE as u64) as usize;
        let block = self.transfer.block.as_mut().expect("it was just made");
        debug_assert!(block.capacity() >= len);
        (block.as_mut_ptr(), len)
    }

    /// What SEND gets: address and length.
    fn rest(&self) -> (*const u8, usize) {
        let block = self.transfer.block.as_ref().expect("a block that was read into");
        (block.as_ptr().wrapping_add(self.transfer.from), self.transfer.to - self.transfer.from)
    }

    /// sendfile(2), as often as it goes, but not for long.
    fn complete_direct(&mut self) -> Step {
        for _ in 0..DIRECT_TRIES_MAX {
            match self.attempt() {
                Attempt::Complete(answer) => match self.advance(answer.result) {
                    Step::Again if self.transfer.stage == Stage::Direct => {}
                    step => return step,
                },
                Attempt::Later => {}
                Attempt::Wait | Attempt::Drained(_) | Attempt::Tell { .. } => break,
            }
        }
        Step::Again
    }

    /// What comes after a stage that ended with `result`.
    fn advance(&mut self, result: i32) -> Step {
        let count = u64::try_from(result).ok();
        match (self.transfer.stage, count) {
            (stage, None) if result == -libc::ECANCELED => {
                self.transfer.is_unsure |= matches!(stage, Stage::Fill | Stage::Drain);
                if stage == Stage::Fill {
                    // Should it go on after all, it reads again.
                    self.discard_pipe();
                    self.transfer.stage = Stage::Read;
                }
                Step::Done(result)
            }
            // The file ends here.
            (Stage::Read | Stage::Fill | Stage::Move | Stage::Direct, Some(0)) => Step::Done(0),
            // The kernel shall say whether it can send what is in memory now.
            (Stage::Read, Some(count)) if self.transfer.way == Way::Direct && !self.transfer.fallback => {
                self.transfer.warm_to = self.transfer.offset + count;
                self.transfer.stage = Stage::Direct;
                Step::Again
            }
            (Stage::Read, Some(count)) => {
                (self.transfer.from, self.transfer.to) = (0, count as usize);
                self.transfer.stage = Stage::Send;
                Step::Again
            }
            (Stage::Read, None) => self.fails(FileTrouble::Read(-result)),
            (Stage::Send, Some(count)) => {
                self.note_sent(count);
                self.transfer.from += count as usize;
                if count == 0 {
                    return Step::Done(-libc::EPIPE);
                }
                if self.transfer.from < self.transfer.to { Step::Again } else { self.goes_on() }
            }
            (Stage::Fill, Some(count)) => {
                self.transfer.in_pipe = count;
                self.transfer.stage = Stage::Drain;
                Step::Again
            }
            (Stage::Drain, Some(count)) => {
                self.note_sent(count);
                self.transfer.in_pipe -= count;
                if self.transfer.in_pipe == 0 {
                    return self.goes_on();
                }
                self.stalls(); // short: the socket is full
                Step::Again
            }
            (Stage::Move, Some(count)) => {
                self.note_sent(count);
                self.goes_on()
            }
            (Stage::MoveStalled, Some(_)) => {
                self.transfer.stage = Stage::Move;
                Step::Again
            }
            (Stage::Stalled, Some(_)) => {
                let ticket = self.transfer.ticket.take();
                self.transfer.pipe = ticket.and_then(|ticket| self.relays().fetch_pipe(ticket));
                if self.transfer.pipe.is_some() {
                    self.transfer.stage = Stage::Drain;
                    return Step::Again;
                }
                self.transfer.in_pipe = 0;
                self.goes_on()
            }
            (Stage::Direct, _) if result == COLD => {
                self.transfer.stage = Stage::Read;
                Step::Again
            }
            (Stage::Direct, Some(count)) => {
                self.note_sent(count);
                self.goes_on()
            }
            (Stage::DirectStalled, Some(_)) => {
                self.transfer.stage = Stage::Direct;
                self.complete_direct()
            }
            (Stage::Fill | Stage::Move | Stage::Drain | Stage::Direct, None) if is_refusal(-result) => {
                self.is_unavailable(-result)
            }
            (Stage::Move, None) if -result == libc::EPIPE => Step::Done(result),
            (Stage::Fill | Stage::Move, None) => self.fails(FileTrouble::Read(-result)),
            (Stage::Direct, None) if -result == libc::EIO => self.fails(FileTrouble::Read(libc::EIO)),
            (
                Stage::Send
                | Stage::Drain
                | Stage::Stalled
                | Stage::MoveStalled
                | Stage::Direct
                | Stage::DirectStalled,
                None,
            ) => Step::Done(result),
        }
    }
}

/// Whether the kernel says that it cannot do this with such descriptors.
fn is_refusal(errno: i32) -> bool {
    matches!(errno, libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ESPIPE)
}

impl<T: SendTarget> Op for SendFile<T> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        if self.transfer.stage == Stage::Fill && self.transfer.pipe.is_none() {
            // Not before: while it waited for its turn, it needed none.
            self.transfer.stage = self.next_stage();
        }
        let (socket, file) = (Fd(self.socket()), Fd(self.transfer.source.file.number()));
        let poll = || opcode::PollAdd::new(socket, libc::POLLOUT as u32).build();
        let pipe = self.transfer.pipe.as_ref().map_or((-1, -1), |pipe| (pipe.reader(), pipe.writer()));
        let transfer = &*self.transfer;
        Some(match transfer.stage {
            Stage::Read => {
                let offset = transfer.offset;
                let (address, len) = self.room();
                opcode::Read::new(file, address, len as u32).offset(offset).build()
            }
            Stage::Send => {
                let (address, len) = self.rest();
                self.target.medium().send(self.socket(), address, len, features)
            }
            Stage::Fill => {
                let len = transfer.left.min(PIPE_SIZE as u64) as u32;
                opcode::Splice::new(file, transfer.offset as i64, Fd(pipe.1), -1, len).build()
            }
            Stage::Move => {
                let len = transfer.left.min(PIPE_SIZE as u64) as u32;
                let splice = opcode::Splice::new(file, transfer.offset as i64, socket, -1, len);
                splice.flags(libc::SPLICE_F_NONBLOCK).build()
            }
            Stage::Drain => opcode::Splice::new(Fd(pipe.0), -1, socket, -1, transfer.in_pipe as u32).build(),
            Stage::Stalled | Stage::MoveStalled | Stage::DirectStalled => poll(),
            Stage::Direct => {
                self.transfer.stage = Stage::DirectStalled;
                poll()
            }
        })
    }

    fn route(&self) -> Route {
        match self.transfer.stage {
            Stage::Read => Route::Pool,
            _ => self.target.medium().writable(self.socket()),
        }
    }

    fn is_tried_first(&self) -> bool {
        self.transfer.stage == Stage::Direct
    }

    fn attempt(&mut self) -> Attempt {
        if self.transfer.stage == Stage::Send {
            let (address, len) = self.rest();
            // SAFETY: the block is ours, and has `len` more bytes that were read.
            return Attempt::from_result(unsafe {
                self.target.medium().send_now(self.socket(), address, len)
            });
        }
        let (file, offset) = (self.transfer.source.file.number(), self.transfer.offset);
        let warm = self.transfer.warm_to.saturating_sub(offset);
        let len = self.transfer.left.min(if warm > 0 { warm } else { DIRECT_MAX }) as usize;
        if warm == 0 && !transfer::is_cached(file, offset, len) {
            return Attempt::Complete(Answer::once(COLD));
        }
        if !self.target.descriptor().make_nonblocking() {
            return Attempt::Complete(Answer::once(-libc::EBADF));
        }
        Attempt::from_result(transfer::sendfile(self.socket(), file, offset, len))
    }

    fn call(&mut self) -> Call {
        if self.transfer.stage == Stage::Send {
            let (address, len) = self.rest();
            return Medium::send_in_pool(self.socket(), address, len);
        }
        let (fd, offset) = (self.transfer.source.file.number(), self.transfer.offset);
        let (address, len) = self.room();
        Call::Read { fd, address, len, offset }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        self.advance(answer.result)
    }

    fn interrupted(&mut self, _: Answer) {
        match self.transfer.stage {
            Stage::Drain => self.stalls(),
            Stage::Move => self.transfer.stage = Stage::MoveStalled,
            _ => {}
        }
    }

    fn ended(&mut self, result: i32, after: &mut Aftermath) -> bool {
        self.target.send_ended(result, after)
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        self.target.send_over(result, after);
    }

    /// Half a file must not stay unsent, as for `SendAll`.
    fn is_cancelled_by_drop(&self) -> bool {
        false
    }
}

impl<T: SendTarget> SendOp for SendFile<T> {
    type Bufs = Sent;

    fn into_parts(self) -> (Sent, usize) {
        let sent = Sent { bytes: self.transfer.sent.get(), trouble: self.transfer.trouble };
        let bytes = usize::try_from(sent.bytes).unwrap_or(usize::MAX);
        (sent, bytes)
    }
}

impl<T: SendTarget> Drop for SendFile<T> {
    fn drop(&mut self) {
        self.discard_pipe();
        if let Some(block) = self.transfer.block.take() {
            self.relays().put_back_block(block);
        }
        if self.transfer.source.sets_position {
            transfer::seek(self.transfer.source.file.number(), self.transfer.offset);
        }
    }
}
