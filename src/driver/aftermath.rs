//! What completions lead to outside this crate, put off until no state is borrowed (C14).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

use bytes::Bytes;

/// Wakers to call and bytes to drop. Both may run code of the program, which may use the runtime, or panic.
#[derive(Default)]
pub(crate) struct Aftermath {
    wakers: Vec<Waker>,
    garbage: Vec<Bytes>,
}

impl Aftermath {
    /// These shall be woken.
    pub(crate) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.wakers.extend(wakers);
    }

    /// This one shall be woken.
    #[inline]
    pub(crate) fn wake_one(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// These shall be dropped.
    pub(crate) fn discard(&mut self, garbage: impl IntoIterator<Item = Bytes>) {
        self.garbage.extend(garbage);
    }

    /// How many shall be woken.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.wakers.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.garbage.is_empty()
    }

    /// Does it all, whatever panics on the way; the first panic goes on at the end. Call it with nothing borrowed.
    #[inline]
    pub(crate) fn run(&mut self) {
        let mut panics = Panics::default();
        for waker in self.wakers.drain(..) {
            panics.catch(|| waker.wake());
        }
        if !self.garbage.is_empty() {
            self.garbage.drain(..).for_each(|bytes| panics.catch(|| drop(bytes)));
        }
        panics.resume();
    }
}

/// Keeps the first of several panics, so that one of them does not keep the rest of the work from being done.
#[derive(Default)]
pub(crate) struct Panics {
    first: Option<Box<dyn Any + Send>>,
}

impl Panics {
    #[inline]
    pub(crate) fn catch(&mut self, f: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(f)) {
            self.first.get_or_insert(panic);
        }
    }

    pub(crate) fn resume(self) {
        if let Some(panic) = self.first {
            resume_unwind(panic);
        }
    }
}
