//! What the loop does for its scopes: carries out what a change in them leads to.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::driver::Key;
use crate::error::Cancelled;
use crate::runtime::core::{self, Core};
use crate::runtime::here;
use crate::runtime::scope::{Act, Effects, Moves, NONE, Scopes, What};
use crate::runtime::task::Info;

/// What a wait answers that was cancelled here.
pub(crate) fn cancellation_here() -> Cancelled {
    match core::try_current() {
        Some(core) if !core.closed.get() => core.answer(here::scope()),
        _ => Cancelled::with_message("the event loop is closed"),
    }
}

impl Core {
    /// Changes scopes, and then, with nothing borrowed, does what follows from that.
    fn change<R>(&self, f: impl FnOnce(&mut Scopes, &mut Effects) -> R) -> R {
        let mut effects = Effects::default();
        let result = f(&mut self.scopes.borrow_mut(), &mut effects);
        if !effects.is_empty() {
            self.carry_out(effects);
        }
        result
    }

    fn carry_out(&self, effects: Effects) {
        here::note_change(self);
        for timer in effects.timers {
            self.cancel_timer(timer);
        }
        for key in effects.operations {
            self.driver.cancel(key);
        }
        for task in effects.tasks {
            self.wake(task, None);
        }
        effects.wakers.into_iter().for_each(Waker::wake);
    }

    // ---- scopes ----

    /// Makes the scope of a task.
    pub(super) fn enter_root(&self, task: u32, parent: u32) -> u32 {
        let (root, is_cancelled) = self.scopes.borrow_mut().create_root(task, parent);
        if is_cancelled {
            self.change(|scopes, effects| scopes.refresh(root, effects));
        }
        root
    }

    /// A task is over.
    pub(super) fn leave_root(&self, info: &Info) {
        let root = info.root.replace(NONE);
        let over = root == NONE || self.scopes.borrow_mut().end_root(root);
        if !over {
            self.change(|scopes, effects| scopes.leave(root, effects));
        }
    }

    pub(crate) fn new_scope(&self) -> u32 {
        self.scopes.borrow_mut().create(NONE)
    }

    /// The body of a scope begins, under the scope that is being polled.
    pub(crate) fn enter_scope(&self, slot: u32) {
        self.change(|scopes, effects| scopes.enter(slot, here::scope(), effects));
        self.arm_deadline(slot);
    }

    /// The body of a scope is polled: under which scope, and who is to be woken.
    pub(crate) fn poll_scope(&self, slot: u32, waker: &Waker) {
        let (parent, wakes) = {
            let scopes = self.scopes.borrow();
            (scopes.parent(slot), scopes.wakes(slot, waker))
        };
        if parent != here::scope() {
            self.change(|scopes, effects| scopes.move_to(slot, here::scope(), effects));
        }
        if !wakes {
            let waker = waker.clone();
            let old = self.scopes.borrow_mut().set_waker(slot, waker);
            drop(old);
        }
    }

    pub(crate) fn leave_scope(&self, slot: u32) {
        self.change(|scopes, effects| scopes.leave(slot, effects));
    }

    pub(crate) fn cancel_scope(&self, slot: u32, message: Option<Arc<str>>) {
        self.change(|scopes, effects| scopes.cancel(slot, message, effects));
    }

    pub(crate) fn uncancel_scope(&self, slot: u32) -> u32 {
        self.change(|scopes, effects| scopes.uncancel(slot, effects))
    }

    pub(crate) fn shield_scope(&self, slot: u32, shield: bool) {
        self.change(|scopes, effects| scopes.set_shield(slot, shield, effects));
    }

    pub(crate) fn cancel_requests(&self, slot: u32) -> u32 {
        self.scopes.borrow().requests(slot)
    }

    pub(crate) fn add_scope_use(&self, slot: u32) {
        self.scopes.borrow_mut().add_use(slot);
    }

    pub(crate) fn drop_scope_use(&self, slot: u32) {
        self.scopes.borrow_mut().drop_use(slot);
    }

    pub(crate) fn was_entered(&self, slot: u32) -> bool {
        self.scopes.borrow().was_entered(slot)
    }

    pub(crate) fn is_shielded(&self, slot: u32) -> bool {
        self.scopes.borrow().has_shield(slot)
    }

    pub(crate) fn catches(&self, slot: u32) -> bool {
        self.scopes.borrow().catches(slot)
    }

    pub(crate) fn set_caught(&self, slot: u32) {
        self.scopes.borrow_mut().set_caught(slot);
    }

    pub(crate) fn was_caught(&self, slot: u32) -> bool {
        self.scopes.borrow().was_caught(slot)
    }

