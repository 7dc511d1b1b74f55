//! The future that waits in a queue of [`Waiters`]. Each awaitable of this module is a thin face of it.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::Cancelled;
use crate::runtime::budget;
use crate::runtime::scope::What;
use crate::runtime::wait::check;
use crate::sync::waiters::{Key, Waiters};

/// What a first look at a source gives.
pub(crate) enum Attempt<V, E> {
    /// It is had, without waiting.
    Done,
    /// The future has to wait, with its value.
    Wait(V),
    /// It will never be had.
    Refused(V, E),
}

/// What can be waited for.
pub(crate) trait Source {
    /// What a wait brings along, and gets back if it fails.
    type Value;
    type Error: From<Cancelled>;

    /// For people who look what a task waits for.
    const WHAT: What;

    fn waiters(&self) -> &Waiters<Self::Value>;

    /// Takes what there is, if nobody was here first.
    fn attempt(&self, value: Self::Value) -> Attempt<Self::Value, Self::Error>;

    /// Why those who wait need not wait any longer, though nothing was granted to them.
    fn over(&self) -> Option<Self::Error> {
        None
    }

    /// A future has gone without its answer, after it waited or had what it wanted. If it was granted that, somebody else
    /// is to have it.
    fn left(&self, was_granted: bool);
}

enum Stage<V> {
    New(V),
    Waiting(Key),
    /// It is had, and told in a later turn: the task has had its share of this one.
    Had,
    Over,
}

type Outcome<S> = Result<(), (<S as Source>::Value, <S as Source>::Error)>;

/// Waits until `source` grants. An error gives the value back.
pub(crate) struct Wait<S: Source> {
    source: S,
    stage: Stage<S::Value>,
}

impl<S: Source> Wait<S> {
    pub(crate) fn new(source: S, value: S::Value) -> Self {
        Self { source, stage: Stage::New(value) }
    }

    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// Whether it is in the queue, or was.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::New(_))
    }

    fn begin(&mut self, cx: &Context<'_>) -> Poll<Outcome<S>> {
        if let Err(cancelled) = ready!(check(cx)) {
            return Poll::Ready(self.fail(cancelled.into()));
        }
        match self.end().map(|value| self.source.attempt(value)) {
            None | Some(Attempt::Done) => {
                self.stage = Stage::Had;
                self.tell(cx)
            }
            Some(Attempt::Refused(value, error)) => Poll::Ready(Err((value, error))),
            Some(Attempt::Wait(value)) => {
                self.stage = Stage::Waiting(self.source.waiters().enter(value));
                self.register(cx)
            }
        }
    }

    fn tell(&mut self, cx: &Context<'_>) -> Poll<Outcome<S>> {
        ready!(budget::spend(cx));
        self.end();
        Poll::Ready(Ok(()))
    }

    /// What was granted is success, whatever else has happened since.
    fn go_on(&mut self, cx: &Context<'_>) -> Poll<Outcome<S>> {
        let Stage::Waiting(key) = &self.stage else { return Poll::Pending };
        if self.source.waiters().is_granted(key) {
            self.end();
            return Poll::Ready(Ok(()));
        }
        let error = match ready!(check(cx)) {
            Err(cancelled) => Some(cancelled.into()),
            Ok(()) => self.source.over(),
        };
        if let Some(error) = error {
            let outcome = self.fail(error);
            if outcome.is_err() {
                self.source.left(false);
            }
            return Poll::Ready(outcome);
        }
        self.register(cx)
    }

    fn register(&mut self, cx: &Context<'_>) -> Poll<Outcome<S>> {
        if let Stage::Waiting(key) = &self.stage
            && self.source.waiters().register(key, cx, S::WHAT)
        {
            return Poll::Pending;
        }
        self.end();
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self, error: S::Error) -> Outcome<S> {
        match self.end() {
            Some(value) => Err((value, error)),
            None => Ok(()),
        }
    }

    /// Leaves the queue, if it is there. Returns the value, or `None` if what it stood for is had.
    fn end(&mut self) -> Option<S::Value> {
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(value) => Some(value),
            Stage::Waiting(key) => self.source.waiters().leave(key),
            Stage::Had | Stage::Over => None,
        }
    }
}

// Nothing in it is ever pinned.
impl<S: Source> Unpin for Wait<S> {}

impl<S: Source> Future for Wait<S> {
    type Output = Outcome<S>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.stage {
            Stage::New(_) => self.begin(cx),
            Stage::Waiting(_) => self.go_on(cx),
            Stage::Had => self.tell(cx),
            Stage::Over => panic!("a future was polled after it had completed"),
        }
    }
}

impl<S: Source> Drop for Wait<S> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Waiting(_) | Stage::Had) {
            let value = self.end();
            self.source.left(value.is_none());
        }
    }
}

impl<S: Source> fmt::Debug for Wait<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::New(_) => "new",
            Stage::Waiting(key) if self.source.waiters().is_granted(key) => "granted",
            Stage::Waiting(_) => "waiting",
            Stage::Had => "had",
            Stage::Over => "over",
        };
        f.debug_tuple("Wait").field(&format_args!("{stage}")).finish()
    }
}
