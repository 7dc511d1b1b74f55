//! Performs operations and delivers their completions: the contract that every driver obeys.
//!
//! | # | rule |
//! |---|---|
//! | C1 | every accepted submission gets exactly one final completion; a multishot one any number of `more` completions before it |
//! | C2 | submitting never wakes and never runs user code; it may hand the result straight back to its caller, to nobody else |
//! | C3 | from submission to final completion the driver owns the operation: descriptor, buffer, addresses; nothing moves, nothing is freed |
//! | C4 | dropping the caller's future orphans the operation: the driver asks to cancel, and at the final completion the operation gives what it obtained back to its resource |
//! | C5 | a cancel is a request, hits one operation (slot and generation), and is never lost |
//! | C6 | results carry the same errno on every driver; EINTR and EAGAIN never get out; -ENOBUFS is back-pressure, never an error |
//! | C7 | the loop's thread blocks nowhere but in `poll`; work without readiness goes to the pool and comes back as a completion |
//! | C8 | a descriptor in a result is owned from the instant of completion |
//! | C9 | no order between operations; where order matters, the resource has at most one in flight |
//! | C10 | `poll` delivers a bounded batch and returns; every queue has a named limit |
//! | C11 | `wake` may be called from any thread at any time; it never blocks, is never lost, and coalesces; after the loop's end it does nothing |
//! | C12 | shutdown cancels all, drains for a bounded time, then closes; what does not end is leaked, never freed |
//! | C13 | a descriptor is closed through the driver after its last operation |
//! | C14 | no user code runs while driver or loop state is borrowed: `poll` collects, releases, then delivers |
//!
//! Each rule has a test that bears its name in `uring-tests/contract.rs`.

mod aftermath;
pub(crate) mod alarm;
mod answer;
pub(crate) mod blocking;
mod close;
pub(crate) mod control;
mod epoll;
mod foreign;
mod metrics;
mod operation;
mod pending;
mod probe;
pub(crate) mod relays;
mod report;
mod table;
mod uring;
pub(crate) mod workers;

pub use metrics::Metrics;
pub use report::{DriverChoice, DriverKind, DriverReport};

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buf::Pool;
use crate::sys::fork;
pub(crate) use aftermath::Aftermath;
use aftermath::Panics;
use alarm::Alarm;
pub(crate) use answer::{Answer, Attempt};
use blocking::Inbox;
pub(crate) use close::Close;
pub(crate) use operation::{Op, Route, Step};
pub(crate) use pending::Pending;
pub(crate) use probe::Features;
use relays::Relays;
pub(crate) use table::Key;
use table::{State, Table};
pub(crate) use uring::{BUFFER_GROUP, MESSAGE_GROUP};

/// How long `poll` may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// Not at all: there is work.
    No,
    /// Until something happens.
    Forever,
    /// Until something happens, or this moment.
    Until(Instant),
}

enum Backend {
    Uring(Box<uring::Uring>),
    Epoll(epoll::Epoll),
}

/// Sizes of a driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) ring_entries: u32,
    pub(crate) buffer_size: usize,
    pub(crate) buffer_bytes_max: usize,
    pub(crate) waiting: Waiting,
}

/// How a loop that has nothing to do waits: all off unless asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waiting {
    /// It looks for news for so long before it sleeps.
    pub(crate) spin: Duration,
    /// It sleeps so long for more news to come, up to a number.
    pub(crate) gather: Duration,
    /// A thread of the kernel looks for submissions, and sleeps after so long without any.
    pub(crate) sq_poll: Option<Duration>,
    /// The kernel polls the network's devices so long before it sleeps.
    pub(crate) busy_poll: Duration,
}

/// Performs the operations of one loop.
pub(crate) struct Driver {
    table: Table,
    backend: RefCell<Backend>,
    features: Features,
    report: Arc<DriverReport>,
    nonblocking: bool,
    pool: Rc<Pool>,
    relays: Relays,
    /// Made when the first socket receives messages.
    message_pool: OnceCell<Rc<Pool>>,
    buffer_bytes_max: usize,
    inbox: Arc<Inbox>,
    alarm: &'static Alarm,
    /// Reused from turn to turn.
    batch: Cell<Vec<(Key, Answer)>>,
    after: Cell<Aftermath>,
    closed: Cell<bool>,
    forks: u32,
    completions: Cell<u64>,
}

