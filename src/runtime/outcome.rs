//! A result that one thread waits for and another one brings.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Cancelled, JoinError};
use crate::runtime::task::contain;

/// What is called, on the thread that brings the result, when it is there.
pub(crate) type Callback = Box<dyn FnOnce() + Send>;

/// Where the result arrives. One side waits at a time.
pub(crate) struct Outcome<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    result: Option<Result<T, JoinError>>,
    settled: bool,
    /// Nobody wants the result.
    unwanted: bool,
    waker: Option<Waker>,
    callbacks: Vec<Callback>,
}

impl<T> Default for Outcome<T> {
    fn default() -> Self {
        let state =
            State { result: None, settled: false, unwanted: false, waker: None, callbacks: Vec::new() };
        Self { state: Mutex::new(state) }
    }
}

impl<T> Outcome<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the result; only the first one counts.
    pub(crate) fn settle(&self, result: Result<T, JoinError>) {
        let mut state = self.lock();
        if state.settled {
            drop(state);
            contain(|| drop(result));
            return;
        }
        state.settled = true;
        let unwanted = if state.unwanted { Some(result) } else { state.result.replace(result) };
        let waker = state.waker.take();
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        // Foreign code, all of it: no lock is held, and what panics keeps nothing else from being called.
        contain(|| drop(unwanted));
        if let Some(waker) = waker {
            contain(|| waker.wake());
        }
        callbacks.into_iter().for_each(contain);
    }

    /// Whether the result came, fetched or not.
    pub(crate) fn is_settled(&self) -> bool {
        self.lock().settled
    }

    /// Nobody wants the result: who brings it drops it.
    pub(crate) fn disown(&self) {
        let mut state = self.lock();
        state.unwanted = true;
        let result = state.result.take();
        drop(state);
        drop(result);
    }

    /// Ready when somebody brought the result, wanted or not.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut state = self.lock();
        if state.settled {
            return Poll::Ready(());
        }
        let old = state.waker.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Calls `callback` when the result is there; at once if it is.
    pub(crate) fn on_settled(&self, callback: Callback) {
        let mut state = self.lock();
        if state.settled {
            drop(state);
            callback();
        } else {
            state.callbacks.push(callback);
        }
    }

    /// Takes the result if it is there; else the task of `cx` is woken when it comes.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, JoinError>> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut state = self.lock();
        if let Some(result) = state.result.take() {
            drop(state);
            return Poll::Ready(result);
        }
        assert!(!state.settled, "a result was awaited again after it had been given");
        let old = state.waker.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

/// Waits for the result of an [`Outcome`].
pub(crate) struct Arrival<'a, T>(pub(crate) &'a Outcome<T>);

impl<T> Future for Arrival<'_, T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// The side that owes a result. Whatever becomes of it, the other side hears of it.
pub(crate) struct Promise<T> {
    outcome: Arc<Outcome<T>>,
    broken: &'static str,
}

impl<T> Promise<T> {
    /// A promise for `outcome`, and what it says when it is dropped without a result.
    pub(crate) fn new(outcome: &Arc<Outcome<T>>, broken: &'static str) -> Self {
        Self { outcome: outcome.clone(), broken }
    }

    pub(crate) fn settle(self, result: Result<T, JoinError>) {
        self.outcome.settle(result);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if !self.outcome.is_settled() {
            self.outcome.settle(Err(JoinError::Cancelled(Cancelled::with_message(self.broken))));
        }
    }
}
