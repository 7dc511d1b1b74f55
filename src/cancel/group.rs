//! Task groups: tasks that end before the code goes on that started them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::cancel::group_error::{ErrorGroup, NotStarted};
use crate::cancel::scope::{CancelScope, Ended, Inside};
use crate::error::{JoinError, MayBeCancelled};
use crate::runtime::core::Core;
use crate::runtime::here;
use crate::runtime::scope::{NONE, What};
use crate::runtime::task::{self, Ending, Run, TaskId};
use crate::runtime::wait::Waiter;

const CHILDREN: What = What(&"the end of the children");
const STARTED: What = What(&"a child to start");

struct Shared<E> {
    scope: CancelScope,
    live: Cell<usize>,
    errors: RefCell<Vec<E>>,
    panic: Cell<Option<Box<dyn Any + Send>>>,
    /// A child was cut short by a cancel.
    was_cut_short: Cell<bool>,
    over: Cell<bool>,
    join: Waiter,
}

impl<E: MayBeCancelled> Shared<E> {
    fn failed(&self, error: E) {
        self.errors.borrow_mut().push(error);
        self.scope.cancel();
    }

    fn panicked(&self, panic: Box<dyn Any + Send>) {
        if let Some(first) = self.panic.replace(Some(panic)) {
            // The first one is raised again; the panic hook told of the other.
            let later = self.panic.replace(Some(first));
            task::contain(|| drop(later));
        }
        self.scope.cancel();
    }

    fn child_failed(&self, error: E) {
        if error.is_cancelled() { self.was_cut_short.set(true) } else { self.failed(error) }
    }
}

/// What a child's end means for its group.
struct ChildEnding<E>(Rc<Shared<E>>);

impl<E: MayBeCancelled> Ending<Result<(), E>> for ChildEnding<E> {
    fn end(&self, result: Result<Result<(), E>, JoinError>) -> Option<Result<Result<(), E>, JoinError>> {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.0.child_failed(error),
            Err(JoinError::Panicked(panic)) => self.0.panicked(panic),
            Err(JoinError::Cancelled(_) | JoinError::WaitCancelled(_)) => self.0.was_cut_short.set(true),
        }
        None
    }

    fn wake(&self) {
        self.0.live.set(self.0.live.get() - 1);
        if self.0.live.get() == 0 {
            self.0.join.wake();
        }
    }
}

/// Starts tasks that belong together; see [`task_group`]. Clones are handles of the same group, so children can start
/// siblings.
pub struct TaskGroup<E> {
    shared: Rc<Shared<E>>,
}

