//! The state of one loop, and which loop runs on this thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::driver::{Driver, Key, Metrics, Wait};
use crate::runtime::Owner;
use crate::runtime::budget;
use crate::runtime::calls::Callback;
use crate::runtime::clock::{Clock, GRACE};
use crate::runtime::exception::Exceptions;
use crate::runtime::here;
use crate::runtime::inspect::{TaskFactory, TaskInfo};
use crate::runtime::locals::Locals;
use crate::runtime::polling::{self, Polled, Suspicion};
use crate::runtime::readiness::Readiness;
use crate::runtime::remote::{self, Remote};
use crate::runtime::scope::{NONE, Scopes};
use crate::runtime::task::{self, Info, Run, Task, contain};
use crate::runtime::timer::{Target, TimerKey, Timers};
use crate::runtime::waker::{TASKS_MAX, TaskKey};

/// What is ready to run, in order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ready {
    Task(u32),
    Call(u32),
    /// To tell those who watch descriptors.
    Watched,
}

struct Entry {
    generation: u32,
    /// Its scope.
    root: u32,
    /// In the ready queue already.
    queued: bool,
    /// `None` for the main future, which whoever runs the loop polls.
    task: Option<Rc<dyn Run>>,
}

/// The slot of the main future.
const MAIN: u32 = 0;
/// The most tasks and callbacks that run before I/O is looked at again.
const RUN_MAX: usize = 1024;
/// So many of them run before that if there are, one round after the other: tasks that hand something to each other need
/// no I/O in between.
const RUN_MIN: usize = 32;
/// The most timers that fire in one turn.
const FIRE_MAX: usize = 1024;

/// The state of one loop.
pub(crate) struct Core {
    pub(crate) driver: Rc<Driver>,
    pub(crate) remote: &'static Remote,
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    tasks: RefCell<Slab<Entry>>,
    spawned: Cell<u32>,
    pub(super) ready: RefCell<VecDeque<Ready>>,
    /// How many were taken from `ready` so far.
    taken: Cell<u64>,
    pub(super) timers: RefCell<Timers>,
    pub(super) calls: RefCell<Slab<Callback>>,
    pub(super) calls_made: Cell<u64>,
    pub(crate) running: Cell<bool>,
    pub(crate) stopping: Cell<bool>,
    pub(crate) closed: Cell<bool>,
    /// The main future waits for the ends of all tasks.
    pub(crate) ending: Cell<bool>,
    main_waker: OnceCell<Waker>,
    /// How many waits for threads there are, which the driver does not know of.
    elsewhere: Cell<usize>,
    pub(crate) locals: Locals,
    main_info: Info,
    pub(crate) task_factory: RefCell<Option<TaskFactory>>,
    pub(super) scopes: RefCell<Scopes>,
    /// Cancelled scopes whose bodies an operation will move, each with the operation.
    pub(super) watched: RefCell<Vec<(u32, Key)>>,
    pub(super) readiness: Readiness,
    pub(crate) exceptions: Exceptions,
    /// Whoever may close the loop.
    pub(super) owner: OnceCell<Weak<Owner>>,
}

/// Counts a wait for something that happens in another thread: a virtual clock does not jump over it.
pub(crate) struct Elsewhere(Rc<Core>);

impl Elsewhere {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        core.elsewhere.set(core.elsewhere.get() + 1);
        Self(core.clone())
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.0
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
    let scope = here::enter_loop(Some(core));
    Entered { before: CURRENT.with(|current| current.replace(Some(core.clone()))), scope: Some(scope) }
}

pub(crate) struct Entered {
    before: Option<Rc<Core>>,
    scope: Option<here::InLoop>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        let entered = CURRENT.with(|current| current.replace(before));
        drop(entered); // outside the borrow
        drop(self.scope.take()); // of the loop before, so after that one is back
    }
}

/// Whether `core` is the loop that runs on this thread.
#[inline]
pub(crate) fn is_current(core: &Core) -> bool {
    CURRENT.with(|current| {
        current.borrow().as_ref().is_some_and(|current| std::ptr::eq(&raw const **current, core))
    })
}

