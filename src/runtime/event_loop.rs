//! The event loop as a value: made by a builder, run, stopped, closed.

use std::cell::RefCell;
use std::env;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::driver::{Driver, DriverChoice, DriverReport, Metrics, Sizes, Wait, Waiting};
use crate::error::Closed;
use crate::runtime::clock::Clock;
use crate::runtime::core::{self, Core};
use crate::runtime::handle::LoopHandle;
use crate::runtime::polling::{Polled, Suspicion};
use crate::runtime::remote::Remote;
use crate::runtime::time::sleep;

/// How long a closing loop waits for the kernel to answer for the operations that are still in flight.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the tasks that are left have to end when the main future is done.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How an [`EventLoop`] shall be made.
///
/// # Examples
/// ```
/// use proactor::{DriverChoice, EventLoop};
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::builder().driver(DriverChoice::Epoll).build()?;
/// assert_eq!(event_loop.run_until_complete(async { 6 * 7 })?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    driver: DriverChoice,
    virtual_clock: bool,
    /// `None`: as `PROACTOR_DEBUG` says.
    debug: Option<bool>,
    sizes: Sizes,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            virtual_clock: false,
            debug: None,
            sizes: Sizes {
                ring_entries: 1024,
                buffer_size: 32 << 10,
                buffer_bytes_max: 128 << 20,
                waiting: Waiting::default(),
            },
        }
    }
}

impl Builder {
    /// Which driver to use. Default: [`DriverChoice::Auto`].
    pub fn driver(mut self, choice: DriverChoice) -> Self {
        self.driver = choice;
        self
    }

    /// A clock for tests: it stands still while anything can run, and jumps to the next deadline when everything
    /// waits. With real I/O in flight it waits 20 ms of real time for that before it jumps. Default: off.
    pub fn virtual_clock(mut self, on: bool) -> Self {
        self.virtual_clock = on;
        self
    }

    /// Entries of the submission queue, rounded up to a power of two, 8 to 16384. More operations than that in one
    /// turn cost another system call, not an error. Default: 1024.
    pub fn ring_entries(mut self, entries: u32) -> Self {
        self.sizes.ring_entries = entries;
        self
    }

    /// Bytes of each receive buffer, at least 256: the most that one chunk holds. Default: 32 KiB.
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.sizes.buffer_size = bytes.clamp(256, 1 << 30);
        self
    }

    /// Bytes that all receive buffers of the loop may take. At the limit sockets go on with small buffers of their
    /// own. Default: 128 MiB, of which 2 MiB (of address space) are taken at the beginning.
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.sizes.buffer_bytes_max = bytes;
        self
    }

    /// How long a loop with nothing to do looks for news before it sleeps. To be woken costs more than an echo does, so
    /// with few connections this is several times faster, for a CPU that is never idle. Some 50 µs are plenty.
    /// Default: not at all.
    pub fn spin(mut self, duration: Duration) -> Self {
        self.sizes.waiting.spin = duration;
        self
    }

    /// How long a loop with nothing to do sleeps for more completions than one (up to 64) to come together: fewer turns
    /// and system calls under load, for answers that are so much later. Default: not at all.
    ///
    /// # Kernel
    /// `min_wait_usec` of io_uring (6.12); before that, and on epoll, it does nothing.
    #[doc(alias = "min_wait")]
    pub fn gather(mut self, duration: Duration) -> Self {
        self.sizes.waiting.gather = duration;
        self
    }

    /// Lets a thread of the kernel take submissions from the ring, without system calls; it sleeps after `idle` without
    /// any. It takes a CPU of its own, and keeps the credentials that the process has now. On most machines it is slower
    /// than the default. Default: no.
    ///
    /// # Kernel
    /// `IORING_SETUP_SQPOLL`; where it is refused, the loop is made by epoll, or not at all if io_uring was asked for. On
    /// epoll it does nothing.
    #[doc(alias = "SQPOLL")]
    pub fn sq_poll(mut self, idle: Duration) -> Self {
        self.sizes.waiting.sq_poll = Some(idle);
        self
    }

    /// How long the kernel polls the network's devices before the loop sleeps: shorter answers on a real network, for
    /// more CPU. Default: not at all.
    ///
    /// # Kernel
    /// `IORING_REGISTER_NAPI` (6.9); where it is refused, the loop is made by epoll, or not at all if io_uring was asked
    /// for. On epoll it does nothing: there the sysctl `net.core.busy_poll` does it for the whole machine.
    pub fn busy_poll(mut self, duration: Duration) -> Self {
        self.sizes.waiting.busy_poll = duration;
        self
    }

    /// Whether the loop watches over the program: see [`EventLoop::set_debug`]. Default: on if the environment variable
    /// `PROACTOR_DEBUG` is there and neither empty nor `0`.
    #[doc(alias = "PYTHONASYNCIODEBUG")]
    pub fn debug(mut self, on: bool) -> Self {
        self.debug = Some(on);
        self
    }

    /// Makes the loop, and runs `main` in it as [`run`](crate::run) does.
    ///
    /// # Errors
    /// As [`run`](crate::run) and [`build`](Self::build).
    pub fn run<T, E: From<io::Error>>(self, main: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        /// Closes the loop, also if others hold it, and if `main` panics.
        struct Closing(EventLoop);
        impl Drop for Closing {
            fn drop(&mut self) {
                self.0.core.shut_down(DRAIN);
            }
        }
        let closing = Closing(self.build()?);
        let result = closing.0.run_until_complete(main)?;
        closing.0.end_tasks(END_LIMIT)?;
        result
    }

    /// Makes the loop, on the thread that will run it.
    ///
    /// # Errors
    /// If a driver was asked for by name (here or by `PROACTOR_DRIVER`) and cannot run: the error says why, and what
    /// to do. If descriptors or memory are short.
    pub fn build(self) -> io::Result<EventLoop> {
        let (remote, epoch) = Remote::open()?;
        let debug = self.debug.unwrap_or_else(is_debug_wanted);
        let driver = match Driver::new(self.driver, self.sizes, &remote.alarm) {
            Ok(driver) => driver,
            Err(error) => {
                remote.close();
                return Err(error);
            }
        };
        let core = Core::new(driver, (remote, epoch), Clock::new(self.virtual_clock), debug);
        let owner = Rc::new(Owner(core.clone()));
        // The loop is new, so nobody has set it.
        let _ = core.owner.set(Rc::downgrade(&owner));
        Ok(EventLoop { core, _owner: owner })
    }
}

