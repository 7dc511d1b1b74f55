//! The callbacks of a loop: made ready now or at a time, and taken back.

use std::panic::Location;
use std::time::Instant;

use crate::runtime::core::{Core, Ready};
use crate::runtime::timer::{Target, TimerKey};

/// Names a callback of a loop; a stale key hits nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey {
    slot: u32,
    number: u64,
}

pub(super) struct Callback {
    number: u64,
    call: Box<dyn FnOnce()>,
    timer: Option<TimerKey>,
    given_at: Option<GivenAt>,
}

/// Where a callback was given to the loop, for debug output; not known of those that other threads gave.
pub(crate) type GivenAt = &'static Location<'static>;

impl Core {
    fn insert_call(&self, call: Box<dyn FnOnce()>, given_at: Option<GivenAt>) -> CallKey {
        let number = self.calls_made.get() + 1;
        self.calls_made.set(number);
        let slot = self.calls.borrow_mut().insert(Callback { number, call, timer: None, given_at }) as u32;
        CallKey { slot, number }
    }

    /// Makes `call` ready, after everything that is ready already.
    pub(crate) fn call_soon(&self, call: Box<dyn FnOnce()>, given_at: Option<GivenAt>) -> CallKey {
        let key = self.insert_call(call, given_at);
        self.ready.borrow_mut().push_back(Ready::Call(key.slot));
        key
    }

    pub(crate) fn call_at(&self, at: Instant, call: Box<dyn FnOnce()>, given_at: GivenAt) -> CallKey {
        let key = self.insert_call(call, Some(given_at));
        let timer = self.timers.borrow_mut().insert(at, Target::Call(key.slot));
        if let Some(callback) = self.calls.borrow_mut().get_mut(key.slot as usize) {
            callback.timer = Some(timer);
        }
        key
    }

    /// Takes a callback back; false if it ran or was cancelled already.
    pub(crate) fn cancel_call(&self, key: CallKey) -> bool {
        let mut calls = self.calls.borrow_mut();
        let Some(callback) =
            calls.get_mut(key.slot as usize).filter(|callback| callback.number == key.number)
        else {
            return false;
        };
        let old = match callback.timer {
            Some(timer) if self.timers.borrow_mut().cancel(timer).is_some() => {
                calls.remove(key.slot as usize).call
            }
            // Its slot is in the ready queue and stays taken until it comes up there.
            _ => {
                callback.number = 0;
                std::mem::replace(&mut callback.call, Box::new(|| ()))
            }
        };
        drop(calls);
        drop(old); // user code, outside the borrow
        true
    }

    pub(crate) fn is_call_pending(&self, key: CallKey) -> bool {
        self.calls.borrow().get(key.slot as usize).is_some_and(|callback| callback.number == key.number)
    }

    pub(super) fn run_call(&self, slot: u32) {
        let callback = self.calls.borrow_mut().try_remove(slot as usize);
        if let Some(callback) = callback {
            self.run_callback(callback.given_at, callback.call);
        }
    }
}