impl<E> Clone for TaskGroup<E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<E: MayBeCancelled + 'static> TaskGroup<E> {
    /// Starts a child: it runs from the next turn of the loop on. If it fails, the rest of the group is cancelled.
    ///
    /// # Panics
    /// If the group is over: all of its tasks had ended and the code behind it goes on.
    #[doc(alias = "create_task")]
    #[track_caller]
    pub fn start_soon<F>(&self, child: F) -> Child
    where
        F: Future<Output = Result<(), E>> + 'static,
    {
        self.spawn(child, ChildEnding(self.shared.clone()), Location::caller())
    }

    fn spawn<F, K>(&self, child: F, ending: K, spawned_at: &'static Location<'static>) -> Child
    where
        F: Future + 'static,
        K: Ending<F::Output> + 'static,
    {
        assert!(!self.shared.over.get(), "the task group is over, it takes no more tasks");
        let core = self.shared.scope.core();
        let task = task::new_with(child, core.new_info(spawned_at), ending);
        self.shared.live.set(self.shared.live.get() + 1);
        if core.closed.get() {
            task.abort();
        } else {
            core.start(task.clone(), self.shared.scope.slot());
        }
        Child { core: core.clone(), task }
    }

    /// Starts a child and waits until it says that it has started: gives the value that it passed to
    /// [`TaskStatus::started`]. For servers that have to listen before somebody connects.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a child that has not started is cancelled, and the group waits for its end.
    ///
    /// # Errors
    /// The error of the child, if it failed before it had started: that one does not cancel the group. [`NotStarted`], if
    /// it ended without. [`Cancelled`](crate::Cancelled), after the child's end.
    ///
    /// # Panics
    /// As the child, if it panics before it has started; as [`start_soon`](Self::start_soon).
    ///
    /// # Examples
    /// ```
    /// use std::io;
    /// use proactor::cancel::{TaskStatus, task_group};
    /// use proactor::net::{TcpListener, TcpStream};
    ///
    /// # fn main() -> io::Result<()> {
    /// proactor::run(async {
    ///     task_group(async |group| {
    ///         let address = group
    ///             .start(async |status: TaskStatus<_, _>| {
    ///                 let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///                 status.started(listener.local_addr()?);
    ///                 listener.accept().await?.send("welcome").await?;
    ///                 Ok(())
    ///             })
    ///             .await?;
    ///         let stream = TcpStream::connect(address).await?;
    ///         assert_eq!(&stream.receive().await?.unwrap()[..], b"welcome");
    ///         Ok::<_, io::Error>(())
    ///     })
    ///     .await?;
    ///     Ok::<_, io::Error>(())
    /// })
    /// # }
    /// ```
    #[track_caller]
    pub fn start<T, F>(&self, child: F) -> impl Future<Output = Result<T, E>> + use<'_, T, E, F>
    where
        F: AsyncFnOnce(TaskStatus<T, E>) -> Result<(), E> + 'static,
        T: 'static,
        E: From<io::Error>,
    {
        let spawned_at = Location::caller();
        async move {
            let starting = Rc::new(Starting { state: Cell::new(Start::Waits), waiter: Waiter::new() });
            let ending = StartEnding { group: self.shared.clone(), starting: starting.clone() };
            let status = TaskStatus { starting: starting.clone() };
            let child = self.spawn(async move { child(status).await }, ending, spawned_at);
            let group = &*self.shared;
            let mut guard =
                StartGuard { group, child: Some(child), was_cancelled: Cell::new(false), starting };
            let outcome = poll_fn(|cx| guard.poll(cx)).await;
            guard.child = None;
            outcome
        }
    }

    /// The scope of the group: cancel it to end the group.
    pub fn cancel_scope(&self) -> &CancelScope {
        &self.shared.scope
    }

    /// Children that are not over.
    pub fn live_children(&self) -> usize {
        self.shared.live.get()
    }
}

impl<E> fmt::Debug for TaskGroup<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("scope", &self.shared.scope)
            .field("live_children", &self.shared.live.get())
            .finish_non_exhaustive()
    }
}

/// A task of a group. Dropping this changes nothing.
#[derive(Clone)]
pub struct Child {
    core: Rc<Core>,
    task: Rc<dyn Run>,
}

impl Child {
    /// The number of the task.
    pub fn id(&self) -> TaskId {
        self.task.info().id
    }

    /// The name of the task, `Task-` and its number where nobody gave it one.
    pub fn name(&self) -> Rc<str> {
        self.task.info().name()
    }

    /// Names the task, for debug output.
    pub fn set_name(&self, name: &str) {
        *self.task.info().name.borrow_mut() = Some(name.into());
    }

    /// Cancels this child only; for the group that is no failure. False if it is over already.
    pub fn cancel(&self, message: &str) -> bool {
        let root = self.task.info().root.get();
        root != NONE && {
            self.core.cancel_scope(root, Some(message.into()));
            true
        }
    }

    /// Whether the task is over.
    pub fn is_finished(&self) -> bool {
        self.task.info().root.get() == NONE
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

// ---- start ----

enum Start<T, E> {
    Waits,
    Started(T),
    Failed(E),
    Panicked(Box<dyn Any + Send>),
    /// It ended without a word, or the answer was taken.
    Over,
}

struct Starting<T, E> {
    state: Cell<Start<T, E>>,
    waiter: Waiter,
}

impl<T, E> Starting<T, E> {
    fn waits(&self) -> bool {
        let state = self.state.replace(Start::Over);
        let waits = matches!(state, Start::Waits);
        self.state.set(state);
        waits
    }
}

/// With it a child says that it has started; see [`TaskGroup::start`].
pub struct TaskStatus<T, E> {
    starting: Rc<Starting<T, E>>,
}

impl<T, E> TaskStatus<T, E> {
    /// The child has started: whoever waits for that gets `value`.
    pub fn started(self, value: T) {
        self.starting.state.set(Start::Started(value));
        self.starting.waiter.wake();
    }
}

impl<T, E> fmt::Debug for TaskStatus<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskStatus").finish_non_exhaustive()
    }
}

