//! The readiness driver: try, wait for readiness, try again, complete.
//!
//! What has to be known about epoll here:
//! - Descriptors are registered once, when an attempt first has to wait, and edge-triggered: one `epoll_ctl` in a
//!   connection's life, none per operation. An edge is remembered in [`Readiness`] until an attempt finds the descriptor
//!   not ready (EAGAIN), or a receive comes back short, which says the same without the call.
//! - What a receive may stop in front of (a pipe's packet, descriptors that go with bytes of a UNIX stream) no edge tells
//!   of. So streams but TCP begin level-triggered: a short receive is enough there too, the kernel looks again with the
//!   next wait. As soon as such an event finds nobody who wants it, edges do for good, and receives go on until EAGAIN.
//! - A stream that is told of bytes receives them itself, when its task asks: then they meet no queue and no completion,
//!   what is sent next finds the socket in the cache, and one buffer does for all.
//! - Room to send is asked for only when a send first has to wait, from then on for good: of UNIX and UDP sockets each
//!   message that its receiver takes is an edge, and so would wake the loop in vain.
//! - After the peer's end or an error there is no further edge, so from then on the descriptor counts as ready for good.
//! - An event can come late, for a number that was closed and is in use again: the token carries a generation.
//! - Regular files cannot be registered (EPERM): they are always ready, which is why file work goes to the pool.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use crate::driver::metrics::Metrics;
use crate::driver::table::{Key, Table};
use crate::driver::{Aftermath, Answer, Attempt, BATCH_MAX, Route, Wait};
use crate::sys::epoll;

const READ_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLPRI) as u32;
/// Without EPOLLPRI, which nobody takes away.
const LEVEL_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP) as u32;
const WRITE_EVENTS: u32 = libc::EPOLLOUT as u32;
const END_EVENTS: u32 = (libc::EPOLLHUP | libc::EPOLLERR) as u32;
const EDGES: u32 = libc::EPOLLET as u32;

/// The token of the bell, which no descriptor's token can be.
const BELL: u64 = u64::MAX;
/// The most events taken at a time.
const EVENTS_MAX: usize = 1024;
/// About as many completions are delivered at a time: those who wait for them answer while the sockets are still in
/// the cache. The other events are kept for the next turns, without another `epoll_wait`.
const COMPLETIONS_MAX: usize = 64;
/// The most completions of one multishot operation in a turn; as many as the kernel's own (`MULTISHOT_MAX_RETRY`).
const SHOTS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Whether the set tells of a direction: once for each thing that happens, or as long as it is so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Watch {
    #[default]
    No,
    Edges,
    Level,
}

/// The operations that wait for one direction of a descriptor, in order. Nearly always at most one.
#[derive(Debug, Default)]
struct Queue {
    first: Option<Key>,
    behind: Option<Box<Behind>>,
}

#[derive(Debug, Default)]
struct Behind(VecDeque<Key>);

impl Queue {
    fn push(&mut self, key: Key) {
        if self.first.is_none() {
            self.first = Some(key);
        } else {
            self.behind.get_or_insert_default().0.push_back(key);
        }
    }

    fn pop(&mut self) {
        self.first = self.behind.as_mut().and_then(|behind| behind.0.pop_front());
    }

    fn remove(&mut self, key: Key) -> bool {
        if self.first == Some(key) {
            self.pop();
            return true;
        }
        let Some(behind) = &mut self.behind else { return false };
        let found = behind.0.iter().position(|k| *k == key);
        found.is_some_and(|at| behind.0.remove(at).is_some())
    }
}

/// One direction of a descriptor.
#[derive(Debug)]
struct Side {
    watch: Watch,
    /// An attempt may succeed. True until one had to wait.
    ready: bool,
    /// The peer ended or the socket failed: no more edges come, so it stays ready.
    ended: bool,
    /// There was urgent data: a receive stops in front of it, and being short says nothing.
    urgent: bool,
    /// A receive may stop in front of something else, and only edges are told.
    cut: bool,
    queue: Queue,
}

impl Side {
    /// An operation of this route comes.
    fn heed(&mut self, route: Route) {
        self.cut |= self.watch == Watch::Edges && matches!(route, Route::ReadableStream(_));
    }

    /// Whether a receive that brings less than fits may have left something, of which no edge would tell.
    fn says_more(&self) -> bool {
        self.ended || self.urgent || self.cut
    }
}

impl Default for Side {
    fn default() -> Self {
        let (ended, urgent, cut) = (false, false, false);
        Self { watch: Watch::No, ready: true, ended, urgent, cut, queue: Queue::default() }
    }
}

#[derive(Debug, Default)]
struct Readiness {
    generation: u32,
    read: Side,
    write: Side,
}