/// Until it is dropped, also by a panic, the loop runs.
pub(super) struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        // A stop ends the run it was meant for, never the next one.
        self.0.stopping.set(false);
    }
}

fn is_debug_wanted() -> bool {
    env::var_os("PROACTOR_DEBUG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Shared by the handles of a loop: the last of them closes it.
pub(crate) struct Owner(Rc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.shut_down(DRAIN);
    }
}

/// How new loops are made, where somebody said so.
static POLICY: Mutex<Option<Builder>> = Mutex::new(None);

thread_local! {
    /// What [`EventLoop::set_current`] has set.
    static CURRENT: RefCell<Option<EventLoop>> = const { RefCell::new(None) };
}

/// An event loop: tasks, timers, callbacks and I/O of one thread.
///
/// Most programs need only [`run`](crate::run). A clone is another handle of the same loop; dropping the last one closes
/// the loop. A task or a callback that keeps one keeps its own loop open: then [`close`](Self::close) it, as
/// [`run`](crate::run) does.
///
/// It stays on its thread, which the compiler sees to; from other threads there is [`handle`](Self::handle):
///
/// ```compile_fail
/// # fn main() -> std::io::Result<()> {
/// let event_loop = proactor::EventLoop::new()?;
/// std::thread::spawn(move || event_loop.call_soon(|| println!("from the wrong thread")));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EventLoop {
    pub(crate) core: Rc<Core>,
    _owner: Rc<Owner>,
}

impl EventLoop {
    /// A loop as the policy of the process says; without one, with the defaults of [`Builder`].
    ///
    /// # Errors
    /// As [`Builder::build`].
    #[doc(alias = "new_event_loop")]
    pub fn new() -> io::Result<Self> {
        Self::policy().build()
    }

    /// The loop that runs on this thread.
    ///
    /// # Errors
    /// If none does.
    #[doc(alias = "get_running_loop")]
    pub fn running() -> io::Result<Self> {
        let core =
            core::try_current().ok_or_else(|| io::Error::other("no event loop is running on this thread"))?;
        match core.owner.get().and_then(Weak::upgrade) {
            Some(owner) => Ok(Self { core, _owner: owner }),
            // A destructor asks, of a loop that ends.
            None => Err(Closed::new("the event loop").into()),
        }
    }

    /// The loop that runs on this thread; without one, what [`set_current`](Self::set_current) has set. None is made
    /// here: that is what [`new`](Self::new) is for.
    ///
    /// # Errors
    /// If there is none.
    #[doc(alias = "get_event_loop")]
    pub fn current() -> io::Result<Self> {
        if core::try_current().is_some() {
            return Self::running();
        }
        let set = CURRENT.with(|current| current.borrow().clone());
        set.ok_or_else(|| io::Error::other("no event loop is running or set on this thread"))
    }

    /// Makes `event_loop` the one of this thread, which [`current`](Self::current) gives while none is running. It is
    /// held until another is set, or the thread ends. Returns the one before.
    #[doc(alias = "set_event_loop")]
    pub fn set_current(event_loop: Option<Self>) -> Option<Self> {
        CURRENT.with(|current| current.replace(event_loop))
    }

