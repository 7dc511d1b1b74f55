//! Descriptors that the program owns, and who is told when they can be read or written.
//!
//! All of them are in one epoll set of the loop, level-triggered, and the driver polls the set itself, one poll at a
//! time: again when everybody was told, so what is left unread is told again in the next turn, beside everything else.
//!
//! What has to be known about epoll here:
//! - A registration belongs to an open file and a number. The set holds no file open: with the last descriptor of the
//!   file the kernel drops it, unasked and untold. So what is written down here may be out of date, and each use of a
//!   number first asks the kernel (`EPOLL_CTL_MOD`) whether the file is still the one that was registered.
//! - A file that has another descriptor keeps its registration when the registered number is closed, and nobody can
//!   remove it by that number any more. Its token is no longer known then, and the whole set is made anew.
//! - A poll of each descriptor by the ring would be simpler, but would hold the file open: the peer of a socket that was
//!   closed meanwhile would not see its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::driver::Key;
use crate::error::{Busy, Closed};
use crate::op::Descriptor;
use crate::op::poll::PollReadable;
use crate::runtime::calls::GivenAt;
use crate::runtime::core::{Core, Ready};
use crate::runtime::scope::What;
use crate::runtime::task::contain;
use crate::runtime::wait::{Waiter, check};
use crate::sys::epoll::Epoll;

/// The most events that are looked at in a turn.
const EVENTS_MAX: usize = 1024;

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    fn mask(self) -> u32 {
        match self {
            Self::Read => libc::EPOLLIN as u32,
            Self::Write => libc::EPOLLOUT as u32,
        }
    }

    /// Whether `events` concern it: an end or an error concerns both.
    fn is_in(self, events: u32) -> bool {
        let other = match self {
            Self::Read => libc::EPOLLOUT,
            Self::Write => libc::EPOLLIN,
        };
        events & !(other as u32) != 0
    }

    fn busy(self) -> Busy {
        match self {
            Self::Read => Busy::new("waiting to read from"),
            Self::Write => Busy::new("waiting to write to"),
        }
    }
}

/// A function that is called whenever the descriptor is ready.
pub(crate) type Callback = Rc<RefCell<dyn FnMut()>>;

/// Who is told.
#[derive(Clone)]
enum Watcher {
    Callback(Callback, GivenAt),
    /// Once.
    Wait(Rc<Told>),
}

/// What a waiting future was told.
#[derive(Default)]
struct Told {
    answer: Cell<Option<Result<(), Closed>>>,
    waiter: Waiter,
}

impl Told {
    fn tell(&self, answer: Result<(), Closed>) {
        self.answer.set(Some(answer));
        self.waiter.wake();
    }
}

impl Watcher {
    /// The descriptor is gone.
    fn close(self, what: &'static str) {
        match self {
            Self::Callback(callback, _) => contain(|| drop(callback)),
            Self::Wait(told) => told.tell(Err(Closed::new(what))),
        }
    }
}

struct Side {
    /// Counted up with each that is made.
    number: u64,
    watcher: Watcher,
}

/// One registration of the set.
#[derive(Default)]
struct Watched {
    token: u64,
    read: Option<Side>,
    write: Option<Side>,
}

impl Watched {
    fn side(&mut self, direction: Direction) -> &mut Option<Side> {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    fn mask(&self) -> u32 {
        let of = |side: &Option<Side>, direction: Direction| side.as_ref().map_or(0, |_| direction.mask());
        of(&self.read, Direction::Read) | of(&self.write, Direction::Write)
    }

    fn close(self, what: &'static str) {
        [self.read, self.write].into_iter().flatten().for_each(|side| side.watcher.close(what));
    }
}

/// Names one that is told; a stale key hits nothing.
#[derive(Debug, Clone, Copy)]
struct WatchKey {
    fd: RawFd,
    direction: Direction,
    number: u64,
}

/// The watched descriptors of a loop.
#[derive(Default)]
pub(crate) struct Readiness {
    /// Made at the first use.
    set: RefCell<Option<Epoll<Rc<Descriptor>>>>,
    table: RefCell<HashMap<RawFd, Watched>>,
    made: Cell<u64>,
    poll: Cell<Option<Key>>,
    /// The set had something when it was polled.
    ripe: Rc<Cell<bool>>,
    /// The events of a turn, until everybody was told.
    events: RefCell<Vec<libc::epoll_event>>,
    /// Who came later is not told of these events.
    horizon: Cell<u64>,
}

fn token(fd: RawFd, number: u64) -> u64 {
    number << 32 | u64::from(fd as u32)
}

fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this descriptor cannot be watched: regular files and folders are always ready (EPERM)",
        ),
        _ => error,
    }
}

