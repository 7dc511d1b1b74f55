//! Tasks: futures that a loop runs, and the handles that wait for their results.
#![allow(unsafe_code)]
//!
//! # Safety
//! The future of a task lives in its [`TaskCell`], which is only ever behind an `Rc`, so it does not move; it is dropped
//! in place, by assigning the next stage over it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use crate::error::{Cancelled, JoinError, MayBeCancelled};
use crate::runtime::core::{self, Core};
use crate::runtime::exception::{Failure, real_failure, usual_failure};
use crate::runtime::here;
use crate::runtime::polling::{Polled, Suspicion, poll_here};
use crate::runtime::scope::{NONE, What};
use crate::runtime::wait::{Waiter, check};

/// The number of a task, never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(NonZeroU64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The context variables of a task. Shared with its children until one of them sets something.
pub(crate) type Values = Rc<HashMap<u64, Rc<dyn Any>>>;

/// What is known about a task besides its future.
pub(crate) struct Info {
    pub(crate) id: TaskId,
    pub(crate) name: RefCell<Option<Rc<str>>>,
    pub(crate) spawned_at: &'static Location<'static>,
    /// The task that spawned it.
    pub(crate) parent: Option<TaskId>,
    /// Its scope, as long as it runs.
    pub(crate) root: Cell<u32>,
    /// What it waits for, unless that is in its scopes.
    pub(crate) waits_for: Cell<Option<What>>,
    /// Its context variables.
    pub(crate) values: Cell<Option<Values>>,
}

impl Info {
    pub(crate) fn new(spawned_at: &'static Location<'static>, parent: Option<TaskId>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = TaskId(NonZeroU64::new(IDS.fetch_add(1, Ordering::Relaxed)).expect("not so many"));
        Self {
            id,
            name: RefCell::default(),
            spawned_at,
            parent,
            root: Cell::new(NONE),
            values: Cell::new(None),
            waits_for: Cell::new(None),
        }
    }

    /// The context variables, for a child.
    pub(crate) fn inherited(&self) -> Option<Values> {
        let values = self.values.take();
        self.values.set(values.clone());
        values
    }

    pub(crate) fn name(&self) -> Rc<str> {
        self.name.borrow().clone().unwrap_or_else(|| format!("Task-{}", self.id).into())
    }
}

/// What becomes of the result of a task.
pub(crate) trait Ending<T> {
    /// The task is over. Gives the result back if it is to be kept for a handle.
    fn end(&self, result: Result<T, JoinError>) -> Option<Result<T, JoinError>>;
    /// After that, with nothing borrowed.
    fn wake(&self);
    /// Whether there is no handle any more that the result could be kept for. Then this finds the error in it.
    fn is_unheard(&self) -> Option<Failure<T>> {
        None
    }
}

/// A handle may ask for the result.
struct Kept<T> {
    joiner: Waiter,
    /// Set when the handle is dropped.
    unheard: Cell<Option<Failure<T>>>,
    /// Somebody has looked at the result.
    seen: Cell<bool>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { joiner: Waiter::new(), unheard: Cell::new(None), seen: Cell::new(false) }
    }
}

impl<T> Ending<T> for Kept<T> {
    fn end(&self, result: Result<T, JoinError>) -> Option<Result<T, JoinError>> {
        Some(result)
    }

    fn is_unheard(&self) -> Option<Failure<T>> {
        self.unheard.get()
    }

    fn wake(&self) {
        self.joiner.wake();
    }
}

enum Stage<F: Future> {
    Running(F),
    Done(Result<F::Output, JoinError>),
    /// The handle has the result.
    Taken,
}

struct TaskCell<F: Future, E> {
    info: Info,
    stage: RefCell<Stage<F>>,
    suspicion: Cell<Suspicion>,
    ending: E,
}

