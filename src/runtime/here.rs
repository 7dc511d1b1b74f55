//! Where this thread is right now: which scope's body and which task it polls.

use std::cell::Cell;
use std::task::Waker;

use crate::runtime::core::{self, Core};
use crate::runtime::scope::{NONE, What};
use crate::runtime::waker::is_waker_of;

struct Here {
    /// The loop that the scope is of; only compared.
    core: Cell<*const Core>,
    scope: Cell<u32>,
    task: Cell<u32>,
    /// The data word of the task's own waker.
    waker: Cell<u64>,
    /// Whether the scope is cancelled: a copy, since each wait asks.
    cancelled: Cell<bool>,
    /// The task has had its answer in this poll.
    answered: Cell<bool>,
    /// A wait was put off to a later turn, for that reason.
    put_off: Cell<bool>,
    /// How often any scope of this thread changed its state.
    changes: Cell<u32>,
    /// What the task waited for last in this poll.
    what: Cell<Option<What>>,
}

thread_local! {
    static HERE: Here = const {
        Here {
            core: Cell::new(std::ptr::null()),
            scope: Cell::new(NONE),
            task: Cell::new(NONE),
            waker: Cell::new(0),
            cancelled: Cell::new(false),
            answered: Cell::new(false),
            put_off: Cell::new(false),
            changes: Cell::new(0),
            what: Cell::new(None),
        }
    };
}

/// The innermost scope whose body is being polled.
#[inline]
pub(crate) fn scope() -> u32 {
    HERE.with(|here| here.scope.get())
}

/// The same, if it is one of `core`.
#[inline]
pub(crate) fn scope_of(core: &Core) -> u32 {
    HERE.with(|here| if std::ptr::eq(here.core.get(), core) { here.scope.get() } else { NONE })
}

/// Notes what is waited for with `waker`. True if nobody else has to know of the wait: the waker is the task's own, which
/// every cancel around calls, and who passes it on polls all that got it.
#[inline]
pub(crate) fn is_known(waker: &Waker, what: Option<What>) -> bool {
    HERE.with(|here| {
        let known = is_waker_of(waker, here.waker.get()) && !here.cancelled.get();
        if known {
            here.what.set(what);
        }
        known
    })
}

/// What the task waits for, after its poll.
#[inline]
pub(crate) fn take_what() -> Option<What> {
    HERE.with(|here| here.what.take())
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

/// The poll of a task of `core`, the current loop, begins, in the task's own scope.
#[inline]
pub(crate) fn enter_task(core: &Core, task: u32, root: u32, waker: u64) -> InTask {
    let cancelled = core.is_cancelled(root);
    HERE.with(|here| {
        here.core.set(core);
        here.scope.set(root);
        here.task.set(task);
        here.waker.set(waker);
        here.cancelled.set(cancelled);
        here.answered.set(false);
        here.put_off.set(false);
        here.what.set(None);
    });
    InTask(())
}

/// Until it is dropped, a task is being polled. Tasks are polled by the loop only, never inside of another.
pub(crate) struct InTask(());

impl Drop for InTask {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| {
            here.scope.set(NONE);
            here.task.set(NONE);
            here.waker.set(0);
            here.cancelled.set(false);
        });
    }
}

/// The poll of the body of a scope of `core`, the current loop, begins.
#[inline]
pub(crate) fn enter_scope(core: &Core, scope: u32) -> InScope {
    let cancelled = core.is_cancelled(scope);
    HERE.with(|here| InScope {
        core: here.core.replace(core),
        waker: here.waker.get(),
        scope: here.scope.replace(scope),
        cancelled: here.cancelled.replace(cancelled),
        changes: here.changes.get(),
    })
}

/// This thread begins to be in no scope: another loop comes.
pub(crate) fn enter_loop() -> InScope {
    HERE.with(|here| InScope {
        core: here.core.replace(std::ptr::null()),
        waker: here.waker.replace(0),
        scope: here.scope.replace(NONE),
        cancelled: here.cancelled.replace(false),
        changes: here.changes.get(),
    })
}

/// Until it is dropped, the body of a scope is being polled.
pub(crate) struct InScope {
    core: *const Core,
    waker: u64,
    scope: u32,
    cancelled: bool,
    changes: u32,
}

impl Drop for InScope {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| {
            here.core.set(self.core);
            here.waker.set(self.waker);
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
