//! The completion driver: submissions into the ring, completions out of it, one enter a turn.
#![allow(unsafe_code)]
//!
//! # Safety
//! Entries point into operations of the in-flight table, which stay in place until their final completion (C3), or
//! into the two boxes of [`Uring`] (the bell's count and the timer's timespec), which live until `close_down`, or for
//! ever where that is not reached (C12).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, TimeoutFlags, Timespec};

use crate::buf::Pool;
use crate::driver::metrics::{Metrics, OPCODES};
use crate::driver::probe::Features;
use crate::driver::table::Key;
use crate::driver::{Answer, BATCH_MAX, Sizes, Wait};
use crate::sys::clock::Monotonic;
use crate::sys::ring::{Ring, Setup};
use crate::sys::{epoll, signal};

/// The top bits of `user_data` say whose completion it is; the rest names it.
const TAG: u64 = 0xF << 60;
const TAG_OP: u64 = 0;
/// Nobody waits: a cancel, a close.
const TAG_IGNORED: u64 = 1 << 60;
const TAG_BELL: u64 = 2 << 60;
const TAG_TIMER: u64 = 3 << 60;

/// The group of the buffer ring.
pub(crate) const BUFFER_GROUP: u16 = 0;
/// The group of the buffer ring for messages.
pub(crate) const MESSAGE_GROUP: u16 = 1;
/// How many turns in a row may go without an enter while completions are queued.
const TURNS_WITHOUT_ENTER_MAX: u32 = 16;
/// Completion queue entries for each submission queue entry: multishot operations complete many times.
const CQ_FACTOR: u32 = 8;
/// Bounds of the kernel's worker threads: for files, and for everything that may wait for ever.
const WORKERS_MAX: (u32, u32) = (8, 64);

/// How long the kernel may take to cancel everything in one call; what is left is cancelled one by one.
const SYNC_CANCEL_LIMIT: Duration = Duration::from_millis(50);

/// The most completions that a gathering loop waits for.
const GATHER_MAX: u32 = 64;

struct Timer {
    at: Instant,
    number: u64,
}

pub(crate) struct Uring {
    ring: Option<Ring>,
    /// How long it looks before it sleeps, and how long it sleeps for more than one completion.
    spin: Duration,
    gather: Duration,
    features: Features,
    pool: Rc<Pool>,
    message_pool: Option<Rc<Pool>>,
    /// What found no place in the submission queue; cancels go first (C5).
    waiting: VecDeque<Entry>,
    waiting_cancels: VecDeque<Entry>,
    /// Operations that were cancelled before they were submitted.
    cancelled: Vec<Key>,
    bell: RawFd,
    bell_count: Box<u64>,
    bell_armed: bool,
    /// For a foreign loop that waits for this one.
    doorbell: Option<OwnedFd>,
    clock: Monotonic,
    timespec: Box<Timespec>,
    timer: Option<Timer>,
    timers_made: u64,
    timers_in_flight: u32,
    draining: bool,
    turns_without_enter: u32,
    enters: u64,
    overflows: u64,
    submitted: [u64; OPCODES],
}

impl Uring {
    pub(crate) fn new(features: &Features, sizes: Sizes, bell: RawFd, pool: Rc<Pool>) -> io::Result<Self> {
        let waiting = sizes.waiting;
        let mut setup = features.setup;
        if let Some(idle) = waiting.sq_poll {
            // Completions come from that thread then, whenever it likes.
            (setup.defer_taskrun, setup.coop_taskrun, setup.taskrun_flag) = (false, false, false);
            setup.sq_poll = Some(idle.as_millis().clamp(1, 3_600_000) as u32);
        }
        let mut ring = ring_of_size(sizes.ring_entries, setup)?;
        if !waiting.busy_poll.is_zero() {
            ring.busy_poll(waiting.busy_poll)?;
        }
        ring.register_fd();
        ring.limit_workers(WORKERS_MAX.0, WORKERS_MAX.1);
        attach(&ring, features, &pool, BUFFER_GROUP);
        let gather = if ring.can_gather() { waiting.gather } else { Duration::ZERO };
        Ok(Self {
            ring: Some(ring),
            spin: waiting.spin,
            gather,
            features: features.clone(),
            pool,
            message_pool: None,
            waiting: VecDeque::new(),
            waiting_cancels: VecDeque::new(),
            cancelled: Vec::new(),
            bell,
            bell_count: Box::new(0),
            bell_armed: false,
            doorbell: None,
            clock: Monotonic::new(),
            timespec: Box::new(Timespec::new()),
            timer: None,
            timers_made: 0,
            timers_in_flight: 0,
            draining: false,
            turns_without_enter: 0,
            enters: 0,
            overflows: 0,
            submitted: [0; OPCODES],
        })
    }

