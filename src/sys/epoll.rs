//! epoll with waits in nanoseconds, and the eventfd that wakes a loop.
#![allow(unsafe_code)]
//!
//! # Safety
//! Each call gets either plain numbers or the address and true length of a buffer that is borrowed for the call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sys::check;

/// An epoll set, behind a descriptor or what stands for one.
#[derive(Debug, Clone)]
pub(crate) struct Epoll<F = OwnedFd> {
    fd: F,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor for us.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The same set, its descriptor kept by something else.
    pub(crate) fn kept_in<F>(self, keep: impl FnOnce(OwnedFd) -> F) -> Epoll<F> {
        Epoll { fd: keep(self.fd) }
    }
}

impl<F: AsRawFd> Epoll<F> {
    pub(crate) fn fd(&self) -> &F {
        &self.fd
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives through the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    pub(crate) fn add(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    pub(crate) fn modify(&self, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    pub(crate) fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// Waits for events, for ever with `None`. A limit is never cut short by rounding.
    pub(crate) fn wait(
        &self,
        events: &mut Vec<libc::epoll_event>,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        events.clear();
        let room = i32::try_from(events.capacity()).unwrap_or(i32::MAX);
        let count = match limit {
            Some(limit) if !limit.is_zero() => self.wait_limited(events, room, limit)?,
            limit => {
                let milliseconds = if limit.is_some() { 0 } else { -1 };
                // SAFETY: `events` has room for `room` events.
                check(unsafe {
                    libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), room, milliseconds)
                })?
            }
        };
        // SAFETY: the kernel wrote `count` events.
        unsafe { events.set_len(count as usize) };
        Ok(())
    }

    fn wait_limited(
        &self,
        events: &mut Vec<libc::epoll_event>,
        room: i32,
        limit: Duration,
    ) -> io::Result<i32> {
        /// epoll_pwait2 came with 5.11; seccomp profiles older than it answer EPERM.
        static MISSING: AtomicBool = AtomicBool::new(false);
        if !MISSING.load(Ordering::Relaxed) {
            let seconds = limit.as_secs().min(1 << 30) as libc::time_t;
            let limit = libc::timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() };
            // SAFETY: `events` has room for `room` events, `limit` lives through the call, no signal mask is given.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.fd.as_raw_fd(),
                    events.as_mut_ptr(),
                    room,
                    &raw const limit,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            match check(result as i32) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    MISSING.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        let milliseconds = limit.as_nanos().div_ceil(1_000_000).min(1 << 30) as i32;
        // SAFETY: `events` has room for `room` events.
        check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), room, milliseconds) })
    }
}

/// A counter that one side adds to and the other waits for.
///
/// Blocking where a ring reads it: of a non-blocking one it answers EAGAIN instead of waiting.
pub(crate) fn eventfd(nonblocking: bool) -> io::Result<OwnedFd> {
    let flags = libc::EFD_CLOEXEC | if nonblocking { libc::EFD_NONBLOCK } else { 0 };
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::eventfd(0, flags) })?;
    // SAFETY: the call above made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd. Async-signal-safe. It would wait only at a count of 2^64 - 2, which nobody reaches.
pub(crate) fn eventfd_signal(fd: RawFd) {
    let one = 1_u64;
    // SAFETY: eight bytes are read from `one`.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}
