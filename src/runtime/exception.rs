//! What goes wrong where nobody waits for it, and who hears of that.

use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{JoinError, MayBeCancelled, panic_message};
use crate::runtime::core::Core;
use crate::runtime::inspect::{TaskInfo, TaskState};
use crate::runtime::task::{Info, contain};

/// What kind of thing an exception handler hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExceptionKind {
    /// A callback panicked; or a task did, and nobody waits for its result.
    Panicked,
    /// A task failed, and nobody waits for its result; or a future did, and nobody has fetched its error.
    Lost,
    /// In debug mode: the loop closes before a task is done.
    Pending,
    /// In debug mode: a callback, or a task in one poll, took so long that everything else had to wait.
    Slow,
    /// Told by the program, or by a part of this crate with a message of its own.
    Other,
}

/// The error of an [`ExceptionContext`] of kind [`Panicked`](ExceptionKind::Panicked).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked{}", .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
#[non_exhaustive]
pub struct Panicked {
    /// The text of the panic, where it has one.
    pub message: Option<String>,
}

impl Panicked {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = panic_message(payload.as_ref()).map(str::to_owned);
        contain(|| drop(payload));
        Self { message }
    }
}

/// What an exception handler hears: what happened, and as much about where as is known.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExceptionContext {
    /// What kind of thing it is.
    pub kind: ExceptionKind,
    /// What happened, in words.
    pub message: Cow<'static, str>,
    /// The error, if there is one.
    pub error: Option<Rc<dyn StdError>>,
    /// The task that it is about.
    pub task: Option<TaskInfo>,
    /// Where the callback that it is about was given to the loop.
    #[doc(alias = "handle")]
    pub given_at: Option<&'static Location<'static>>,
    /// How long it took, of what took too long.
    pub duration: Option<Duration>,
    /// What else it is about, for whoever knows its type: a [`Transport`](crate::transport::Transport) whose protocol
    /// failed, a [`Server`](crate::transport::Server) that cannot accept.
    #[doc(alias = "transport")]
    pub about: Option<Rc<dyn Any>>,
}

impl ExceptionContext {
    /// A context of kind [`Other`](ExceptionKind::Other) with nothing but a message. Set the fields of what else is known.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: ExceptionKind::Other,
            message: message.into(),
            error: None,
            task: None,
            given_at: None,
            duration: None,
            about: None,
        }
    }

    fn of_kind(kind: ExceptionKind, message: &'static str) -> Self {
        Self { kind, ..Self::new(message) }
    }

    /// The same, with this error.
    #[must_use]
    pub fn with_error(self, error: impl Into<Box<dyn StdError>>) -> Self {
        Self { error: Some(Rc::from(error.into())), ..self }
    }
}

impl fmt::Display for ExceptionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        if let Some(duration) = self.duration {
            write!(f, " ({duration:?})")?;
        }
        match (&self.task, self.given_at) {
            (Some(task), _) => write!(f, "; {task}"),
            (None, Some(given_at)) => write!(f, "; given to the loop at {given_at}"),
            (None, None) => Ok(()),
        }
    }
}

/// Hears of what goes wrong in a loop where nobody waits for it.
pub type ExceptionHandler = Rc<dyn Fn(&ExceptionContext)>;

/// What looks for the error in a result that nobody fetches.
pub(super) type Failure<T> = fn(T) -> Option<Rc<dyn StdError>>;

/// How a loop treats what goes wrong.
pub(crate) struct Exceptions {
    pub(crate) handler: RefCell<Option<ExceptionHandler>>,
    pub(crate) debug: Cell<bool>,
    /// In debug mode, what takes longer than this is told.
    pub(crate) slow: Cell<Duration>,
}

impl Exceptions {
    pub(super) fn new(debug: bool) -> Self {
        let slow = Cell::new(Duration::from_millis(100));
        Self { handler: RefCell::default(), debug: Cell::new(debug), slow }
    }
}

/// One line on standard error, as the panic hook of std has it; or a record for the `log` crate, with the feature of that
/// name.
pub(crate) fn tell(context: &ExceptionContext) {
    #[cfg(feature = "log")]
    if matches!(context.kind, ExceptionKind::Slow | ExceptionKind::Pending) {
        return log::warn!("{context}");
    }
    say(context);
}

/// As [`tell`], for what has no context. Unlike `eprintln!` it does not panic where standard error is gone: then nobody
/// is left to tell.
pub(crate) fn say(what: &dyn fmt::Display) {
    #[cfg(feature = "log")]
    log::error!("{what}");
    #[cfg(not(feature = "log"))]
    let _ = io::Write::write_all(&mut io::stderr(), format!("proactor: {what}\n").as_bytes());
}

