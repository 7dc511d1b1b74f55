//! The future that waits for one operation.
#![allow(unsafe_code)]
//!
//! # Safety
//! The only unsafe calls take an operation out of the table as the type that it was put in as: the type of the
//! [`Pending`] that put it there.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::driver::table::State;
use crate::driver::{Aftermath, Driver, Key, Op};

/// Waits for the result of one operation; gives the operation back with it.
///
/// Submits at the first poll. Dropping it orphans the operation (C4).
pub(crate) struct Pending<O: Op> {
    driver: Rc<Driver>,
    stage: Stage<O>,
}

enum Stage<O> {
    New(O),
    InFlight(Key),
    Over,
}

impl<O: Op> Pending<O> {
    pub(crate) fn new(driver: &Rc<Driver>, op: O) -> Self {
        Self { driver: driver.clone(), stage: Stage::New(op) }
    }

    /// Takes back an operation that was not submitted.
    pub(crate) fn take_back(&mut self) -> O {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(op) => op,
            Stage::InFlight(_) | Stage::Over => unreachable!("it was submitted"),
        }
    }

    /// The key for a cancel, once submitted and until the result was fetched.
    pub(crate) fn key(&self) -> Option<Key> {
        match self.stage {
            Stage::InFlight(key) => Some(key),
            Stage::New(_) | Stage::Over => None,
        }
    }
}

impl<O: Op> Unpin for Pending<O> {}

impl<O: Op> Future for Pending<O> {
    type Output = (i32, O);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(i32, O)> {
        let this = &mut *self;
        let table = &this.driver.table;
        if let Stage::InFlight(key) = this.stage {
            if !table.poll(key, cx.waker()) {
                return Poll::Pending;
            }
            this.stage = Stage::Over;
            // SAFETY: this future inserted it as an `O`, and `poll` said that it is done.
            return Poll::Ready(unsafe { table.take::<O>(key) });
        }
        let Stage::New(mut op) = std::mem::replace(&mut this.stage, Stage::Over) else {
            panic!("a future was polled after it had completed");
        };
        if let Some(result) = this.driver.try_now(&mut op) {
            return Poll::Ready((result, op));
        }
        let key = table.insert(op, true);
        this.stage = Stage::InFlight(key);
        this.driver.submit(key);
        if table.is_done(key) {
            this.stage = Stage::Over;
            // SAFETY: as above: on a closed loop it is over at once.
            return Poll::Ready(unsafe { table.take::<O>(key) });
        }
        table.set_waker(key, cx.waker());
        Poll::Pending
    }
}

impl<O: Op> Drop for Pending<O> {
    fn drop(&mut self) {
        let Stage::InFlight(key) = self.stage else { return };
        match self.driver.table.state(key) {
            State::Done => {
                // SAFETY: this future inserted it as an `O`, and it is done.
                let (result, mut op) = unsafe { self.driver.table.take::<O>(key) };
                let mut after = Aftermath::default();
                op.settle(result, &mut after);
                drop(op);
                after.run();
            }
            State::Attached => {
                let cancels = self.driver.table.with(key, |op| op.is_cancelled_by_drop());
                self.driver.table.detach(key);
                if cancels == Some(true) {
                    self.driver.cancel(key);
                }
            }
            State::Detached | State::Free => {}
        }
    }
}