impl Readiness {
    /// Whether it is in the set; if at all, for reading.
    fn is_registered(&self) -> bool {
        self.read.watch != Watch::No
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }
}

pub(crate) struct Epoll {
    /// Until `close_down`.
    epoll: Option<epoll::Epoll>,
    events: Vec<libc::epoll_event>,
    /// The first of them that was not looked at.
    next_event: usize,
    /// By descriptor.
    fds: Vec<Readiness>,
    /// Where an attempt is due without an event.
    due: VecDeque<(RawFd, Direction)>,
    /// Operations whose only attempt is due.
    now: VecDeque<Key>,
    cancelled: Vec<Key>,
    /// How long it looks before it sleeps.
    spin: Duration,
    waits: u64,
}

fn place(route: Route) -> Option<(RawFd, Direction)> {
    match route {
        Route::Readable(fd) | Route::ReadableStream(fd) => Some((fd, Direction::Read)),
        Route::Writable(fd) => Some((fd, Direction::Write)),
        Route::Now | Route::Pool => None,
    }
}

impl Epoll {
    pub(crate) fn new(bell: RawFd, spin: Duration) -> io::Result<Self> {
        let epoll = epoll::Epoll::new()?;
        // Edge-triggered: each ring of the bell is one event, and its count never has to be read.
        epoll.add(bell, (libc::EPOLLIN | libc::EPOLLET) as u32, BELL)?;
        Ok(Self {
            epoll: Some(epoll),
            events: Vec::with_capacity(EVENTS_MAX),
            next_event: 0,
            fds: Vec::new(),
            due: VecDeque::new(),
            now: VecDeque::new(),
            cancelled: Vec::new(),
            spin,
            waits: 0,
        })
    }

    pub(crate) fn count(&self, metrics: &mut Metrics) {
        metrics.enters = self.waits;
    }

    fn epoll(&self) -> &epoll::Epoll {
        self.epoll.as_ref().expect("not closed")
    }

