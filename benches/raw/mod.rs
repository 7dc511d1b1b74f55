//! The floor: the same work on a bare ring, without tasks, wakers, timers or bookkeeping.
//!
//! Whatever a runtime costs comes on top of this. It is also the load that `echo` and `churn` put
//! on a server, so that every server meets the same client.
//!
//! # Safety
//! Three duties fall on this folder. What an SQE points at lives until its completion: buffers are
//! leaked or belong to a value that waits for its last completion. A receive buffer is read only
//! between its completion and `give_back`. Descriptors are owned by the value that uses them.
#![allow(unsafe_code)]
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod client;
pub(crate) mod files;
pub(crate) mod os;
pub(crate) mod server;

use io_uring::{IoUring, cqueue, squeue, types};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// One ring with the flags that measured fastest; a flag that this kernel refuses is left out.
pub(crate) struct Ring {
    io: IoUring,
    queue: Vec<squeue::Entry>,
}

impl Ring {
    pub(crate) fn new(entries: u32) -> io::Result<Ring> {
        let mut best = IoUring::builder();
        best.setup_cqsize(entries * 4).setup_submit_all().setup_single_issuer().setup_defer_taskrun();
        let mut newest = best.clone();
        newest.setup_no_sqarray();
        let mut io = newest
            .build(entries)
            .or_else(|_| best.build(entries))
            .or_else(|_| IoUring::builder().setup_cqsize(entries * 4).build(entries))?;
        // Saves looking the descriptor up on each enter; without it (before 5.18) all still works.
        let (mut submitter, _, _) = io.split();
        let _ = submitter.register_ring_fd();
        Ok(Ring { io, queue: Vec::new() })
    }

    /// Queues one operation for the next `turn`. What it points at must live until its completion.
    pub(crate) fn push(&mut self, entry: squeue::Entry) {
        self.queue.push(entry);
    }

    /// Submits all, waits for at least one completion and appends all that there are to `out`.
    pub(crate) fn turn(&mut self, out: &mut Vec<cqueue::Entry>) -> io::Result<()> {
        let (submitter, mut sq, mut cq) = self.io.split();
        for entry in self.queue.drain(..) {
            // SAFETY: by `push`, the memory behind the entry lives until its completion.
            while unsafe { sq.push(&entry) }.is_err() {
                sq.sync();
                submitter.submit()?;
                sq.sync();
            }
        }
        sq.sync();
        match submitter.submit_and_wait(1) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {
                return Err(error);
            }
            _ => {}
        }
        cq.sync();
        out.extend(&mut cq);
        Ok(())
    }
}

/// Receive buffers that the kernel picks from (a provided-buffer ring, group 0).
///
/// The memory is leaked: closing a ring is no barrier, the kernel may still hold it for a while.
pub(crate) struct Buffers {
    ring: *mut types::BufRingEntry,
    memory: *mut u8,
    size: usize,
    mask: u16,
    tail: u16,
}

impl Buffers {
    pub(crate) const GROUP: u16 = 0;

    /// `count` is a power of two.
    pub(crate) fn new(ring: &Ring, count: u16, size: usize) -> io::Result<Buffers> {
        #[repr(align(4096))]
        #[derive(Clone)]
        struct Page([u8; 4096]);
        let pages = (count as usize * size_of::<types::BufRingEntry>()).div_ceil(4096);
        let entries = vec![Page([0; 4096]); pages].leak().as_mut_ptr().cast::<types::BufRingEntry>();
        let memory = vec![0; count as usize * size].leak().as_mut_ptr();
        // SAFETY: the pages are page-aligned, hold `count` entries, and are never freed.
        unsafe { ring.io.submitter().register_buf_ring_with_flags(entries as u64, count, Self::GROUP, 0) }?;
        let mut buffers = Buffers { ring: entries, memory, size, mask: count - 1, tail: 0 };
        (0..count).for_each(|id| buffers.give_back(id));
        buffers.publish();
        Ok(buffers)
    }

    /// Where buffer `id` begins.
    pub(crate) fn at(&self, id: u16) -> *mut u8 {
        assert!(id <= self.mask);
        self.memory.wrapping_add(id as usize * self.size)
    }

    /// Puts a buffer behind the tail; the kernel sees it at `publish`.
    pub(crate) fn give_back(&mut self, id: u16) {
        let entry = self.ring.wrapping_add((self.tail & self.mask) as usize);
        // SAFETY: the index is masked, and between two publishes this entry is ours alone.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.at(id) as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Hands everything given back since the last call to the kernel.
    pub(crate) fn publish(&self) {
        // SAFETY: the ring is mapped for ever, and its tail is two aligned bytes in it.
        let tail = unsafe { types::BufRingEntry::tail(self.ring) }.cast::<AtomicU16>();
        // SAFETY: as above; the kernel only reads it.
        unsafe { &*tail }.store(self.tail, Ordering::Release);
    }
}

/// Packs what a completion is about into its `user_data`.
pub(crate) fn tag(op: u64, id: usize) -> u64 {
    op << 32 | id as u64
}

/// The two halves of `tag`.
pub(crate) fn untag(user_data: u64) -> (u64, usize) {
    (user_data >> 32, (user_data & 0xffff_ffff) as usize)
}
