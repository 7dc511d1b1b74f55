//! The elastic pool of receive buffers that all sockets of a loop share.
#![allow(unsafe_code)]
//!
//! # Safety
//! Each buffer is one heap allocation of `buffer_size` bytes that never moves. At any time it belongs to exactly one
//! of: the kernel (it was handed to [`BufferRing`] and its `refs` is 0), the free list (`refs` 0), or chunks
//! (`refs` > 0: read only). `Buffer::refs` is the only record of that, and only this file changes it. The pool itself
//! lives as long as any chunk (`Rc`), and the driver leaks it if the kernel could still write (C12).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use crate::sys::ring::BufferRing;

/// The number of a buffer in its pool; what the kernel calls a buffer id.
pub(crate) type BufferId = u16;

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

/// Receive buffers, handed to the kernel through a buffer ring where it has one, else kept in a free list.
pub(crate) struct Pool {
    buffer_size: usize,
    buffers_max: usize,
    buffers: RefCell<Vec<Buffer>>,
    /// Ready to be received into, not with the kernel.
    free: RefCell<Vec<BufferId>>,
    /// Numbers without memory and without a user.
    vacant: RefCell<Vec<BufferId>>,
    ring: RefCell<Option<BufferRing>>,
    /// How many buffers wait to be received into, wherever they are.
    ready: Cell<usize>,
    starved: RefCell<VecDeque<Weak<dyn Starved>>>,
}

impl Pool {
    /// How many buffers a new pool starts with.
    const INITIAL: usize = 64;

    pub(crate) fn new(buffer_size: usize, bytes_max: usize) -> Rc<Self> {
        let buffers_max = (bytes_max / buffer_size).clamp(1, 1 << 15);
        Rc::new(Self {
            buffer_size,
            buffers_max,
            buffers: RefCell::default(),
            free: RefCell::default(),
            vacant: RefCell::default(),
            ring: RefCell::default(),
            ready: Cell::new(0),
            starved: RefCell::default(),
        })
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
        let total = self.buffers.borrow().len() - self.vacant.borrow().len();
        (total, total - self.ready.get())
    }

    /// From now on ready buffers go to the kernel through `ring`.
    pub(crate) fn attach(&self, ring: BufferRing) {
        *self.ring.borrow_mut() = Some(ring);
        self.grow(Self::INITIAL.min(self.buffers_max));
        self.publish();
    }

    /// Takes the buffer ring away, after the last operation that could use it.
    pub(crate) fn detach(&self) -> Option<BufferRing> {
        self.ring.borrow_mut().take()
    }

    pub(crate) fn has_ring(&self) -> bool {
        self.ring.borrow().is_some()
    }

    /// Makes what was returned since the last call visible to the kernel, and grows the pool when it runs low.
    pub(crate) fn publish(&self) {
        let total = self.buffers.borrow().len();
        if self.ready.get() < total / 4 {
            self.grow(total);
        }
        if let Some(ring) = &mut *self.ring.borrow_mut() {
            ring.publish();
        }
    }

    /// Adds up to `count` buffers; returns whether any were added. Their memory is untouched, so it costs address
    /// space only.
    pub(crate) fn grow(&self, count: usize) -> bool {
        let mut buffers = self.buffers.borrow_mut();
        let mut vacant = self.vacant.borrow_mut();
        let count = count.min(self.buffers_max - (buffers.len() - vacant.len()));
        for _ in 0..count {
            let mut memory = Vec::with_capacity(self.buffer_size);
            let address = memory.as_mut_ptr();
            let id = match vacant.pop() {
                Some(id) => {
                    buffers[id as usize].memory = Some(memory);
                    id
                }
                None => {
                    buffers.push(Buffer { memory: Some(memory), refs: 0 });
                    (buffers.len() - 1) as BufferId
                }
            };
            self.put(id, address);
        }
        count > 0
    }

    fn put(&self, id: BufferId, address: *mut u8) {
        match &mut *self.ring.borrow_mut() {
            Some(ring) => ring.put(id, address, self.buffer_size),
            None => self.free.borrow_mut().push(id),
        }
        self.ready.set(self.ready.get() + 1);
    }

    /// The kernel filled buffer `id`: one reference now belongs to the caller. Returns its address.
    pub(crate) fn filled(&self, id: BufferId) -> *const u8 {
        let buffer = &mut self.buffers.borrow_mut()[id as usize];
        debug_assert_eq!(buffer.refs, 0, "the kernel filled a buffer that it did not have");
        buffer.refs = 1;
        self.ready.set(self.ready.get() - 1);
        buffer.memory.as_ref().map_or(std::ptr::null(), |memory| memory.as_ptr())
    }

    /// A buffer to receive into without the kernel's help, or `None` at the limit. One reference belongs to the
    /// caller, who gives it to a chunk or calls [`release`](Self::release).
    pub(crate) fn take(&self) -> Option<Taken> {
        if self.has_ring() {
            return None;
        }
        if self.free.borrow().is_empty() {
            let total = self.buffers.borrow().len();
            self.grow(total.max(Self::INITIAL));
        }
        let id = self.free.borrow_mut().pop()?;
        Some(Taken { id, address: self.filled(id).cast_mut(), size: self.buffer_size })
    }

    pub(crate) fn share(&self, id: BufferId) {
        self.buffers.borrow_mut()[id as usize].refs += 1;
    }

    pub(crate) fn release(&self, id: BufferId) {
        let buffer = &mut self.buffers.borrow_mut()[id as usize];
        buffer.refs -= 1;
        if buffer.refs > 0 {
            return;
        }
        match &mut buffer.memory {
            Some(memory) => self.put(id, memory.as_mut_ptr()),
            None => self.vacant.borrow_mut().push(id),
        }
    }

    /// The address of buffer `id`, which the caller holds a reference of.
    pub(crate) fn address(&self, id: BufferId) -> *const u8 {
        self.buffers.borrow()[id as usize].memory.as_ref().map_or(std::ptr::null(), |memory| memory.as_ptr())
    }

    /// Takes the memory of buffer `id` out of the pool, with its first `len` bytes; `None` if it is shared. The
    /// caller's reference stays and has to be released as always.
    pub(crate) fn take_out(&self, id: BufferId, len: usize) -> Option<Vec<u8>> {
        let buffer = &mut self.buffers.borrow_mut()[id as usize];
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
        let mut ready = self.ready.get();
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
