//! Portals: threads without a loop run async code in one.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker, ready};
use std::thread::JoinHandle;

use crate::error::{Cancelled, Closed};
use crate::runtime::outcome::{Arrival, Outcome, Promise};
use crate::runtime::park::block_on;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::runtime::{Builder, Canceller, EventLoop, LoopHandle, RemoteTask, current};

/// A door for threads into a loop, for as long as it is open. Cheap to clone, and to send.
///
/// In async code, [`new`](Self::new) makes one for the loop that runs there; [`start_blocking_portal`] makes one with a
/// loop of its own, for programs that are not async themselves.
#[derive(Clone)]
pub struct BlockingPortal {
    shared: Arc<Shared>,
}

struct Shared {
    handle: LoopHandle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_stopped: bool,
    /// The tasks that are not over.
    tasks: HashMap<u64, Arc<Canceller>>,
    /// How many there were in all.
    started: u64,
    /// Who waits for the stop, or for the end of the tasks.
    wakers: Vec<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when `condition` holds; else the task of `cx` is woken at the next change.
    fn poll(&self, cx: &Context<'_>, condition: impl Fn(&State) -> bool) -> Poll<()> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut state = self.lock();
        if condition(&state) {
            return Poll::Ready(());
        }
        let is_known = state.wakers.iter().any(|known| known.will_wake(&waker));
        if !is_known {
            state.wakers.push(waker);
        }
        Poll::Pending
    }

    fn ended(&self, task: u64) {
        let mut state = self.lock();
        let canceller = state.tasks.remove(&task);
        let wakers = if state.tasks.is_empty() { std::mem::take(&mut state.wakers) } else { Vec::new() };
        drop(state);
        drop(canceller);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Waits in a loop for a change of a portal.
struct Change {
    shared: Arc<Shared>,
    condition: fn(&State) -> bool,
    waiter: Waiter,
}

impl Future for Change {
    type Output = Result<(), Cancelled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.shared.poll(cx, self.condition).is_ready() {
            self.waiter.clear();
            return Poll::Ready(Ok(()));
        }
        ready!(check(cx))?;
        self.waiter.register_for(cx, What(&"the end of a portal"));
        Poll::Pending
    }
}

impl BlockingPortal {
    /// A portal into the loop that runs on this thread. Call [`stop`](Self::stop) and await [`join`](Self::join) before
    /// what its tasks use goes away.
    ///
    /// # Errors
    /// If no event loop runs on this thread.
    pub fn new() -> io::Result<Self> {
        Ok(Self { shared: Arc::new(Shared { handle: current()?, state: Mutex::default() }) })
    }

    /// Runs an async closure as a task in the loop and blocks until it is done. The closure is sent there; its future is
    /// made there and need not be `Send`.
    ///
    /// # Errors
    /// As [`start_task_soon`](Self::start_task_soon); if the task panicked or was cancelled.
    #[track_caller]
    pub fn call<T, F>(&self, function: F) -> io::Result<T>
    where
        F: AsyncFnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.start_task_soon(function)?.wait(None)
    }