/// Wakes a task if its loop runs on this thread.
#[inline]
pub(crate) fn wake_here(key: TaskKey) -> bool {
    CURRENT.with(|current| match &*current.borrow() {
        Some(core) if core.remote.id == key.loop_id => {
            core.wake(key.slot, Some(key.generation));
            true
        }
        _ => false,
    })
}

impl Core {
    pub(crate) fn new(
        driver: Rc<Driver>,
        (remote, epoch): (&'static Remote, u64),
        clock: Clock,
        debug: bool,
    ) -> Rc<Self> {
        let core = Self {
            driver,
            remote,
            epoch,
            clock,
            tasks: RefCell::default(),
            spawned: Cell::new(0),
            ready: RefCell::default(),
            taken: Cell::new(0),
            timers: RefCell::default(),
            calls: RefCell::default(),
            calls_made: Cell::new(0),
            running: Cell::new(false),
            stopping: Cell::new(false),
            closed: Cell::new(false),
            ending: Cell::new(false),
            main_waker: OnceCell::new(),
            elsewhere: Cell::new(0),
            locals: Locals::default(),
            main_info: Info::new(Location::caller(), None),
            task_factory: RefCell::default(),
            scopes: RefCell::default(),
            watched: RefCell::default(),
            readiness: Readiness::default(),
            exceptions: Exceptions::new(debug),
            owner: OnceCell::new(),
        };
        *core.main_info.name.borrow_mut() = Some("main".into());
        let key = core.insert(None, &core.main_info, NONE).expect("the first slot is free");
        debug_assert_eq!(key.slot, MAIN);
        core.main_waker.get_or_init(|| key.waker());
        Rc::new(core)
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let tasks = self.task_count();
        let of_driver = self.driver.metrics();
        let in_flight = of_driver.in_flight + self.elsewhere.get();
        let (scopes, waits) = self.scopes.borrow().counts();
        // One is the main future's.
        let scopes = scopes - 1;
        Metrics { tasks, scopes, waits, timers: self.timers.borrow().len(), in_flight, ..of_driver }
    }

    // ---- tasks ----

    /// Makes a slot for a task and a scope for what it does, under the scope `parent`.
    fn insert(&self, task: Option<Rc<dyn Run>>, info: &Info, parent: u32) -> Option<TaskKey> {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.len() == TASKS_MAX {
            return None;
        }
        let generation = self.spawned.get().wrapping_add(1) & TaskKey::GENERATION_MASK;
        self.spawned.set(generation);
        let slot = tasks.insert(Entry { generation, root: NONE, queued: false, task }) as u32;
        drop(tasks);
        let root = self.enter_root(slot, parent);
        info.root.set(root);
        self.tasks.borrow_mut()[slot as usize].root = root;
        self.remote.ensure(slot);
        Some(TaskKey { loop_id: self.remote.id, slot, generation })
    }

    /// What is known about a task that is made now.
    pub(crate) fn new_info(&self, spawned_at: &'static Location<'static>) -> Info {
        let info = self.with_info(here::task(), |parent| {
            let info = Info::new(spawned_at, Some(parent.id));
            info.values.set(parent.inherited());
            info
        });
        info.unwrap_or_else(|| Info::new(spawned_at, None))
    }

    pub(crate) fn spawn<F>(
        self: &Rc<Self>,
        future: F,
        spawned_at: &'static Location<'static>,
    ) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let info = self.new_info(spawned_at);
        if self.closed.get() {
            return Task::refused(self, info);
        }
        let (task, handle) = task::new(self, future, info);
        self.start(task, NONE);
        handle
    }

    /// Takes a task in, its scope under `parent`, and makes it ready.
    pub(crate) fn start(&self, task: Rc<dyn Run>, parent: u32) {
        let info = task.clone();
        let key = self.insert(Some(task), info.info(), parent).expect("a loop holds at most 2^26 tasks");
        self.wake(key.slot, Some(key.generation));
        let factory = self.task_factory.borrow().clone();
        if let Some(factory) = factory {
            self.tell_factory(&factory, key.slot);
        }
    }

