//! The deadlines of scopes, and what else only few scopes have.

use std::time::Instant;

use crate::runtime::scope::{NONE, Rare, Scopes};
use crate::runtime::timer::TimerKey;

impl Scopes {
    pub(super) fn rare_of(&mut self, slot: u32) -> Option<&mut Rare> {
        self.rare.get_mut(self.scopes[slot as usize].rare as usize)
    }

    pub(super) fn rare_mut(&mut self, slot: u32) -> &mut Rare {
        let scope = &mut self.scopes[slot as usize];
        if scope.rare == NONE {
            scope.rare = self.rare.insert(Rare::default()) as u32;
        }
        &mut self.rare[scope.rare as usize]
    }

    pub(crate) fn deadline(&self, slot: u32) -> Option<Instant> {
        self.rare.get(self.scope(slot).rare as usize)?.deadline
    }

    /// The nearest deadline of this scope and those above it, up to a shield.
    pub(crate) fn nearest_deadline(&self, mut slot: u32) -> Option<Instant> {
        let mut nearest = None;
        while let Some(scope) = self.scopes.get(slot as usize) {
            nearest = nearest.into_iter().chain(self.deadline(slot)).min();
            slot = if scope.shield { NONE } else { scope.parent };
        }
        nearest
    }

    pub(crate) fn set_deadline(&mut self, slot: u32, deadline: Option<Instant>) {
        if deadline.is_some() || self.scope(slot).rare != NONE {
            self.rare_mut(slot).deadline = deadline;
        }
    }

    /// Notes the timer of the deadline; returns the one before it.
    pub(crate) fn set_timer(&mut self, slot: u32, timer: Option<TimerKey>) -> Option<TimerKey> {
        match timer {
            None => self.rare_of(slot)?.timer.take(),
            Some(timer) => self.rare_mut(slot).timer.replace(timer),
        }
    }
}