    /// Calls `function` on the loop's thread and blocks until it returns.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    #[track_caller]
    pub fn call_sync<T: Send + 'static>(
        &self,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.start_task_soon(async move || function())?.wait(None)
    }

    /// Starts a task in the loop and gives back where its result arrives.
    ///
    /// # Errors
    /// If the portal was stopped, if its loop ended, or on the thread of that loop.
    #[track_caller]
    pub fn start_task_soon<T, F>(&self, function: F) -> io::Result<RemoteTask<T>>
    where
        F: AsyncFnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.shared.handle.is_current() {
            return Err(io::Error::other("a portal is for other threads than that of its loop"));
        }
        let canceller = Arc::new(Canceller::default());
        let mut state = self.shared.lock();
        if state.is_stopped {
            return Err(Closed::new("the portal").into());
        }
        state.started += 1;
        let number = state.started;
        state.tasks.insert(number, canceller.clone());
        drop(state);
        match self.shared.handle.spawn_with(canceller, function) {
            Ok(task) => {
                let shared = self.shared.clone();
                task.add_done_callback(move || shared.ended(number));
                Ok(task)
            }
            Err(error) => {
                self.shared.ended(number);
                Err(error)
            }
        }
    }

    /// Starts a task in the loop and blocks until it says that it has started: gives the task, and what it said.
    ///
    /// # Errors
    /// As [`start_task_soon`](Self::start_task_soon); if the task ended without saying so.
    #[track_caller]
    pub fn start_task<T, V, F>(&self, function: F) -> io::Result<(RemoteTask<T>, V)>
    where
        F: AsyncFnOnce(PortalTaskStatus<V>) -> T + Send + 'static,
        T: Send + 'static,
        V: Send + 'static,
    {
        let started = Arc::new(Outcome::default());
        let promise = Promise::new(&started, "it ended without saying that it had started");
        let task = self.start_task_soon(async move || function(PortalTaskStatus { promise }).await)?;
        let value = block_on(std::pin::pin!(Arrival(&started)), None)??;
        Ok((task, value))
    }

    /// Runs the first part of an async closure, up to where it gives a value, and blocks until then. The closure goes on
    /// when the guard that this returns is [left](Wrapped::leave) or dropped.
    ///
    /// So a thread can use what has to be opened, held and closed in a loop; the same task does both.
    ///
    /// # Errors
    /// As [`start_task`](Self::start_task).
    ///
    /// # Examples
    /// ```
    /// use proactor::net::TcpListener;
    /// use proactor::thread::start_blocking_portal;
    /// # fn main() -> std::io::Result<()> {
    /// let portal = start_blocking_portal()?;
    /// let address = portal.wrap_async_context_manager(async |middle| {
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     middle.until_left(listener.local_addr()?).await;
    ///     listener.close().await
    /// })?;
    /// assert_ne!(address.port(), 0);
    /// address.leave()?
    /// # }
    /// ```
    #[track_caller]
    pub fn wrap_async_context_manager<T, V, F>(&self, function: F) -> io::Result<Wrapped<T, V>>
    where
        F: AsyncFnOnce(Middle<V>) -> T + Send + 'static,
        T: Send + 'static,
        V: Send + 'static,
    {
        let left = Arc::new(Outcome::default());
        let leave = Promise::new(&left, "the guard was dropped");
        let run = async move |status| function(Middle { status, left }).await;
        let (task, value) = self.start_task(run)?;
        Ok(Wrapped { task, value, _leave: leave })
    }

    /// Stops the portal: nothing new is started. With `cancel_remaining`, the tasks that are not over are cancelled. Does
    /// not wait for them; any thread may call it.
    pub fn stop(&self, cancel_remaining: bool) {
        let mut state = self.shared.lock();
        state.is_stopped = true;
        let wakers = std::mem::take(&mut state.wakers);
        let tasks: Vec<_> =
            if cancel_remaining { state.tasks.values().cloned().collect() } else { Vec::new() };
        drop(state);
        tasks.iter().for_each(|task| task.cancel("the portal was stopped"));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Completes when somebody stopped the portal.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn sleep_until_stopped(&self) -> impl Future<Output = Result<(), Cancelled>> + use<> {
        Change { shared: self.shared.clone(), condition: |state| state.is_stopped, waiter: Waiter::new() }
    }

    /// Completes when the portal is stopped and all its tasks are over.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the tasks go on.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn join(&self) -> impl Future<Output = Result<(), Cancelled>> + use<> {
        Change {
            shared: self.shared.clone(),
            condition: |state| state.is_stopped && state.tasks.is_empty(),
            waiter: Waiter::new(),
        }
    }
}

impl fmt::Debug for BlockingPortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("BlockingPortal")
            .field("stopped", &state.is_stopped)
            .field("tasks", &state.tasks.len())
            .finish_non_exhaustive()
    }
}

/// With it a task says that it has started; see [`BlockingPortal::start_task`].
pub struct PortalTaskStatus<V> {
    promise: Promise<V>,
}

impl<V> PortalTaskStatus<V> {
    /// The task has started: whoever waits for that gets `value`.
    pub fn started(self, value: V) {
        self.promise.settle(Ok(value));
    }
}

impl<V> fmt::Debug for PortalTaskStatus<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortalTaskStatus").finish_non_exhaustive()
    }
}

/// The middle of a closure that a portal runs in two parts; see [`BlockingPortal::wrap_async_context_manager`].
pub struct Middle<V> {
    status: PortalTaskStatus<V>,
    left: Arc<Outcome<()>>,
}