impl Readiness {
    fn next_number(&self) -> u64 {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    /// The set; made if there is none. An error for a loop that is gone, and for a forked child, to which the set does
    /// not belong.
    fn set(&self, core: &Core) -> io::Result<Epoll<Rc<Descriptor>>> {
        if core.closed.get() || core.driver.is_closed() {
            return Err(Closed::new("the event loop").into());
        }
        if let Some(set) = &*self.set.borrow() {
            return Ok(set.clone());
        }
        let set = Epoll::new()?.kept_in(|fd| Rc::new(Descriptor::new(&core.driver, fd)));
        *self.set.borrow_mut() = Some(set.clone());
        Ok(set)
    }

    /// Whether `fd` is still the file that was registered. If not, what is known of it is taken out.
    fn is_alive(&self, set: &Epoll<Rc<Descriptor>>, fd: RawFd) -> (bool, Option<Watched>) {
        let mut table = self.table.borrow_mut();
        let Some(watched) = table.get(&fd) else { return (false, None) };
        match set.modify(fd, watched.mask(), watched.token) {
            Ok(()) => (true, None),
            Err(_) => (false, table.remove(&fd)),
        }
    }

    /// From now on `watcher` is told. Returns the callback that it replaces.
    fn observe(
        &self,
        core: &Core,
        fd: RawFd,
        direction: Direction,
        watcher: Watcher,
    ) -> io::Result<(WatchKey, Option<Side>)> {
        let set = self.set(core)?;
        let (is_alive, dead) = self.is_alive(&set, fd);
        if let Some(dead) = dead {
            dead.close("the descriptor");
        }
        let number = self.next_number();
        let key = WatchKey { fd, direction, number };
        let mut table = self.table.borrow_mut();
        let old = if is_alive {
            let watched = table.get_mut(&fd).expect("it was found");
            let both_call = |side: &Side| {
                matches!((&side.watcher, &watcher), (Watcher::Callback(..), Watcher::Callback(..)))
            };
            if watched.side(direction).as_ref().is_some_and(|side| !both_call(side)) {
                return Err(direction.busy().into());
            }
            set.modify(fd, watched.mask() | direction.mask(), watched.token)?;
            watched.side(direction).replace(Side { number, watcher })
        } else {
            let token = token(fd, number);
            match set.add(fd, direction.mask(), token) {
                // A file that was here before, and came back to its number by dup(2).
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => set.modify(fd, direction.mask(), token),
                other => other,
            }
            .map_err(explain)?;
            let mut watched = Watched { token, ..Watched::default() };
            *watched.side(direction) = Some(Side { number, watcher });
            table.insert(fd, watched);
            None
        };
        drop(table);
        self.arm(core);
        Ok((key, old))
    }

    /// Nobody is told any more: of `number` only, if there is one. Returns who was.
    fn release(&self, core: &Core, fd: RawFd, direction: Direction, number: Option<u64>) -> Option<Side> {
        let mut table = self.table.borrow_mut();
        let watched = table.get_mut(&fd)?;
        let side = watched.side(direction);
        if number.is_some_and(|number| side.as_ref().is_none_or(|side| side.number != number)) {
            return None;
        }
        let old = side.take()?;
        let (mask, token) = (watched.mask(), watched.token);
        if mask == 0 {
            table.remove(&fd);
        }
        let is_empty = table.is_empty();
        drop(table);
        // A child after fork(2) leaves the parent's set alone.
        if let Ok(set) = self.set(core) {
            // Errors mean that the kernel has dropped the registration already.
            let _ = if mask == 0 { set.remove(fd) } else { set.modify(fd, mask, token) };
        }
        if is_empty && let Some(key) = self.poll.take() {
            core.driver.cancel(key);
        }
        Some(old)
    }

    /// Has the set polled, if anybody is to be told.
    fn arm(&self, core: &Core) {
        let is_armed = self.poll.get().is_some_and(|key| core.driver.is_in_flight(key));
        if is_armed || self.ripe.get() || self.table.borrow().is_empty() || !self.events.borrow().is_empty() {
            return;
        }
        if let Some(set) = &*self.set.borrow() {
            let op = PollReadable::new(set.fd().clone(), self.ripe.clone());
            self.poll.set(core.driver.submit_detached(op));
        }
    }

    /// Asks the set what is ready; true if anybody has to be told.
    fn collect(&self) -> io::Result<bool> {
        let Some(set) = self.set.borrow().clone() else { return Ok(false) };
        let mut events = self.events.borrow_mut();
        events.reserve(EVENTS_MAX);
        set.wait(&mut events, Some(Duration::ZERO))?;
        self.horizon.set(self.made.get());
        let table = self.table.borrow();
        let before = events.len();
        events.retain(|event| {
            let (fd, token) = (event.u64 as u32 as RawFd, event.u64);
            table.get(&fd).is_some_and(|watched| watched.token == token)
        });
        let has_strays = events.len() < before;
        let has_events = !events.is_empty();
        drop((table, events));
        if has_strays {
            // Nothing is lost: what is ready is so in the new set as well.
            self.events.borrow_mut().clear();
            self.renew(&set)?;
            return Ok(false);
        }
        Ok(has_events)
    }

    /// A registration that nobody can remove is in the set: moves the others into a new one.
    fn renew(&self, old: &Epoll<Rc<Descriptor>>) -> io::Result<()> {
        let driver = old.fd().driver().clone();
        if let Some(key) = self.poll.take() {
            driver.cancel(key);
        }
        let new = Epoll::new()?.kept_in(|fd| Rc::new(Descriptor::new(&driver, fd)));
        let mut dead = Vec::new();
        self.table.borrow_mut().retain(|fd, watched| {
            // Not a new file of the same number, which nobody has asked to watch.
            let is_alive = old.modify(*fd, watched.mask(), watched.token).is_ok()
                && new.add(*fd, watched.mask(), watched.token).is_ok();
            if !is_alive {
                dead.push(std::mem::take(watched));
            }
            is_alive
        });
        *self.set.borrow_mut() = Some(new);
        dead.into_iter().for_each(|watched| watched.close("the descriptor"));
        Ok(())
    }

    /// Whether somebody is to be told, as soon as the loop looks.
    pub(super) fn is_ripe(&self) -> bool {
        self.ripe.get()
    }

    /// Takes everything out, for a loop that ends.
    pub(super) fn clear(&self) {
        let table = std::mem::take(&mut *self.table.borrow_mut());
        table.into_values().for_each(|watched| watched.close("the event loop"));
        drop(self.set.take());
    }
}

impl Core {
    /// Called once in each turn: if there is something in the set, telling becomes ready.
    #[inline]
    pub(super) fn look_at_watched_descriptors(&self) -> io::Result<()> {
        if self.readiness.ripe.replace(false) { self.collect_watched() } else { Ok(()) }
    }