/// The loop's view of a task.
pub(crate) trait Run {
    /// Polls the future once; true when it is over.
    fn run(&self, core: &Core, cx: &mut Context<'_>) -> bool;
    /// Drops the future; whoever joins is told that it was cancelled.
    fn abort(&self);
    fn info(&self) -> &Info;
}

/// The view of whoever waits for a task.
trait Join<T> {
    fn poll_join(&self, cx: &mut Context<'_>) -> Poll<Result<T, JoinError>>;
    fn is_over(&self) -> bool;
    fn look(&self, f: &mut dyn FnMut(&Result<T, JoinError>));
    fn note_seen(&self);
    /// Whether it is over; if not, the end wakes the task of `cx`.
    fn poll_end(&self, cx: &Context<'_>) -> bool;
    fn forget_joiner(&self);
    /// The handle is dropped: an error of a usual kind that nobody has fetched goes to the handler.
    fn forget(&self, core: &Core);
    /// The same, of any kind: an error that nobody has fetched, as `failure` finds it, goes to the handler.
    fn detach(&self, core: &Core, failure: Failure<T>);
    fn info(&self) -> &Info;
}

/// Runs foreign code (a destructor, a callback) whose panic must end nothing but itself. The panic hook has told of it.
pub(crate) fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        // What a program panics with may panic again when it is dropped.
        drop(catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::ManuallyDrop::new));
    }
}

impl<F: Future, E: Ending<F::Output>> TaskCell<F, E> {
    /// Ends the task: drops its future in place, whatever its destructor does, and wakes the joiner.
    fn end(&self, result: Result<F::Output, JoinError>) {
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            let mut stage = self.stage.borrow_mut();
            // First only the future goes: should its destructor panic, the stage is whole.
            *stage = Stage::Taken;
        }));
        let result = match dropped {
            Ok(()) => result,
            Err(panic) => {
                contain(|| drop(result));
                Err(JoinError::Panicked(panic))
            }
        };
        contain(|| {
            let Some(result) = self.ending.end(result) else { return };
            match self.ending.is_unheard().zip(core::try_current()) {
                Some((failure, core)) => core.lose(result, failure, &self.info),
                None => *self.stage.borrow_mut() = Stage::Done(result),
            }
        });
        contain(|| self.ending.wake());
    }
}

impl<F: Future, E: Ending<F::Output>> Run for TaskCell<F, E> {
    fn run(&self, core: &Core, cx: &mut Context<'_>) -> bool {
        // Nobody is suspected in a scope that is not cancelled.
        let mut suspicion = if here::is_cancelled() { self.suspicion.take() } else { Suspicion::default() };
        let polled: Result<Polled<F::Output>, Box<dyn Any + Send>> = {
            let mut stage = self.stage.borrow_mut();
            let Stage::Running(future) = &mut *stage else { return true };
            catch_unwind(AssertUnwindSafe(|| {
                poll_here(core, self.info.root.get(), &mut suspicion, cx, |cx| {
                    // SAFETY: the future does not move (see the top of this file).
                    unsafe { Pin::new_unchecked(&mut *future) }.poll(cx)
                })
            }))
        };
        match polled {
            Ok(Polled::Pending) => {
                if !suspicion.is_none() {
                    self.suspicion.set(suspicion);
                }
                self.info.waits_for.set(here::take_what());
                return false;
            }
            Ok(Polled::Ready(value)) => self.end(Ok(value)),
            Ok(Polled::Foreign) => self.end(Err(JoinError::Cancelled(core.answer(self.info.root.get())))),
            Err(panic) => self.end(Err(JoinError::Panicked(panic))),
        }
        true
    }

    fn abort(&self) {
        self.end(Err(JoinError::Cancelled(Cancelled::with_message("the event loop ended"))));
    }

    fn info(&self) -> &Info {
        &self.info
    }
}

/// What the waiter of a task's result waits for.
const JOIN: What = What(&"the end of a task");

