//! Waiting for signals of the process, beside whoever else handles them.
#![allow(unsafe_code)]
//!
//! # Safety
//! What runs in the signal handler only writes to an eventfd, which is async-signal-safe.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::op::{Descriptor, ReadStream};
use crate::runtime::core;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, outcome};
use crate::sys::epoll;

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

/// Takes the handler's part back when nobody waits any more.
struct Registration(signal_hook_registry::SigId);

impl Drop for Registration {
    fn drop(&mut self) {
        signal_hook_registry::unregister(self.0);
    }
}

#[track_caller]
fn next(signal: i32) -> impl Future<Output = io::Result<()>> {
    let driver = core::current().driver.clone();
    // At the call, not at the first poll: from here on the signal is caught.
    let made = epoll::eventfd().and_then(|ours| {
        let theirs = Arc::new(ours.try_clone()?);
        let action = move || epoll::eventfd_signal(theirs.as_raw_fd());
        // SAFETY: the action does what a signal handler may do (see the top of this file). It owns its descriptor.
        let id = unsafe { signal_hook_registry::register(signal, action) }?;
        Ok((ours, Registration(id)))
    });
    async move {
        let (ours, _registration) = made?;
        let descriptor = Rc::new(Descriptor::new(&driver, ours));
        let (result, _) = Ask::new(&driver, ReadStream::new(descriptor, 8), What(&"a signal")).await;
        outcome(result).map(drop)
    }
}