    #[inline]
    pub(crate) fn is_cancelled(&self, slot: u32) -> bool {
        self.scopes.borrow().is_effective(slot)
    }

    pub(crate) fn answer(&self, slot: u32) -> Cancelled {
        self.scopes.borrow().answer(slot)
    }

    pub(crate) fn waits_under(&self, root: u32) -> Vec<&'static str> {
        if root == NONE { Vec::new() } else { self.scopes.borrow().waits_under(root) }
    }

    pub(crate) fn moves(&self, slot: u32) -> Moves {
        self.scopes.borrow().moves(slot, |key| self.driver.is_in_flight(key))
    }

    // ---- deadlines ----

    pub(crate) fn deadline(&self, slot: u32) -> Option<Instant> {
        self.scopes.borrow().deadline(slot)
    }

    pub(crate) fn nearest_deadline(&self, slot: u32) -> Option<Instant> {
        self.scopes.borrow().nearest_deadline(slot)
    }

    pub(crate) fn set_deadline(&self, slot: u32, deadline: Option<Instant>) {
        self.scopes.borrow_mut().set_deadline(slot, deadline);
        let in_tree = self.scopes.borrow().is_in_tree(slot);
        if in_tree {
            self.arm_deadline(slot);
        }
    }

    fn arm_deadline(&self, slot: u32) {
        let deadline = self.scopes.borrow().deadline(slot);
        let passed = deadline.is_some_and(|deadline| deadline <= self.clock.now());
        let timer = deadline.filter(|_| !passed).map(|deadline| self.insert_deadline(deadline, slot));
        let old = self.scopes.borrow_mut().set_timer(slot, timer);
        if let Some(old) = old {
            self.cancel_timer(old);
        }
        if passed {
            self.deadline_passed(slot);
        }
    }

    pub(super) fn deadline_passed(&self, slot: u32) {
        self.scopes.borrow_mut().set_timer(slot, None);
        self.cancel_scope(slot, None);
    }

    // ---- operations in cancelled scopes ----

    /// The end of the operation has to wake the body of the scope.
    pub(crate) fn watch(&self, slot: u32, key: Key) {
        if self.scopes.borrow_mut().watch(slot) {
            self.watched.borrow_mut().push((slot, key));
        }
    }

    pub(super) fn look_after_watched(&self) {
        if self.watched.borrow().is_empty() {
            return;
        }
        let mut over = Vec::new();
        self.watched.borrow_mut().retain(|(slot, key)| {
            let in_flight = self.driver.is_in_flight(*key);
            if !in_flight {
                over.push(*slot);
            }
            in_flight
        });
        for slot in over {
            self.change(|scopes, effects| scopes.unwatch(slot, effects));
        }
    }

    // ---- waits ----

    /// The scope that a wait of this loop belongs to now.
    #[inline]
    fn scope_here(&self) -> u32 {
        here::scope_of(self)
    }

    #[inline]
    pub(crate) fn begin_wait(&self, act: Act, what: Option<What>, waker: Option<Waker>) -> u32 {
        let scope = self.scope_here();
        self.scopes.borrow_mut().begin(scope, act, what, waker)
    }

    /// A wait is polled again, perhaps with another waker and in another scope.
    #[inline]
    pub(crate) fn continue_wait(&self, slot: u32, waker: &Waker) {
        let scope = self.scope_here();
        let wakes = {
            let mut scopes = self.scopes.borrow_mut();
            scopes.go_on(slot, scope);
            scopes.wait_wakes(slot, waker)
        };
        if !wakes {
            let waker = waker.clone();
            let old = self.scopes.borrow_mut().set_wait_waker(slot, waker);
            drop(old);
        }
    }

    pub(crate) fn wait_wakes(&self, slot: u32, waker: &Waker) -> bool {
        self.scopes.borrow().wait_wakes(slot, waker)
    }

    pub(crate) fn wait_has_waker(&self, slot: u32) -> bool {
        self.scopes.borrow().wait_has_waker(slot)
    }

    /// A wait is polled again, perhaps in another scope.
    #[inline]
    pub(crate) fn move_wait(&self, slot: u32) {
        let scope = self.scope_here();
        self.scopes.borrow_mut().go_on(slot, scope);
    }

    /// What a wait was for has come. It ends at its next poll.
    pub(super) fn wake_wait(&self, slot: u32) {
        let waker = self.scopes.borrow_mut().take_wait_waker(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    #[inline]
    pub(crate) fn end_wait(&self, slot: u32) -> Option<Waker> {
        self.scopes.borrow_mut().end(slot)
    }
}
