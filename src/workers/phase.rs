//! How far the end of all workers has come, which each of them waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// They are asked to end.
    Stopping,
    /// Their time is over.
    Cancelled,
}

/// What all workers, and who waits for them, share.
pub(super) struct Signal {
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// When all were cancelled, if they were.
    cancelled_at: Option<Instant>,
    /// How many workers have not ended.
    running: usize,
    /// One place for each [`Change`] that has waited.
    wakers: Slab<Option<Waker>>,
}

impl Signal {
    pub(super) fn new(running: usize) -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Running,
                cancelled_at: None,
                running,
                wakers: Slab::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn advance(&self, phase: Phase) {
        self.change(|state| {
            state.phase = state.phase.max(phase);
            if phase == Phase::Cancelled {
                state.cancelled_at.get_or_insert_with(Instant::now);
            }
        });
    }

    /// How much of `clean_up` is left: all of it before the time of all workers is over.
    pub(super) fn left_of(&self, clean_up: Duration) -> Duration {
        self.lock().cancelled_at.map_or(clean_up, |at| clean_up.saturating_sub(at.elapsed()))
    }

    pub(super) fn ended(&self) {
        self.change(|state| state.running -= 1);
    }

    pub(super) fn running(&self) -> usize {
        self.lock().running
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers: Vec<_> = state.wakers.iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Somebody who waits for changes.
pub(super) struct Change {
    signal: Arc<Signal>,
    place: Option<usize>,
}

impl Change {
    pub(super) fn of(signal: &Arc<Signal>) -> Self {
        Self { signal: signal.clone(), place: None }
    }

    /// Ready at this phase, and later.
    pub(super) fn poll_phase(&mut self, phase: Phase, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, |state| state.phase >= phase)
    }

    /// Ready when all workers have ended.
    pub(super) fn poll_ended(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, |state| state.running == 0)
    }

    fn poll(&mut self, cx: &Context<'_>, condition: impl Fn(&State) -> bool) -> Poll<()> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut state = self.signal.lock();
        if condition(&state) {
            return Poll::Ready(());
        }
        let place = *self.place.get_or_insert_with(|| state.wakers.insert(None));
        let old = state.wakers[place].replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let place = self.place.take();
        let waker = place.map(|place| self.signal.lock().wakers.remove(place));
        drop(waker);
    }
}