    #[cold]
    fn tell_factory(&self, factory: &TaskFactory, slot: u32) {
        if let Some(info) = TaskInfo::of(self, slot) {
            factory(&info);
        }
    }

    /// Calls `f` with what is known about the task of `slot`.
    pub(crate) fn with_info<R>(&self, slot: u32, f: impl FnOnce(&Info) -> R) -> Option<R> {
        if slot == MAIN {
            return Some(f(&self.main_info));
        }
        let task = self.tasks.borrow().get(slot as usize)?.task.clone()?;
        Some(f(task.info()))
    }

    /// Tasks that are not over, without the main one.
    pub(crate) fn task_count(&self) -> usize {
        self.tasks.borrow().len() - 1
    }

    /// Changes with each task that is spawned.
    pub(crate) fn spawned(&self) -> u32 {
        self.spawned.get()
    }

    /// Asks each task to end that was not asked yet.
    pub(crate) fn cancel_tasks(&self, message: &str) {
        for slot in self.task_slots() {
            let root = self.with_info(slot, |info| info.root.get());
            if let Some(root) =
                root.filter(|root| slot != MAIN && *root != NONE && self.cancel_requests(*root) == 0)
            {
                self.cancel_scope(root, Some(message.into()));
            }
        }
    }

    /// The slots of all tasks, the main one first.
    pub(crate) fn task_slots(&self) -> Vec<u32> {
        self.tasks.borrow().iter().map(|(slot, _)| slot as u32).collect()
    }

    /// Whether a task is in the ready queue.
    pub(crate) fn is_queued(&self, slot: u32) -> bool {
        self.tasks.borrow().get(slot as usize).is_some_and(|entry| entry.queued)
    }

