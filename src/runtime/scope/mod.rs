//! The cancel scopes of a loop and the waits in them: two tables of indices, linked into a tree and into lists.
//!
//! A scope is in the tree while a body runs in it. Each task has a scope of its own, the root of what the task does;
//! under a task group's scope hang the roots of its children. A scope is *cancelled* (here: `effective`) if that was
//! asked of it, or if the scope above it is cancelled and it has no shield. A wait belongs to the scope that it was
//! polled in last; a cancel reaches it from there.
//!
//! Nothing here runs user code: what has to be woken or asked comes back as [`Effects`] (C14).

mod deadlines;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Instant;

use slab::Slab;

use crate::driver::Key;
use crate::error::Cancelled;
use crate::runtime::timer::TimerKey;

/// No scope, no wait.
pub(crate) const NONE: u32 = u32::MAX;

/// What a cancel does to a wait.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Wakes it: it answers at its next poll.
    Wake,
    /// Asks the kernel to cancel the operation; the wait is answered at its completion.
    Ask(Key),
    /// Sets the flag, if there is one, and wakes it too, since it may want to know; but it ends when it ends.
    Bear(Option<Arc<AtomicBool>>),
}

/// What a task waits for, for people who look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct What(pub(crate) &'static &'static str);

struct Wait {
    scope: u32,
    previous: u32,
    next: u32,
    what: Option<What>,
    act: Act,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Rare {
    deadline: Option<Instant>,
    timer: Option<TimerKey>,
    message: Option<Arc<str>>,
}

struct Scope {
    parent: u32,
    first_child: u32,
    /// The list of the parent's children.
    previous: u32,
    next: u32,
    first_wait: u32,
    /// Handles, and one for being in the tree.
    uses: u32,
    /// Scopes of the same task under this one: as long as there are any, its body does not wait for something foreign.
    inner: u32,
    /// How often a cancel was asked and not taken back.
    asked: u32,
    /// Where deadline and message are, if there are any.
    rare: u32,
    /// The slot of the task whose root this is.
    task: u32,
    /// The waker of the body; a root's task is woken by its slot.
    waker: Option<Waker>,
    shield: bool,
    effective: bool,
    in_tree: bool,
    was_entered: bool,
    caught: bool,
    /// Somebody looks after the end of one of its operations.
    watched: bool,
}

/// What can move the body of a cancelled scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moves {
    /// Nothing of ours: it waits for something foreign.
    Not,
    /// What moves it wakes it too.
    Itself,
    /// The end of this operation, whose waker may lead elsewhere.
    By(Key),
}

/// What is to be done when nothing is borrowed any more.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) wakers: Vec<Waker>,
    pub(crate) tasks: Vec<u32>,
    /// To be asked to end.
    pub(crate) operations: Vec<Key>,
    pub(crate) timers: Vec<TimerKey>,
    /// To be dropped, which may run foreign code.
    pub(crate) garbage: Vec<Waker>,
    /// A scope is cancelled that was not, or the other way round.
    changed: bool,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        !self.changed
            && self.wakers.is_empty()
            && self.tasks.is_empty()
            && self.operations.is_empty()
            && self.timers.is_empty()
            && self.garbage.is_empty()
    }
}

#[derive(Default)]
pub(crate) struct Scopes {
    scopes: Slab<Scope>,
    waits: Slab<Wait>,
    rare: Slab<Rare>,
}

