//! A result that somebody sets, and others wait for.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::error::{Cancelled, is_cancellation};
use crate::runtime::LoopHandle;
use crate::runtime::core::{self, Core};
use crate::sync::{Event, EventWait};

/// The result of a [`Future`] was set twice, or it was set after a cancel. Gives the value back.
#[doc(alias = "InvalidStateError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the future is done already")]
pub struct InvalidState<T>(pub T);

/// Why a [`Future`] gives no value.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FutureError {
    /// Nobody has set a result yet.
    #[error("the future is not done yet")]
    NotDone,
    /// The future was cancelled. That is no cancellation of whoever waits for it.
    #[error("the future was {0}")]
    Cancelled(Cancelled),
    /// Not the future was cancelled, but the wait for it.
    #[error("the wait for the future was {0}")]
    WaitCancelled(#[source] Cancelled),
    /// The error that was set.
    #[error("{0}")]
    Failed(Rc<dyn StdError>),
}

impl From<FutureError> for io::Error {
    fn from(error: FutureError) -> Self {
        match error {
            FutureError::WaitCancelled(cancelled) => cancelled.into(),
            other => Self::other(other.to_string()),
        }
    }
}

enum State<T> {
    Pending,
    Value(T),
    Failed(Rc<dyn StdError>),
    Cancelled(Cancelled),
}

type Callback<T> = Box<dyn FnOnce(&Future<T>)>;

struct Shared<T> {
    core: Rc<Core>,
    state: RefCell<State<T>>,
    /// An error was set, and nobody has seen it yet.
    is_unseen: Cell<bool>,
    done: Event,
    callbacks: RefCell<Vec<(u64, Callback<T>)>>,
    callbacks_made: Cell<u64>,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if let (true, State::Failed(error)) = (self.is_unseen.get(), self.state.get_mut()) {
            self.core.lose_error(error.clone());
        }
    }
}

/// A result that somebody sets, once, and any number of tasks wait for. A clone is another handle of the same future.
///
/// An error that nobody has fetched when the last handle is dropped is told to the exception handler of the loop.
///
/// To be awaited, or asked with [`result`](Self::result), its value has to be `Clone`: put others into an `Rc`, or use
/// [`with`](Self::with).
///
/// # Examples
/// ```
/// use proactor::future::Future;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let answer = Future::new();
///     let setter = answer.clone();
///     proactor::spawn(async move { setter.set_result(42) });
///     assert_eq!(answer.await?, 42);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct Future<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Clone for Future<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// Names a callback of a [`Future`], to take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallbackKey(u64);