    /// How [`new`](Self::new) and [`run`](crate::run) make loops now.
    #[doc(alias = "get_event_loop_policy")]
    pub fn policy() -> Builder {
        POLICY.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Sets how [`new`](Self::new) and [`run`](crate::run) make loops from now on, in the whole process; `None` for
    /// the defaults.
    #[doc(alias = "set_event_loop_policy")]
    pub fn set_policy(policy: Option<Builder>) {
        *POLICY.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// A builder, for what differs from the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs the loop until `future` is done and gives its result. Other tasks stay as they are and go on when the
    /// loop runs again.
    ///
    /// # Errors
    /// If a loop runs on this thread already, if this one is closed, if [`stop`](Self::stop) was called before the
    /// future was done, or if the driver fails for good.
    pub fn run_until_complete<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let mut future = pin!(future);
        let mut result = None;
        let mut suspicion = Suspicion::default();
        let ended = self.run_loop(&mut || {
            match self.core.poll_main(&mut suspicion, |cx| future.as_mut().poll(cx)) {
                Polled::Ready(value) => {
                    result = Some(value);
                    true
                }
                // Nobody can be told that the main future was dropped, so it waits on.
                Polled::Pending | Polled::Foreign => false,
            }
        });
        ended?;
        result.ok_or_else(|| io::Error::other("the event loop was stopped before the future was done"))
    }

    /// Cancels all tasks and runs the loop until they are over, or for at most `limit`.
    pub(crate) fn end_tasks(&self, limit: Duration) -> io::Result<()> {
        let core = &self.core;
        if core.task_count() == 0 {
            return Ok(());
        }
        core.ending.set(true);
        self.run_until_complete(async {
            let mut limit = pin!(sleep(limit));
            let mut cancelled = None;
            poll_fn(|cx| {
                // Clean-up may have spawned more.
                if cancelled.replace(core.spawned()) != Some(core.spawned()) {
                    core.cancel_tasks("the main future is done");
                }
                if core.task_count() == 0 { Poll::Ready(()) } else { limit.as_mut().poll(cx).map(drop) }
            })
            .await;
        })
    }

    /// Runs the loop until [`stop`](Self::stop).
    ///
    /// # Errors
    /// If a loop runs on this thread already, if this one is closed, or if the driver fails for good.
    pub fn run_forever(&self) -> io::Result<()> {
        self.run_loop(&mut || false)
    }

    /// Checks that the loop can run, and says that it does.
    pub(super) fn begin_run(&self) -> io::Result<Running<'_>> {
        let core = &self.core;
        if core.closed.get() {
            return Err(Closed::new("the event loop").into());
        }
        if core.running.replace(true) {
            return Err(io::Error::other("this event loop is running already"));
        }
        core.driver.wake_up();
        Ok(Running(core))
    }

    /// Turns the loop until `main` says that it is done or somebody called `stop`.
    fn run_loop(&self, main: &mut dyn FnMut() -> bool) -> io::Result<()> {
        let core = &self.core;
        // Checked with a look at this loop first; only a turn that does not wait may be inside of another loop's.
        let is_inside = core::try_current().is_some();
        if is_inside && !core.closed.get() && !core.running.get() {
            return Err(io::Error::other("another event loop is running on this thread already"));
        }
        let _running = self.begin_run()?;
        let _entered = core::enter(core);
        // Its first poll; of later ones its wakers tell.
        core.wake_main();
        while !core.turn(true, main)? && !core.stopping.get() {}
        // What the last turn asked for must not wait for the next run: a stream that was dropped takes a cancel, its
        // completion, and then a close.
        for _ in 0..3 {
            core.driver.poll(Wait::No)?;
        }
        Ok(())
    }

    /// Makes the loop stop after the turn it is in; without one running, after the first turn of the next run.
    pub fn stop(&self) {
        self.core.stopping.set(true);
    }

    /// Ends the loop: its tasks are dropped, its operations cancelled, its descriptors closed. Waits for the kernel's
    /// answers for at most one second; memory that the kernel may still write to after that is never freed. Closing
    /// twice does nothing.
    ///
    /// # Errors
    /// If the loop is running.
    pub fn close(&self) -> io::Result<()> {
        if self.core.running.get() {
            return Err(io::Error::other("a running event loop cannot be closed; stop it first"));
        }
        self.core.shut_down(DRAIN);
        Ok(())
    }

    /// Whether the loop runs right now.
    pub fn is_running(&self) -> bool {
        self.core.running.get()
    }

    /// Whether the loop was closed.
    pub fn is_closed(&self) -> bool {
        self.core.closed.get()
    }

    /// The time on the loop's clock.
    pub fn time(&self) -> Instant {
        self.core.clock.now()
    }

    /// The way into this loop from other threads.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle::of(&self.core)
    }

    /// Which driver the loop uses, and why. Print it when a server starts.
    pub fn report(&self) -> DriverReport {
        DriverReport::clone(self.core.driver.report())
    }

    /// What the loop has done so far.
    pub fn metrics(&self) -> Metrics {
        self.core.metrics()
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("running", &self.is_running())
            .field("closed", &self.is_closed())
            .field("driver", &self.core.driver.report().driver())
            .finish_non_exhaustive()
    }
}