    /// From now on there are buffers for messages.
    pub(crate) fn attach_messages(&mut self, pool: &Rc<Pool>) {
        if let Some(ring) = &self.ring {
            attach(ring, &self.features, pool, MESSAGE_GROUP);
            self.message_pool = Some(pool.clone());
        }
    }

    pub(crate) fn count(&self, metrics: &mut Metrics) {
        metrics.enters = self.enters;
        metrics.overflows = self.overflows;
        metrics.submitted = self.submitted;
    }

    #[inline]
    pub(crate) fn submit(&mut self, entry: Entry, key: Key) {
        self.push(entry.user_data(TAG_OP | key.to_bits()));
    }

    #[inline]
    fn push(&mut self, entry: Entry) {
        let ring = self.ring.as_mut().expect("not closed");
        if !self.waiting.is_empty() || !self.waiting_cancels.is_empty() {
            self.waiting.push_back(entry);
            return;
        }
        // SAFETY: see the top of this file.
        if unsafe { ring.push(&entry) } {
            self.submitted[entry.get_opcode() as usize % OPCODES] += 1;
        } else {
            self.waiting.push_back(entry);
        }
    }

    fn ignored(&self, entry: Entry) -> Entry {
        let entry = entry.user_data(TAG_IGNORED);
        if self.features.cqe_skip { entry.flags(Flags::SKIP_SUCCESS) } else { entry }
    }

    /// Asks to cancel an operation.
    pub(crate) fn cancel(&mut self, key: Key) {
        let user_data = TAG_OP | key.to_bits();
        if let Some(at) = self.waiting.iter().position(|entry| entry.get_user_data() == user_data) {
            // The kernel has not seen it, and would not find it.
            self.waiting.remove(at);
            self.cancelled.push(key);
            return;
        }
        let cancel = self.ignored(opcode::AsyncCancel::new(user_data).build());
        if self.waiting.is_empty() {
            self.push(cancel);
        } else {
            self.waiting_cancels.push_back(cancel);
        }
    }

    /// Closes a descriptor that no operation uses any more, within the next enter.
    pub(crate) fn close(&mut self, fd: RawFd) {
        let entry = self.ignored(opcode::Close::new(Fd(fd)).build());
        self.push(entry);
    }

    fn arm_bell(&mut self) {
        if self.bell_armed || self.draining {
            return;
        }
        self.bell_armed = true;
        let count = (&raw mut *self.bell_count).cast();
        self.push(opcode::Read::new(Fd(self.bell), count, 8).build().user_data(TAG_BELL));
    }

    /// Makes the ring complete something at `at` at the latest.
    fn arm_timer(&mut self, at: Instant) {
        if self.timer.as_ref().is_some_and(|timer| timer.at <= at) {
            return; // fires early; the loop looks at its deadlines then and arms again
        }
        let (seconds, nanoseconds) = self.clock.absolute(at);
        // An entry that still waits for a place reads the nearer time instead of its own: it fires early too.
        *self.timespec = Timespec::new().sec(seconds).nsec(nanoseconds);
        if let Some(timer) = &mut self.timer {
            timer.at = at;
            let user_data = TAG_TIMER | timer.number;
            // (A removal would be one more completion, and end the wait.)
            let sooner = opcode::TimeoutUpdate::new(user_data, &raw const *self.timespec);
            let sooner = self.ignored(sooner.flags(TimeoutFlags::ABS).build());
            self.push(sooner);
            return;
        }
        self.timers_made += 1;
        let entry = opcode::Timeout::new(&raw const *self.timespec).flags(TimeoutFlags::ABS).build();
        self.push(entry.user_data(TAG_TIMER | self.timers_made));
        self.timer = Some(Timer { at, number: self.timers_made });
        self.timers_in_flight += 1;
    }

