//! A function in a thread of a pool: who waits for its result, in another thread or in a loop.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::driver::workers::{self, Refused, Workers};
use crate::error::{Closed, JoinError};
use crate::runtime::away::Away;
use crate::runtime::core::{self, Core, Elsewhere};
use crate::runtime::outcome::{Arrival, Outcome, Promise};
use crate::runtime::park::block_on;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::sync::CapacityToken;
use crate::thread::from_thread::Guest;

const THREAD: What = What(&"a function in a thread");

/// What a pool's queue holds.
pub(crate) struct Work {
    /// Where its outcome is: no two that are alive have the same.
    id: usize,
    run: Box<dyn FnOnce() + Send>,
}

impl Work {
    /// Work that nobody waits for.
    pub(crate) fn new(run: impl FnOnce() + Send + 'static) -> Self {
        Self { id: 0, run: Box::new(run) }
    }
}

impl workers::Job for Work {
    fn run(self) {
        (self.run)();
    }
}

pub(crate) type Pool = Arc<Workers<Work>>;

/// An error where a loop runs on this thread: it would stand still.
pub(crate) fn may_block() -> io::Result<()> {
    match core::try_current() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("the thread of an event loop must not block: await it instead")),
    }
}

/// A function that was given to a thread. Wait for its result, or await it in a loop.
///
/// # Cancel safety
/// *Nothing is lost*: the function runs, or goes on.
#[doc(alias = "concurrent.futures.Future")]
pub struct Job<T> {
    outcome: Arc<Outcome<T>>,
    pool: Pool,
    away: Away,
}

impl<T: Send + 'static> Job<T> {
    pub(crate) fn start(pool: &Pool, function: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let outcome = Arc::new(Outcome::default());
        let promise = Promise::new(&outcome, "the function was taken back before a thread began it");
        let run = Box::new(move || {
            promise.settle(catch_unwind(AssertUnwindSafe(function)).map_err(JoinError::Panicked));
        });
        let work = Work { id: Arc::as_ptr(&outcome).addr(), run };
        match Workers::submit(pool, work) {
            Ok(()) => Ok(Self { outcome, pool: pool.clone(), away: Away::default() }),
            Err(Refused::Closed(_)) => Err(Closed::new("the executor").into()),
            Err(Refused::NoThread(_, error)) => Err(error),
        }
    }
}

impl<T> Job<T> {
    /// Blocks this thread until the result is there, or for at most `limit`; `None` waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](crate::TimedOut) (and the function goes on), or why there is no result, both as an [`io::Error`]. On
    /// the thread of an event loop, which would stand still.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<T> {
        may_block()?;
        Ok(block_on(pin!(Arrival(&self.outcome)), limit)??)
    }

    /// Takes the function back; false if a thread has begun it already.
    pub fn cancel(&self) -> bool {
        let id = Arc::as_ptr(&self.outcome).addr();
        let work = self.pool.take_back(|work| work.id == id);
        // Dropping it settles the outcome. It may run code of the program, and here nothing is locked.
        work.map(drop).is_some()
    }

    /// Whether the result is there, or there will be none.
    #[doc(alias = "done")]
    pub fn is_finished(&self) -> bool {
        self.outcome.is_settled()
    }

    /// Calls `callback` when the result is there: on the thread that brings it, or here and now if it came already.
    pub fn add_done_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.outcome.on_settled(Box::new(callback));
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.away.poll(&this.outcome, cx, THREAD)
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// A loop's wait for a job. Dropped, it takes the function back if no thread has begun it.
pub(crate) struct InPool<T: Send + 'static> {
    job: Job<T>,
    /// Whether cancelling ends the wait at once, whatever the thread does.
    abandons: bool,
    /// Told to the function, should it ask: nobody wants its result any more.
    cancelled: Arc<AtomicBool>,
    /// What the function has in the loop is not wanted then either.
    guest: Arc<Guest>,
    waiter: Waiter,
    /// What a limiter gave for it.
    token: Option<CapacityToken>,
    elsewhere: Elsewhere,
}

impl<T: Send + 'static> InPool<T> {
    /// Gives `function` to a thread of `pool`.
    pub(crate) fn start(
        core: &Rc<Core>,
        pool: &Pool,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            job: Job::start(pool, function)?,
            abandons: false,
            cancelled: Arc::default(),
            guest: Arc::default(),
            waiter: Waiter::new(),
            token: None,
            elsewhere: Elsewhere::new(core),
        })
    }

    /// Cancelling ends the wait at once.
    pub(crate) fn abandons(mut self, on: bool) -> Self {
        self.abandons = on;
        self
    }

    /// The function learns by the flag that the wait was cancelled; its guest is cancelled if the wait is given up.
    pub(crate) fn tells(mut self, cancelled: Arc<AtomicBool>, guest: Arc<Guest>) -> Self {
        self.cancelled = cancelled;
        self.guest = guest;
        self
    }

    /// A token that goes back when the function is done, waited for or not.
    pub(crate) fn holds(mut self, token: CapacityToken) -> Self {
        self.token = Some(token);
        self
    }
}

impl<T: Send + 'static> Future for InPool<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(result) = self.job.outcome.poll(cx) {
            self.waiter.clear();
            return Poll::Ready(result);
        }
        if self.abandons {
            ready!(check(cx)).map_err(JoinError::WaitCancelled)?;
            self.waiter.register_for(cx, THREAD);
        } else {
            self.waiter.register_uncancelled(cx, THREAD, Some(self.cancelled.clone()));
        }
        Poll::Pending
    }
}

impl<T: Send + 'static> Drop for InPool<T> {
    fn drop(&mut self) {
        if self.job.is_finished() {
            return;
        }
        self.cancelled.store(true, Ordering::SeqCst);
        self.guest.send_away();
        if self.job.cancel() {
            return;
        }
        self.job.outcome.disown();
        if let Some(token) = self.token.take() {
            // The thread is still at work.
            let settled = Settled { outcome: self.job.outcome.clone(), _token: token };
            drop(self.elsewhere.core().spawn(settled, Location::caller()));
        }
    }
}

/// Holds a token until a function is done.
struct Settled<T> {
    outcome: Arc<Outcome<T>>,
    _token: CapacityToken,
}

impl<T> Future for Settled<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.outcome.poll_settled(cx)
    }
}
