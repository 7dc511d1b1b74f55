//! What transfers between descriptors take their bytes through, lent out by the loop: pipes, and blocks of memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::transfer;

/// What a pipe holds: the most that a user may ask for (`fs.pipe-max-size`). Splices through the usual 64 KiB take twice
/// the time.
pub(crate) const PIPE_SIZE: usize = 1 << 20;
/// The most pipes of a loop: half of what a user has in such pipes (`fs.pipe-user-pages-soft`). They are kept until the
/// loop ends: an idle one takes two descriptors and some 10 KiB of the kernel's memory.
const PIPES_MAX: usize = 32;
/// What a block holds: bigger ones are not faster, but out of the cache by the time they are sent.
pub(crate) const BLOCK_SIZE: usize = 64 << 10;
/// The most blocks that are kept for later.
const BLOCKS_IDLE_MAX: usize = 16;
/// Where a pipe was refused, so many transfers go without before the next one asks.
const REFUSALS: u32 = 64;

/// A pipe of `PIPE_SIZE`. Dropped, it is closed, with what is in it; closing a pipe never waits.
#[derive(Debug)]
pub(crate) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    pub(crate) fn reader(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    pub(crate) fn writer(&self) -> RawFd {
        self.writer.as_raw_fd()
    }
}

/// The number of a pipe that was left with bytes in it.
pub(crate) type Ticket = u64;

#[derive(Default)]
pub(crate) struct Relays {
    idle: RefCell<Vec<Pipe>>,
    /// Pipes with bytes of transfers that wait for their peers, the oldest first.
    left: RefCell<VecDeque<(Ticket, Pipe)>>,
    tickets: Cell<Ticket>,
    /// Pipes that there are, idle, left and lent.
    pipes: Cell<usize>,
    /// How many more have to go without.
    refused: Cell<u32>,
    blocks: RefCell<Vec<Vec<u8>>>,
}

impl Relays {
    /// An empty pipe; none past the limits. Whoever waits for a peer loses the pipe to who does not.
    pub(crate) fn take_pipe(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.pipes.get() == PIPES_MAX {
            let (_, pipe) = self.left.borrow_mut().pop_front()?;
            self.discard_pipe(pipe);
        }
        if self.refused.get() > 0 {
            self.refused.set(self.refused.get() - 1);
            return None;
        }
        let Ok((reader, writer)) = transfer::pipe(PIPE_SIZE) else {
            self.refused.set(REFUSALS);
            return None;
        };
        self.pipes.set(self.pipes.get() + 1);
        Some(Pipe { reader, writer })
    }

    /// Takes back an empty pipe.
    pub(crate) fn put_back_pipe(&self, pipe: Pipe) {
        self.idle.borrow_mut().push(pipe);
    }

    /// Takes a pipe that has bytes in it, for good.
    pub(crate) fn discard_pipe(&self, pipe: Pipe) {
        drop(pipe);
        self.pipes.set(self.pipes.get() - 1);
    }

    /// Takes a pipe with bytes in it, until its owner fetches it or somebody else needs one.
    pub(crate) fn leave_pipe(&self, pipe: Pipe) -> Ticket {
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        self.left.borrow_mut().push_back((ticket, pipe));
        ticket
    }

    /// Whether pipes may be held by whoever cannot go on.
    pub(crate) fn has_spare_pipes(&self) -> bool {
        self.pipes.get() <= PIPES_MAX / 2
    }

    /// The pipe that was left, with its bytes, if nobody has taken it.
    pub(crate) fn fetch_pipe(&self, ticket: Ticket) -> Option<Pipe> {
        let mut left = self.left.borrow_mut();
        // The tickets are in order.
        let at = left.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        left.remove(at).map(|(_, pipe)| pipe)
    }

    /// Memory of `BLOCK_SIZE`.
    pub(crate) fn take_block(&self) -> Vec<u8> {
        self.blocks.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_SIZE))
    }

    pub(crate) fn put_back_block(&self, block: Vec<u8>) {
        let mut blocks = self.blocks.borrow_mut();
        if blocks.len() < BLOCKS_IDLE_MAX {
            blocks.push(block);
        }
    }

    /// The loop is closed: nothing is kept.
    pub(crate) fn close_down(&self) {
        self.idle.borrow_mut().clear();
        self.left.borrow_mut().clear();
        self.blocks.borrow_mut().clear();
    }
}
