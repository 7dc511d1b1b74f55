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
    #[inline]
    pub(crate) fn new(driver: &Rc<Driver>, op: O) -> Self {
        Self { driver: driver.clone(), stage: Stage::New(op) }
    }

    #[inline]
    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Takes back an operation that was not submitted.
    #[inline]
    pub(crate) fn take_back(&mut self) -> O {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(op) => op,
            Stage::InFlight(_) | Stage::Over => unreachable!("it was submitted"),
        }
    }

    /// Whether it was not polled yet.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.stage, Stage::New(_))
    }

    /// The key for a cancel, once submitted and until the result was fetched.
    #[inline]
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(i32, O)> {
        let this = &mut *self;
        match &mut this.stage {
            Stage::New(op) => {
                let result = if this.driver.is_closed() {
                    Some(-libc::ECANCELED)
                } else if this.driver.wants_nonblocking() || op.is_tried_first() {
                    this.driver.try_now(op)
                } else {
                    None
                };
                let op = this.take_back();
                if let Some(result) = result {
                    return Poll::Ready((result, op));
                }
                let key = this.driver.accept(op, true);
                // Before the waker, whose `clone` is foreign code, and may panic.
                this.stage = Stage::InFlight(key);
                this.driver.table.set_waker(key, cx.waker());
                Poll::Pending
            }
            Stage::InFlight(key) => {
                let key = *key;
                if !this.driver.table.poll(key, cx.waker()) {
                    return Poll::Pending;
                }
                this.stage = Stage::Over;
                // SAFETY: this future inserted it as an `O`, and `poll` said that it is done.
                Poll::Ready(unsafe { this.driver.table.take::<O>(key) })
            }
            Stage::Over => panic!("a future was polled after it had completed"),
        }
    }
}

impl<O: Op> Drop for Pending<O> {
    #[inline]
    fn drop(&mut self) {
        let Stage::InFlight(key) = self.stage else { return };
        match self.driver.table.state(key) {
            State::Done if self.driver.goes_on(key) => self.driver.resume(key),
            State::Done => {
                let is_settled = self.driver.table.is_settled(key);
                // SAFETY: this future inserted it as an `O`, and it is done.
                let (result, mut op) = unsafe { self.driver.table.take::<O>(key) };
                let mut after = Aftermath::default();
                if !is_settled {
                    op.settle(result, &mut after);
                }
                drop(op);
                after.run();
            }
            State::Attached => {
                let cancels = self.driver.table.with(key, |op| op.is_cancelled_by_drop());
                self.driver.table.detach(key);
                match cancels {
                    Some(true) => self.driver.cancel(key),
                    // Nor does a cancel that was asked before: nobody would learn how far it came.
                    _ => self.driver.table.withdraw_cancel(key),
                }
            }
            State::Detached | State::Free => {}
        }
    }
}
