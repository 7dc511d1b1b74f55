//! The clock of a loop: the real one, or one that jumps to the next deadline when everything waits.

use std::cell::Cell;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) enum Clock {
    Real,
    /// Stands still while anything can run.
    Virtual(Cell<Instant>),
}

/// How long, in real time, a virtual clock waits for I/O that is in flight before it jumps.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

impl Clock {
    pub(crate) fn new(is_virtual: bool) -> Self {
        if is_virtual { Self::Virtual(Cell::new(Instant::now())) } else { Self::Real }
    }

    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            Self::Virtual(now) => now.get(),
        }
    }

    pub(crate) fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_))
    }

    /// Moves a virtual clock on to `at`.
    pub(crate) fn jump(&self, at: Instant) {
        if let Self::Virtual(now) = self {
            now.set(at.max(now.get()));
        }
    }
}