    /// The set itself.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.epoll().fd().as_raw_fd()
    }

    /// Whether everything that was found is delivered, and nothing is due without an event.
    pub(crate) fn is_settled(&self) -> bool {
        self.next_event == self.events.len()
            && self.due.is_empty()
            && self.now.is_empty()
            && self.cancelled.is_empty()
    }

    /// Closes the set, after the last operation.
    pub(crate) fn close_down(&mut self) {
        self.epoll = None;
    }

    #[inline]
    fn readiness(&mut self, fd: RawFd) -> &mut Readiness {
        let index = usize::try_from(fd).unwrap_or(0);
        if self.fds.len() <= index {
            self.fds.resize_with(index + 1, Readiness::default);
        }
        &mut self.fds[index]
    }

    /// Whether an attempt on `route` makes sense before it was enqueued: it is ready and nobody waits before it.
    #[inline]
    pub(crate) fn may_try(&mut self, route: Route) -> bool {
        match place(route) {
            Some((fd, direction)) => {
                let side = self.readiness(fd).side(direction);
                side.ready && side.queue.first.is_none()
            }
            None => route == Route::Now,
        }
    }

    /// An attempt found `route` not ready; `drained`: not by its own answer, but because it brought less than fits.
    #[inline]
    pub(crate) fn must_wait(&mut self, route: Route, drained: bool) {
        if let Some((fd, direction)) = place(route) {
            let side = self.readiness(fd).side(direction);
            side.heed(route);
            side.ready = drained && side.says_more();
        }
    }

    /// Accepts an operation; its attempt is made in `poll`.
    pub(crate) fn enqueue(&mut self, key: Key, route: Route) {
        let Some((fd, direction)) = place(route) else {
            self.now.push_back(key);
            return;
        };
        if fd < 0 {
            self.now.push_back(key); // the attempt says EBADF
            return;
        }
        let side = self.readiness(fd).side(direction);
        side.heed(route);
        side.queue.push(key);
        let is_watched = side.watch != Watch::No;
        // There is room more often than not, and rarely anything to receive.
        let is_likely = side.ready && (is_watched || direction == Direction::Write);
        // A registration that fails is left to the attempt, which gives the true answer.
        let is_stream = matches!(route, Route::ReadableStream(_));
        if is_likely || !is_watched && self.watch_for(fd, direction, is_stream).is_err() {
            self.readiness(fd).side(direction).ready = true;
            self.due.push_back((fd, direction));
        }
    }

    /// From now on the set tells of a direction; of what a stream brings as long as there is something.
    fn watch_for(&mut self, fd: RawFd, direction: Direction, is_stream: bool) -> io::Result<()> {
        match direction {
            Direction::Write => self.watch(fd, Watch::Edges, Watch::Edges),
            Direction::Read if is_stream => self.watch(fd, Watch::Level, Watch::No),
            Direction::Read => self.watch(fd, Watch::Edges, Watch::No),
        }
    }

    /// Has the set tell of a descriptor. The first event says what is ready already, so nothing is tried in vain.
    fn watch(&mut self, fd: RawFd, read: Watch, write: Watch) -> io::Result<()> {
        let readiness = self.readiness(fd);
        let (is_registered, generation) = (readiness.is_registered(), readiness.generation);
        let token = u64::from(generation) << 32 | fd as u64;
        let reads = if read == Watch::Level { LEVEL_EVENTS } else { READ_EVENTS | EDGES };
        let writes = if write == Watch::No { 0 } else { WRITE_EVENTS };
        if is_registered {
            self.epoll().modify(fd, reads | writes, token)?;
        } else {
            self.epoll().add(fd, reads | writes, token)?;
        }
        let side = &mut self.readiness(fd).read;
        side.cut |= (side.watch, read) == (Watch::Level, Watch::Edges);
        (side.watch, side.ready) = (read, side.ready && is_registered);
        if write != Watch::No {
            let side = &mut self.readiness(fd).write;
            (side.watch, side.ready) = (write, false);
        }
        Ok(())
    }

    /// An event of a level found nobody, or nothing: it must not come again and again.
    #[cold]
    fn take_edges(&mut self, fd: RawFd) {
        // It cannot fail: the set knows the descriptor.
        let _ = self.watch(fd, Watch::Edges, Watch::No);
    }

    /// Asks to cancel; the operation is answered at the next `poll`, unless its result is on its way already.
    pub(crate) fn cancel(&mut self, key: Key, route: Route) {
        let found = match place(route) {
            Some((fd, direction)) if fd >= 0 => self.readiness(fd).side(direction).queue.remove(key),
            _ => false,
        };
        if found {
            self.cancelled.push(key);
        }
    }

    /// The descriptor is about to be closed or given away: nothing of it stays.
    pub(crate) fn forget(&mut self, fd: RawFd) {
        let readiness = self.readiness(fd);
        debug_assert!(readiness.read.queue.first.is_none() && readiness.write.queue.first.is_none(), "C13");
        let generation = readiness.generation.wrapping_add(1);
        let was_registered = std::mem::take(readiness).is_registered();
        readiness.generation = generation;
        if was_registered {
            // The open file may have other descriptors (dup, fork), which would keep it registered.
            let _ = self.epoll().remove(fd);
        }
    }

    pub(crate) fn poll(
        &mut self,
        wait: Wait,
        table: &Table,
        batch: &mut Vec<(Key, Answer)>,
        after: &mut Aftermath,
    ) -> io::Result<()> {
        while let Some(key) = self.cancelled.pop() {
            batch.push((key, Answer::once(-libc::ECANCELED)));
        }
        // As many as there are now: what an attempt puts off is for the next turn.
        for _ in 0..self.now.len() {
            let Some(key) = self.now.pop_front() else { break };
            self.attempt_now(key, table, batch);
        }
        for _ in 0..self.due.len() {
            let Some((fd, direction)) = self.due.pop_front() else { break };
            self.attempt(fd, direction, table, batch, after);
        }
        if self.next_event == self.events.len() {
            let limit = match wait {
                _ if !batch.is_empty()
                    || !after.is_empty()
                    || !self.due.is_empty()
                    || !self.now.is_empty() =>
                {
                    Some(Duration::ZERO)
                }
                Wait::No => Some(Duration::ZERO),
                Wait::Forever => None,
                Wait::Until(at) => Some(at.saturating_duration_since(Instant::now())),
            };
            self.next_event = 0;
            let may_spin = !self.spin.is_zero() && limit != Some(Duration::ZERO);
            if !may_spin || !self.spin(limit)? {
                self.wait(limit.map(|limit| limit.saturating_sub(self.spin)))?;
            }
        }
        let enough = batch.len() + after.len() + COMPLETIONS_MAX;
        while self.next_event < self.events.len() && batch.len() + after.len() < enough {
            let (flags, token) = (self.events[self.next_event].events, self.events[self.next_event].u64);
            self.next_event += 1;
            if token != BELL {
                self.note(flags, token, table, batch, after);
            }
        }
        Ok(())
    }

    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.waits += 1;
        match self.epoll.as_ref().expect("not closed").wait(&mut self.events, limit) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Looks again and again, for a while; whether there was something.
    #[cold]
    fn spin(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        let end = Instant::now() + limit.map_or(self.spin, |limit| limit.min(self.spin));
        loop {
            self.wait(Some(Duration::ZERO))?;
            if !self.events.is_empty() || Instant::now() >= end {
                return Ok(!self.events.is_empty());
            }
            std::hint::spin_loop();
        }
    }

    /// Takes note of an event and makes the attempts that it allows.
    fn note(
        &mut self,
        events: u32,
        token: u64,
        table: &Table,
        batch: &mut Vec<(Key, Answer)>,
        after: &mut Aftermath,
    ) {
        let fd = token as u32 as RawFd;
        let readiness = self.readiness(fd);
        if readiness.generation != (token >> 32) as u32 || !readiness.is_registered() {
            return; // of a descriptor that was closed meanwhile
        }
        let ended = events & END_EVENTS != 0;
        let read_ended = ended || events & libc::EPOLLRDHUP as u32 != 0;
        for (direction, mask, ended) in
            [(Direction::Read, READ_EVENTS, read_ended), (Direction::Write, WRITE_EVENTS, ended)]
        {
            if events & mask != 0 || ended {
                let side = self.readiness(fd).side(direction);
                side.ready = true;
                side.ended |= ended;
                side.urgent |= events & libc::EPOLLPRI as u32 != 0;
                if side.queue.first.is_some() {
                    self.attempt(fd, direction, table, batch, after);
                } else if side.watch == Watch::Level {
                    self.take_edges(fd);
                }
            }
        }
    }

    fn attempt_now(&mut self, key: Key, table: &Table, batch: &mut Vec<(Key, Answer)>) {
        match table.with(key, |op| op.attempt()) {
            Some(Attempt::Complete(answer) | Attempt::Drained(answer)) => batch.push((key, answer)),
            Some(Attempt::Wait | Attempt::Later | Attempt::Tell { .. }) => self.now.push_back(key),
            None => {}
        }
    }

    /// Makes attempts for one direction until it is not ready any more or nobody waits for it.
    fn attempt(
        &mut self,
        fd: RawFd,
        direction: Direction,
        table: &Table,
        batch: &mut Vec<(Key, Answer)>,
        after: &mut Aftermath,
    ) {
        let Some(readiness) = self.fds.get_mut(fd as usize) else { return };
        let side = readiness.side(direction);
        let mut shots = 0;
        loop {
            let Some(key) = side.queue.first.filter(|_| side.ready) else { return };
            if shots == SHOTS_MAX || batch.len() >= BATCH_MAX {
                break;
            }
            shots += 1;
            let (watch, until_empty) = (side.watch, side.says_more());
            let attempt = table.with(key, |op| {
                let attempt = op.attempt();
                if let Attempt::Tell { again } = attempt
                    && (watch == Watch::Edges || watch == Watch::Level && !again)
                {
                    op.tell(until_empty, after);
                }
                attempt
            });
            let is_drained = matches!(attempt, Some(Attempt::Drained(_)));
            match attempt {
                Some(Attempt::Complete(answer) | Attempt::Drained(answer)) => {
                    if !answer.more() {
                        side.queue.pop();
                    }
                    side.ready = !is_drained || side.says_more();
                    batch.push((key, answer));
                }
                // It stays ready: who tries another way finds out by himself whether it is.
                Some(Attempt::Tell { again }) => match watch {
                    Watch::Level if again => return self.take_edges(fd),
                    Watch::Level | Watch::Edges => return,
                    Watch::No => match self.watch_for(fd, direction, true) {
                        Ok(()) => return, // an event will say whether it is ready
                        Err(_) => {
                            table.with(key, |op| op.cannot_be_told());
                            break;
                        }
                    },
                },
                Some(Attempt::Wait) => {
                    side.ready = false;
                    match side.watch {
                        Watch::Edges => return,
                        Watch::Level if shots > 1 => return,
                        Watch::Level => return self.take_edges(fd),
                        Watch::No => {}
                    }
                    // (As for a stream: that is right for all.)
                    let Err(error) = self.watch_for(fd, direction, true) else { return };
                    return self.refuse(fd, direction, &error, batch);
                }
                Some(Attempt::Later) => break,
                None => side.queue.pop(),
            }
        }
        self.due.push_back((fd, direction));
    }

    /// It cannot be waited for: no memory, too many watches, or no such thing as readiness.
    #[cold]
    fn refuse(&mut self, fd: RawFd, direction: Direction, error: &io::Error, batch: &mut Vec<(Key, Answer)>) {
        let side = self.readiness(fd).side(direction);
        if let Some(key) = side.queue.first {
            side.queue.pop();
            batch.push((key, Answer::once(-error.raw_os_error().unwrap_or(libc::EIO))));
        }
        side.ready = true; // so that the others hear the same
        self.due.push_back((fd, direction));
    }
}
