//! The state of one loop, and which loop runs on this thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::driver::{Driver, Metrics, Wait};
use crate::runtime::budget;
use crate::runtime::clock::{Clock, GRACE};
use crate::runtime::locals::Locals;
use crate::runtime::remote::{self, Remote};
use crate::runtime::task::{self, Info, Run, Task, TaskId, contain};
use crate::runtime::timer::{Target, TimerKey, Timers};
use crate::runtime::waker::{TASKS_MAX, TaskKey};

/// Names a callback of a loop; a stale key hits nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey {
    slot: u32,
    number: u64,
}

/// What is ready to run, in order.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Task(u32),
    Call(u32),
}

struct Entry {
    generation: u32,
    /// In the ready queue already.
    queued: bool,
    /// `None` for the main future, which whoever runs the loop polls.
    task: Option<Rc<dyn Run>>,
}

struct Callback {
    number: u64,
    call: Box<dyn FnOnce()>,
    timer: Option<TimerKey>,
}

/// The slot of the main future.
const MAIN: u32 = 0;
/// The most tasks and callbacks that run before I/O is looked at again.
const RUN_MAX: usize = 1024;
/// The most timers that fire in one turn.
const FIRE_MAX: usize = 1024;

pub(crate) struct Core {
    pub(crate) driver: Rc<Driver>,
    pub(crate) remote: &'static Remote,
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    tasks: RefCell<Slab<Entry>>,
    spawned: Cell<u32>,
    ready: RefCell<VecDeque<Ready>>,
    timers: RefCell<Timers>,
    calls: RefCell<Slab<Callback>>,
    calls_made: Cell<u64>,
    pub(crate) running: Cell<bool>,
    pub(crate) stopping: Cell<bool>,
    pub(crate) closed: Cell<bool>,
    main_woken: Cell<bool>,
    main_waker: OnceCell<Waker>,
    /// How many waits for threads there are, which the driver does not know of.
    elsewhere: Cell<usize>,
    pub(crate) locals: Locals,
}

/// Counts a wait for something that happens in another thread: a virtual clock does not jump over it.
pub(crate) struct Elsewhere(Rc<Core>);

impl Elsewhere {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        core.elsewhere.set(core.elsewhere.get() + 1);
        Self(core.clone())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.elsewhere.set(self.0.elsewhere.get() - 1);
    }
}

thread_local! {
    /// The loop that runs on this thread. Without a destructor (there is nothing to drop: `Entered` takes the loop out
    /// again), so looking is cheap, and allowed even while the thread ends.
    static CURRENT: ManuallyDrop<RefCell<Option<Rc<Core>>>> = const { ManuallyDrop::new(RefCell::new(None)) };
}

/// The loop that runs on this thread.
#[inline]
pub(crate) fn try_current() -> Option<Rc<Core>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// The loop that runs on this thread, or a panic that says what is missing.
#[track_caller]
pub(crate) fn current() -> Rc<Core> {
    try_current().expect("this function needs a running event loop: call it inside proactor::run or EventLoop::run_until_complete")
}

/// Puts `core` in as the current loop until the guard is dropped.
pub(crate) fn enter(core: &Rc<Core>) -> Entered {
    Entered { before: CURRENT.with(|current| current.replace(Some(core.clone()))) }
}

pub(crate) struct Entered {
    before: Option<Rc<Core>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        let entered = CURRENT.with(|current| current.replace(before));
        drop(entered); // outside the borrow
    }
}

/// Wakes a task if its loop runs on this thread.
#[inline]
pub(crate) fn wake_here(key: TaskKey) -> bool {
    match try_current() {
        Some(core) if core.remote.id == key.loop_id => {
            core.wake(key.slot, Some(key.generation));
            true
        }
        _ => false,
    }
}

impl Core {
    pub(crate) fn new(driver: Rc<Driver>, remote: &'static Remote, epoch: u64, clock: Clock) -> Rc<Self> {
        let core = Self {
            driver,
            remote,
            epoch,
            clock,
            tasks: RefCell::default(),
            spawned: Cell::new(0),
            ready: RefCell::default(),
            timers: RefCell::default(),
            calls: RefCell::default(),
            calls_made: Cell::new(0),
            running: Cell::new(false),
            stopping: Cell::new(false),
            closed: Cell::new(false),
            main_woken: Cell::new(false),
            main_waker: OnceCell::new(),
            elsewhere: Cell::new(0),
            locals: Locals::default(),
        };
        let key = core.insert(None).expect("the first slot is free");
        debug_assert_eq!(key.slot, MAIN);
        core.main_waker.get_or_init(|| key.waker());
        Rc::new(core)
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let tasks = self.tasks.borrow().len() - 1;
        let of_driver = self.driver.metrics();
        let in_flight = of_driver.in_flight + self.elsewhere.get();
        Metrics { tasks, timers: self.timers.borrow().len(), in_flight, ..of_driver }
    }