    /// Moves waiting entries into the submission queue; true if none is left.
    fn fill(&mut self) -> bool {
        let ring = self.ring.as_mut().expect("not closed");
        for queue in [&mut self.waiting_cancels, &mut self.waiting] {
            while let Some(entry) = queue.front() {
                // SAFETY: see the top of this file.
                if !unsafe { ring.push(entry) } {
                    return false;
                }
                self.submitted[entry.get_opcode() as usize % OPCODES] += 1;
                queue.pop_front();
            }
        }
        true
    }

    pub(crate) fn poll(&mut self, wait: Wait, batch: &mut Vec<(Key, Answer)>) -> io::Result<()> {
        if self.ring.is_none() {
            return Ok(());
        }
        while let Some(key) = self.cancelled.pop() {
            batch.push((key, Answer::once(-libc::ECANCELED)));
        }
        self.pool.publish();
        if let Some(pool) = &self.message_pool {
            pool.publish();
        }
        self.arm_bell();
        let ring = self.ring.as_mut().expect("not closed");
        let wait = if !batch.is_empty() || ring.has_completions() { Wait::No } else { wait };
        if let Wait::Until(at) = wait {
            self.arm_timer(at);
        }
        if !self.spin.is_zero() && !matches!(wait, Wait::No) && self.spin(wait)? {
            self.reap(batch);
            return Ok(());
        }
        let entered = self.enter(!matches!(wait, Wait::No));
        self.reap(batch);
        entered
    }