/// The most completions that one `poll` delivers (C10).
const BATCH_MAX: usize = 1024;

/// How often an operation is tried before it waits for its turn.
const TRIES_MAX: usize = 16;
/// The size of a buffer for messages: the biggest UDP datagram (64 KiB), its address, and control messages with 253
/// descriptors, the most there can be.
const MESSAGE_BUFFER: usize = 68 << 10;

/// However slowly the completions come at shutdown, after so many times the limit it is over.
const DRAINS_MAX: u32 = 10;

impl Driver {
    pub(crate) fn new(choice: DriverChoice, sizes: Sizes, alarm: &'static Alarm) -> io::Result<Rc<Self>> {
        let pool = Pool::new(sizes.buffer_size, sizes.buffer_bytes_max);
        let inbox = Inbox::new(alarm);
        let bell = alarm.arm()?;
        let (backend, features, report) = report::choose(choice, |features| match features {
            Some(features) => {
                uring::Uring::new(features, sizes, bell, pool.clone()).map(Box::new).map(Backend::Uring)
            }
            None => epoll::Epoll::new(bell, sizes.waiting.spin).map(Backend::Epoll),
        })
        .inspect_err(|_| alarm.disarm())?;
        Ok(Rc::new(Self {
            table: Table::new(),
            backend: RefCell::new(backend),
            features,
            nonblocking: report.driver() == DriverKind::Epoll,
            report: Arc::new(report),
            pool,
            relays: Relays::default(),
            message_pool: OnceCell::new(),
            buffer_bytes_max: sizes.buffer_bytes_max,
            inbox,
            alarm,
            batch: Cell::default(),
            after: Cell::default(),
            closed: Cell::new(false),
            forks: fork::generation(),
            completions: Cell::new(0),
        }))
    }

    pub(crate) fn report(&self) -> &Arc<DriverReport> {
        &self.report
    }

    #[inline]
    pub(crate) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    pub(crate) fn relays(&self) -> &Relays {
        &self.relays
    }

    /// Whether making a pipe is an operation; else it is a call that never waits.
    pub(crate) fn makes_pipes(&self) -> bool {
        self.nonblocking || self.features.pipe_op
    }

    /// Buffers for whole messages. As many bytes as the pool of the streams may have; what of a buffer was never filled
    /// costs no memory, and most messages are small.
    pub(crate) fn message_pool(&self) -> &Rc<Pool> {
        self.message_pool.get_or_init(|| {
            let pool = Pool::new(MESSAGE_BUFFER, self.buffer_bytes_max);
            if let Backend::Uring(uring) = &mut *self.backend.borrow_mut() {
                uring.attach_messages(&pool);
            }
            pool
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.table.in_flight()
    }

    /// Whether the final completion of an operation is still to come.
    pub(crate) fn is_in_flight(&self, key: Key) -> bool {
        matches!(self.table.state(key), State::Attached | State::Detached)
    }

    /// Completions delivered so far.
    pub(crate) fn completions(&self) -> u64 {
        self.completions.get()
    }

    /// Whether nothing can be asked any more: it was shut down, or this is a forked child, to which the parent's ring
    /// and epoll set do not belong.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get() || self.forks != fork::generation()
    }

    /// Whether sockets have to be made non-blocking for this driver.
    #[inline]
    pub(crate) fn wants_nonblocking(&self) -> bool {
        self.nonblocking
    }

    /// Makes a foreign socket fit for this driver. Its file may be shared with another process, so no more is changed
    /// than must be.
    pub(crate) fn adopt(&self, fd: &OwnedFd) -> io::Result<()> {
        // A one-shot accept on a ring answers EAGAIN for a non-blocking listener instead of waiting.
        let nonblocking = match self.nonblocking {
            true => Some(true),
            false => (!self.features.multishot_accept).then_some(false),
        };
        control::adopt(fd, nonblocking)
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let pools = [Some(&self.pool), self.message_pool.get()].into_iter().flatten();
        let counts = pools.map(|pool| pool.counts());
        let (buffers_total, buffers_in_use) = counts.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let mut metrics = Metrics {
            completions: self.completions.get(),
            in_flight: self.in_flight(),
            buffers_total,
            buffers_in_use,
            ..Metrics::default()
        };
        match &*self.backend.borrow() {
            Backend::Uring(uring) => uring.count(&mut metrics),
            Backend::Epoll(epoll) => epoll.count(&mut metrics),
        }
        metrics
    }

    /// Accepts an operation whose resource takes what comes of it. The key is for `cancel`; without one it is over
    /// already, since the loop is gone.
    pub(crate) fn submit_detached<O: Op>(&self, mut op: O) -> Option<Key> {
        if self.is_closed() {
            let mut after = Aftermath::default();
            op.settle(-libc::ECANCELED, &mut after);
            drop(op);
            after.run();
            return None;
        }
        Some(self.accept(op, false))
    }

    /// Accepts an operation, for a future that waits for it (`attached`) or for its resource.
    #[inline]
    fn accept<O: Op>(&self, op: O, attached: bool) -> Key {
        self.table.insert(op, attached, |op, key| self.submit(op, key))
    }

    /// (Re)submits an operation of the table. (Generic, so that the first submission, whose operation is known, is
    /// compiled in one piece.)
    #[inline]
    fn submit<O: Op + ?Sized>(&self, op: &mut O, key: Key) {
        match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => {
                if let Some(entry) = op.prepare(&self.features) {
                    return uring.submit(entry, key);
                }
            }
            Backend::Epoll(epoll) => {
                let route = op.route();
                if route != Route::Pool {
                    return epoll.enqueue(key, route);
                }
            }
        }
        self.table.set_pooled(key, true);
        blocking::submit(key, op.call(), &self.inbox);
    }

