//! Wakes a loop from other threads: one flag, and an eventfd that is written only while the loop sleeps (C11).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::sys::epoll;

/// The loop runs, and looks at the flag before it sleeps.
const AWAKE: u8 = 0;
/// The loop waits in the kernel: set by the loop only, right before it looks for news the last time.
const ASLEEP: u8 = 1;
/// There is news: set by wakers, cleared by the loop when it looks.
const NOTIFIED: u8 = 2;

/// The bell of one loop. It outlives the loop, and then does nothing.
#[derive(Debug)]
pub(crate) struct Alarm {
    state: AtomicU8,
    /// Written by the one waker that found the loop asleep; taken by the loop when it ends, under the same lock, so
    /// that a late waker cannot write to a reused descriptor.
    bell: Mutex<Option<OwnedFd>>,
}

impl Alarm {
    pub(crate) const fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE), bell: Mutex::new(None) }
    }

    /// Gives the alarm a descriptor, for a new loop. Returns its number; it stays open until [`disarm`](Self::disarm).
    pub(crate) fn arm(&self) -> io::Result<RawFd> {
        let bell = epoll::eventfd(false)?;
        let fd = bell.as_raw_fd();
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell);
        self.state.store(AWAKE, Ordering::SeqCst);
        Ok(fd)
    }

    pub(crate) fn disarm(&self) {
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// There is news for the loop. Publish it before.
    pub(crate) fn ring(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) == ASLEEP
            && let Some(bell) = &*self.bell.lock().unwrap_or_else(PoisonError::into_inner)
        {
            epoll::eventfd_signal(bell.as_raw_fd());
        }
    }

    /// Whether there was news since the last call. Look at the news after it.
    pub(crate) fn take_news(&self) -> bool {
        self.state.load(Ordering::SeqCst) == NOTIFIED && self.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED
    }

    /// Whether there is news that was not looked at.
    pub(crate) fn has_news(&self) -> bool {
        self.state.load(Ordering::SeqCst) == NOTIFIED
    }

    /// Called by the loop before it sleeps; false if there is news, so that it must not.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Called by the loop after its sleep.
    pub(crate) fn wake_up(&self) {
        // News stays news: only the flag that says "asleep" is taken back.
        let _ = self.state.compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::SeqCst);
    }
}