    /// Submits, and looks at the queues again and again, for a while; whether there was something. No system call is
    /// made meanwhile: the kernel says in shared memory whether an enter would bring completions.
    #[cold]
    fn spin(&mut self, wait: Wait) -> io::Result<bool> {
        self.enter(false)?;
        let mut end = Instant::now() + self.spin;
        if let Wait::Until(at) = wait {
            end = end.min(at);
        }
        loop {
            let ring = self.ring.as_mut().expect("not closed");
            if ring.has_completions() {
                return Ok(true);
            }
            if ring.wants_enter() {
                self.enter(false)?;
            } else if Instant::now() >= end {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// One enter, or none where there is nothing to say to the kernel; more only if the submission queue is too small.
    fn enter(&mut self, wait: bool) -> io::Result<()> {
        loop {
            let all = self.fill();
            let ring = self.ring.as_mut().expect("not closed");
            let events = ring.wants_enter();
            if all
                && !wait
                && !events
                && ring.is_sq_empty()
                && self.turns_without_enter < TURNS_WITHOUT_ENTER_MAX
            {
                self.turns_without_enter += 1;
                return Ok(());
            }
            self.turns_without_enter = 0;
            if ring.is_sq_polled() {
                ring.publish();
                if all && !wait && !events && !ring.wants_wakeup() {
                    return Ok(()); // the thread that takes submissions is awake
                }
            }
            self.enters += 1;
            let entered = match wait && all {
                true if !self.gather.is_zero() => ring.enter_gathering(GATHER_MAX, self.gather),
                wait => ring.enter(u32::from(wait), true),
            };
            self.overflows += u64::from(ring.has_overflowed());
            match entered {
                Ok(()) if all && (ring.is_sq_empty() || ring.is_sq_polled()) => return Ok(()),
                // Too few places, or (before 5.18) an entry that was refused held up those behind it.
                Ok(()) => {}
                Err(e) => {
                    // A signal; or completions have to be reaped first: what is left goes with the next turn.
                    let goes_on = [libc::EINTR, libc::EBUSY, libc::EAGAIN, libc::EBADR];
                    return if e.raw_os_error().is_some_and(|e| goes_on.contains(&e)) {
                        Ok(())
                    } else {
                        Err(e)
                    };
                }
            }
            if wait && all {
                return Ok(()); // it waited already
            }
        }
    }

    fn reap(&mut self, batch: &mut Vec<(Key, Answer)>) {
        let Self { ring, bell_armed, timers_in_flight, timer, .. } = self;
        ring.as_mut().expect("not closed").reap(BATCH_MAX, |cqe| match cqe.user_data & TAG {
            TAG_OP => {
                batch.push((Key::from_bits(cqe.user_data), Answer::new(cqe.result, cqe.flags)));
            }
            TAG_BELL => *bell_armed = false,
            TAG_TIMER => {
                *timers_in_flight -= 1;
                if timer.as_ref().is_some_and(|timer| timer.number == cqe.user_data & !TAG) {
                    *timer = None;
                }
            }
            _ => {}
        });
    }

    /// The first step of a shutdown: asks to cancel everything, the driver's own operations included.
    pub(crate) fn cancel_all(&mut self) {
        self.draining = true;
        if self.bell_armed {
            let cancel = self.ignored(opcode::AsyncCancel::new(TAG_BELL).build());
            self.push(cancel);
        }
        if let Some(timer) = self.timer.take() {
            let remove = self.ignored(opcode::TimeoutRemove::new(TAG_TIMER | timer.number).build());
            self.push(remove);
        }
        // What was pushed has to be in the kernel to be found.
        if self.enter(false).is_ok() && self.features.sync_cancel {
            let _ = self.ring.as_ref().expect("not closed").cancel_all(SYNC_CANCEL_LIMIT);
        }
    }

    /// An eventfd that is readable when there may be something to reap.
    pub(crate) fn descriptor(&mut self) -> io::Result<RawFd> {
        if let Some(doorbell) = &self.doorbell {
            return Ok(doorbell.as_raw_fd());
        }
        let doorbell = epoll::eventfd(true)?;
        let number = doorbell.as_raw_fd();
        self.ring.as_ref().expect("not closed").register_eventfd(number)?;
        self.doorbell = Some(doorbell);
        Ok(number)
    }

    /// Whether the kernel has everything, and has nothing for us. From here on the doorbell tells.
    pub(crate) fn is_settled(&mut self) -> bool {
        if let Some(doorbell) = &self.doorbell {
            // Before looking: what comes later signals it again.
            signal::take(doorbell, &mut [0; 8]);
        }
        let is_clear =
            self.waiting.is_empty() && self.waiting_cancels.is_empty() && self.cancelled.is_empty();
        let Some(ring) = &mut self.ring else { return true };
        is_clear && self.bell_armed && ring.is_sq_empty() && !ring.wants_enter() && !ring.has_completions()
    }

    /// Whether operations of the driver itself are still on their way.
    pub(crate) fn is_draining(&self) -> bool {
        self.bell_armed
            || self.timers_in_flight > 0
            || !self.waiting.is_empty()
            || !self.waiting_cancels.is_empty()
    }

    /// Gives the ring back, after the last completion.
    pub(crate) fn close_down(&mut self) {
        // Closes that were pushed since the last enter.
        let _ = self.enter(false);
        let Some(ring) = self.ring.take() else { return };
        let groups = [(Some(&self.pool), BUFFER_GROUP), (self.message_pool.as_ref(), MESSAGE_GROUP)];
        for (pool, group) in groups {
            if let Some(buffers) = pool.and_then(|pool| pool.detach()) {
                ring.unregister_buffer_ring(group);
                drop(buffers);
            }
        }
        drop(ring);
    }

    /// Gives up everything that the kernel may still use.
    #[allow(clippy::mem_forget, reason = "leaked on purpose")]
    pub(crate) fn leak(&mut self) {
        std::mem::forget(self.ring.take());
        std::mem::forget(std::mem::take(&mut self.bell_count));
        std::mem::forget(std::mem::replace(&mut self.timespec, Box::new(Timespec::new())));
    }
}

/// Lets the kernel choose buffers of a pool by itself. Without it (no memory, or an old kernel) receives go one by one.
fn attach(ring: &Ring, features: &Features, pool: &Pool, group: u16) {
    let places = u16::try_from(pool.buffers_max().next_power_of_two()).unwrap_or(1 << 15);
    if features.multishot_receive
        && let Ok(buffers) = ring.register_buffer_ring(places, group)
    {
        pool.attach(buffers);
    }
}

/// A ring with `entries`, or fewer where memory is short.
fn ring_of_size(entries: u32, setup: Setup) -> io::Result<Ring> {
    let mut entries = entries.next_power_of_two().clamp(8, 1 << 14);
    loop {
        match Ring::new(entries, entries * CQ_FACTOR, setup) {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) && entries > 64 => entries /= 2,
            other => return other,
        }
    }
}