    /// Whether an operation that ended since a cancel was asked goes on all the same: its future is gone, nobody would
    /// learn how far it came, and half of it must not stay undone.
    fn goes_on(&self, key: Key) -> bool {
        self.table.result(key) == Some(-libc::ECANCELED) && !self.is_closed() && self.outlives_its_future(key)
    }

    fn outlives_its_future(&self, key: Key) -> bool {
        self.table.with(key, |op| op.may_repeat() && !op.is_cancelled_by_drop()) == Some(true)
    }

    fn resume(&self, key: Key) {
        self.table.reopen(key);
        self.submit_again(key);
    }

    fn submit_again(&self, key: Key) {
        self.table.set_pooled(key, false);
        self.table.with(key, |op| self.submit(op, key));
    }

    /// Tries an operation without accepting it: what the epoll driver can answer at once never enters the table. A
    /// bounded number of times: a peer that is as fast as we are must not keep the loop (C10).
    fn try_now<O: Op>(&self, op: &mut O) -> Option<i32> {
        for _ in 0..TRIES_MAX {
            let route = op.route();
            let may_try = match &mut *self.backend.borrow_mut() {
                Backend::Epoll(epoll) => epoll.may_try(route),
                Backend::Uring(_) => op.is_tried_first(),
            };
            if !may_try {
                return None;
            }
            let attempt = op.attempt();
            let is_drained = matches!(attempt, Attempt::Drained(_));
            if (is_drained || matches!(attempt, Attempt::Wait))
                && let Backend::Epoll(epoll) = &mut *self.backend.borrow_mut()
            {
                epoll.must_wait(route, is_drained);
            }
            match attempt {
                Attempt::Complete(answer) | Attempt::Drained(answer) => {
                    // It stays empty: an operation that a future waits for wakes nobody (C2). So nothing is to be dropped.
                    let mut after = ManuallyDrop::new(Aftermath::default());
                    let step = op.complete(answer, &mut after);
                    debug_assert!(after.is_empty(), "C2");
                    if let Step::Done(result) = step {
                        return Some(result);
                    }
                }
                Attempt::Wait => return None,
                Attempt::Later | Attempt::Tell { .. } => {}
            }
        }
        None
    }

