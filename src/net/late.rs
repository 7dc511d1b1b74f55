//! Futures that are their own builders: options are set until the first poll.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What was asked for, and then what performs it.
pub(crate) enum Late<B, T> {
    Asked(B),
    Running(Pin<Box<dyn Future<Output = T>>>),
    Over,
}

impl<B, T> Late<B, T> {
    /// Changes what is asked for. Too late after the first poll.
    pub(crate) fn set(mut self, change: impl FnOnce(&mut B)) -> Self {
        if let Self::Asked(asked) = &mut self {
            change(asked);
        }
        self
    }

    pub(crate) fn poll<F>(&mut self, cx: &mut Context<'_>, begin: impl FnOnce(B) -> F) -> Poll<T>
    where
        F: Future<Output = T> + 'static,
    {
        let mut running: Pin<Box<dyn Future<Output = T>>> = match std::mem::replace(self, Self::Over) {
            Self::Asked(asked) => Box::pin(begin(asked)),
            Self::Running(running) => running,
            Self::Over => panic!("a future was polled after it had completed"),
        };
        let polled = running.as_mut().poll(cx);
        if polled.is_pending() {
            *self = Self::Running(running);
        }
        polled
    }
}
