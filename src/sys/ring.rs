//! The mapped rings of io_uring: set up, push, enter, reap, register.
#![allow(unsafe_code)]
//!
//! # Safety
//! [`Ring`] keeps the `IoUring` in a leaked box and hands out the three views of it with the lifetime `'static`; they
//! are dropped before the box is taken back (`Drop`). The memory that an SQE points to is the business of whoever
//! pushes it (`push` is unsafe). [`BufferRing`] owns the entries that the kernel reads; what they point to belongs to
//! `buf::Pool`.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, CancelBuilder, Timespec};
use io_uring::{CompletionQueue, IoUring, Probe, SubmissionQueue, Submitter};

/// Set-up flags that change how fast a ring is, never what it means; each is dropped where the kernel refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Setup {
    pub(crate) submit_all: bool,
    pub(crate) single_issuer: bool,
    pub(crate) defer_taskrun: bool,
    pub(crate) coop_taskrun: bool,
    pub(crate) taskrun_flag: bool,
    pub(crate) no_sqarray: bool,
    /// A thread of the kernel takes what is pushed, and sleeps after so many milliseconds without anything.
    pub(crate) sq_poll: Option<u32>,
}

/// `IORING_ENTER_GETEVENTS`: reap, and with DEFER_TASKRUN run the pending task work.
const GETEVENTS: u32 = 1;
/// `IORING_ENTER_SQ_WAKEUP` and `IORING_ENTER_SQ_WAIT`, for the thread that takes submissions.
const SQ_WAKEUP: u32 = 1 << 1;
const SQ_WAIT: u32 = 1 << 2;
/// `IORING_ENTER_EXT_ARG` (5.11)
const EXT_ARG: u32 = 1 << 3;
/// `IORING_REGISTER_NAPI` (6.9)
const REGISTER_NAPI: libc::c_uint = 27;
/// `IORING_ENTER_NO_IOWAIT` (6.15): an idle server must not look like a busy disk.
const NO_IOWAIT: u32 = 1 << 7;

/// However long a gathering enter may sleep; then the loop looks around and sleeps again.
const GATHER_LIMIT: Duration = Duration::from_secs(3600);

/// One completion, copied out of the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// A ring of this thread.
pub(crate) struct Ring {
    // The order matters: the views go before `whole` is freed (in `Drop`).
    submitter: Option<Submitter<'static>>,
    sq: Option<SubmissionQueue<'static>>,
    cq: Option<CompletionQueue<'static>>,
    whole: NonNull<IoUring>,
    registered_fd: bool,
    enter_flags: u32,
    sq_poll: bool,
    min_timeout: bool,
}

/// `struct io_uring_getevents_arg`
#[repr(C)]
struct EnterArgument {
    signals: u64,
    signals_size: u32,
    min_wait: u32,
    limit: *const Timespec,
}

/// `struct io_uring_napi`
#[repr(C)]
#[derive(Default)]
struct Napi {
    microseconds: u32,
    prefer: u8,
    opcode: u8,
    padding: [u8; 2],
    parameter: u32,
    reserved: u32,
}

