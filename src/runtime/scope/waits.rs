//! The waits in the scopes.

use std::task::Waker;

use crate::runtime::scope::{Act, NONE, Scopes, Wait, What};

impl Scopes {
    pub(super) fn link(&mut self, slot: u32, scope: u32) {
        let first = std::mem::replace(&mut self.scope_mut(scope).first_wait, slot);
        let wait = &mut self.waits[slot as usize];
        (wait.scope, wait.previous, wait.next) = (scope, NONE, first);
        if first != NONE {
            self.waits[first as usize].previous = slot;
        }
    }

    pub(super) fn unlink(&mut self, slot: u32) {
        let wait = &mut self.waits[slot as usize];
        let (scope, previous, next) = (wait.scope, wait.previous, wait.next);
        wait.scope = NONE;
        if scope == NONE {
            return;
        }
        match previous {
            NONE => self.scope_mut(scope).first_wait = next,
            previous => self.waits[previous as usize].next = next,
        }
        if next != NONE {
            self.waits[next as usize].previous = previous;
        }
    }

    /// A wait begins in `scope`.
    #[inline]
    pub(crate) fn begin(&mut self, scope: u32, act: Act, what: Option<What>, waker: Option<Waker>) -> u32 {
        let slot =
            self.waits.insert(Wait { scope: NONE, previous: NONE, next: NONE, what, act, waker }) as u32;
        if scope != NONE {
            self.link(slot, scope);
        }
        slot
    }

    /// A wait is polled again, in `scope`.
    #[inline]
    pub(crate) fn go_on(&mut self, slot: u32, scope: u32) {
        if self.waits[slot as usize].scope != scope {
            self.unlink(slot);
            if scope != NONE {
                self.link(slot, scope);
            }
        }
    }

    /// Whether the end of a wait wakes `waker`.
    #[inline]
    pub(crate) fn wait_wakes(&self, slot: u32, waker: &Waker) -> bool {
        self.waits[slot as usize].waker.as_ref().is_some_and(|old| old.will_wake(waker))
    }

    pub(crate) fn wait_has_waker(&self, slot: u32) -> bool {
        self.waits[slot as usize].waker.is_some()
    }

    /// The waker of a wait; returns the one to drop.
    #[inline]
    pub(crate) fn set_wait_waker(&mut self, slot: u32, waker: Waker) -> Option<Waker> {
        self.waits[slot as usize].waker.replace(waker)
    }

    pub(crate) fn take_wait_waker(&mut self, slot: u32) -> Option<Waker> {
        self.waits[slot as usize].waker.take()
    }

    /// A wait is over; returns its waker.
    #[inline]
    pub(crate) fn end(&mut self, slot: u32) -> Option<Waker> {
        self.unlink(slot);
        self.waits.remove(slot as usize).waker
    }

    /// Nobody is woken any more.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        let bodies = self.scopes.iter_mut().filter_map(|(_, scope)| scope.waker.take());
        let waits = self.waits.iter_mut().filter_map(|(_, wait)| wait.waker.take());
        bodies.chain(waits).collect()
    }

    /// What is waited for in the scopes of one task.
    pub(crate) fn waits_under(&self, root: u32) -> Vec<&'static str> {
        let mut found = Vec::new();
        let mut stack = vec![root];
        while let Some(slot) = stack.pop() {
            let mut wait = self.scope(slot).first_wait;
            while wait != NONE {
                let entry = &self.waits[wait as usize];
                found.extend(entry.what.map(|what| *what.0));
                wait = entry.next;
            }
            let mut child = self.scope(slot).first_child;
            while child != NONE {
                if self.is_inner(child) {
                    stack.push(child);
                }
                child = self.scope(child).next;
            }
        }
        found
    }
}
