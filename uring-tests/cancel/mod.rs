//! Cancel scopes and task groups, one file for each part of the promises. A comment names where a promise comes from.

mod deadlines;
mod endings;
mod errors;
mod foreign;
mod groups;
mod operations;
mod operations_done;
mod rules;
mod scopes;
mod shields;
mod starting;
mod tasks;
mod timeouts;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use proactor::cancel::shielded;
use proactor::{Cancelled, sleep, yield_now};

use crate::harness::Cx;

/// Longer than any test may take, also on the virtual clock: only a cancel ends a sleep of so long.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The time of the loop.
pub(crate) fn now() -> Instant {
    proactor::event_loop::time().expect("a loop runs")
}

/// Runs `main` on a clock that jumps.
pub(crate) fn virtually<T, E: std::fmt::Debug>(cx: Cx, main: impl Future<Output = Result<T, E>>) -> T {
    cx.run_with(cx.builder().virtual_clock(true), main)
}

/// Some turns of the loop, which no cancel shortens.
pub(crate) async fn yields(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// What happened, in its order.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(text.into());
    }

    #[track_caller]
    pub(crate) fn expect(&self, texts: &[&str]) {
        assert_eq!(*self.0.borrow(), texts);
    }
}

/// A child that sleeps until it is cancelled, cleans up for so many turns, and notes that.
pub(crate) fn cleans_up(log: &Log, name: &'static str) -> impl Future<Output = io::Result<()>> + use<> {
    let log = log.clone();
    async move {
        let slept: Result<(), Cancelled> = sleep(LONG).await;
        shielded(yields(3)).await;
        log.note(name);
        Ok(slept?)
    }
}

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