impl<T: 'static> Future<T> {
    /// A future of this thread's loop, without a result.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[allow(clippy::new_without_default, reason = "it needs a running loop")]
    #[doc(alias = "create_future")]
    #[track_caller]
    pub fn new() -> Self {
        Self::in_loop(core::current())
    }

    pub(crate) fn in_loop(core: Rc<Core>) -> Self {
        let shared = Shared {
            core,
            state: RefCell::new(State::Pending),
            is_unseen: Cell::new(false),
            done: Event::new(),
            callbacks: RefCell::default(),
            callbacks_made: Cell::new(0),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Sets the value.
    ///
    /// # Errors
    /// If it is done already; the value comes back.
    pub fn set_result(&self, value: T) -> Result<(), InvalidState<T>> {
        if self.is_done() {
            return Err(InvalidState(value));
        }
        self.end(State::Value(value));
        Ok(())
    }

    /// Sets an error instead of a value.
    ///
    /// # Errors
    /// If it is done already; the error comes back.
    #[doc(alias = "set_exception")]
    pub fn set_error<E: StdError + 'static>(&self, error: E) -> Result<(), InvalidState<E>> {
        if self.is_done() {
            return Err(InvalidState(error));
        }
        self.shared.is_unseen.set(!is_cancellation(&error));
        self.end(State::Failed(Rc::new(error)));
        Ok(())
    }

    /// Ends the future without a result. False if it is done already.
    pub fn cancel(&self, message: &str) -> bool {
        let pending = !self.is_done();
        if pending {
            self.end(State::Cancelled(Cancelled::with_message(message)));
        }
        pending
    }

    fn end(&self, state: State<T>) {
        let before = self.shared.state.replace(state);
        drop(before);
        self.shared.done.set();
        for (_, callback) in self.shared.callbacks.take() {
            self.call_soon(callback);
        }
    }

    fn call_soon(&self, callback: Callback<T>) {
        let this = self.clone();
        if !self.shared.core.closed.get() {
            self.shared.core.call_soon(Box::new(move || callback(&this)), None);
        }
    }

    /// Whether it has a result, an error, or was cancelled.
    pub fn is_done(&self) -> bool {
        !matches!(*self.shared.state.borrow(), State::Pending)
    }

    /// Whether it was cancelled.
    pub fn cancelled(&self) -> bool {
        matches!(*self.shared.state.borrow(), State::Cancelled(_))
    }

    /// Calls `f` with the result as it is now.
    pub fn with<R>(&self, f: impl FnOnce(Result<&T, FutureError>) -> R) -> R {
        match &*self.shared.state.borrow() {
            State::Pending => f(Err(FutureError::NotDone)),
            State::Value(value) => f(Ok(value)),
            State::Failed(error) => {
                self.shared.is_unseen.set(false);
                f(Err(FutureError::Failed(error.clone())))
            }
            State::Cancelled(cancelled) => f(Err(FutureError::Cancelled(cancelled.clone()))),
        }
    }

    /// The result as it is now.
    ///
    /// # Errors
    /// The error that was set; that it was cancelled; or that it is not done yet.
    pub fn result(&self) -> Result<T, FutureError>
    where
        T: Clone,
    {
        self.with(|result| result.cloned())
    }

    /// The error that was set, if one was.
    ///
    /// # Errors
    /// That it was cancelled, or that it is not done yet.
    #[doc(alias = "exception")]
    pub fn error(&self) -> Result<Option<Rc<dyn StdError>>, FutureError> {
        self.with(|result| match result {
            Ok(_) => Ok(None),
            Err(FutureError::Failed(error)) => Ok(Some(error)),
            Err(other) => Err(other),
        })
    }

    /// Makes the loop call `callback` when the future is done; soon, if it is already.
    pub fn add_done_callback(&self, callback: impl FnOnce(&Self) + 'static) -> CallbackKey {
        let key = self.shared.callbacks_made.get() + 1;
        self.shared.callbacks_made.set(key);
        if self.is_done() {
            self.call_soon(Box::new(callback));
        } else {
            self.shared.callbacks.borrow_mut().push((key, Box::new(callback)));
        }
        CallbackKey(key)
    }

    /// Takes a callback back; returns how many were removed, 0 or 1.
    pub fn remove_done_callback(&self, key: CallbackKey) -> usize {
        let mut callbacks = self.shared.callbacks.borrow_mut();
        let found = callbacks.iter().position(|(other, _)| *other == key.0);
        let removed = found.map(|index| callbacks.remove(index));
        drop(callbacks);
        removed.iter().len()
    }

    /// The loop that it belongs to.
    pub fn get_loop(&self) -> LoopHandle {
        LoopHandle::of(&self.shared.core)
    }
}

impl<T: Clone + 'static> IntoFuture for Future<T> {
    type Output = Result<T, FutureError>;
    type IntoFuture = Waiting<T>;

    /// Waits until it is done.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the future stays as it is. In asyncio cancelling a task cancels the future that it waits for;
    /// here it does not.
    fn into_future(self) -> Waiting<T> {
        Waiting { done: self.shared.done.wait(), future: self }
    }
}

impl<T: Clone + 'static> IntoFuture for &Future<T> {
    type Output = Result<T, FutureError>;
    type IntoFuture = Waiting<T>;

    fn into_future(self) -> Waiting<T> {
        self.clone().into_future()
    }
}

/// Waits for a [`Future`].
#[must_use = "futures do nothing unless awaited"]
pub struct Waiting<T> {
    future: Future<T>,
    done: EventWait,
}

impl<T: Clone + 'static> std::future::Future for Waiting<T> {
    type Output = Result<T, FutureError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match ready!(Pin::new(&mut self.done).poll(cx)) {
            Ok(()) => Poll::Ready(self.future.result()),
            Err(cancelled) => Poll::Ready(Err(FutureError::WaitCancelled(cancelled))),
        }
    }
}

impl<T> fmt::Debug for Waiting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Future<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.shared.state.borrow() {
            State::Pending => "pending",
            State::Value(_) => "done",
            State::Failed(_) => "failed",
            State::Cancelled(_) => "cancelled",
        };
        f.debug_tuple("Future").field(&format_args!("{state}")).finish()
    }
}