    // ---- tasks ----

    fn insert(&self, task: Option<Rc<dyn Run>>) -> Option<TaskKey> {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.len() == TASKS_MAX {
            return None;
        }
        let generation = self.spawned.get().wrapping_add(1) & TaskKey::GENERATION_MASK;
        self.spawned.set(generation);
        let slot = tasks.insert(Entry { generation, queued: false, task }) as u32;
        self.remote.ensure(slot);
        Some(TaskKey { loop_id: self.remote.id, slot, generation })
    }

    pub(crate) fn spawn<F>(&self, future: F, spawned_at: &'static Location<'static>) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = TaskId(IDS.fetch_add(1, Ordering::Relaxed));
        let info = Info { id, name: RefCell::default(), spawned_at };
        if self.closed.get() {
            return Task::refused(info);
        }
        let (task, handle) = task::new(future, info);
        let key = self.insert(Some(task)).expect("a loop holds at most 2^26 tasks");
        self.wake(key.slot, Some(key.generation));
        handle
    }

    /// Makes the task of `slot` ready, if it is still the one meant.
    #[inline]
    fn wake(&self, slot: u32, generation: Option<u32>) {
        if let Some(entry) = self.tasks.borrow_mut().get_mut(slot as usize)
            && generation.is_none_or(|generation| generation == entry.generation)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.borrow_mut().push_back(Ready::Task(slot));
        }
    }

    fn run_task(&self, slot: u32) {
        let found = self.tasks.borrow_mut().get_mut(slot as usize).map(|entry| {
            entry.queued = false;
            (entry.generation, entry.task.clone())
        });
        let Some((generation, task)) = found else { return };
        let Some(task) = task else {
            self.main_woken.set(true);
            return;
        };
        let waker = TaskKey { loop_id: self.remote.id, slot, generation }.waker();
        budget::refill();
        if task.run(&mut Context::from_waker(&waker)) {
            let gone = self.tasks.borrow_mut().try_remove(slot as usize);
            // Outside the borrow: a result that nobody fetches is dropped here.
            contain(|| drop((gone, task)));
        }
    }

    // ---- callbacks ----

    fn insert_call(&self, call: Box<dyn FnOnce()>) -> CallKey {
        let number = self.calls_made.get() + 1;
        self.calls_made.set(number);
        let slot = self.calls.borrow_mut().insert(Callback { number, call, timer: None }) as u32;
        CallKey { slot, number }
    }

    /// Makes `call` ready, after everything that is ready already.
    pub(crate) fn call_soon(&self, call: Box<dyn FnOnce()>) -> CallKey {
        let key = self.insert_call(call);
        self.ready.borrow_mut().push_back(Ready::Call(key.slot));
        key
    }

    pub(crate) fn call_at(&self, at: Instant, call: Box<dyn FnOnce()>) -> CallKey {
        let key = self.insert_call(call);
        let timer = self.timers.borrow_mut().insert(at, Target::Call(key.slot));
        if let Some(callback) = self.calls.borrow_mut().get_mut(key.slot as usize) {
            callback.timer = Some(timer);
        }
        key
    }

    /// Takes a callback back; false if it ran or was cancelled already.
    pub(crate) fn cancel_call(&self, key: CallKey) -> bool {
        let mut calls = self.calls.borrow_mut();
        let Some(callback) =
            calls.get_mut(key.slot as usize).filter(|callback| callback.number == key.number)
        else {
            return false;
        };
        let old = match callback.timer {
            Some(timer) if self.timers.borrow_mut().cancel(timer).is_some() => {
                calls.remove(key.slot as usize).call
            }
            // Its slot is in the ready queue and stays taken until it comes up there.
            _ => {
                callback.number = 0;
                std::mem::replace(&mut callback.call, Box::new(|| ()))
            }
        };
        drop(calls);
        drop(old); // user code, outside the borrow
        true
    }

    pub(crate) fn is_call_pending(&self, key: CallKey) -> bool {
        self.calls.borrow().get(key.slot as usize).is_some_and(|callback| callback.number == key.number)
    }

    fn run_call(&self, slot: u32) {
        let callback = self.calls.borrow_mut().try_remove(slot as usize);
        if let Some(callback) = callback {
            contain(callback.call);
        }
    }

    // ---- timers ----

    pub(crate) fn insert_timer(&self, at: Instant, waker: &Waker) -> TimerKey {
        let target = Target::Wake(waker.clone()); // foreign code, so before the borrow
        self.timers.borrow_mut().insert(at, target)
    }

    /// Whether a timer is still to fire; then it wakes `waker` from now on.
    pub(crate) fn poll_timer(&self, key: TimerKey, waker: &Waker) -> bool {
        let wakes = self.timers.borrow().wakes(key, waker);
        if wakes == Some(false) {
            let waker = waker.clone();
            let old = self.timers.borrow_mut().set_waker(key, waker);
            drop(old);
        }
        wakes.is_some()
    }

    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        let target = self.timers.borrow_mut().cancel(key);
        drop(target); // outside the borrow
    }

    fn fire_due(&self) {
        if self.timers.borrow().next().is_none() {
            return;
        }
        let now = self.clock.now();
        for _ in 0..FIRE_MAX {
            let due = self.timers.borrow_mut().take_due(now);
            match due {
                Some(Target::Wake(waker)) => waker.wake(),
                Some(Target::Call(slot)) => self.ready.borrow_mut().push_back(Ready::Call(slot)),
                None => return,
            }
        }
    }

    // ---- the loop ----

    fn take_news(self: &Rc<Self>) {
        if !self.remote.alarm.take_news() {
            return;
        }
        let calls = self.remote.take(|index| {
            self.wake(index, None);
            // Beyond the bitmap's size slots share bits.
            let slots = self.tasks.borrow().capacity() as u32;
            (1..)
                .map(|n| index + n * remote::BITS)
                .take_while(|slot| *slot < slots)
                .for_each(|s| self.wake(s, None));
        });
        for call in calls {
            self.call_soon(call);
        }
    }

    /// Runs what is ready, at most as much as there was at the beginning.
    fn run_ready(&self) {
        let count = self.ready.borrow().len().min(RUN_MAX);
        for _ in 0..count {
            let next = self.ready.borrow_mut().pop_front();
            match next {
                Some(Ready::Task(slot)) => self.run_task(slot),
                Some(Ready::Call(slot)) => self.run_call(slot),
                None => return,
            }
        }
    }

    /// Submits, waits if there is nothing to run, and delivers completions.
    fn poll_driver(&self, may_wait: bool) -> io::Result<()> {
        if !may_wait || !self.ready.borrow().is_empty() {
            return self.driver.poll(Wait::No);
        }
        let next = self.timers.borrow().next();
        match next {
            None => self.driver.poll(Wait::Forever),
            Some(at) if self.clock.is_virtual() => self.poll_virtual(at),
            Some(at) if at <= self.clock.now() => self.driver.poll(Wait::No),
            Some(at) => self.driver.poll(Wait::Until(at)),
        }
    }

    /// A virtual clock jumps to the next deadline when everything waits for it.
    fn poll_virtual(&self, next: Instant) -> io::Result<()> {
        let before = self.driver.completions();
        let is_busy = self.driver.in_flight() + self.elsewhere.get() > 0;
        let grace = if is_busy { Wait::Until(Instant::now() + GRACE) } else { Wait::No };
        self.driver.poll(grace)?;
        let idle = self.ready.borrow().is_empty()
            && self.driver.completions() == before
            && !self.remote.alarm.has_news();
        if idle {
            self.clock.jump(next);
        }
        Ok(())
    }

    /// One turn: what other threads want, due timers, ready tasks, I/O.
    pub(crate) fn turn(self: &Rc<Self>, may_wait: impl Fn() -> bool) -> io::Result<()> {
        self.take_news();
        self.fire_due();
        self.run_ready();
        self.poll_driver(may_wait())
    }

    pub(crate) fn main_waker(&self) -> &Waker {
        self.main_waker.get().expect("set when the loop was made")
    }

    /// Whether the main future was woken since the last call.
    pub(crate) fn take_main_woken(&self) -> bool {
        self.main_woken.replace(false)
    }

    pub(crate) fn is_main_woken(&self) -> bool {
        self.main_woken.get()
    }

    /// Ends everything: tasks, callbacks, timers, operations. Returns how many operations had to be leaked.
    pub(crate) fn shut_down(self: &Rc<Self>, drain: Duration) -> usize {
        if self.closed.replace(true) {
            return 0;
        }
        let entered = enter(self);
        // From here on `spawn` is refused, so this ends: what the destructors of tasks do makes no new ones.
        let tasks: Vec<_> =
            self.tasks.borrow_mut().iter_mut().filter_map(|(_, entry)| entry.task.take()).collect();
        for task in tasks {
            contain(|| task.abort());
            contain(|| drop(task));
        }
        self.tasks.borrow_mut().retain(|slot, _| slot == MAIN as usize);
        let calls: Vec<_> = self.calls.borrow_mut().drain().collect();
        let timers = self.timers.borrow_mut().take_all();
        self.ready.borrow_mut().clear();
        calls.into_iter().for_each(|call| contain(|| drop(call)));
        timers.into_iter().for_each(|timer| contain(|| drop(timer)));
        self.locals.take_all().into_iter().for_each(|local| contain(|| drop(local)));
        let leaked = self.driver.shut_down(drain);
        self.remote.close().into_iter().for_each(|late| contain(|| drop(late)));
        drop(entered);
        leaked
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("driver", &self.driver).finish_non_exhaustive()
    }
}