impl<F: Future + 'static> Join<F::Output> for TaskCell<F, Kept<F::Output>> {
    fn poll_join(&self, cx: &mut Context<'_>) -> Poll<Result<F::Output, JoinError>> {
        // Borrowed: the task runs right now, and waits for itself, as it may.
        if let Ok(mut stage) = self.stage.try_borrow_mut()
            && !matches!(&*stage, Stage::Running(_))
        {
            return match std::mem::replace(&mut *stage, Stage::Taken) {
                Stage::Done(result) => Poll::Ready(result),
                _ => panic!("a task was awaited again after it had given its result"),
            };
        }
        if let Err(cancelled) = ready!(check(cx)) {
            self.ending.joiner.clear();
            return Poll::Ready(Err(JoinError::WaitCancelled(cancelled)));
        }
        self.ending.joiner.register_for(cx, JOIN);
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        self.stage.try_borrow().is_ok_and(|stage| !matches!(&*stage, Stage::Running(_)))
    }

    fn look(&self, f: &mut dyn FnMut(&Result<F::Output, JoinError>)) {
        if let Ok(stage) = self.stage.try_borrow()
            && let Stage::Done(result) = &*stage
        {
            f(result);
        }
    }

    fn note_seen(&self) {
        self.ending.seen.set(true);
    }

    fn poll_end(&self, cx: &Context<'_>) -> bool {
        let over = self.is_over();
        if !over {
            self.ending.joiner.register_for(cx, JOIN);
        }
        over
    }

    fn forget_joiner(&self) {
        self.ending.joiner.clear();
    }

    fn forget(&self, core: &Core) {
        self.detach(core, usual_failure);
    }

    fn detach(&self, core: &Core, failure: Failure<F::Output>) {
        self.ending.joiner.clear();
        // Only the first is the handle's own wish; dropping it comes after.
        if self.ending.unheard.get().is_none() {
            self.ending.unheard.set(Some(failure));
        }
        let result = match self.stage.try_borrow_mut() {
            Ok(mut stage) if matches!(&*stage, Stage::Done(_)) => {
                std::mem::replace(&mut *stage, Stage::Taken)
            }
            _ => return,
        };
        if let (Stage::Done(result), Some(failure), false) =
            (result, self.ending.unheard.get(), self.ending.seen.get())
        {
            core.lose(result, failure, &self.info);
        }
    }

    fn info(&self) -> &Info {
        &self.info
    }
}

/// A task of this loop. Await it for its result; drop it and the task goes on by itself.
///
/// If nobody fetches the result, and it is a panic or a `Result<(), E>` with an [`io::Error`](std::io::Error) or a boxed
/// error, the loop's [exception handler](crate::EventLoop::set_exception_handler) hears of it. For other errors there is
/// [`detach`](Self::detach).
///
/// # Cancel safety
/// Dropping the handle, or a future that awaits `&mut task`: *nothing is lost*.
pub struct Task<T> {
    cell: Rc<dyn Join<T>>,
    core: Rc<Core>,
}

/// Makes a task of `future`: the loop's view of it and the handle.
pub(crate) fn new<F: Future + 'static>(
    core: &Rc<Core>,
    future: F,
    info: Info,
) -> (Rc<dyn Run>, Task<F::Output>) {
    let cell = Rc::new(TaskCell {
        info,
        stage: RefCell::new(Stage::Running(future)),
        suspicion: Cell::default(),
        ending: Kept::default(),
    });
    (cell.clone(), Task { cell, core: core.clone() })
}

/// Makes a task whose result goes to `ending`.
pub(crate) fn new_with<F, E>(future: F, info: Info, ending: E) -> Rc<dyn Run>
where
    F: Future + 'static,
    E: Ending<F::Output> + 'static,
{
    let stage = RefCell::new(Stage::Running(future));
    Rc::new(TaskCell { info, stage, suspicion: Cell::default(), ending })
}

impl<T> Task<T> {
    /// A handle of a task that never ran, since its loop was closed.
    pub(crate) fn refused(core: &Rc<Core>, info: Info) -> Self
    where
        T: 'static,
    {
        let result = Err(JoinError::Cancelled(Cancelled::with_message("the event loop is closed")));
        let stage = RefCell::new(Stage::<std::future::Pending<T>>::Done(result));
        let cell = TaskCell { info, stage, suspicion: Cell::default(), ending: Kept::<T>::default() };
        Self { cell: Rc::new(cell), core: core.clone() }
    }

