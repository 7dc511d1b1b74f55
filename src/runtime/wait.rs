//! Where futures wait, and how a cancel reaches them there.
//!
//! Every wait of this crate is one of two: a [`Waiter`] (somebody else of ours wakes it) or an [`Ask`] (the driver
//! performs an operation for it). Both enter the wait into the scope that they are polled in, unless they are polled
//! with the task's own waker. A cancel calls that one anyway; and whoever passes it on to a future, as every `async`
//! block does, polls that future whenever it is polled itself, since it cannot know who was woken. So the wait finds out
//! by itself. What hands out other wakers (`FuturesUnordered`) polls only who was woken: those waits are entered.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker, ready};

use crate::driver::{Driver, Key, Op, Pending};
use crate::error::Cancelled;
use crate::runtime::cancelling::cancellation_here;
use crate::runtime::core::{self, Core};
use crate::runtime::here;
use crate::runtime::scope::{Act, What};
use crate::runtime::waker;
use crate::sys::file;

/// What each wait of this crate asks at the beginning of each poll, unless it was granted already what it waits for:
/// whether the scope that it is polled in was cancelled. `Pending`: it was, but the task has had an answer in this poll
/// already, and gets the next one in a later turn; it is ready again already.
#[inline]
pub(crate) fn check(cx: &Context<'_>) -> Poll<Result<(), Cancelled>> {
    if here::is_cancelled() { answer(cx).map(Err) } else { Poll::Ready(Ok(())) }
}

