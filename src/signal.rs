//! Signals of the process, beside whoever else handles them.
#![allow(unsafe_code)]
//!
//! # Safety
//! What runs in the signal handler asks for the number of the process and writes a byte to a pipe, both of which are
//! async-signal-safe.
//!
//! # What stays when nobody listens any more
//! From the first time on that a signal is listened for, it does not do any more what it does by default, such as to end
//! the process; not even when nobody listens any more. (The handler of the process is shared with other libraries, by the
//! crate `signal-hook-registry`, so nobody may take it away.) A handler that was there before is called as before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use signal_hook_registry::SigId;

use crate::error::Closed;
use crate::runtime::budget;
use crate::runtime::core::{self, Core};
use crate::runtime::readiness::{Direction, WaitReady};
use crate::runtime::wait::check;
use crate::stream::{
    AsyncResource, ObjectReceiveStream, TypedAttributeProvider, UnreliableObjectReceiveStream,
};
use crate::sys::signal;

/// Takes part in the handling of some signals, until it is dropped: they come out of a pipe, in the order in which they
/// came.
pub(crate) struct Catcher {
    incoming: OwnedFd,
    ids: Vec<SigId>,
}

impl Catcher {
    pub(crate) fn new(signals: &[i32]) -> io::Result<Self> {
        signals.iter().try_for_each(|signal| may_be_caught(*signal))?;
        let (incoming, outgoing) = signal::pipe()?;
        let outgoing = Arc::new(outgoing);
        let process = signal::process();
        let mut catcher = Self { incoming, ids: Vec::new() };
        for signal in signals {
            let (outgoing, byte) = (outgoing.clone(), *signal as u8);
            let action = move || {
                // A child that has not called exec yet shares the pipe, but its signals are its own.
                if signal::process() == process {
                    signal::put(&outgoing, byte);
                }
            };
            // SAFETY: the action does what a signal handler may do (see the top of this file). It owns its descriptor.
            catcher.ids.push(unsafe { signal_hook_registry::register(*signal, action) }?);
        }
        Ok(catcher)
    }

    /// Becomes readable when a signal comes.
    pub(crate) fn number(&self) -> RawFd {
        self.incoming.as_raw_fd()
    }

    /// Takes what has come.
    pub(crate) fn take(&self, caught: &mut VecDeque<i32>) {
        let mut bytes = [0; 64];
        caught.extend(signal::take(&self.incoming, &mut bytes).iter().map(|byte| i32::from(*byte)));
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook_registry::unregister(id);
        }
    }
}

fn may_be_caught(signal: i32) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    // Those between the classic ones and the real-time ones belong to the C library.
    if !(1..=31).contains(&signal) && !(libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal) {
        return refuse(format!("{signal} is not the number of a signal"));
    }
    match signal {
        libc::SIGKILL | libc::SIGSTOP => refuse(format!("signal {signal} cannot be caught")),
        libc::SIGSEGV | libc::SIGILL | libc::SIGFPE => refuse(format!(
            "signal {signal} cannot be left to a loop: what caused it would happen again at once"
        )),
        _ => Ok(()),
    }
}

/// Completes at the next interrupt from the keyboard (`SIGINT`) after this call. From the call on, the signal no longer
/// ends the process.
///
/// # Cancel safety
/// *Data already received is lost*: a signal that came is forgotten.
///
/// # Errors
/// If the handler or a descriptor is refused.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn ctrl_c() -> impl Future<Output = io::Result<()>> {
    next(libc::SIGINT)
}

/// Completes at the next request to terminate (`SIGTERM`) after this call; else as [`ctrl_c`].
///
/// # Errors
/// As [`ctrl_c`].
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn terminate() -> impl Future<Output = io::Result<()>> {
    next(libc::SIGTERM)
}

#[track_caller]
fn next(signal: i32) -> impl Future<Output = io::Result<()>> {
    // At the call, not at the first poll: from here on the signal is caught.
    let receiver = SignalReceiver::new(core::current(), &[signal]);
    async move { receiver?.next().await.map(drop) }
}

