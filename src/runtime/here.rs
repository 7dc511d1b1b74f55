//! Where this thread is right now: which scope's body and which task it polls.

use std::cell::Cell;

use crate::runtime::core::{self, Core};
use crate::runtime::scope::NONE;

struct Here {
    scope: Cell<u32>,
    task: Cell<u32>,
    /// Whether the scope is cancelled: a copy, since each wait asks.
    cancelled: Cell<bool>,
    /// The task has had its answer in this poll.
    answered: Cell<bool>,
    /// A wait was put off to a later turn, for that reason.
    put_off: Cell<bool>,
    /// How often any scope of this thread changed its state.
    changes: Cell<u32>,
}

thread_local! {
    static HERE: Here = const {
        Here {
            scope: Cell::new(NONE),
            task: Cell::new(NONE),
            cancelled: Cell::new(false),
            answered: Cell::new(false),
            put_off: Cell::new(false),
            changes: Cell::new(0),
        }
    };
}

/// The innermost scope whose body is being polled.
#[inline]
pub(crate) fn scope() -> u32 {
    HERE.with(|here| here.scope.get())
}

/// The task that is being polled.
#[inline]
pub(crate) fn task() -> u32 {
    HERE.with(|here| here.task.get())
}

/// Whether the scope is cancelled.
#[inline]
pub(crate) fn is_cancelled() -> bool {
    HERE.with(|here| here.cancelled.get())
}

/// Scopes of `core` have changed their state, perhaps this one, perhaps one whose body waits for this one's.
pub(crate) fn note_change(core: &Core) {
    HERE.with(|here| {
        here.changes.set(here.changes.get().wrapping_add(1));
        if core::is_current(core) {
            here.cancelled.set(core.is_cancelled(here.scope.get()));
        }
    });
}

/// Whether a wait may be answered in this poll; the next one may not.
pub(crate) fn may_answer() -> bool {
    HERE.with(|here| {
        let may = !here.answered.replace(true);
        here.put_off.set(here.put_off.get() || !may);
        may
    })
}

/// Whether a wait was put off since the last call.
pub(crate) fn was_put_off() -> bool {
    HERE.with(|here| here.put_off.replace(false))
}

/// The poll of a task begins.
#[inline]
pub(crate) fn enter_task(task: u32) -> InTask {
    HERE.with(|here| {
        here.answered.set(false);
        here.put_off.set(false);
        InTask { before: here.task.replace(task) }
    })
}

/// Until it is dropped, a task is being polled.
pub(crate) struct InTask {
    before: u32,
}

impl Drop for InTask {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| here.task.set(self.before));
    }
}

/// The poll of the body of a scope of `core`, the current loop, begins.
#[inline]
pub(crate) fn enter_scope(core: &Core, scope: u32) -> InScope {
    let cancelled = core.is_cancelled(scope);
    HERE.with(|here| InScope {
        scope: here.scope.replace(scope),
        cancelled: here.cancelled.replace(cancelled),
        changes: here.changes.get(),
    })
}

/// This thread begins to be in no scope: another loop comes.
pub(crate) fn enter_loop() -> InScope {
    HERE.with(|here| InScope {
        scope: here.scope.replace(NONE),
        cancelled: here.cancelled.replace(false),
        changes: here.changes.get(),
    })
}

/// Until it is dropped, the body of a scope is being polled.
pub(crate) struct InScope {
    scope: u32,
    cancelled: bool,
    changes: u32,
}

impl Drop for InScope {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| {
            here.scope.set(self.scope);
            if here.changes.get() == self.changes {
                here.cancelled.set(self.cancelled);
            } else {
                let core = core::try_current();
                here.cancelled.set(core.is_some_and(|core| core.is_cancelled(self.scope)));
            }
        });
    }
}