impl Scopes {
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.scopes.len(), self.waits.len())
    }

    #[inline]
    fn scope(&self, slot: u32) -> &Scope {
        &self.scopes[slot as usize]
    }

    #[inline]
    fn scope_mut(&mut self, slot: u32) -> &mut Scope {
        &mut self.scopes[slot as usize]
    }

    // ---- scopes ----

    /// Makes a scope with one use: a handle, or the place in the tree that `attach` will give it.
    pub(crate) fn create(&mut self, task: u32) -> u32 {
        self.scopes.insert(Scope {
            parent: NONE,
            first_child: NONE,
            previous: NONE,
            next: NONE,
            first_wait: NONE,
            uses: 1,
            inner: 0,
            asked: 0,
            rare: NONE,
            task,
            waker: None,
            shield: false,
            effective: false,
            in_tree: false,
            was_entered: false,
            caught: false,
            watched: false,
        }) as u32
    }

    /// Makes the scope of a task, in the tree from the beginning: its place there is all that holds it. True if the scope
    /// above is cancelled, so that `refresh` has something to do.
    pub(crate) fn create_root(&mut self, task: u32, parent: u32) -> (u32, bool) {
        let slot = self.create(task);
        let scope = self.scope_mut(slot);
        scope.in_tree = true;
        scope.was_entered = true;
        self.attach(slot, parent);
        (slot, self.is_effective(parent))
    }

    /// Ends the scope of a task if nothing is in it, as nearly always; else `leave` has to.
    pub(crate) fn end_root(&mut self, slot: u32) -> bool {
        let scope = self.scope(slot);
        let simple = scope.first_child == NONE
            && scope.first_wait == NONE
            && scope.rare == NONE
            && scope.uses == 1
            && scope.waker.is_none();
        if simple {
            self.unchain(slot);
            self.scopes.remove(slot as usize);
        }
        simple
    }

    pub(crate) fn add_use(&mut self, slot: u32) {
        self.scope_mut(slot).uses += 1;
    }

    /// The last use takes the scope along.
    pub(crate) fn drop_use(&mut self, slot: u32) {
        let scope = self.scope_mut(slot);
        scope.uses -= 1;
        if scope.uses == 0 {
            debug_assert!(!scope.in_tree, "being in the tree is a use");
            let scope = self.scopes.remove(slot as usize);
            if scope.rare != NONE {
                self.rare.remove(scope.rare as usize);
            }
        }
    }

    /// Puts a scope into the tree, where it takes over the cancellation of `parent`.
    pub(crate) fn enter(&mut self, slot: u32, parent: u32, effects: &mut Effects) {
        let scope = self.scope_mut(slot);
        debug_assert!(!scope.in_tree);
        scope.in_tree = true;
        scope.was_entered = true;
        scope.uses += 1;
        self.attach(slot, parent);
        self.refresh(slot, effects);
    }

    /// A scope whose body is polled somewhere else than before.
    pub(crate) fn move_to(&mut self, slot: u32, parent: u32, effects: &mut Effects) {
        self.detach(slot, effects);
        self.attach(slot, parent);
        self.refresh(slot, effects);
    }

    /// Takes a scope out of the tree. What outlives it, scopes and waits, passes to its parent; the tasks of a cancelled
    /// group stay cancelled.
    pub(crate) fn leave(&mut self, slot: u32, effects: &mut Effects) {
        let (parent, effective) = (self.scope(slot).parent, self.scope(slot).effective);
        self.detach(slot, effects);
        while self.scope(slot).first_child != NONE {
            let child = self.scope(slot).first_child;
            self.detach(child, effects);
            if effective && !self.is_inner(child) {
                self.scope_mut(child).asked += 1;
            }
            self.attach(child, parent);
            self.refresh(child, effects);
        }
        while self.scope(slot).first_wait != NONE {
            let wait = self.scope(slot).first_wait;
            self.unlink(wait);
            if parent != NONE {
                self.link(wait, parent);
            }
        }
        let scope = self.scope_mut(slot);
        scope.in_tree = false;
        scope.effective = false;
        effects.garbage.extend(scope.waker.take());
        if let Some(timer) = self.rare_of(slot).and_then(|rare| rare.timer.take()) {
            effects.timers.push(timer);
        }
        self.drop_use(slot);
    }

    fn is_inner(&self, slot: u32) -> bool {
        self.scope(slot).task == NONE
    }

    fn attach(&mut self, slot: u32, parent: u32) {
        let inner = self.is_inner(slot);
        self.scope_mut(slot).parent = parent;
        if parent == NONE {
            return;
        }
        let above = self.scope_mut(parent);
        above.inner += u32::from(inner);
        let first = std::mem::replace(&mut above.first_child, slot);
        let scope = self.scope_mut(slot);
        (scope.previous, scope.next) = (NONE, first);
        if first != NONE {
            self.scope_mut(first).previous = slot;
        }
    }

    fn detach(&mut self, slot: u32, effects: &mut Effects) {
        let inner = self.is_inner(slot);
        let parent = self.unchain(slot);
        if parent == NONE {
            return;
        }
        let above = self.scope_mut(parent);
        above.inner -= u32::from(inner);
        // The last inner scope is gone: what its body waits for now may be foreign, so it has to be looked at again.
        if inner && above.effective && above.inner == 0 {
            self.wake_body(parent, effects);
        }
    }

    /// Takes a scope out of the list of its parent; returns that one.
    fn unchain(&mut self, slot: u32) -> u32 {
        let scope = self.scope_mut(slot);
        let (parent, previous, next) = (scope.parent, scope.previous, scope.next);
        (scope.parent, scope.previous, scope.next) = (NONE, NONE, NONE);
        if parent == NONE {
            return NONE;
        }
        match previous {
            NONE => self.scope_mut(parent).first_child = next,
            previous => self.scope_mut(previous).next = next,
        }
        if next != NONE {
            self.scope_mut(next).previous = previous;
        }
        parent
    }

    fn wake_body(&mut self, slot: u32, effects: &mut Effects) {
        let scope = self.scope_mut(slot);
        match scope.task {
            NONE => effects.wakers.extend(scope.waker.take()),
            task => effects.tasks.push(task),
        }
    }

    /// Brings a scope and what is under it up to date after something above or in it changed.
    pub(crate) fn refresh(&mut self, top: u32, effects: &mut Effects) {
        if !self.refresh_one(top, effects) {
            return;
        }
        let mut stack = vec![top];
        while let Some(slot) = stack.pop() {
            let mut child = self.scope(slot).first_child;
            while child != NONE {
                if self.refresh_one(child, effects) {
                    stack.push(child);
                }
                child = self.scope(child).next;
            }
        }
    }

    /// Whether the scope has changed, and those under it have to be looked at.
    fn refresh_one(&mut self, slot: u32, effects: &mut Effects) -> bool {
        let scope = self.scope(slot);
        let above = !scope.shield && self.is_effective(scope.parent);
        let effective = scope.in_tree && (scope.asked > 0 || above);
        if effective == scope.effective {
            return false;
        }
        self.scope_mut(slot).effective = effective;
        effects.changed = true;
        if effective {
            self.wake_body(slot, effects);
            self.cancel_waits(slot, effects);
        }
        true
    }

    fn cancel_waits(&mut self, slot: u32, effects: &mut Effects) {
        let mut wait = self.scope(slot).first_wait;
        while wait != NONE {
            let next = self.waits[wait as usize].next;
            self.cancel_wait(wait, effects);
            wait = next;
        }
    }

    fn cancel_wait(&mut self, slot: u32, effects: &mut Effects) {
        let wait = &mut self.waits[slot as usize];
        match &wait.act {
            Act::Wake | Act::Bear(None) => effects.wakers.extend(wait.waker.take()),
            Act::Bear(Some(flag)) => {
                flag.store(true, Ordering::Release);
                effects.wakers.extend(wait.waker.take());
            }
            Act::Ask(key) => effects.operations.push(*key),
        }
    }

    /// Asks to cancel a scope.
    pub(crate) fn cancel(&mut self, slot: u32, message: Option<Arc<str>>, effects: &mut Effects) {
        if message.is_some() {
            self.rare_mut(slot).message = message;
        }
        self.scope_mut(slot).asked += 1;
        self.refresh(slot, effects);
    }

    /// Takes one request back; returns how many are left.
    pub(crate) fn uncancel(&mut self, slot: u32, effects: &mut Effects) -> u32 {
        let scope = self.scope_mut(slot);
        scope.asked = scope.asked.saturating_sub(1);
        let left = scope.asked;
        self.refresh(slot, effects);
        left
    }

    pub(crate) fn set_shield(&mut self, slot: u32, shield: bool, effects: &mut Effects) {
        self.scope_mut(slot).shield = shield;
        self.refresh(slot, effects);
    }

    pub(crate) fn has_shield(&self, slot: u32) -> bool {
        self.scope(slot).shield
    }

    pub(crate) fn requests(&self, slot: u32) -> u32 {
        self.scope(slot).asked
    }

    /// Whether what is polled in this scope is cancelled.
    #[inline]
    pub(crate) fn is_effective(&self, slot: u32) -> bool {
        self.scopes.get(slot as usize).is_some_and(|scope| scope.effective)
    }

    /// Whether a body has begun in it.
    pub(crate) fn was_entered(&self, slot: u32) -> bool {
        self.scope(slot).was_entered
    }

    pub(crate) fn is_in_tree(&self, slot: u32) -> bool {
        self.scope(slot).in_tree
    }

    pub(crate) fn parent(&self, slot: u32) -> u32 {
        self.scope(slot).parent
    }

    /// Whether the cancellation of this scope ends here: it was asked of it, and of none above that it has no shield from.
    pub(crate) fn catches(&self, slot: u32) -> bool {
        let scope = self.scope(slot);
        scope.asked > 0 && (scope.shield || !self.is_effective(scope.parent))
    }

    pub(crate) fn set_caught(&mut self, slot: u32) {
        self.scope_mut(slot).caught = true;
    }

    pub(crate) fn was_caught(&self, slot: u32) -> bool {
        self.scope(slot).caught
    }

    /// What a wait in this scope answers: with the message of the nearest request.
    pub(crate) fn answer(&self, mut slot: u32) -> Cancelled {
        while let Some(scope) = self.scopes.get(slot as usize) {
            if scope.asked > 0 {
                let message = self.rare.get(scope.rare as usize).and_then(|rare| rare.message.clone());
                return Cancelled::from_request(message);
            }
            slot = scope.parent;
        }
        Cancelled::default()
    }

    /// Whether the body of this scope will be woken by `waker`.
    #[inline]
    pub(crate) fn wakes(&self, slot: u32, waker: &Waker) -> bool {
        self.scope(slot).waker.as_ref().is_some_and(|old| old.will_wake(waker))
    }

    /// The waker of the scope's body. Returns the one to drop.
    pub(crate) fn set_waker(&mut self, slot: u32, waker: Waker) -> Option<Waker> {
        self.scope_mut(slot).waker.replace(waker)
    }

    /// Whether anything of ours can move the body of a cancelled scope: an operation that is still `in_flight`, a wait
    /// that has to be borne, an inner scope.
    pub(crate) fn moves(&self, slot: u32, in_flight: impl Fn(Key) -> bool) -> Moves {
        let scope = self.scope(slot);
        if !scope.effective || scope.inner > 0 {
            return Moves::Itself;
        }
        let mut wait = scope.first_wait;
        let mut moves = Moves::Not;
        while wait != NONE {
            let entry = &self.waits[wait as usize];
            match &entry.act {
                Act::Ask(key) if in_flight(*key) => return Moves::By(*key),
                Act::Bear(_) => moves = Moves::Itself,
                Act::Wake | Act::Ask(_) => {}
            }
            wait = entry.next;
        }
        moves
    }

    /// Notes that somebody looks after the end of an operation in this scope; false if somebody did already.
    pub(crate) fn watch(&mut self, slot: u32) -> bool {
        let scope = self.scope_mut(slot);
        let new = !std::mem::replace(&mut scope.watched, true);
        scope.uses += u32::from(new);
        new
    }

    /// The operation is over: the body has to be looked at again.
    pub(crate) fn unwatch(&mut self, slot: u32, effects: &mut Effects) {
        self.scope_mut(slot).watched = false;
        if self.scope(slot).in_tree {
            self.wake_body(slot, effects);
        }
        self.drop_use(slot);
    }
}
