//! Where this thread is right now: which scope's body and which task it polls.

use std::cell::Cell;
use std::task::Waker;

use crate::runtime::core::{self, Core};
use crate::runtime::scope::{NONE, What};
use crate::runtime::waker::is_waker_of;

/// The innermost scope and the task that are polled.
#[derive(Clone, Copy)]
struct Place {
    scope: u32,
    task: u32,
}

const NOWHERE: Place = Place { scope: NONE, task: NONE };

#[derive(Clone, Copy)]
struct State {
    /// Whether the scope is cancelled: a copy, since each wait asks.
    cancelled: bool,
    /// The task has had its answer in this poll.
    answered: bool,
    /// What put this body off to a later turn, and woke it already.
    put_off: PutOff,
}

/// What of ours put a body off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PutOff {
    Nothing,
    /// It lets others run.
    Yield,
    /// A wait, which will be answered then.
    Wait,
}

const CALM: State = State { cancelled: false, answered: false, put_off: PutOff::Nothing };

struct Here {
    /// The loop of this thread; only compared.
    core: Cell<*const Core>,
    place: Cell<Place>,
    state: Cell<State>,
    /// The data word of the task's own waker.
    waker: Cell<u64>,
    /// How often any scope of this thread changed its state.
    changes: Cell<u32>,
    /// What the task waited for last in this poll.
    what: Cell<Option<What>>,
}

thread_local! {
    static HERE: Here = const {
        Here {
            core: Cell::new(std::ptr::null()),
            place: Cell::new(NOWHERE),
            state: Cell::new(CALM),
            waker: Cell::new(0),
            changes: Cell::new(0),
            what: Cell::new(None),
        }
    };
}

/// The innermost scope whose body is being polled.
#[inline]
pub(crate) fn scope() -> u32 {
    HERE.with(|here| here.place.get().scope)
}

/// The same, if it is one of `core`.
#[inline]
pub(crate) fn scope_of(core: &Core) -> u32 {
    HERE.with(|here| if std::ptr::eq(here.core.get(), core) { here.place.get().scope } else { NONE })
}

/// Notes what is waited for with `waker`. True if nobody else has to know of the wait: the waker is the task's own, which
/// every cancel around calls, and who passes it on polls all that got it.
#[inline]
pub(crate) fn is_known(waker: &Waker, what: Option<What>) -> bool {
    HERE.with(|here| {
        let known = is_waker_of(waker, here.waker.get()) && !here.state.get().cancelled;
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
    HERE.with(|here| here.place.get().task)
}

/// Whether the scope is cancelled.
#[inline]
pub(crate) fn is_cancelled() -> bool {
    HERE.with(|here| here.state.get().cancelled)
}

/// Scopes of `core` have changed their state, perhaps this one, perhaps one whose body waits for this one's.
pub(crate) fn note_change(core: &Core) {
    HERE.with(|here| {
        here.changes.set(here.changes.get().wrapping_add(1));
        if std::ptr::eq(here.core.get(), core) {
            here.set_cancelled(core.is_cancelled(here.place.get().scope));
        }
    });
}

impl Here {
    fn set_cancelled(&self, cancelled: bool) {
        self.state.set(State { cancelled, ..self.state.get() });
    }
}

/// Whether a wait may be answered in this poll; the next one may not.
pub(crate) fn may_answer() -> bool {
    HERE.with(|here| {
        let state = here.state.get();
        let put_off = if state.answered { PutOff::Wait } else { state.put_off };
        here.state.set(State { answered: true, put_off, ..state });
        !state.answered
    })
}

/// The body is put off to a later turn, and woken already: it does not wait for something foreign.
#[inline]
pub(crate) fn put_off(by: PutOff) {
    HERE.with(|here| {
        let state = here.state.get();
        here.state.set(State { put_off: state.put_off.max(by), ..state });
    });
}

/// What put this body off since the last call.
pub(crate) fn take_put_off() -> PutOff {
    HERE.with(|here| {
        let state = here.state.get();
        here.state.set(State { put_off: PutOff::Nothing, ..state });
        state.put_off
    })
}

/// The poll of a task of `core`, the current loop, begins, in the task's own scope.
#[inline]
pub(crate) fn enter_task(core: &Core, task: u32, root: u32, waker: u64) -> InTask {
    let cancelled = core.is_cancelled(root);
    HERE.with(|here| {
        here.place.set(Place { scope: root, task });
        here.state.set(State { cancelled, ..CALM });
        here.waker.set(waker);
    });
    InTask(())
}

/// Until it is dropped, a task is being polled. Tasks are polled by the loop only, never inside of another.
pub(crate) struct InTask(());

impl Drop for InTask {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| {
            here.place.set(NOWHERE);
            here.state.set(CALM);
            here.waker.set(0);
        });
    }
}

/// The poll of the body of a scope of `core`, the current loop, begins.
#[inline]
pub(crate) fn enter_scope(core: &Core, scope: u32) -> InScope {
    let cancelled = core.is_cancelled(scope);
    HERE.with(|here| {
        let (place, state) = (here.place.get(), here.state.get());
        here.place.set(Place { scope, ..place });
        here.state.set(State { cancelled, put_off: PutOff::Nothing, ..state });
        InScope {
            scope: place.scope,
            cancelled: state.cancelled,
            put_off: state.put_off,
            changes: here.changes.get(),
        }
    })
}

/// Until it is dropped, the body of a scope is being polled.
pub(crate) struct InScope {
    scope: u32,
    cancelled: bool,
    put_off: PutOff,
    changes: u32,
}

impl Drop for InScope {
    #[inline]
    fn drop(&mut self) {
        HERE.with(|here| {
            here.place.set(Place { scope: self.scope, ..here.place.get() });
            here.state.set(State { put_off: self.put_off, ..here.state.get() });
            if here.changes.get() == self.changes {
                here.set_cancelled(self.cancelled);
            } else {
                let core = core::try_current();
                here.set_cancelled(core.is_some_and(|core| core.is_cancelled(self.scope)));
            }
        });
    }
}

/// Polls something that several tasks wait for, so that no scope of theirs ends it: what waits in `f` is in none.
pub(crate) fn in_no_scope<R>(f: impl FnOnce() -> R) -> R {
    let core = core::try_current();
    let _outside = core.as_deref().map(|core| enter_scope(core, NONE));
    f()
}

/// This thread begins to be in no scope: another loop comes, or none.
pub(crate) fn enter_loop(core: Option<&Core>) -> InLoop {
    HERE.with(|here| InLoop {
        core: here.core.replace(core.map_or(std::ptr::null(), std::ptr::from_ref)),
        place: here.place.replace(NOWHERE),
        state: here.state.replace(CALM),
        waker: here.waker.replace(0),
    })
}

/// Until it is dropped, another loop is the one of this thread.
pub(crate) struct InLoop {
    core: *const Core,
    place: Place,
    state: State,
    waker: u64,
}

impl Drop for InLoop {
    fn drop(&mut self) {
        HERE.with(|here| {
            here.core.set(self.core);
            here.place.set(self.place);
            here.state.set(self.state);
            here.waker.set(self.waker);
        });
    }
}
