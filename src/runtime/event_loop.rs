//! The event loop as a value: made by a builder, run, stopped, closed.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
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
    sizes: Sizes,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            virtual_clock: false,
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

    /// Makes the loop, on the thread that will run it.
    ///
    /// # Errors
    /// If a driver was asked for by name (here or by `PROACTOR_DRIVER`) and cannot run: the error says why, and what
    /// to do. If descriptors or memory are short.
    pub fn build(self) -> io::Result<EventLoop> {
        let (remote, epoch) = Remote::open()?;
        let driver = match Driver::new(self.driver, self.sizes, &remote.alarm) {
            Ok(driver) => driver,
            Err(error) => {
                remote.close();
                return Err(error);
            }
        };
        Ok(EventLoop { core: Core::new(driver, remote, epoch, Clock::new(self.virtual_clock)) })
    }
}

/// How new loops are made, where somebody said so.
static POLICY: Mutex<Option<Builder>> = Mutex::new(None);

/// An event loop: tasks, timers, callbacks and I/O of one thread.
///
/// Most programs need only [`run`](crate::run). Dropping a loop closes it.
#[doc(alias = "new_event_loop")]
pub struct EventLoop {
    pub(crate) core: Rc<Core>,
}

impl EventLoop {
    /// A loop as the policy of the process says; without one, with the defaults of [`Builder`].
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> io::Result<Self> {
        let policy = POLICY.lock().unwrap_or_else(PoisonError::into_inner).clone();
        policy.unwrap_or_default().build()
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

    /// Turns the loop until `main` says that it is done or somebody called `stop`.
    fn run_loop(&self, main: &mut dyn FnMut() -> bool) -> io::Result<()> {
        let core = &self.core;
        if core.closed.get() {
            return Err(Closed::new("the event loop").into());
        }
        if core.running.get() {
            return Err(io::Error::other("this event loop is running already"));
        }
        if core::try_current().is_some() {
            return Err(io::Error::other("another event loop is running on this thread already"));
        }
        /// Restores the state of the loop, also when a panic passes through.
        struct Running<'a>(&'a Core);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.running.set(false);
                // A stop ends the run it was meant for, never the next one.
                self.0.stopping.set(false);
            }
        }
        core.running.set(true);
        let _running = Running(core);
        let _entered = core::enter(core);
        // A main future that was woken while the loop did not run has its turn first.
        let mut done = main();
        while !done {
            core.turn(|| !core.stopping.get() && !core.is_main_woken())?;
            if core.take_main_woken() {
                done = main();
            }
            if core.stopping.get() {
                break;
            }
        }
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

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.core.shut_down(DRAIN);
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
