//! The driver of a loop that does not wait by itself: another loop waits for its descriptor.

use std::io;
use std::os::fd::RawFd;

use crate::driver::{Backend, Driver, Wait};

/// So many polls to hand everything to the kernel: a completion may lead to an operation, which completes at once.
const POLLS_MAX: u32 = 4;

impl Driver {
    /// The descriptor that becomes readable when `poll` finds something. It stays the same, and open until the end.
    pub(crate) fn descriptor(&self) -> io::Result<RawFd> {
        match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => uring.descriptor(),
            Backend::Epoll(epoll) => Ok(epoll.descriptor()),
        }
    }

    /// The loop goes on, if it was asleep for somebody else's wait.
    pub(crate) fn wake_up(&self) {
        self.alarm.wake_up();
    }

    /// Hands everything to the kernel, and delivers what is there, without waiting.
    pub(crate) fn settle(&self) -> io::Result<()> {
        for _ in 0..POLLS_MAX {
            if self.is_settled() {
                break;
            }
            self.poll(Wait::No)?;
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        match &mut *self.backend.borrow_mut() {
            Backend::Uring(uring) => uring.is_settled(),
            Backend::Epoll(epoll) => epoll.is_settled(),
        }
    }

    /// Falls asleep, so that other threads ring the bell and the descriptor tells of it; false if there is something to
    /// do already.
    pub(crate) fn fall_asleep(&self) -> bool {
        if !self.is_settled() || !self.alarm.fall_asleep() {
            return false;
        }
        // Looked at after falling asleep: a result that comes later rings the bell.
        let has_nothing = !self.inbox.is_filled();
        if !has_nothing {
            self.alarm.wake_up();
        }
        has_nothing
    }
}
