//! The waits of futures that may go to another thread, and so cannot keep a [`Waiter`](crate::runtime::wait::Waiter).

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::error::JoinError;
use crate::runtime::core::{self, Core};
use crate::runtime::here;
use crate::runtime::outcome::Outcome;
use crate::runtime::remote::Remote;
use crate::runtime::scope::{Act, What};
use crate::runtime::wait::check;

/// The wait that such a future has in the table of the loop that polled it last, so that a cancel of its scope wakes
/// it there. What it waits for wakes it by other means.
#[derive(Default)]
pub(crate) struct Away(Option<Entered>);

struct Entered {
    remote: &'static Remote,
    epoch: u64,
    slot: u32,
}

impl Entered {
    fn is_in(&self, core: &Core) -> bool {
        std::ptr::eq(self.remote, core.remote) && self.epoch == core.epoch
    }
}

impl Away {
    /// Enters the wait into the scope that this poll is in, unless its task is woken by a cancel anyway.
    fn register(&mut self, cx: &Context<'_>, what: What) {
        let core = core::try_current();
        match (&self.0, core) {
            (Some(entered), Some(core)) if entered.is_in(&core) => {
                core.continue_wait(entered.slot, cx.waker())
            }
            (_, core) => {
                self.clear();
                self.0 = core.and_then(|core| Self::enter(&core, cx, what));
            }
        }
    }

    fn enter(core: &Rc<Core>, cx: &Context<'_>, what: What) -> Option<Entered> {
        if here::is_known(cx.waker(), Some(what)) {
            return None;
        }
        let slot = core.begin_wait(Act::Wake, Some(what), Some(cx.waker().clone()));
        Some(Entered { remote: core.remote, epoch: core.epoch, slot })
    }

    /// Waits for what another thread brings; a cancel of the scope that this poll is in ends the wait.
    pub(crate) fn poll<T>(
        &mut self,
        outcome: &Outcome<T>,
        cx: &Context<'_>,
        what: What,
    ) -> Poll<Result<T, JoinError>> {
        if let Poll::Ready(result) = outcome.poll(cx) {
            self.clear();
            return Poll::Ready(result);
        }
        ready!(check(cx)).map_err(JoinError::WaitCancelled)?;
        self.register(cx, what);
        Poll::Pending
    }

    /// The wait is over.
    fn clear(&mut self) {
        let Some(entered) = self.0.take() else { return };
        match core::try_current() {
            Some(core) if entered.is_in(&core) => drop(core.end_wait(entered.slot)),
            // A loop that is closed has no waits left.
            _ => {
                let end = move || drop(core::try_current().map(|core| core.end_wait(entered.slot)));
                let _ = entered.remote.call(entered.epoch, Box::new(end));
            }
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.clear();
    }
}