    #[cold]
    fn collect_watched(&self) -> io::Result<()> {
        if self.readiness.collect()? {
            self.ready.borrow_mut().push_back(Ready::Watched);
        } else {
            self.readiness.arm(self);
        }
        Ok(())
    }

    /// Tells everybody of the events of this turn.
    pub(super) fn tell_watchers(&self) {
        let mut next = 0;
        loop {
            let Some(event) = self.readiness.events.borrow().get(next).copied() else { break };
            next += 1;
            for direction in [Direction::Read, Direction::Write] {
                if direction.is_in(event.events) {
                    self.tell_watcher(event.u64 as u32 as RawFd, direction);
                }
            }
        }
        self.readiness.events.borrow_mut().clear();
        self.readiness.arm(self);
    }

    fn tell_watcher(&self, fd: RawFd, direction: Direction) {
        let watcher = {
            let mut table = self.readiness.table.borrow_mut();
            // Whoever was told before may have removed this one, or given the number to another file.
            let side = table.get_mut(&fd).and_then(|watched| watched.side(direction).as_ref());
            match side.filter(|side| side.number <= self.readiness.horizon.get()) {
                Some(side) => side.watcher.clone(),
                None => return,
            }
        };
        match watcher {
            Watcher::Callback(callback, given_at) => {
                self.run_callback(Some(given_at), || (*callback.borrow_mut())());
                contain(|| drop(callback));
            }
            Watcher::Wait(told) => {
                drop(self.readiness.release(self, fd, direction, None));
                told.tell(Ok(()));
            }
        }
    }