    /// Asks the task to stop: each of its waits from now on answers [`Cancelled`], with this message, until the task
    /// ends or somebody takes the request back with [`uncancel`](Self::uncancel). False if the task is over already.
    ///
    /// The task may clean up, in a shielded scope also with waits, and may go on in the end: this is a request. A task
    /// that was never polled begins all the same, and runs to its first wait. Operations that succeed although they were
    /// asked to end count as success.
    pub fn cancel(&self, message: &str) -> bool {
        let root = self.cell.info().root.get();
        root != NONE && !self.is_finished() && {
            self.core.cancel_scope(root, Some(message.into()));
            true
        }
    }

    /// Takes one request to cancel back; returns how many are left. Operations that were asked to end already may answer
    /// [`Cancelled`] still.
    pub fn uncancel(&self) -> u32 {
        match self.cell.info().root.get() {
            NONE => 0,
            root => self.core.uncancel_scope(root),
        }
    }

    /// How many requests to cancel are in force.
    #[doc(alias = "cancelling")]
    pub fn cancel_requests(&self) -> u32 {
        match self.cell.info().root.get() {
            NONE => 0,
            root => self.core.cancel_requests(root),
        }
    }

    /// Whether it is over; if not, the end wakes the task of `cx`.
    pub(crate) fn poll_end(&self, cx: &Context<'_>) -> bool {
        self.cell.poll_end(cx)
    }

    /// Nobody waits for the end any more.
    pub(crate) fn forget_waiter(&self) {
        self.cell.forget_joiner();
    }

    /// Calls `f` with the result, if the task is over and nobody has taken the result yet.
    pub fn peek<R>(&self, f: impl FnOnce(&Result<T, JoinError>) -> R) -> Option<R> {
        let answer = self.look(f);
        if answer.is_some() {
            self.cell.note_seen();
        }
        answer
    }

    fn look<R>(&self, f: impl FnOnce(&Result<T, JoinError>) -> R) -> Option<R> {
        let (mut f, mut answer) = (Some(f), None);
        self.cell.look(&mut |result| answer = f.take().map(|f| f(result)));
        answer
    }

    /// The number of the task.
    pub fn id(&self) -> TaskId {
        self.cell.info().id
    }

    /// The name of the task, `Task-` and its number where nobody gave it one.
    pub fn name(&self) -> Rc<str> {
        self.cell.info().name()
    }

    /// Names the task, for debug output. Returns the handle, so that `spawn(…).set_name("…")` works.
    #[must_use = "dropping the handle detaches the task; that may be intended: `drop(task)`"]
    pub fn set_name(self, name: &str) -> Self {
        *self.cell.info().name.borrow_mut() = Some(name.into());
        self
    }

    /// Where the task was spawned.
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.cell.info().spawned_at
    }

    /// Whether the task is over: awaiting it would not wait.
    #[doc(alias = "done")]
    pub fn is_finished(&self) -> bool {
        self.cell.is_over()
    }
}

impl<T, E: MayBeCancelled> Task<Result<T, E>> {
    /// Lets the task go on by itself. If it fails, the loop's
    /// [exception handler](crate::EventLoop::set_exception_handler) hears of it; a cancellation is no failure.
    pub fn detach(self)
    where
        E: StdError + 'static,
    {
        self.cell.detach(&self.core, |result| result.err().and_then(real_failure));
    }

    /// Whether the task ended because it was cancelled: by an error that is a cancellation, or dropped as it waited for
    /// something foreign. False as long as it runs, and when its result was taken.
    pub fn cancelled(&self) -> bool {
        let is_cancelled = |result: &Result<Result<T, E>, JoinError>| match result {
            Ok(Ok(_)) | Err(JoinError::Panicked(_)) => false,
            Ok(Err(error)) => error.is_cancelled(),
            Err(_) => true,
        };
        self.look(is_cancelled).unwrap_or(false)
    }
}

impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll_join(cx)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.cell.forget(&self.core);
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .field("spawned_at", &format_args!("{}", self.spawned_at()))
            .finish_non_exhaustive()
    }
}