/// One answer for each poll of a task, so that a body that ignores errors cannot keep its thread for ever.
#[cold]
fn answer(cx: &Context<'_>) -> Poll<Cancelled> {
    if here::may_answer() {
        return Poll::Ready(cancellation_here());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// A wait that is in the table of its loop.
struct Entered {
    core: Rc<Core>,
    slot: u32,
}

impl Entered {
    /// `None` without a loop on this thread: then there are no scopes either.
    fn begin(act: Act, what: Option<What>, waker: Option<Waker>) -> Option<Self> {
        let core = core::try_current()?;
        let slot = core.begin_wait(act, what, waker);
        Some(Self { core, slot })
    }

    fn end(self) -> Option<Waker> {
        self.core.end_wait(self.slot)
    }
}

#[derive(Default)]
enum Place {
    #[default]
    Nobody,
    /// With the task's own waker, or outside of a loop.
    Here(Waker),
    /// In the table of the loop.
    Loop(Entered),
}

/// A place where one future waits until it is woken.
///
/// Waking and dropping a waker may run foreign code, so neither happens while anything is borrowed (C14): `take` it
/// under a borrow, and wake it after.
#[derive(Default)]
pub(crate) struct Waiter {
    place: Cell<Place>,
}

impl Waiter {
    pub(crate) const fn new() -> Self {
        Self { place: Cell::new(Place::Nobody) }
    }

    /// From now on the task of `cx` is woken; whoever waited before is not. A cancel of its scope wakes it too.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.enter(cx, Act::Wake, None);
    }

    /// As `register`, and says what for.
    pub(crate) fn register_for(&self, cx: &Context<'_>, what: What) {
        self.enter(cx, Act::Wake, Some(what));
    }

    /// As `register_for`, for a wait that a cancel wakes, but does not end; it sets the flag.
    pub(crate) fn register_uncancelled(&self, cx: &Context<'_>, what: What, flag: Option<Arc<AtomicBool>>) {
        self.enter(cx, Act::Bear(flag), Some(what));
    }

    /// As `register_for`, in the table of this loop in any case; returns the slot there.
    pub(crate) fn register_in(&self, core: &Rc<Core>, cx: &Context<'_>, what: What) -> u32 {
        let entered = match self.place.take() {
            Place::Loop(entered) => {
                entered.core.continue_wait(entered.slot, cx.waker());
                entered
            }
            Place::Nobody | Place::Here(_) => {
                let slot = core.begin_wait(Act::Wake, Some(what), Some(cx.waker().clone()));
                Entered { core: core.clone(), slot }
            }
        };
        let slot = entered.slot;
        self.settle(Place::Loop(entered));
        slot
    }

    #[inline]
    fn enter(&self, cx: &Context<'_>, act: Act, what: Option<What>) {
        if matches!(act, Act::Wake) && here::is_known(cx.waker(), what) {
            // Cloning a waker of ours is no foreign code.
            self.settle(Place::Here(waker::clone(cx.waker())));
        } else {
            self.enter_table(cx, act, what);
        }
    }

    fn enter_table(&self, cx: &Context<'_>, act: Act, what: Option<What>) {
        let place = match self.place.take() {
            Place::Loop(entered) => {
                entered.core.continue_wait(entered.slot, cx.waker());
                Place::Loop(entered)
            }
            Place::Nobody | Place::Here(_) => match Entered::begin(act, what, Some(cx.waker().clone())) {
                Some(entered) => Place::Loop(entered),
                None => Place::Here(cx.waker().clone()),
            },
        };
        self.settle(place);
    }

    /// Puts back what was taken out. A waker that was dropped meanwhile may have registered somebody: not any more.
    #[inline]
    fn settle(&self, place: Place) {
        if let Place::Loop(entered) = self.place.replace(place) {
            drop(entered.end());
        }
    }

    /// Whether it wakes the task of `cx`.
    pub(crate) fn wakes(&self, cx: &Context<'_>) -> bool {
        let place = self.place.take();
        let wakes = match &place {
            Place::Nobody => false,
            Place::Loop(entered) => entered.core.wait_wakes(entered.slot, cx.waker()),
            Place::Here(waker) => waker.will_wake(cx.waker()),
        };
        self.place.set(place);
        wakes
    }

    /// Whether somebody would be woken.
    pub(crate) fn has_waker(&self) -> bool {
        let place = self.place.take();
        let has = match &place {
            Place::Nobody => false,
            Place::Loop(entered) => entered.core.wait_has_waker(entered.slot),
            Place::Here(_) => true,
        };
        self.place.set(place);
        has
    }

    /// Takes the waker, to be woken when nothing is borrowed.
    #[inline]
    pub(crate) fn take(&self) -> Option<Waker> {
        match self.place.take() {
            Place::Nobody => None,
            Place::Here(waker) => Some(waker),
            Place::Loop(entered) => entered.end(),
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }

    /// Nobody waits here any more.
    pub(crate) fn clear(&self) {
        drop(self.take());
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}

/// Waits for one operation that belongs to the waiting future: gives its result, and the operation back.
///
/// A cancel of the scope asks the kernel to end the operation, and the answer comes with its completion: what it was,
/// if it was done before that, else `-ECANCELED`, which [`outcome`] makes [`Cancelled`] of. In a cancelled scope nothing
/// is submitted. Dropping it orphans the operation (C4).
pub(crate) struct Ask<O: Op> {
    pending: Pending<O>,
    entered: Option<Entered>,
    what: What,
}

impl<O: Op> Ask<O> {
    #[inline]
    pub(crate) fn new(driver: &Rc<Driver>, op: O, what: What) -> Self {
        Self { pending: Pending::new(driver, op), entered: None, what }
    }

    /// Whether it was not submitted yet.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.pending.is_new()
    }

    /// Takes back an operation that was not submitted.
    pub(crate) fn take_back(&mut self) -> O {
        self.pending.take_back()
    }

    /// The operation, once submitted and until the result was fetched.
    #[inline]
    pub(crate) fn key(&self) -> Option<Key> {
        self.pending.key()
    }

    #[inline]
    fn enter(&mut self, cx: &Context<'_>) {
        if self.entered.is_none() && here::is_known(cx.waker(), Some(self.what)) {
            return;
        }
        self.enter_table();
    }

    fn enter_table(&mut self) {
        match (&self.entered, self.pending.key()) {
            (Some(entered), _) => entered.core.move_wait(entered.slot),
            (None, Some(key)) => {
                self.entered = Entered::begin(Act::Ask(key), Some(self.what), None);
            }
            (None, None) => {}
        }
    }

    #[inline]
    fn leave(&mut self) {
        if let Some(entered) = self.entered.take() {
            drop(entered.end());
        }
    }

    /// Asks the kernel to end the operation. True if it was not submitted yet, and will not be.
    #[cold]
    fn poll_cancelled(&mut self, cx: &Context<'_>) -> Poll<bool> {
        match self.pending.key() {
            None => check(cx).map(|checked| checked.is_err()),
            Some(key) => {
                self.pending.driver().cancel(key);
                Poll::Ready(false)
            }
        }
    }
}

impl<O: Op> Unpin for Ask<O> {}

impl<O: Op> Future for Ask<O> {
    type Output = (i32, O);

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(i32, O)> {
        let this = &mut *self;
        if here::is_cancelled() && ready!(this.poll_cancelled(cx)) {
            return Poll::Ready((-libc::ECANCELED, this.pending.take_back()));
        }
        let polled = Pin::new(&mut this.pending).poll(cx);
        match polled {
            Poll::Ready(_) => this.leave(),
            Poll::Pending => this.enter(cx),
        }
        polled
    }
}

impl<O: Op> Drop for Ask<O> {
    #[inline]
    fn drop(&mut self) {
        self.leave();
    }
}

/// Waits for `future` until its scope is cancelled. Only for what goes on by itself when the future is dropped, or has
/// not happened then.
pub(crate) fn cut<T, F>(what: What, future: F) -> impl Future<Output = io::Result<T>>
where
    F: Future<Output = io::Result<T>>,
{
    async move {
        let mut future = std::pin::pin!(future);
        let waiter = Waiter::new();
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            ready!(check(cx))?;
            waiter.register_for(cx, what);
            Poll::Pending
        })
        .await
    }
}

/// What an operation returned, as a result: `-ECANCELED` is the answer to a cancel.
#[inline]
pub(crate) fn outcome(result: i32) -> io::Result<u32> {
    if result == -libc::ECANCELED { Err(cancellation_here().into()) } else { file::result(result) }
}