impl Ring {
    pub(crate) fn new(sq_entries: u32, cq_entries: u32, setup: Setup) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(cq_entries).setup_clamp();
        if setup.submit_all {
            builder.setup_submit_all();
        }
        if setup.single_issuer {
            builder.setup_single_issuer();
        }
        if setup.defer_taskrun {
            builder.setup_defer_taskrun();
        }
        if setup.coop_taskrun {
            builder.setup_coop_taskrun();
        }
        if setup.taskrun_flag {
            builder.setup_taskrun_flag();
        }
        if setup.no_sqarray {
            builder.setup_no_sqarray();
        }
        if let Some(idle) = setup.sq_poll {
            builder.setup_sqpoll(idle);
        }
        let whole = builder.build(sq_entries)?;
        let no_iowait = whole.params().is_feature_no_iowait();
        let min_timeout = whole.params().is_feature_min_timeout();
        let whole = NonNull::from(Box::leak(Box::new(whole)));
        // SAFETY: the box was just leaked, nothing else refers to it, and it is freed only in `Drop`, after the
        // three views that borrow from this reference.
        let (submitter, sq, cq) = unsafe { &mut *whole.as_ptr() }.split();
        Ok(Self {
            submitter: Some(submitter),
            sq: Some(sq),
            cq: Some(cq),
            whole,
            registered_fd: false,
            enter_flags: if no_iowait { NO_IOWAIT } else { 0 },
            sq_poll: setup.sq_poll.is_some(),
            min_timeout,
        })
    }

    fn submitter(&self) -> &Submitter<'static> {
        self.submitter.as_ref().expect("the views exist until drop")
    }

    #[inline]
    fn sq(&mut self) -> &mut SubmissionQueue<'static> {
        self.sq.as_mut().expect("the views exist until drop")
    }

    /// Saves a descriptor look-up at each enter. True if the kernel took it.
    pub(crate) fn register_fd(&mut self) -> bool {
        let submitter = self.submitter.as_mut().expect("the views exist until drop");
        self.registered_fd = submitter.register_ring_fd().is_ok();
        self.registered_fd
    }

    pub(crate) fn params(&self) -> &io_uring::Parameters {
        // SAFETY: `whole` is alive until `Drop`, and the views never write to the parameters.
        unsafe { self.whole.as_ref() }.params()
    }

    /// Puts `entry` into the submission queue; false if that is full.
    ///
    /// # Safety
    /// What `entry` points to stays valid, and is left alone, until its final completion.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.sq().push(entry) }.is_ok()
    }

    pub(crate) fn is_sq_empty(&mut self) -> bool {
        self.sq().is_empty()
    }

    /// Submits what was pushed and waits for `want` completions; `events`: run task work and flush overflow too.
    /// `Ok` says nothing about how many were consumed: the submission queue knows (`KERNEL` 2.11).
    pub(crate) fn enter(&mut self, want: u32, events: bool) -> io::Result<()> {
        let sq = self.sq();
        sq.sync();
        let pending = sq.len() as u32;
        let mut flags = self.enter_flags;
        if want > 0 || events {
            flags |= GETEVENTS;
        }
        if self.sq_poll {
            flags |= self.sq_poll_flags();
        }
        // SAFETY: no argument is passed (its size is ignored for a null pointer); whoever pushed the entries made
        // the promises about them.
        let result = unsafe { self.submitter().enter::<libc::sigset_t>(pending, want, flags, None) };
        self.sq().sync();
        result.map(drop)
    }

    /// As `enter`, but sleeps `gather` for `want` completions before it makes do with one (6.12).
    #[cold]
    pub(crate) fn enter_gathering(&mut self, want: u32, gather: Duration) -> io::Result<()> {
        let sq = self.sq();
        sq.sync();
        let pending = sq.len() as u32;
        let flags = self.enter_flags | GETEVENTS | EXT_ARG | self.sq_poll_flags();
        // Without a limit it would come back after `gather` with nothing.
        let limit = Timespec::new().sec(GATHER_LIMIT.as_secs());
        let min_wait = gather.as_micros().min(u128::from(u32::MAX)) as u32;
        let argument = EnterArgument { signals: 0, signals_size: 0, min_wait, limit: &raw const limit };
        // SAFETY: the argument has the kernel's layout, and it and the limit live through the call; whoever pushed the
        // entries made the promises about them.
        let result = unsafe { self.submitter().enter(pending, want, flags, Some(&argument)) };
        self.sq().sync();
        match result {
            Err(e) if e.raw_os_error() == Some(libc::ETIME) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Whether `enter_gathering` works.
    pub(crate) fn can_gather(&self) -> bool {
        self.min_timeout
    }

    /// What the thread that takes submissions has to be told: to wake up, or that we wait for places.
    fn sq_poll_flags(&mut self) -> u32 {
        let sq_poll = self.sq_poll;
        let sq = self.sq();
        let wakeup = if sq_poll && sq.need_wakeup() { SQ_WAKEUP } else { 0 };
        let wait = if sq_poll && sq.is_full() { SQ_WAIT } else { 0 };
        wakeup | wait
    }

    /// Whether a thread of the kernel takes what is pushed.
    pub(crate) fn is_sq_polled(&self) -> bool {
        self.sq_poll
    }

    /// Whether that thread sleeps.
    pub(crate) fn wants_wakeup(&mut self) -> bool {
        self.sq_poll && self.sq().need_wakeup()
    }

    /// Makes what was pushed visible to that thread.
    pub(crate) fn publish(&mut self) {
        self.sq().sync();
    }

    /// Makes the kernel poll the devices of the sockets for so long before it sleeps (6.9).
    pub(crate) fn busy_poll(&self, duration: Duration) -> io::Result<()> {
        let microseconds = duration.as_micros().min(u128::from(u32::MAX)) as u32;
        let mut napi = Napi { microseconds, prefer: 1, ..Napi::default() };
        // SAFETY: `whole` is alive until `Drop`.
        let fd = unsafe { self.whole.as_ref() }.as_raw_fd();
        // SAFETY: the structure has the kernel's layout, and lives through the call.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_NAPI, &raw mut napi, 1) };
        crate::sys::check(result as i32).map(drop)
    }

    /// Whether the next enter would bring completions that wait for it.
    pub(crate) fn wants_enter(&mut self) -> bool {
        self.sq().taskrun() || self.has_overflowed()
    }

    /// Whether the kernel keeps completions that found no place in the completion queue.
    pub(crate) fn has_overflowed(&mut self) -> bool {
        self.sq().cq_overflow()
    }

    pub(crate) fn has_completions(&mut self) -> bool {
        let cq = self.cq.as_mut().expect("the views exist until drop");
        cq.sync();
        let pending = cq.len();
        pending > 0
    }

    /// Hands up to `max` completions to `each` and gives their places back to the kernel.
    pub(crate) fn reap(&mut self, max: usize, mut each: impl FnMut(Cqe)) {
        let cq = self.cq.as_mut().expect("the views exist until drop");
        cq.sync();
        for _ in 0..max {
            let Some(e) = cq.next() else { break };
            each(Cqe { user_data: e.user_data(), result: e.result(), flags: e.flags() });
        }
        cq.sync();
    }

    pub(crate) fn probe(&self) -> io::Result<Probe> {
        let mut probe = Probe::new();
        self.submitter().register_probe(&mut probe)?;
        Ok(probe)
    }

    /// Bounds the kernel's worker threads of this thread: `IORING_REGISTER_IOWQ_MAX_WORKERS` (5.15).
    /// Has the kernel signal an eventfd whenever there is something to reap, or work that leads to it.
    pub(crate) fn register_eventfd(&self, eventfd: std::os::fd::RawFd) -> io::Result<()> {
        self.submitter().register_eventfd(eventfd)
    }

    pub(crate) fn limit_workers(&self, bounded: u32, unbounded: u32) -> bool {
        self.submitter().register_iowq_max_workers(&mut [bounded, unbounded]).is_ok()
    }

    /// Cancels everything that can be cancelled, waiting at most `limit` (6.0).
    pub(crate) fn cancel_all(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::new().sec(limit.as_secs()).nsec(limit.subsec_nanos());
        self.submitter().register_sync_cancel(Some(limit), CancelBuilder::any())
    }

    /// Registers an empty buffer ring of `entries` (a power of two) as group `group` (5.19).
    pub(crate) fn register_buffer_ring(&self, entries: u16, group: u16) -> io::Result<BufferRing> {
        let ring = BufferRing::map(entries)?;
        // SAFETY: the mapping holds `entries` entries and lives until `BufferRing` is dropped, which the driver does
        // after `unregister_buffer_ring`, or never.
        unsafe {
            self.submitter().register_buf_ring_with_flags(ring.entries.as_ptr() as u64, entries, group, 0)
        }?;
        Ok(ring)
    }

    pub(crate) fn unregister_buffer_ring(&self, group: u16) {
        let _ = self.submitter().unregister_buf_ring(group);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.registered_fd {
            // A registered descriptor would keep the ring, and all its operations, alive until the thread ends.
            let submitter = self.submitter.as_mut().expect("the views exist until drop");
            let _ = submitter.unregister_ring_fd();
        }
        self.submitter = None;
        self.sq = None;
        self.cq = None;
        // SAFETY: `whole` came from `Box::leak` in `new`, and the views that borrowed from it are gone.
        drop(unsafe { Box::from_raw(self.whole.as_ptr()) });
    }
}

/// The ring of provided buffers of one group: the kernel takes a buffer from it when data is there.
pub(crate) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
}

impl BufferRing {
    fn map(count: u16) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two());
        let len = usize::from(count) * size_of::<BufRingEntry>();
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping; nothing existing is replaced.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).expect("mmap never gives page zero");
        Ok(Self { entries, count, tail: 0 })
    }

    /// Adds a buffer; the kernel sees it after the next [`publish`](Self::publish).
    pub(crate) fn put(&mut self, id: u16, address: *mut u8, size: usize) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is below `count`, the number of entries mapped.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the kernel reads entries only up to the published tail, and there are never more buffers than
        // entries (`Pool::buffers_max`), so this one is ours.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    pub(crate) fn publish(&mut self) {
        // SAFETY: `entries` is a valid buffer ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is a u16 inside the mapping, aligned, and shared with the kernel, so it is used atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let len = usize::from(self.count) * size_of::<BufRingEntry>();
        // SAFETY: this is the mapping made in `map`, of the same length.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), len) };
    }
}
