//! A loop inside of another one, which waits for its descriptor.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::error::Closed;
use crate::runtime::EventLoop;
use crate::runtime::core;
use crate::sys::file;

impl EventLoop {
    /// Runs what is ready, in one turn, and never waits. Gives how long it may rest after that at the most: zero if there
    /// is more to do already, `None` for no limit. It has to be called again when that time is over, or when its
    /// [descriptor](Self::descriptor) becomes readable, whichever comes first.
    ///
    /// That is how a loop lives in another one (a GUI's, a game's, another runtime's), or in a plain loop around `poll(2)`.
    /// Tasks are made by [`spawn`](Self::spawn). [`stop`](Self::stop) ends no turn that ends by itself.
    ///
    /// # Errors
    /// If the loop is running already, or closed, or if the driver fails for good.
    ///
    /// # Examples
    /// ```no_run
    /// # fn wait_for(descriptor: std::os::fd::BorrowedFd<'_>, limit: Option<std::time::Duration>) {}
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = proactor::EventLoop::new()?;
    /// let task = event_loop.spawn(async { proactor::sleep(std::time::Duration::from_secs(1)).await });
    /// let descriptor = event_loop.descriptor()?;
    /// while !task.is_finished() {
    ///     let rest = event_loop.run_ready()?;
    ///     wait_for(descriptor, rest); // poll(2), beside other descriptors
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "run_once")]
    pub fn run_ready(&self) -> io::Result<Option<Duration>> {
        let core = &self.core;
        let _running = self.begin_run()?;
        let _entered = core::enter(core);
        core.turn(false, &mut || false)?;
        core.driver.settle()?;
        if core.has_ready() || !core.driver.fall_asleep() {
            return Ok(Some(Duration::ZERO));
        }
        Ok(core.next_timer().map(|at| at.saturating_duration_since(core.clock.now())))
    }

    /// The descriptor that becomes readable when [`run_ready`](Self::run_ready) finds something to do: I/O, a result from
    /// another thread, a call from one. Not for the time: that is what `run_ready` tells. Only to be waited for, in
    /// whatever way: level- or edge-triggered, the next `run_ready` takes care of it.
    ///
    /// # Errors
    /// If this loop is closed, or if a descriptor is refused.
    ///
    /// # Examples
    /// In tokio, on a thread of its own or among other tasks of that thread:
    /// ```
    /// use std::time::Duration;
    /// use proactor::EventLoop;
    /// use tokio::io::Interest;
    /// use tokio::io::unix::AsyncFd;
    ///
    /// async fn run_in_tokio(event_loop: &EventLoop, until: impl Fn() -> bool) -> std::io::Result<()> {
    ///     let descriptor = event_loop.descriptor()?;
    ///     // SAFETY: it is borrowed from the loop, which keeps it open as long as that.
    ///     let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    ///     loop {
    ///         let rest = event_loop.run_ready()?.unwrap_or(Duration::from_secs(3600));
    ///         if until() {
    ///             return Ok(()); // looked at after each turn: the next one may be far away
    ///         }
    ///         if let Ok(ready) = tokio::time::timeout(rest, descriptor.readable()).await {
    ///             ready?.clear_ready();
    ///         }
    ///     }
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// let event_loop = EventLoop::new()?;
    /// let task = event_loop.spawn(async { proactor::sleep(Duration::from_millis(5)).await });
    /// tokio.block_on(run_in_tokio(&event_loop, || task.is_finished()))
    /// # }
    /// ```
    ///
    /// # Kernel
    /// An eventfd that the ring signals (`IORING_REGISTER_EVENTFD`, 5.2); the epoll set itself on epoll.
    #[doc(alias = "as_raw_fd")]
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        if self.core.driver.is_closed() {
            return Err(Closed::new("the event loop").into());
        }
        let number = self.core.driver.descriptor()?;
        file::borrow(number).ok_or_else(|| Closed::new("the event loop").into())
    }
}
