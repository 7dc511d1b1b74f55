//! Several tasks at once, and all their results in the order of the tasks.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::error::{Cancelled, JoinError};
use crate::future::as_completed::{Finished, Started, start_all};
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};

const RESULTS: What = What(&"the results of several tasks");

/// Runs all `futures` at once, each in a task of its own, and completes with their values, in the order of the futures.
/// The first error completes it too; the others then go on by themselves. (A [task group](crate::cancel::task_group)
/// would cancel them.)
///
/// # Cancel safety
/// *May have happened*: cancelled or dropped, it cancels the tasks that are not over, and they go on to their end.
///
/// # Errors
/// The first error of a task; a [`JoinError`] for one that panicked or was cancelled, and if this wait is cancelled.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::io;
/// use std::time::Duration;
/// # fn main() -> io::Result<()> {
/// proactor::run(async {
///     let work = (1..=3).map(|n| async move {
///         proactor::sleep(Duration::from_millis(4 - n)).await?;
///         Ok::<_, io::Error>(n)
///     });
///     assert_eq!(proactor::future::gather(work).await?, [1, 2, 3]);
///     Ok::<_, io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn gather<I, T, E>(futures: I) -> impl Future<Output = Result<Vec<T>, E>>
where
    I: IntoIterator<Item: Future<Output = Result<T, E>> + 'static>,
    T: 'static,
    E: From<JoinError> + 'static,
{
    let mut gathering =
        Gathering::start(futures, Location::caller(), |result| matches!(result, Err(_) | Ok(Err(_))));
    async move {
        let results = poll_fn(|cx| gathering.poll(cx)).await.map_err(JoinError::WaitCancelled)?;
        let mut values = Vec::with_capacity(results.len());
        if let Some(failed) = gathering.shared.first_failed.get() {
            let failed = results.into_iter().nth(failed).flatten();
            return match failed.expect("it is there if it failed") {
                Ok(Ok(_)) => unreachable!("it failed"),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.into()),
            };
        }
        for result in results.into_iter().flatten() {
            values.push(result??);
        }
        Ok(values)
    }
}

/// As [`gather`], but completes when all tasks are over, and gives the errors beside the values.
///
/// # Cancel safety
/// As [`gather`].
///
/// # Errors
/// [`Cancelled`], if this wait is cancelled.
///
/// # Panics
/// If no event loop runs on this thread.
#[doc(alias = "return_exceptions")]
#[track_caller]
pub fn gather_results<I, T>(futures: I) -> impl Future<Output = Result<Vec<Result<T, JoinError>>, Cancelled>>
where
    I: IntoIterator<Item: Future<Output = T> + 'static>,
    T: 'static,
{
    let mut gathering = Gathering::start(futures, Location::caller(), |_| false);
    async move {
        let results = poll_fn(|cx| gathering.poll(cx)).await?;
        Ok(results.into_iter().flatten().collect())
    }
}

/// One for each task, once it is over.
type Results<T> = Vec<Option<Result<T, JoinError>>>;

struct Shared<T> {
    results: RefCell<Results<T>>,
    missing: Cell<usize>,
    first_failed: Cell<Option<usize>>,
    is_failure: fn(&Result<T, JoinError>) -> bool,
    waiter: Waiter,
}

impl<T> Finished<T> for Shared<T> {
    fn finished(&self, index: usize, result: Result<T, JoinError>) {
        if self.first_failed.get().is_none() && (self.is_failure)(&result) {
            self.first_failed.set(Some(index));
        }
        self.missing.set(self.missing.get() - 1);
        // After the end nobody wants it any more, and it is dropped outside the borrow.
        let unwanted = match self.results.borrow_mut().get_mut(index) {
            Some(place) => place.replace(result),
            None => Some(result),
        };
        drop(unwanted);
    }

    fn wake(&self) {
        if self.missing.get() == 0 || self.first_failed.get().is_some() {
            self.waiter.wake();
        }
    }
}

struct Gathering<T> {
    shared: Rc<Shared<T>>,
    started: Started,
}

impl<T: 'static> Gathering<T> {
    fn start<I>(
        futures: I,
        at: &'static Location<'static>,
        is_failure: fn(&Result<T, JoinError>) -> bool,
    ) -> Self
    where
        I: IntoIterator<Item: Future<Output = T> + 'static>,
    {
        let shared = Rc::new(Shared {
            results: RefCell::default(),
            missing: Cell::new(0),
            first_failed: Cell::new(None),
            is_failure,
            waiter: Waiter::new(),
        });
        // No task runs before this returns, so there is time to make room.
        let started = start_all(futures, &shared, at);
        shared.missing.set(started.len());
        shared.results.borrow_mut().resize_with(started.len(), || None);
        Self { shared, started }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Results<T>, Cancelled>> {
        if self.shared.missing.get() == 0 || self.shared.first_failed.get().is_some() {
            // Those that go on do so by themselves.
            self.started.forget();
            return Poll::Ready(Ok(std::mem::take(&mut *self.shared.results.borrow_mut())));
        }
        if let Err(cancelled) = ready!(check(cx)) {
            self.started.cancel(cancelled.message().unwrap_or_default());
            return Poll::Ready(Err(cancelled));
        }
        self.shared.waiter.register_for(cx, RESULTS);
        Poll::Pending
    }
}