impl Core {
    /// Tells the handler. Call it with nothing borrowed.
    pub(crate) fn call_exception_handler(&self, context: &ExceptionContext) {
        let handler = self.exceptions.handler.borrow().clone();
        let Some(handler) = handler else { return tell(context) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| handler(context))) {
            tell(context);
            let message = "the exception handler failed at this";
            let failed = ExceptionContext::of_kind(ExceptionKind::Panicked, message);
            tell(&failed.with_error(Panicked::new(payload)));
        }
        contain(|| drop(handler));
    }

    /// Runs a callback of the program: what it panics with goes to the handler, and in debug mode how long it took.
    pub(crate) fn run_callback(&self, given_at: Option<&'static Location<'static>>, callback: impl FnOnce()) {
        let begin = self.begin_measure();
        let result = catch_unwind(AssertUnwindSafe(callback));
        if let Some(duration) = self.was_slow(begin) {
            let context = ExceptionContext::of_kind(ExceptionKind::Slow, "a callback kept the loop waiting");
            let duration = Some(duration);
            self.call_exception_handler(&ExceptionContext { given_at, duration, ..context });
        }
        if let Err(payload) = result {
            let context = ExceptionContext::of_kind(ExceptionKind::Panicked, "a callback failed");
            let context = context.with_error(Panicked::new(payload));
            self.call_exception_handler(&ExceptionContext { given_at, ..context });
        }
    }

    #[inline]
    pub(super) fn begin_measure(&self) -> Option<Instant> {
        if self.exceptions.debug.get() { Some(Instant::now()) } else { None }
    }

    #[inline]
    fn was_slow(&self, begin: Option<Instant>) -> Option<Duration> {
        begin.map(|begin| begin.elapsed()).filter(|duration| *duration >= self.exceptions.slow.get())
    }

    /// In debug mode: tells of a task that took too long in one poll.
    #[inline]
    pub(super) fn end_measure(&self, begin: Option<Instant>, info: &Info) {
        if begin.is_some() {
            self.measured(begin, info);
        }
    }

    #[cold]
    fn measured(&self, begin: Option<Instant>, info: &Info) {
        let Some(duration) = self.was_slow(begin) else { return };
        let context = ExceptionContext::of_kind(ExceptionKind::Slow, "a task kept the loop waiting");
        let task = Some(TaskInfo::from_info(self, info, TaskState::Running));
        self.call_exception_handler(&ExceptionContext { task, duration: Some(duration), ..context });
    }

    /// In debug mode: tells of the tasks that a closing loop drops.
    pub(super) fn tell_of_pending(&self, tasks: impl Iterator<Item = u32>) {
        if !self.exceptions.debug.get() {
            return;
        }
        for task in tasks {
            let context =
                ExceptionContext::of_kind(ExceptionKind::Pending, "the loop closes before a task is done");
            let task = TaskInfo::of(self, task);
            self.call_exception_handler(&ExceptionContext { task, ..context });
        }
    }

    /// Nobody will fetch the error of a future any more.
    pub(crate) fn lose_error(&self, error: Rc<dyn StdError>) {
        let message = "a future failed, and nobody has fetched its error";
        let context = ExceptionContext::of_kind(ExceptionKind::Lost, message);
        self.call_exception_handler(&ExceptionContext { error: Some(error), ..context });
    }

    /// Nobody will fetch the result of a task any more.
    pub(super) fn lose<T>(&self, result: Result<T, JoinError>, failure: Failure<T>, info: &Info) {
        let context = match result {
            Ok(value) => {
                let Some(error) = failure(value) else { return };
                let message = "a task failed, and nobody waits for it";
                ExceptionContext {
                    error: Some(error),
                    ..ExceptionContext::of_kind(ExceptionKind::Lost, message)
                }
            }
            Err(JoinError::Panicked(payload)) => {
                let message = "a task failed, and nobody waits for it";
                ExceptionContext::of_kind(ExceptionKind::Panicked, message).with_error(Panicked::new(payload))
            }
            Err(_) => return,
        };
        let task = Some(TaskInfo::from_info(self, info, TaskState::Over));
        self.call_exception_handler(&ExceptionContext { task, ..context });
    }
}

/// The error in the result of a task, if it is of a type that many tasks have; a cancellation is none.
pub(super) fn usual_failure<T: 'static>(value: T) -> Option<Rc<dyn StdError>> {
    fn take<T: 'static, E: 'static>(value: &mut Option<T>) -> Option<E> {
        let value: &mut dyn Any = value;
        value.downcast_mut::<Option<Result<(), E>>>()?.take()?.err()
    }
    let mut value = Some(value);
    // The compiler knows which of these it is: for most types of results none.
    if let Some(error) = take::<T, io::Error>(&mut value) {
        return real_failure(error);
    }
    if let Some(error) = take::<T, Box<dyn StdError>>(&mut value) {
        return if error.is_cancelled() { None } else { Some(Rc::from(error)) };
    }
    if let Some(error) = take::<T, Box<dyn StdError + Send + Sync>>(&mut value) {
        let error: Box<dyn StdError> = error;
        return if error.is_cancelled() { None } else { Some(Rc::from(error)) };
    }
    None
}

/// An error that is no cancellation.
pub(super) fn real_failure<E: MayBeCancelled + StdError + 'static>(error: E) -> Option<Rc<dyn StdError>> {
    if error.is_cancelled() { None } else { Some(Rc::new(error)) }
}