impl<V> Middle<V> {
    /// Gives the thread its value, and completes when the thread has left, or the task is cancelled.
    pub fn until_left(self, value: V) -> impl Future<Output = ()> {
        self.status.started(value);
        let (left, waiter) = (self.left, Waiter::new());
        std::future::poll_fn(move |cx| {
            if left.poll_settled(cx).is_ready() || ready!(check(cx)).is_err() {
                waiter.clear();
                return Poll::Ready(());
            }
            waiter.register_for(cx, What(&"a thread to leave"));
            Poll::Pending
        })
    }
}

impl<V> fmt::Debug for Middle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Middle").finish_non_exhaustive()
    }
}

/// A value that a task in a loop holds open; see [`BlockingPortal::wrap_async_context_manager`].
#[must_use = "the task goes on when this is dropped"]
pub struct Wrapped<T, V> {
    task: RemoteTask<T>,
    value: V,
    /// Dropped, it lets the task go on.
    _leave: Promise<()>,
}

impl<T, V> Wrapped<T, V> {
    /// Lets the task go on, blocks until it is over, and gives its result.
    ///
    /// # Errors
    /// If the task panicked or was cancelled; on the thread of the portal's loop.
    pub fn leave(self) -> io::Result<T> {
        let Self { mut task, value, _leave } = self;
        drop((value, _leave));
        task.wait(None)
    }
}

impl<T, V> Deref for Wrapped<T, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<T, V: fmt::Debug> fmt::Debug for Wrapped<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("value", &self.value).finish_non_exhaustive()
    }
}

/// Starts a loop in a thread of its own, made as [`EventLoop::new`] makes it, with a portal into it.
///
/// # Errors
/// As [`EventLoop::new`], or if there is no thread for it.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use proactor::thread::start_blocking_portal;
/// # fn main() -> std::io::Result<()> {
/// let portal = start_blocking_portal()?;
/// let slept = portal.call(async || proactor::sleep(Duration::from_millis(1)).await)?;
/// assert!(slept.is_ok());
/// portal.close(false)
/// # }
/// ```
pub fn start_blocking_portal() -> io::Result<PortalThread> {
    start(EventLoop::new)
}

/// As [`start_blocking_portal`], with a loop as `builder` makes it.
///
/// # Errors
/// As [`Builder::build`], or if there is no thread for it.
pub fn start_blocking_portal_with(builder: Builder) -> io::Result<PortalThread> {
    start(move || builder.build())
}

fn start(make: impl FnOnce() -> io::Result<EventLoop> + Send + 'static) -> io::Result<PortalThread> {
    let (made, is_made) = mpsc::sync_channel(1);
    let run = move || {
        let event_loop = match make() {
            Ok(event_loop) => event_loop,
            Err(error) => {
                let _ = made.send(Err(error));
                return Ok(());
            }
        };
        event_loop.run_until_complete(async move {
            let portal = BlockingPortal::new();
            let ours = portal.as_ref().ok().cloned();
            let _ = made.send(portal);
            match ours {
                Some(portal) => portal.join().await.map_err(io::Error::from),
                None => Ok(()),
            }
        })?
    };
    let thread = std::thread::Builder::new().name("portal".to_owned()).spawn(run)?;
    let portal = is_made.recv().map_err(|_| io::Error::other("the thread of the portal ended"))??;
    Ok(PortalThread { portal, thread: Some(thread) })
}

/// A portal with a loop of its own. Dropping it stops the portal and blocks until its tasks are over: cancelled, if the
/// thread is panicking.
#[must_use = "the portal is stopped when this is dropped"]
pub struct PortalThread {
    portal: BlockingPortal,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl PortalThread {
    /// Stops the portal, blocks until its tasks are over (cancelled, with `cancel_remaining`), and ends the loop.
    ///
    /// # Errors
    /// Why the loop could not go on, if it ended before that.
    pub fn close(mut self, cancel_remaining: bool) -> io::Result<()> {
        self.end(cancel_remaining)
    }

    fn end(&mut self, cancel_remaining: bool) -> io::Result<()> {
        self.portal.stop(cancel_remaining);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ran)) => ran,
            Some(Err(_)) => Err(io::Error::other("the loop of the portal panicked")),
            None => Ok(()),
        }
    }
}

impl Deref for PortalThread {
    type Target = BlockingPortal;

    fn deref(&self) -> &BlockingPortal {
        &self.portal
    }
}

impl Drop for PortalThread {
    fn drop(&mut self) {
        // What it says, `close` tells.
        let _ = self.end(std::thread::panicking());
    }
}

impl fmt::Debug for PortalThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortalThread").field("portal", &self.portal).finish_non_exhaustive()
    }
}