/// Listens for these signals, by their numbers (`libc::SIGHUP`), from this call on. Any number of receivers and
/// [handlers](crate::event_loop::add_signal_handler) may listen for the same signal: each hears of it.
///
/// # Errors
/// Of kind [`InvalidInput`](io::ErrorKind::InvalidInput) for numbers of no signal, and for signals that cannot be caught
/// (`SIGKILL`, `SIGSTOP`) or that a loop cannot handle (`SIGSEGV`, `SIGILL`, `SIGFPE`); if no event loop runs on this
/// thread; if a descriptor is refused.
///
/// # Examples
/// ```
/// use proactor::signal::open_signal_receiver;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let signals = open_signal_receiver(&[libc::SIGHUP, libc::SIGUSR1])?;
///     # std::process::Command::new("sh").args(["-c", "kill -HUP $PPID"]).status()?;
///     // Somebody sends one: `kill -HUP` and our number.
///     assert_eq!(signals.next().await?, libc::SIGHUP);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub fn open_signal_receiver(signals: &[i32]) -> io::Result<SignalReceiver> {
    let core =
        core::try_current().ok_or_else(|| io::Error::other("no event loop is running on this thread"))?;
    SignalReceiver::new(core, signals)
}

/// Signals, one after the other; also as a [stream](ObjectReceiveStream) that has no end. Made by
/// [`open_signal_receiver`]; dropping it, or [`aclose`](AsyncResource::aclose), ends the listening.
pub struct SignalReceiver {
    core: Rc<Core>,
    /// Nothing once it is closed.
    catcher: RefCell<Option<Catcher>>,
    caught: RefCell<VecDeque<i32>>,
}

impl SignalReceiver {
    fn new(core: Rc<Core>, signals: &[i32]) -> io::Result<Self> {
        let catcher = RefCell::new(Some(Catcher::new(signals)?));
        Ok(Self { core, catcher, caught: RefCell::default() })
    }

    /// The next signal that has come, or comes. The kernel makes one of several of a kind that come at once; besides that
    /// none is missed as long as fewer than 65,536 are waiting.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Busy`](crate::Busy) if another task waits for the next one already; [`Closed`].
    pub fn next(&self) -> impl Future<Output = io::Result<i32>> {
        async move {
            loop {
                if let Some(signal) = self.poll_caught().await? {
                    return Ok(signal);
                }
                let number = self.catcher.borrow().as_ref().map(Catcher::number);
                let number = number.ok_or_else(closed)?;
                WaitReady::new(self.core.clone(), number, Direction::Read).await?;
            }
        }
    }

    /// What has come already.
    fn poll_caught(&self) -> impl Future<Output = io::Result<Option<i32>>> {
        std::future::poll_fn(|cx| {
            ready!(check(cx))?;
            let mut caught = self.caught.borrow_mut();
            if caught.is_empty() {
                self.catcher.borrow().as_ref().ok_or_else(closed)?.take(&mut caught);
            }
            if !caught.is_empty() {
                ready!(budget::spend(cx));
            }
            Poll::Ready(Ok(caught.pop_front()))
        })
    }
}

fn closed() -> io::Error {
    Closed::new("the signal receiver").into()
}

impl AsyncResource for SignalReceiver {
    /// Ends the listening; what came and was not taken is forgotten.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            let catcher = self.catcher.take();
            if let Some(catcher) = &catcher {
                self.caught.borrow_mut().clear();
                self.core.close_watches(catcher.number());
            }
            Ok(())
        }
    }
}

impl TypedAttributeProvider for SignalReceiver {}

impl UnreliableObjectReceiveStream for SignalReceiver {
    type Item = i32;

    /// The next signal, as [`next`](SignalReceiver::next); there is always one more.
    fn receive(&self) -> impl Future<Output = io::Result<Option<i32>>> {
        async move { self.next().await.map(Some) }
    }
}

impl ObjectReceiveStream for SignalReceiver {}

impl fmt::Debug for SignalReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalReceiver").finish_non_exhaustive()
    }
}
