//! Places where a computation lets others run and can be cancelled, and the deadline that is in force.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use crate::error::Cancelled;
use crate::runtime::Yield;
use crate::runtime::core;
use crate::runtime::here;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};

/// Lets everything else that is ready run first, and answers a cancel: for loops that compute for long. It is what every
/// wait of this crate does that finds its result there already.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// [`Cancelled`], if the scope is cancelled.
#[doc(alias = "lowlevel.checkpoint")]
pub fn checkpoint() -> Checkpoint {
    Checkpoint(Yield::default())
}

/// The future of [`checkpoint`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Checkpoint(Yield);

impl Future for Checkpoint {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(check(cx))?;
        self.0.poll(cx).map(Ok)
    }
}

/// Answers a cancel, but does not let others run if there is none. To let others run but not be cancelled, use
/// [`yield_now`](crate::yield_now).
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// [`Cancelled`], if the scope is cancelled.
pub fn checkpoint_if_cancelled() -> CheckpointIfCancelled {
    CheckpointIfCancelled(())
}

/// The future of [`checkpoint_if_cancelled`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct CheckpointIfCancelled(());

impl Future for CheckpointIfCancelled {
    type Output = Result<(), Cancelled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        check(cx)
    }
}

/// Waits until it is cancelled.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// [`Cancelled`]: the only way it ends.
pub fn sleep_forever() -> impl Future<Output = Result<std::convert::Infallible, Cancelled>> {
    let waiter = Waiter::new();
    std::future::poll_fn(move |cx| {
        ready!(check(cx))?;
        waiter.register_for(cx, What(&"a cancel"));
        Poll::Pending
    })
}

/// When the code that asks will be cancelled by a deadline: in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EffectiveDeadline {
    /// It is cancelled already.
    Cancelled,
    /// At this moment of the loop's clock.
    At(Instant),
    /// By no deadline.
    Never,
}

/// The nearest deadline of the scopes around, up to a shield.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn current_effective_deadline() -> EffectiveDeadline {
    let core = core::current();
    if here::is_cancelled() {
        return EffectiveDeadline::Cancelled;
    }
    core.nearest_deadline(here::scope()).map_or(EffectiveDeadline::Never, EffectiveDeadline::At)
}
