//! Waiting for the first, the first failed, or all of several tasks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::error::Cancelled;
use crate::runtime::wait::check;
use crate::runtime::{Sleep, Task, sleep};

/// What [`wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReturnWhen {
    /// One of the tasks is over.
    #[doc(alias = "FIRST_COMPLETED")]
    FirstCompleted,
    /// One of the tasks failed, or all are over.
    #[doc(alias = "FIRST_EXCEPTION")]
    FirstException,
    /// All tasks are over.
    #[doc(alias = "ALL_COMPLETED")]
    AllCompleted,
}

/// Waits for tasks: completes with those that are over, taken out of `tasks`, both in their order. Those that are not
/// over stay in `tasks` and go on. Without tasks it completes at once.
///
/// # Cancel safety
/// *Nothing is lost*: the tasks go on, and stay in `tasks`.
///
/// # Errors
/// [`Cancelled`], if this wait is cancelled. A time-out is none.
///
/// # Examples
/// ```
/// use std::io;
/// use std::time::Duration;
/// use proactor::future::{ReturnWhen, wait};
/// # fn main() -> io::Result<()> {
/// proactor::run(async {
///     let napping = |millis| async move { Ok::<_, io::Error>(proactor::sleep(Duration::from_millis(millis)).await?) };
///     let mut tasks = vec![proactor::spawn(napping(3_600_000)), proactor::spawn(napping(1))];
///     let done = wait(&mut tasks, ReturnWhen::FirstCompleted).await?;
///     assert_eq!((done.len(), tasks.len()), (1, 1));
///     tasks[0].cancel("not needed");
///     Ok::<_, io::Error>(())
/// })
/// # }
/// ```
pub fn wait<T, E>(tasks: &mut Vec<Task<Result<T, E>>>, when: ReturnWhen) -> Wait<'_, T, E> {
    Wait { tasks, when, begun: 0, limit: None }
}

/// The future of [`wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct Wait<'a, T, E> {
    tasks: &'a mut Vec<Task<Result<T, E>>>,
    when: ReturnWhen,
    /// For all of them: the first that is not over.
    begun: usize,
    limit: Option<Sleep>,
}

impl<T, E> Wait<'_, T, E> {
    /// Completes after `limit` at the latest, measured from this call, with what is over then.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(sleep(limit));
        self
    }

    fn is_enough(&mut self, cx: &Context<'_>) -> bool {
        if self.when == ReturnWhen::AllCompleted {
            // One after the other, so that many tasks cost no more than one look at each.
            while let Some(task) = self.tasks.get(self.begun) {
                if !task.poll_end(cx) {
                    return false;
                }
                self.begun += 1;
            }
            return true;
        }
        let first_of_any = self.when == ReturnWhen::FirstCompleted;
        let mut all = true;
        for task in &*self.tasks {
            if !task.poll_end(cx) {
                all = false;
            } else if first_of_any || task.peek(|result| !matches!(result, Ok(Ok(_)))) == Some(true) {
                return true;
            }
        }
        all
    }
}

impl<T, E> Unpin for Wait<'_, T, E> {}

impl<T, E> Future for Wait<'_, T, E> {
    type Output = Result<Vec<Task<Result<T, E>>>, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.is_enough(cx) {
            ready!(check(cx))?;
            let timed_out = this.limit.as_mut().is_some_and(|limit| Pin::new(limit).poll(cx).is_ready());
            if !timed_out {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(this.tasks.extract_if(.., |task| task.is_finished()).collect()))
    }
}

impl<T, E> Drop for Wait<'_, T, E> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(Task::forget_waiter);
    }
}

impl<T, E> fmt::Debug for Wait<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("when", &self.when).finish_non_exhaustive()
    }
}
