//! What tasks wait for each other with, one file for each primitive. A comment names where a promise comes from.

mod cancelled;
mod capacity_limiter;
mod condition;
mod event;
mod lock;
mod memory_stream;
mod model;
mod queue;
mod resource_guard;
mod semaphore;

use std::cell::RefCell;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proactor::{Task, spawn, yield_now};

/// Notes of tasks, in the order in which they came.
#[derive(Clone)]
pub(crate) struct Log<T>(Rc<RefCell<Vec<T>>>);

impl<T> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::default())
    }

    pub(crate) fn push(&self, note: T) {
        self.0.borrow_mut().push(note);
    }

    /// All notes since the last call.
    pub(crate) fn take(&self) -> Vec<T> {
        self.0.take()
    }
}

/// Lets every task run that can, each often enough to come to where it waits.
pub(crate) async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

/// Polls once, with a waker that leads nowhere.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The future is waiting now.
#[track_caller]
pub(crate) fn begin<F: Future + Unpin>(mut future: F) -> F
where
    F::Output: Debug,
{
    let polled = poll_once(&mut future);
    assert!(polled.is_pending(), "it does not wait: {polled:?}");
    future
}

/// Spawns a task that awaits `future` and then notes its number, and lets it come to where it waits.
pub(crate) async fn waiting<T, E>(
    log: &Log<u32>,
    number: u32,
    future: impl Future<Output = Result<T, E>> + 'static,
) -> Task<Result<T, E>>
where
    T: 'static,
    E: 'static,
{
    let log = log.clone();
    let task = spawn(async move {
        let result = future.await;
        log.push(number);
        result
    });
    settle().await;
    task
}

pub(crate) fn kind<T: Debug>(result: Result<T, impl Into<io::Error>>) -> io::ErrorKind {
    match result {
        Ok(value) => panic!("no error, but {value:?}"),
        Err(error) => error.into().kind(),
    }
}
