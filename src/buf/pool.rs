//! The elastic pool of receive buffers that all sockets of a loop share.
#![allow(unsafe_code)]
//!
//! # Safety
//! Each buffer is one heap allocation of `buffer_size` bytes that never moves. At any time it belongs to exactly one
//! of: the kernel (it was handed to [`BufferRing`] and its `refs` is 0), the free list (`refs` 0), or chunks
//! (`refs` > 0: read only). `Buffer::refs` is the only record of that, and only this file changes it. The pool itself
//! lives as long as any chunk (`Rc`), and the driver leaks it if the kernel could still write (C12).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use slab::Slab;

use crate::sys::ring::BufferRing;

/// The number of a buffer in its pool; what the kernel calls a buffer id.
pub(crate) type BufferId = u16;

/// What a chunk lies in: a buffer of the pool, or, from `OWN` on, memory of its own.
pub(crate) type Home = u32;

/// The first number that is no [`BufferId`].
const OWN: Home = 1 << 16;

/// A buffer that left the pool to be received into, with its address and size.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: BufferId,
    pub(crate) address: *mut u8,
    pub(crate) size: usize,
}

/// A socket that found no buffer and waits for one.
pub(crate) trait Starved {
    /// There are buffers again: arm the receive. False if it does not want one any more.
    fn feed(self: Rc<Self>) -> bool;
}

struct Buffer {
    /// `None` where a chunk took the memory out with it; such a number gets fresh memory when it is needed.
    memory: Option<Vec<u8>>,
    refs: u32,
}

impl Buffer {
    #[inline]
    fn address(&self) -> *const u8 {
        self.memory.as_ref().map_or(std::ptr::null(), |memory| memory.as_ptr())
    }
}

/// Receive buffers, handed to the kernel through a buffer ring where it has one, else kept in a free list.
pub(crate) struct Pool {
    buffer_size: usize,
    buffers_max: usize,
    state: RefCell<State>,
    starved: RefCell<VecDeque<Weak<dyn Starved>>>,
}

#[derive(Default)]
struct State {
    buffers: Vec<Buffer>,
    /// Ready to be received into, not with the kernel.
    free: Vec<BufferId>,
    /// Numbers without memory and without a user.
    vacant: Vec<BufferId>,
    ring: Option<BufferRing>,
    /// How many buffers wait to be received into, wherever they are.
    ready: usize,
    /// Memory of chunks that the pool has nothing to do with otherwise.
    own: Slab<Buffer>,
}

impl State {
    #[inline]
    fn buffer(&mut self, home: Home) -> &mut Buffer {
        if home < OWN { &mut self.buffers[home as usize] } else { self.own(home) }
    }

    #[cold]
    fn own(&mut self, home: Home) -> &mut Buffer {
        &mut self.own[(home - OWN) as usize]
    }

    #[cold]
    fn forget_own(&mut self, home: Home) {
        self.own.remove((home - OWN) as usize);
    }

    fn total(&self) -> usize {
        self.buffers.len() - self.vacant.len()
    }

    /// Buffer `id` is ready to be received into.
    #[inline]
    fn put(&mut self, id: BufferId, address: *mut u8, size: usize) {
        match &mut self.ring {
            Some(ring) => ring.put(id, address, size),
            None => self.free.push(id),
        }
        self.ready += 1;
    }

    /// Buffer `id` was ready, and belongs to whoever asks now. Returns its address.
    #[inline]
    fn start(&mut self, id: BufferId) -> *const u8 {
        let buffer = &mut self.buffers[usize::from(id)];
        debug_assert_eq!(buffer.refs, 0, "the kernel filled a buffer that it did not have");
        buffer.refs = 1;
        self.ready -= 1;
        buffer.address()
    }
}

impl Pool {
    /// How many buffers a new pool starts with.
    const INITIAL: usize = 64;

    pub(crate) fn new(buffer_size: usize, bytes_max: usize) -> Rc<Self> {
        let buffers_max = (bytes_max / buffer_size).clamp(1, 1 << 15);
        Rc::new(Self { buffer_size, buffers_max, state: RefCell::default(), starved: RefCell::default() })
    }

    pub(crate) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// The most buffers there can be: the size that a buffer ring needs.
    pub(crate) fn buffers_max(&self) -> usize {
        self.buffers_max
    }