    /// Whether `fd` can be watched: if not, says why.
    pub(crate) fn can_watch(&self, fd: RawFd) -> io::Result<()> {
        let set = self.readiness.set(self)?;
        match set.add(fd, 0, 0) {
            Ok(()) => set.remove(fd),
            // It is watched already.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(e) => Err(explain(e)),
        }
    }

    /// Calls `callback` in each turn in which `fd` is ready, instead of the one before.
    pub(crate) fn add_watch(
        &self,
        fd: RawFd,
        direction: Direction,
        callback: Callback,
        given_at: GivenAt,
    ) -> io::Result<()> {
        let (_, old) = self.readiness.observe(self, fd, direction, Watcher::Callback(callback, given_at))?;
        contain(|| drop(old));
        Ok(())
    }

    /// Whether there was a callback.
    pub(crate) fn remove_watch(&self, fd: RawFd, direction: Direction) -> bool {
        let is_callback = {
            let mut table = self.readiness.table.borrow_mut();
            let side = table.get_mut(&fd).and_then(|watched| watched.side(direction).as_ref());
            side.is_some_and(|side| matches!(side.watcher, Watcher::Callback(..)))
        };
        if is_callback {
            let old = self.readiness.release(self, fd, direction, None);
            contain(|| drop(old));
        }
        is_callback
    }

    /// The descriptor will be closed: whoever waits for it is told so, and callbacks are removed.
    pub(crate) fn close_watches(&self, fd: RawFd) {
        let sides = [Direction::Read, Direction::Write].map(|d| self.readiness.release(self, fd, d, None));
        sides.into_iter().flatten().for_each(|side| side.watcher.close("the descriptor"));
    }
}

/// Waits until a descriptor is ready, once.
pub(crate) struct WaitReady {
    core: Rc<Core>,
    fd: RawFd,
    direction: Direction,
    entered: Option<(WatchKey, Rc<Told>)>,
}

impl WaitReady {
    pub(crate) fn new(core: Rc<Core>, fd: RawFd, direction: Direction) -> Self {
        Self { core, fd, direction, entered: None }
    }

    fn leave(&mut self) {
        if let Some((key, _told)) = self.entered.take() {
            drop(self.core.readiness.release(&self.core, key.fd, key.direction, Some(key.number)));
        }
    }
}

impl Future for WaitReady {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(answer) = this.entered.as_ref().and_then(|(_, told)| told.answer.take()) {
            this.entered = None;
            return Poll::Ready(answer.map_err(Into::into));
        }
        if let Err(cancelled) = ready!(check(cx)) {
            this.leave();
            return Poll::Ready(Err(cancelled.into()));
        }
        if this.entered.is_none() {
            let told = Rc::new(Told::default());
            let watcher = Watcher::Wait(told.clone());
            let (key, _) = this.core.readiness.observe(&this.core, this.fd, this.direction, watcher)?;
            this.entered = Some((key, told));
        }
        if let Some((_, told)) = &this.entered {
            told.waiter.register_for(
                cx,
                match this.direction {
                    Direction::Read => What(&"a descriptor to be readable"),
                    Direction::Write => What(&"a descriptor to be writable"),
                },
            );
        }
        Poll::Pending
    }
}

impl Drop for WaitReady {
    fn drop(&mut self) {
        self.leave();
    }
}