    /// Makes the task of `slot` ready, if it is still the one meant.
    #[inline]
    pub(super) fn wake(&self, slot: u32, generation: Option<u32>) {
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
            (entry.generation, entry.root, entry.task.clone())
        });
        let Some((generation, root, Some(task))) = found else { return };
        let key = TaskKey { loop_id: self.remote.id, slot, generation };
        budget::refill();
        let here = here::enter_task(self, slot, root, key.to_bits());
        let begin = self.begin_measure();
        let over = task.run(self, &mut Context::from_waker(&key.waker()));
        drop(here);
        self.end_measure(begin, task.info());
        if over {
            here::take_what();
            self.leave_root(task.info());
            let gone = self.tasks.borrow_mut().try_remove(slot as usize);
            // Outside the borrow: a result that nobody fetches is dropped here.
            contain(|| drop((gone, task)));
            if self.ending.get() {
                self.wake_main();
            }
        }
    }

    // ---- timers ----

    /// The wait of `slot` is woken at `at`.
    pub(crate) fn insert_timer(&self, at: Instant, wait: u32) -> TimerKey {
        self.timers.borrow_mut().insert(at, Target::Wait(wait))
    }

    /// Whether a timer is still to fire.
    pub(crate) fn is_timer_armed(&self, key: TimerKey) -> bool {
        self.timers.borrow().contains(key)
    }

    /// The scope of `slot` is cancelled at `at`.
    pub(crate) fn insert_deadline(&self, at: Instant, slot: u32) -> TimerKey {
        self.timers.borrow_mut().insert(at, Target::Scope(slot))
    }

    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        self.timers.borrow_mut().cancel(key);
    }

    fn fire_due(&self) {
        if self.timers.borrow().next().is_none() {
            return;
        }
        let now = self.clock.now();
        for _ in 0..FIRE_MAX {
            let due = self.timers.borrow_mut().take_due(now);
            match due {
                Some(Target::Wait(slot)) => self.wake_wait(slot),
                Some(Target::Call(slot)) => self.ready.borrow_mut().push_back(Ready::Call(slot)),
                Some(Target::Scope(slot)) => self.deadline_passed(slot),
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
            self.call_soon(call, None);
        }
    }

    /// Runs what is ready, and what becomes ready by that, until so much has run that a look at I/O is worth its price.
    /// `main` polls the main future when its turn comes; true if that is done.
    fn run_ready(&self, main: &mut dyn FnMut() -> bool) -> bool {
        let mut count = 0;
        while count < RUN_MIN && !self.ready.borrow().is_empty() {
            // One round: at most as much as there was at its beginning.
            let round = self.ready.borrow().len().min(RUN_MAX);
            for _ in 0..round {
                let next = self.ready.borrow_mut().pop_front();
                self.taken.set(self.taken.get() + 1);
                match next {
                    Some(Ready::Task(MAIN)) => {
                        self.tasks.borrow_mut()[MAIN as usize].queued = false;
                        if main() {
                            return true;
                        }
                    }
                    Some(Ready::Task(slot)) => self.run_task(slot),
                    Some(Ready::Call(slot)) => self.run_call(slot),
                    Some(Ready::Watched) => self.tell_watchers(),
                    None => break,
                }
            }
            count += round;
            // What was asked to stop ends with the round.
            if self.stopping.get() {
                break;
            }
        }
        false
    }

    /// The number of the next thing to run; each that becomes ready has the next number.
    pub(crate) fn ready_begin(&self) -> u64 {
        self.taken.get()
    }

    /// The number that what becomes ready next will have.
    pub(crate) fn ready_end(&self) -> u64 {
        self.taken.get() + self.ready.borrow().len() as u64
    }

    /// Whether the next turn has something to do, without a look at the kernel.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || self.readiness.is_ripe()
    }

    /// When the next timer fires.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().next()
    }

    /// Submits, waits if there is nothing to run, and delivers completions.
    fn poll_driver(&self, may_wait: bool) -> io::Result<()> {
        if !may_wait || self.stopping.get() || !self.ready.borrow().is_empty() {
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

    /// One turn: what other threads want, due timers, what is ready, I/O. True if `main` said that it is done.
    pub(crate) fn turn(self: &Rc<Self>, may_wait: bool, main: &mut dyn FnMut() -> bool) -> io::Result<bool> {
        self.take_news();
        self.look_at_watched_descriptors()?;
        self.fire_due();
        if self.run_ready(main) {
            return Ok(true);
        }
        self.poll_driver(may_wait)?;
        self.look_after_watched();
        Ok(false)
    }

    /// Polls the main future in its scope.
    pub(crate) fn poll_main<T>(
        &self,
        suspicion: &mut Suspicion,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Polled<T> {
        budget::refill();
        let (waker, root) = (self.main_waker(), self.main_info.root.get());
        let here = here::enter_task(self, MAIN, root, waker.data().addr() as u64);
        let begin = self.begin_measure();
        let polled =
            polling::poll_here(self, root, suspicion, &mut Context::from_waker(waker), |cx| poll(cx));
        self.main_info.waits_for.set(here::take_what());
        drop(here);
        self.end_measure(begin, &self.main_info);
        polled
    }

    pub(crate) fn wake_main(&self) {
        self.wake(MAIN, None);
    }

    fn main_waker(&self) -> &Waker {
        self.main_waker.get().expect("set when the loop was made")
    }

    /// Ends everything: tasks, callbacks, timers, operations. Returns how many operations had to be leaked.
    pub(crate) fn shut_down(self: &Rc<Self>, drain: Duration) -> usize {
        if self.closed.replace(true) {
            return 0;
        }
        let entered = enter(self);
        self.tell_of_pending(self.task_slots().into_iter().filter(|slot| *slot != MAIN));
        // From here on `spawn` is refused, so this ends: what the destructors of tasks do makes no new ones.
        let tasks: Vec<_> =
            self.tasks.borrow_mut().iter_mut().filter_map(|(_, entry)| entry.task.take()).collect();
        for task in tasks {
            contain(|| task.abort());
            self.leave_root(task.info());
            contain(|| drop(task));
        }
        self.tasks.borrow_mut().retain(|slot, _| slot == MAIN as usize);
        let calls: Vec<_> = self.calls.borrow_mut().drain().collect();
        self.timers.borrow_mut().clear();
        self.readiness.clear();
        let wakers = self.scopes.borrow_mut().take_wakers();
        self.ready.borrow_mut().clear();
        calls.into_iter().for_each(|call| contain(|| drop(call)));
        wakers.into_iter().for_each(|waker| contain(|| drop(waker)));
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
