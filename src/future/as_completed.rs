//! Several tasks at once, and their results as they come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::error::{JoinError, TimedOut};
use crate::runtime::core::{self, Core};
use crate::runtime::scope::{NONE, What};
use crate::runtime::task::{self, Ending, Run};
use crate::runtime::wait::{Waiter, check};
use crate::runtime::{Sleep, budget, sleep};

/// Who hears of the ends of several tasks.
pub(super) trait Finished<T> {
    fn finished(&self, index: usize, result: Result<T, JoinError>);
    fn wake(&self);
}

struct Place<S> {
    shared: Rc<S>,
    index: usize,
}

impl<T, S: Finished<T>> Ending<T> for Place<S> {
    fn end(&self, result: Result<T, JoinError>) -> Option<Result<T, JoinError>> {
        self.shared.finished(self.index, result);
        None
    }

    fn wake(&self) {
        self.shared.wake();
    }
}

/// Tasks that were started together. Dropped, it cancels those that are not over.
pub(super) struct Started {
    core: Rc<Core>,
    tasks: Vec<Rc<dyn Run>>,
}

/// Starts a task for each future; `shared` hears of their ends.
pub(super) fn start_all<I, T, S>(futures: I, shared: &Rc<S>, at: &'static Location<'static>) -> Started
where
    I: IntoIterator<Item: Future<Output = T> + 'static>,
    T: 'static,
    S: Finished<T> + 'static,
{
    let core = core::current();
    let start = |(index, future)| {
        let place = Place { shared: shared.clone(), index };
        let task = task::new_with(future, core.new_info(at), place);
        core.start(task.clone(), NONE);
        task
    };
    let tasks = futures.into_iter().enumerate().map(start).collect();
    Started { core, tasks }
}

impl Started {
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Lets the tasks go on by themselves.
    pub(super) fn forget(&mut self) {
        self.tasks.clear();
    }

    pub(super) fn cancel(&mut self, message: &str) {
        for task in self.tasks.drain(..) {
            let root = task.info().root.get();
            if root != NONE {
                self.core.cancel_scope(root, Some(message.into()));
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.cancel("whoever waited for it is gone");
    }
}

/// Runs all `futures` at once, each in a task of its own; their results come by [`AsCompleted::next`] as soon as they are
/// there.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let work = [30, 10, 20].map(|n| async move {
///         let _ = proactor::sleep(Duration::from_millis(n)).await;
///         n
///     });
///     let mut results = proactor::future::as_completed(work);
///     let mut order = Vec::new();
///     while let Some(result) = results.next().await? {
///         order.push(result?);
///     }
///     assert_eq!(order, [10, 20, 30]);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn as_completed<I, T>(futures: I) -> AsCompleted<T>
where
    I: IntoIterator<Item: Future<Output = T> + 'static>,
    T: 'static,
{
    let shared = Rc::new(Shared { results: RefCell::default(), waiter: Waiter::new() });
    let mut started = start_all(futures, &shared, Location::caller());
    let left = started.len();
    // As in asyncio they go on by themselves if nobody wants their results.
    started.forget();
    AsCompleted { shared, left, limit: None }
}

struct Shared<T> {
    results: RefCell<VecDeque<Result<T, JoinError>>>,
    waiter: Waiter,
}

impl<T> Finished<T> for Shared<T> {
    fn finished(&self, _: usize, result: Result<T, JoinError>) {
        self.results.borrow_mut().push_back(result);
    }

    fn wake(&self) {
        self.waiter.wake();
    }
}

/// The results of several tasks, as they come; see [`as_completed`]. Dropped, it lets the tasks go on by themselves.
pub struct AsCompleted<T> {
    shared: Rc<Shared<T>>,
    left: usize,
    limit: Option<Sleep>,
}

impl<T> AsCompleted<T> {
    /// A limit for all results together, measured from this call.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[must_use]
    #[track_caller]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(sleep(limit));
        self
    }

    /// Completes with the next result that is there; `None` after the last one.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`TimedOut`] and [`Cancelled`](crate::Cancelled), as an [`io::Error`]; the tasks go on, and asking again is fine.
    #[allow(clippy::should_implement_trait, reason = "it is asynchronous, and called as in every stream")]
    pub fn next(&mut self) -> impl Future<Output = io::Result<Option<Result<T, JoinError>>>> + '_ {
        poll_fn(|cx| self.poll_next(cx))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Result<T, JoinError>>>> {
        if let Err(cancelled) = ready!(check(cx)) {
            self.shared.waiter.clear();
            return Poll::Ready(Err(cancelled.into()));
        }
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        if !self.shared.results.borrow().is_empty() {
            ready!(budget::spend(cx));
            self.left -= 1;
            return Poll::Ready(Ok(self.shared.results.borrow_mut().pop_front()));
        }
        if let Some(limit) = &mut self.limit
            && Pin::new(&mut *limit).poll(cx).is_ready()
        {
            // It stays over.
            *limit = sleep(Duration::ZERO);
            return Poll::Ready(Err(TimedOut.into()));
        }
        self.shared.waiter.register_for(cx, What(&"the next of several tasks"));
        Poll::Pending
    }
}

impl<T> fmt::Debug for AsCompleted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.left).finish_non_exhaustive()
    }
}