    /// Asks to cancel one operation (C5).
    pub(crate) fn cancel(&self, key: Key) {
        if self.is_closed() || !self.table.ask_cancel(key) {
            return;
        }
        if self.table.is_pooled(key) {
            let taken_back = blocking::cancel(key, &self.inbox);
            if !taken_back && self.table.with(key, |op| op.may_abandon()) == Some(true) {
                // Its thread goes on without us; what it brings finds a stale key.
                self.inbox.deliver(key, -libc::ECANCELED);
            }
            return;
        }
        match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => uring.cancel(key),
            Backend::Epoll(epoll) => {
                if let Some(route) = self.table.with(key, |op| op.route()) {
                    epoll.cancel(key, route);
                }
            }
        }
    }

    /// Closes a descriptor after its last operation; nobody waits. `lingers`: close(2) may block.
    pub(crate) fn close(&self, fd: OwnedFd, lingers: bool) {
        if self.is_closed() {
            drop(fd);
            return;
        }
        let number = fd.as_raw_fd();
        if let Backend::Epoll(epoll) = &mut *self.backend.borrow_mut() {
            epoll.forget(number);
        }
        if lingers {
            self.submit_detached(Close::new(fd, true));
            return;
        }
        match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => uring.close(fd.into_raw_fd()),
            Backend::Epoll(_) => drop(fd),
        }
    }

    /// Takes a descriptor out of the driver without closing it, after its last operation.
    pub(crate) fn forget(&self, fd: i32) {
        if self.is_closed() {
            return;
        }
        if let Backend::Epoll(epoll) = &mut *self.backend.borrow_mut() {
            epoll.forget(fd);
        }
    }

    /// Submits what is queued, waits as `wait` says, and delivers a batch of completions.
    pub(crate) fn poll(&self, wait: Wait) -> io::Result<()> {
        if self.forks != fork::generation() {
            return Err(io::Error::other(
                "this event loop belongs to the parent process: after fork() without exec() make a new one",
            ));
        }
        self.pool.feed();
        if let Some(pool) = self.message_pool.get() {
            pool.feed();
        }
        let (mut batch, mut after) = (self.batch.take(), self.after.take());
        let asleep = !matches!(wait, Wait::No) && self.alarm.fall_asleep();
        // Looked at after falling asleep: a result that comes later rings the bell. (The loop takes the alarm's news for
        // itself without looking here.)
        let wait = if asleep && !self.inbox.is_filled() { wait } else { Wait::No };
        let polled = match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => uring.poll(wait, &mut batch),
            Backend::Epoll(epoll) => epoll.poll(wait, &self.table, &mut batch, &mut after),
        };
        if asleep {
            self.alarm.wake_up();
        }
        if self.inbox.is_filled() {
            batch.extend(self.inbox.take().into_iter().map(|(key, result)| (key, Answer::once(result))));
        }
        let told = after.len() as u64;
        self.completions.set(self.completions.get() + batch.len() as u64 + told);
        let mut panics = Panics::default();
        if !batch.is_empty() || told > 0 {
            self.deliver(&mut batch, &mut after, &mut panics);
        }
        self.batch.set(batch);
        self.after.set(after);
        panics.resume();
        polled
    }

    /// C14: nothing of the driver is borrowed here but the one operation that completes. A panic of the program's code
    /// (a destructor, a foreign waker) goes on when everything was delivered.
    fn deliver(&self, batch: &mut Vec<(Key, Answer)>, after: &mut Aftermath, panics: &mut Panics) {
        let mut rest = batch.drain(..);
        while rest.len() > 0 {
            panics.catch(|| {
                for (key, answer) in rest.by_ref() {
                    self.deliver_one(key, answer, after);
                }
            });
        }
        drop(rest);
        panics.catch(|| after.run());
    }

    fn deliver_one(&self, key: Key, answer: Answer, after: &mut Aftermath) {
        let answer = match answer.result {
            0.. => answer,
            _ => match self.repeat(key, answer) {
                Some(answer) => answer,
                None => return,
            },
        };
        match self.table.complete(key, after, |op, after| op.complete(answer, after)) {
            Some(Step::More | Step::Done(_)) | None => {}
            Some(Step::Again) if self.table.is_cancel_asked(key) => {
                self.table.finish(key, -libc::ECANCELED, after);
            }
            Some(Step::Again) => self.submit_again(key),
            Some(Step::Stop) => self.cancel(key),
        }
    }

    /// Submits an operation again that was interrupted (C6) or goes on by itself, or says what its failure is.
    #[cold]
    fn repeat(&self, key: Key, answer: Answer) -> Option<Answer> {
        // The request was taken back, too late for the kernel.
        if answer.result == -libc::ECANCELED
            && self.table.state(key) == State::Detached
            && !self.table.is_cancel_asked(key)
            && self.outlives_its_future(key)
        {
            self.submit_again(key);
            return None;
        }
        // The pool repeats an interrupted call by itself; and some operations must not be repeated.
        if !answer.is_interruption()
            || self.table.is_pooled(key)
            || self.table.with(key, |op| op.may_repeat()) != Some(true)
        {
            return Some(answer);
        }
        if self.table.is_cancel_asked(key) {
            return Some(answer.cancelled());
        }
        self.table.with(key, |op| op.interrupted(answer));
        self.submit_again(key);
        None
    }

    /// Whether the kernel or the pool has anything of ours, the driver's own operations included.
    fn has_in_flight(&self) -> bool {
        self.table.in_flight() > 0
            || match &*self.backend.borrow() {
                Backend::Uring(uring) => uring.is_draining(),
                Backend::Epoll(_) => false,
            }
    }

    /// Ends the driver (C12): cancels all, drains for at most `limit`, closes. Returns how many operations had to be
    /// leaked, with everything that the kernel could still write to.
    pub(crate) fn shut_down(self: &Rc<Self>, limit: Duration) -> usize {
        if self.closed.get() {
            return 0;
        }
        if self.is_closed() {
            // The parent's: nothing of it may be touched, and what its operations own is a copy that nobody writes to.
            self.closed.set(true);
            #[allow(clippy::mem_forget, reason = "dropping the ring would touch the parent's")]
            std::mem::forget(self.clone());
            return self.table.in_flight();
        }
        if let Backend::Uring(uring) = &mut *self.backend.borrow_mut() {
            uring.cancel_all();
        }
        // It may sleep for a foreign loop's wait.
        self.alarm.wake_up();
        // The limit counts from the last completion: a busy machine is not a kernel that does not answer.
        let (mut end, last) = (Instant::now() + limit, Instant::now() + DRAINS_MAX * limit);
        // A panic of the program's destructors must not keep the rest from being drained; the panic hook told of it.
        let mut panics = Panics::default();
        loop {
            // Completions may have led to new operations (a close, the rest of a send), so they are asked each time.
            for key in self.table.keys() {
                self.cancel(key);
            }
            let before = self.completions.get();
            let soon = Instant::now() + Duration::from_millis(20);
            let wait = if self.has_in_flight() { Wait::Until(soon.min(end)) } else { Wait::No };
            let mut polled = Ok(());
            // Nobody else looks at the news any more, and with some unread the loop does not sleep.
            self.alarm.take_news();
            panics.catch(|| polled = self.poll(wait));
            if self.completions.get() > before {
                end = (Instant::now() + limit).min(last);
            }
            if polled.is_err() || !self.has_in_flight() || Instant::now() >= end {
                break;
            }
        }
        self.closed.set(true);
        self.alarm.disarm();
        let left = self.table.in_flight();
        if self.has_in_flight() {
            // The kernel, or a thread of the pool, may still write into what these operations own.
            #[allow(clippy::mem_forget, reason = "C12: leaked, never freed")]
            std::mem::forget(self.clone());
            return left;
        }
        self.relays.close_down();
        match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => uring.close_down(),
            Backend::Epoll(epoll) => epoll.close_down(),
        }
        left
    }
}

impl Drop for Driver {
    /// `shut_down` comes first. Should it have been skipped, nothing is freed that the kernel may still write to (C12).
    #[allow(clippy::mem_forget, reason = "leaked on purpose")]
    fn drop(&mut self) {
        if self.table.in_flight() > 0 {
            std::mem::forget(std::mem::replace(&mut self.table, Table::new()));
            std::mem::forget(self.pool.clone());
            std::mem::forget(self.message_pool.take());
            if let Backend::Uring(uring) = self.backend.get_mut() {
                uring.leak();
            }
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