struct StartEnding<T, E> {
    group: Rc<Shared<E>>,
    starting: Rc<Starting<T, E>>,
}

impl<T, E: MayBeCancelled> Ending<Result<(), E>> for StartEnding<T, E> {
    fn end(&self, result: Result<Result<(), E>, JoinError>) -> Option<Result<Result<(), E>, JoinError>> {
        if !self.starting.waits() {
            return ChildEnding(self.group.clone()).end(result);
        }
        // Whoever started it hears of it, and the group goes on.
        self.starting.state.set(match result {
            Ok(Ok(())) => Start::Over,
            Ok(Err(error)) => Start::Failed(error),
            Err(JoinError::Panicked(panic)) => Start::Panicked(panic),
            Err(JoinError::Cancelled(cancelled) | JoinError::WaitCancelled(cancelled)) => {
                Start::Failed(cancelled.into())
            }
        });
        None
    }

    fn wake(&self) {
        self.starting.waiter.wake();
        ChildEnding(self.group.clone()).wake();
    }
}

struct StartGuard<'a, T, E: MayBeCancelled> {
    group: &'a Shared<E>,
    /// Until the answer is there.
    child: Option<Child>,
    was_cancelled: Cell<bool>,
    starting: Rc<Starting<T, E>>,
}

impl<T, E: MayBeCancelled + From<io::Error>> StartGuard<'_, T, E> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        match self.starting.state.replace(Start::Over) {
            Start::Waits => self.starting.state.set(Start::Waits),
            Start::Started(value) => return Poll::Ready(Ok(value)),
            Start::Failed(error) => return Poll::Ready(Err(error)),
            Start::Panicked(panic) => resume_unwind(panic),
            Start::Over => return Poll::Ready(Err(io::Error::from(NotStarted).into())),
        }
        // It ends soon, and until then it may start, which is success.
        if here::is_cancelled()
            && !self.was_cancelled.replace(true)
            && let Some(child) = &self.child
        {
            child.cancel("whoever waited for its start was cancelled");
        }
        self.starting.waiter.register_uncancelled(cx, STARTED, None);
        Poll::Pending
    }
}

impl<T, E: MayBeCancelled> Drop for StartGuard<'_, T, E> {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        child.cancel("whoever waited for its start is gone");
        // What it fails with now, or failed with already, concerns the group.
        match self.starting.state.replace(Start::Over) {
            Start::Failed(error) => self.group.child_failed(error),
            Start::Panicked(panic) => self.group.panicked(panic),
            Start::Waits | Start::Started(_) | Start::Over => {}
        }
    }
}

// ---- the group itself ----

