//! Cancel scopes and task groups.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

mod rules;

/// Something to wait for of which this crate knows nothing.
#[derive(Default)]
pub(crate) struct ForeignFlag {
    set: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl ForeignFlag {
    pub(crate) fn set(&self) {
        self.set.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn wait(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            if self.set.get() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
    }
}

/// Notes that it was dropped.
pub(crate) struct OnDrop(pub(crate) Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}
