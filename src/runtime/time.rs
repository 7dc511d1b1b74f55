//! Waiting for time: `sleep`, `timeout`, `interval`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::error::{Cancelled, TimedOut};
use crate::runtime::core::{self, Core};
use crate::runtime::scope::What;
use crate::runtime::timer::TimerKey;
use crate::runtime::wait::{Waiter, check};

const SLEEP: What = What(&"time to pass");

/// Completes after `duration`, measured from this call. Zero completes at once, after one turn of the loop.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// [`Cancelled`], if the wait is cancelled.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Kernel
/// All timers of a loop share one `IORING_OP_TIMEOUT` (5.4), or the time limit of `epoll_pwait2` (5.11; before that,
/// `epoll_wait`, rounded up to milliseconds).
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     proactor::sleep(std::time::Duration::from_millis(1)).await?;
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    let core = core::current();
    let at = core.clock.now().checked_add(duration);
    Sleep { core, at, timer: None, waiter: Waiter::new() }
}

/// Completes at `at`, on the loop's clock.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// [`Cancelled`], if the wait is cancelled.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { core: core::current(), at: Some(at), timer: None, waiter: Waiter::new() }
}

/// The future of [`sleep`] and [`sleep_until`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    core: Rc<Core>,
    /// `None`: beyond the end of the clock.
    at: Option<Instant>,
    timer: Option<TimerKey>,
    waiter: Waiter,
}

impl Sleep {
    /// When it completes; `None` for a duration beyond the end of the clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it is due, whatever is cancelled; else the task of `cx` is woken then.
    fn poll_due(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_due() || self.core.closed.get() {
            self.timer = None;
            self.waiter.clear();
            return Poll::Ready(());
        }
        // The past too takes a turn of the loop, so that sleeping in a loop starves nobody.
        let wait = self.waiter.register_in(&self.core, cx, SLEEP);
        if let (None, Some(at)) = (self.timer, self.at) {
            self.timer = Some(self.core.insert_timer(at, wait));
        }
        Poll::Pending
    }

    fn is_due(&self) -> bool {
        self.timer.is_some_and(|timer| !self.core.is_timer_armed(timer))
    }

    fn disarm(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.core.cancel_timer(timer);
        }
        self.waiter.clear();
    }
}

impl Future for Sleep {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.core.closed.get() {
            return Poll::Ready(Err(Cancelled::with_message("the event loop is closed")));
        }
        if !self.is_due()
            && let Err(cancelled) = ready!(check(cx))
        {
            self.disarm();
            return Poll::Ready(Err(cancelled));
        }
        self.poll_due(cx).map(Ok)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Gives `future` at most `limit`; then drops it and completes with [`TimedOut`]. A result that is there at the same
/// time wins. A cancel is no timeout: it reaches what `future` waits for.
///
/// # Cancel safety
/// As that of `future`. Dropping a future of this crate is always safe; its own page says what it means.
///
/// # Errors
/// [`TimedOut`], if the limit passed first.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let never = std::future::pending::<()>();
///     let outcome = proactor::timeout(Duration::from_millis(1), never).await;
///     assert_eq!(outcome, Err(proactor::TimedOut::default()));
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[doc(alias = "wait_for")]
#[track_caller]
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(limit) }
}

pin_project_lite::pin_project! {
    /// The future of [`timeout`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(cx) {
            this.sleep.disarm();
            return Poll::Ready(Ok(value));
        }
        // Not as a sleep: where the scope is cancelled, it is the future that answers.
        this.sleep.poll_due(cx).map(|()| Err(TimedOut))
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").field("sleep", &self.sleep).finish_non_exhaustive()
    }
}

/// Ticks every `period`, the first time one period from now.
///
/// # Panics
/// If no event loop runs on this thread, or if `period` is zero.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period above zero");
    Interval { sleep: sleep(period), period }
}

/// A clock that ticks at a fixed period; see [`interval`].
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Duration,
}

impl Interval {
    /// Completes at the next tick, with the time it was due. Ticks that passed while nobody waited are left out, and
    /// the rhythm is kept.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the tick stays due.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn tick(&mut self) -> impl Future<Output = Result<Instant, Cancelled>> + '_ {
        async move {
            (&mut self.sleep).await?;
            let due = self.sleep.at.unwrap_or_else(Instant::now);
            let now = self.sleep.core.clock.now();
            let missed = now.saturating_duration_since(due).as_nanos() / self.period.as_nanos();
            let periods = u32::try_from(missed + 1).unwrap_or(u32::MAX);
            let core = self.sleep.core.clone();
            self.sleep = Sleep {
                core,
                at: due.checked_add(self.period * periods),
                timer: None,

                waiter: Waiter::new(),
            };
            Ok(due)
        }
    }
}