/// Runs `body` with a group in which it can start tasks, and completes when the body and all of those are over.
///
/// The first failure, of the body or of a task, cancels all others; they are waited for, clean-up included, and then all
/// errors come out in one. A panic is raised again in the end. The group is a scope: a cancel from outside reaches its
/// tasks, and its own [`cancel_scope`](TaskGroup::cancel_scope) ends it: then the result is `None`, unless the body had
/// a value already.
///
/// # Cancel safety
/// *Nothing is lost* when it is cancelled. When its future is dropped, the tasks are cancelled and go on by themselves to
/// their end: [`run`](crate::run) waits for them.
///
/// # Errors
/// The errors of the body and of the tasks; cancellations are none, except one that came from outside.
///
/// # Panics
/// If no event loop runs on this thread; as the body and its tasks.
///
/// # Examples
/// ```
/// use std::io;
/// use std::time::Duration;
/// use proactor::cancel::task_group;
///
/// # fn main() -> io::Result<()> {
/// proactor::run(async {
///     let outcome = task_group(async |group| {
///         group.start_soon(async {
///             proactor::sleep(Duration::from_millis(1)).await?;
///             Err(io::Error::other("it broke"))
///         });
///         group.start_soon(async {
///             // Cancelled by its sibling's failure.
///             proactor::sleep(Duration::from_secs(3600)).await?;
///             Ok(())
///         });
///         Ok::<_, io::Error>("never seen")
///     });
///     assert_eq!(outcome.await.unwrap_err().to_string(), "it broke");
///     Ok::<_, io::Error>(())
/// })
/// # }
/// ```
#[doc(alias = "create_task_group")]
#[track_caller]
pub fn task_group<T, E, F>(body: F) -> impl Future<Output = Result<Option<T>, ErrorGroup<E>>>
where
    F: AsyncFnOnce(&TaskGroup<E>) -> Result<T, E>,
    E: MayBeCancelled + 'static,
{
    let shared = Rc::new(Shared {
        scope: CancelScope::new(),
        live: Cell::new(0),
        errors: RefCell::default(),
        panic: Cell::new(None),
        was_cut_short: Cell::new(false),
        over: Cell::new(false),
        join: Waiter::new(),
    });
    run_group(TaskGroup { shared }, body)
}

/// However the group's future ends: no more tasks, and those there are are cancelled.
struct Over<'a, E>(&'a Shared<E>);

impl<E> Drop for Over<'_, E> {
    fn drop(&mut self) {
        self.0.over.set(true);
        if self.0.live.get() > 0 {
            self.0.scope.cancel();
        }
    }
}

async fn run_group<T, E, F>(group: TaskGroup<E>, body: F) -> Result<Option<T>, ErrorGroup<E>>
where
    F: AsyncFnOnce(&TaskGroup<E>) -> Result<T, E>,
    E: MayBeCancelled + 'static,
{
    let shared = &*group.shared;
    let mut inside =
        pin!(Inside::new(shared.scope.clone(), Contained { future: async { body(&group).await } }));
    // Dropped before the scope is left.
    let over = Over(shared);
    let (ended, _) = poll_fn(|cx| inside.as_mut().poll_body(cx)).await;
    let mut value = None;
    // The body failed with a cancellation that is none of this group: what a task gave that was cancelled, say.
    let mut is_stray = false;
    match ended {
        Ended::Returned(Ok(Ok(output))) => value = Some(output),
        Ended::Returned(Ok(Err(error))) if error.is_cancelled() => {
            is_stray = !shared.scope.core().is_cancelled(shared.scope.slot());
            if is_stray {
                shared.scope.cancel();
            }
        }
        Ended::Returned(Ok(Err(error))) => shared.failed(error),
        Ended::Returned(Err(panic)) => shared.panicked(panic),
        Ended::Dropped => {}
    }
    // In the outer scope, which it keeps from being taken for idle. No cancel ends it; it reaches the children.
    poll_fn(|cx| {
        inside.as_mut().enter(cx);
        if shared.live.get() == 0 {
            return Poll::Ready(());
        }
        shared.join.register_uncancelled(cx, CHILDREN, None);
        Poll::Pending
    })
    .await;
    drop(over);
    let (core, slot) = (shared.scope.core(), shared.scope.slot());
    let answer = core.is_cancelled(slot).then(|| core.answer(slot));
    let catches = core.catches(slot);
    inside.leave();
    if let Some(panic) = shared.panic.take() {
        resume_unwind(panic);
    }
    let errors = std::mem::take(&mut *shared.errors.borrow_mut());
    if !errors.is_empty() {
        return Err(ErrorGroup::new(errors));
    }
    match (value, answer) {
        (None, Some(_)) if catches && !is_stray => {
            core.set_caught(slot);
            Ok(None)
        }
        (Some(_), Some(cancelled)) if !catches && shared.was_cut_short.get() => Err(cancelled.into()),
        (None, answer) => Err(answer.unwrap_or_default().into()),
        (value, _) => Ok(value),
    }
}

pin_project_lite::pin_project! {
    /// Turns a panic of a future into a result.
    struct Contained<F> { #[pin] future: F }
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
