//! Polls the body of a scope, and drops one that waits in a cancelled scope for something foreign.
//!
//! A wait of ours answers a cancel. A foreign future (a channel of another crate, `std::future::pending`) does not know
//! of it, so the body that waits for it is dropped: if it is pending in a cancelled scope, holds no wait of ours that
//! will still end, and has woken nobody. Whether it has is found out by polling it once more with a waker that tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::runtime::core::Core;
use crate::runtime::here::{self, PutOff};
use crate::runtime::scope::Moves;

/// So many polls in a row a body may ask for by itself, without a wait of ours in between.
const TURNS_MAX: u32 = 64;

/// What came of a poll.
pub(crate) enum Polled<T> {
    Ready(T),
    Pending,
    /// It waits for something foreign in a cancelled scope, and has to be dropped.
    Foreign,
}

/// Passes a wake-up on, and remembers it.
struct Probe {
    woken: AtomicBool,
    to: Mutex<Waker>,
}

impl Wake for Probe {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let to = self.to.lock().unwrap_or_else(PoisonError::into_inner).clone();
        to.wake();
    }
}

struct Suspect {
    probe: Arc<Probe>,
    waker: Waker,
    turns: u32,
}

impl Suspect {
    fn new(cx: &Context<'_>) -> Box<Self> {
        let probe = Arc::new(Probe { woken: AtomicBool::new(false), to: Mutex::new(cx.waker().clone()) });
        Box::new(Self { waker: Waker::from(probe.clone()), probe, turns: 0 })
    }

    fn poll<T>(&self, cx: &Context<'_>, poll: &mut impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let waker = cx.waker().clone();
        let old =
            std::mem::replace(&mut *self.probe.to.lock().unwrap_or_else(PoisonError::into_inner), waker);
        drop(old);
        self.probe.woken.store(false, Ordering::Release);
        poll(&mut Context::from_waker(&self.waker))
    }

    fn was_woken(&self) -> bool {
        self.probe.woken.load(Ordering::Acquire)
    }
}

/// What is remembered from poll to poll: nothing, nearly always.
#[derive(Default)]
pub(crate) struct Suspicion(Option<Box<Suspect>>);

impl Suspicion {
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

/// Polls the body of `scope` with `poll`.
#[inline]
pub(crate) fn poll_in<T>(
    core: &Core,
    scope: u32,
    suspicion: &mut Suspicion,
    cx: &mut Context<'_>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Polled<T> {
    let _inside = here::enter_scope(core, scope);
    poll_here(core, scope, suspicion, cx, poll)
}

/// As `poll_in`, in the scope that this thread is in already.
#[inline]
pub(crate) fn poll_here<T>(
    core: &Core,
    scope: u32,
    suspicion: &mut Suspicion,
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Polled<T> {
    if suspicion.0.is_none() {
        if let Poll::Ready(value) = poll(cx) {
            return Polled::Ready(value);
        }
        if !here::is_cancelled() {
            return Polled::Pending;
        }
    }
    poll_cancelled(core, scope, suspicion, cx, &mut poll)
}

/// The body is pending, or was suspected before.
#[cold]
fn poll_cancelled<T>(
    core: &Core,
    scope: u32,
    suspicion: &mut Suspicion,
    cx: &Context<'_>,
    poll: &mut impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Polled<T> {
    loop {
        if let Some(suspect) = &suspicion.0
            && let Poll::Ready(value) = suspect.poll(cx, poll)
        {
            return Polled::Ready(value);
        }
        // Not cancelled any more, or a wait of ours will move it: no suspicion.
        let put_off = here::take_put_off();
        if !here::is_cancelled() || put_off == PutOff::Wait {
            suspicion.0 = None;
            return Polled::Pending;
        }
        match core.moves(scope) {
            Moves::Not => {}
            Moves::Itself => {
                suspicion.0 = None;
                return Polled::Pending;
            }
            Moves::By(key) => {
                core.watch(scope, key);
                suspicion.0 = None;
                return Polled::Pending;
            }
        }
        match &mut suspicion.0 {
            // It was woken by a yield of ours: then it is its turn later, not now.
            None if put_off == PutOff::Yield => suspicion.0 = Some(Suspect::new(cx)),
            // Polled once more, at once.
            None => {
                suspicion.0 = Some(Suspect::new(cx));
                continue;
            }
            Some(suspect) if suspect.was_woken() && suspect.turns < TURNS_MAX => suspect.turns += 1,
            Some(_) => return Polled::Foreign,
        }
        return Polled::Pending;
    }
}
