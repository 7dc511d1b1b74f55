//! Tasks: futures that a loop runs, and the handles that wait for their results.
#![allow(unsafe_code)]
//!
//! # Safety
//! The future of a task lives in its [`Cell`], which is only ever behind an `Rc`, so it does not move; it is dropped
//! in place, by assigning the next stage over it.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Cancelled, JoinError};
use crate::runtime::wait::Waiter;

/// The number of a task, never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub(crate) u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is known about a task besides its future.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) id: TaskId,
    pub(crate) name: RefCell<Option<Rc<str>>>,
    pub(crate) spawned_at: &'static Location<'static>,
}

enum Stage<F: Future> {
    Running(F),
    Done(Result<F::Output, JoinError>),
    /// The handle has the result.
    Taken,
}

struct Cell<F: Future> {
    info: Info,
    stage: RefCell<Stage<F>>,
    joiner: Waiter,
}

/// The loop's view of a task.
pub(crate) trait Run {
    /// Polls the future once; true when it is over.
    fn run(&self, cx: &mut Context<'_>) -> bool;
    /// Drops the future; whoever joins is told that it was cancelled.
    fn abort(&self);
}

/// The view of whoever waits for a task.
trait Join<T> {
    fn poll_join(&self, cx: &mut Context<'_>) -> Poll<Result<T, JoinError>>;
    fn is_over(&self) -> bool;
    fn forget_joiner(&self);
    fn info(&self) -> &Info;
}

/// Runs foreign code (a destructor, a callback) whose panic must end nothing but itself. The panic hook has told of it.
pub(crate) fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        // What a program panics with may panic again when it is dropped.
        drop(catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::ManuallyDrop::new));
    }
}

impl<F: Future> Cell<F> {
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
        *self.stage.borrow_mut() = Stage::Done(result);
        contain(|| self.joiner.wake());
    }
}

impl<F: Future> Run for Cell<F> {
    fn run(&self, cx: &mut Context<'_>) -> bool {
        let polled: Result<Poll<F::Output>, Box<dyn Any + Send>> = {
            let mut stage = self.stage.borrow_mut();
            let Stage::Running(future) = &mut *stage else { return true };
            // SAFETY: the future does not move (see the top of this file).
            let future = unsafe { Pin::new_unchecked(future) };
            catch_unwind(AssertUnwindSafe(|| future.poll(cx)))
        };
        match polled {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(value)) => self.end(Ok(value)),
            Err(panic) => self.end(Err(JoinError::Panicked(panic))),
        }
        true
    }

    fn abort(&self) {
        self.end(Err(JoinError::Cancelled(Cancelled::with_message("the event loop ended"))));
    }
}

impl<F: Future> Join<F::Output> for Cell<F> {
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
        self.joiner.register(cx);
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        self.stage.try_borrow().is_ok_and(|stage| !matches!(&*stage, Stage::Running(_)))
    }

    fn forget_joiner(&self) {
        self.joiner.clear();
    }

    fn info(&self) -> &Info {
        &self.info
    }
}

/// A task of this loop. Await it for its result; drop it and the task goes on by itself.
///
/// # Cancel safety
/// Dropping the handle, or a future that awaits `&mut task`: *nothing is lost*.
pub struct Task<T> {
    cell: Rc<dyn Join<T>>,
}

/// Makes a task of `future`: the loop's view of it and the handle.
pub(crate) fn new<F: Future + 'static>(future: F, info: Info) -> (Rc<dyn Run>, Task<F::Output>) {
    let cell = Rc::new(Cell { info, stage: RefCell::new(Stage::Running(future)), joiner: Waiter::new() });
    (cell.clone(), Task { cell })
}

impl<T> Task<T> {
    /// A handle of a task that never ran, since its loop was closed.
    pub(crate) fn refused(info: Info) -> Self
    where
        T: 'static,
    {
        let result = Err(JoinError::Cancelled(Cancelled::with_message("the event loop is closed")));
        let stage = RefCell::new(Stage::<std::future::Pending<T>>::Done(result));
        Self { cell: Rc::new(Cell { info, stage, joiner: Waiter::new() }) }
    }

    /// The number of the task.
    pub fn id(&self) -> TaskId {
        self.cell.info().id
    }

    /// The name of the task, `Task-` and its number where nobody gave it one.
    pub fn name(&self) -> Rc<str> {
        let info = self.cell.info();
        info.name.borrow().clone().unwrap_or_else(|| format!("Task-{}", info.id).into())
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

impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll_join(cx)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.cell.forget_joiner();
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