    /// Buffers with memory, and those of them that are neither with the kernel nor free.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.borrow();
        (state.total(), state.total() - state.ready)
    }

    /// From now on ready buffers go to the kernel through `ring`.
    pub(crate) fn attach(&self, ring: BufferRing) {
        self.state.borrow_mut().ring = Some(ring);
        self.grow(Self::INITIAL.min(self.buffers_max));
        self.publish();
    }

    /// Takes the buffer ring away, after the last operation that could use it.
    pub(crate) fn detach(&self) -> Option<BufferRing> {
        self.state.borrow_mut().ring.take()
    }

    pub(crate) fn has_ring(&self) -> bool {
        self.state.borrow().ring.is_some()
    }

    /// Makes what was returned since the last call visible to the kernel, and grows the pool when it runs low.
    pub(crate) fn publish(&self) {
        let mut state = self.state.borrow_mut();
        let total = state.buffers.len();
        if state.ready < total / 4 {
            self.grow_state(&mut state, total);
        }
        if let Some(ring) = &mut state.ring {
            ring.publish();
        }
    }

    /// Adds up to `count` buffers; returns whether any were added. Their memory is untouched, so it costs address
    /// space only.
    pub(crate) fn grow(&self, count: usize) -> bool {
        self.grow_state(&mut self.state.borrow_mut(), count)
    }

    fn grow_state(&self, state: &mut State, count: usize) -> bool {
        let count = count.min(self.buffers_max - state.total());
        for _ in 0..count {
            let mut memory = Vec::with_capacity(self.buffer_size);
            let address = memory.as_mut_ptr();
            let id = match state.vacant.pop() {
                Some(id) => {
                    state.buffers[usize::from(id)].memory = Some(memory);
                    id
                }
                None => {
                    state.buffers.push(Buffer { memory: Some(memory), refs: 0 });
                    (state.buffers.len() - 1) as BufferId
                }
            };
            state.put(id, address, self.buffer_size);
        }
        count > 0
    }

    /// The kernel filled buffer `id`: one reference now belongs to the caller. Returns its address.
    #[inline]
    pub(crate) fn filled(&self, id: BufferId) -> *const u8 {
        self.state.borrow_mut().start(id)
    }

    /// A buffer to receive into without the kernel's help, or `None` at the limit. One reference belongs to the
    /// caller, who gives it to a chunk or calls [`release`](Self::release).
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut state = self.state.borrow_mut();
        if state.ring.is_some() {
            return None;
        }
        if state.free.is_empty() {
            let total = state.buffers.len();
            self.grow_state(&mut state, total.max(Self::INITIAL));
        }
        let id = state.free.pop()?;
        Some(Taken { id, address: state.start(id).cast_mut(), size: self.buffer_size })
    }

    /// Keeps the memory of a chunk that needs no buffer of the pool. The reference belongs to the caller.
    pub(crate) fn keep(&self, memory: Vec<u8>) -> Home {
        OWN + self.state.borrow_mut().own.insert(Buffer { memory: Some(memory), refs: 1 }) as Home
    }

    pub(crate) fn share(&self, home: Home) {
        self.state.borrow_mut().buffer(home).refs += 1;
    }

    #[inline]
    pub(crate) fn release(&self, home: Home) {
        let mut state = self.state.borrow_mut();
        let buffer = state.buffer(home);
        buffer.refs -= 1;
        if buffer.refs > 0 {
            return;
        }
        let address = buffer.memory.as_mut().map(Vec::as_mut_ptr);
        match (BufferId::try_from(home), address) {
            (Ok(id), Some(address)) => state.put(id, address, self.buffer_size),
            (Ok(id), None) => state.vacant.push(id),
            (Err(_), _) => state.forget_own(home),
        }
    }

    /// The address of a chunk's memory, which the caller holds a reference of.
    #[inline]
    pub(crate) fn address(&self, home: Home) -> *const u8 {
        self.state.borrow_mut().buffer(home).address()
    }

    /// Takes a chunk's memory out of the pool, with its first `len` bytes; `None` if it is shared. The caller's
    /// reference stays and has to be released as always.
    pub(crate) fn take_out(&self, home: Home, len: usize) -> Option<Vec<u8>> {
        let mut state = self.state.borrow_mut();
        let buffer = state.buffer(home);
        if buffer.refs != 1 {
            return None;
        }
        let mut memory = buffer.memory.take()?;
        // SAFETY: the kernel initialised at least `len` bytes: `len` is the end of the caller's chunk.
        unsafe { memory.set_len(len) };
        Some(memory)
    }

    /// `socket` met an empty pool; it is fed in turn.
    pub(crate) fn starve(&self, socket: Weak<dyn Starved>) {
        self.starved.borrow_mut().push_back(socket);
    }

    /// Feeds the longest waiting sockets, one for each ready buffer. Called once a turn.
    pub(crate) fn feed(&self) {
        if self.starved.borrow().is_empty() {
            return;
        }
        let mut ready = self.state.borrow().ready;
        while ready > 0 {
            let Some(socket) = self.starved.borrow_mut().pop_front() else { break };
            if socket.upgrade().is_some_and(|socket| socket.feed()) {
                ready -= 1;
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (total, in_use) = self.counts();
        f.debug_struct("Pool").field("total", &total).field("in_use", &in_use).finish_non_exhaustive()
    }
}
