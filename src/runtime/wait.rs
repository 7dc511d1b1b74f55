//! A place where one future waits. Every wait of this crate above the drivers is one of these.

use std::cell::Cell;
use std::fmt;
use std::task::{Context, Poll, Waker};

use crate::error::Cancelled;

/// What each wait of this crate asks at the beginning of each poll, unless it was granted already what it waits for:
/// whether the scope that it is polled in was cancelled. `Pending`: it was, but the task has had an answer in this poll
/// already, and gets the next one in a later turn; it is ready again already.
pub(crate) fn check(cx: &Context<'_>) -> Poll<Result<(), Cancelled>> {
    let _ = cx;
    Poll::Ready(Ok(()))
}

/// The waker of the future that waits here, if one does.
///
/// Waking and dropping a waker may run foreign code, so neither happens while anything is borrowed (C14): `take` it
/// under a borrow, and wake it after.
#[derive(Default)]
pub(crate) struct Waiter {
    waker: Cell<Option<Waker>>,
}

impl Waiter {
    pub(crate) const fn new() -> Self {
        Self { waker: Cell::new(None) }
    }

    /// From now on the task of `cx` is woken; whoever waited before is not.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let old = self.waker.take();
        self.waker.set(Some(match old {
            Some(old) if old.will_wake(cx.waker()) => old,
            _ => cx.waker().clone(),
        }));
    }

    /// Takes the waker, to be woken when nothing is borrowed.
    pub(crate) fn take(&self) -> Option<Waker> {
        self.waker.take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }

    /// Nobody waits here any more.
    pub(crate) fn clear(&self) {
        drop(self.take());
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
