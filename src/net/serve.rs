//! Serving a listener: a task for each connection, whose errors and panics end that connection only.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::error::{JoinError, panic_message};
use crate::net::{Family, Listener, Stream};
use crate::runtime::exception;
use crate::runtime::scope::{NONE, What};
use crate::runtime::task::{self, Ending};
use crate::runtime::wait::Waiter;
use crate::runtime::{core, sleep};

/// What went wrong while a listener was served. Serving goes on.
#[non_exhaustive]
pub enum ServeError {
    /// A connection could not be accepted.
    Accept(io::Error),
    /// A handler returned this error; its connection is closed.
    Handler(Box<dyn fmt::Display>),
    /// A handler panicked with this; its connection is closed.
    Panic(Box<dyn Any + Send>),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept(error) => write!(f, "cannot accept a connection: {error}"),
            Self::Handler(error) => write!(f, "connection failed: {error}"),
            Self::Panic(payload) => {
                write!(
                    f,
                    "connection handler panicked: {}",
                    panic_message(payload.as_ref()).unwrap_or("(no message)")
                )
            }
        }
    }
}

impl fmt::Debug for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServeError({self})")
    }
}

type OnError = Rc<dyn Fn(&ServeError)>;

/// What a server and its connections share.
struct Server<H> {
    handler: H,
    on_error: OnError,
    open: Open,
}

/// The open connections.
#[derive(Default)]
struct Open {
    /// One for each open connection, to end it with.
    connections: RefCell<Slab<Option<Waker>>>,
    /// The connections shall end now.
    ended: Cell<bool>,
    changed: Waiter,
}

/// The place of one connection in [`Open`].
struct Place<H> {
    server: Rc<Server<H>>,
    index: usize,
}

impl<H> Place<H> {
    fn new(server: &Rc<Server<H>>) -> Self {
        let index = server.open.connections.borrow_mut().insert(None);
        Self { server: server.clone(), index }
    }

    /// Ends the connection with this waker. A task has the same one all its life.
    fn set_waker(&self, cx: &Context<'_>) {
        self.server.open.connections.borrow_mut()[self.index] = Some(cx.waker().clone());
    }
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        let waker = self.server.open.connections.borrow_mut().remove(self.index);
        drop(waker);
        self.server.open.changed.wake();
    }
}

impl Open {
    fn count(&self) -> usize {
        self.connections.borrow().len()
    }

    fn poll_below(&self, count: usize, cx: &Context<'_>) -> Poll<()> {
        if self.count() < count {
            return Poll::Ready(());
        }
        self.changed.register(cx);
        Poll::Pending
    }

    /// Waits for the ends of connections that were told to end, whatever is cancelled.
    fn poll_none(&self, cx: &Context<'_>) -> Poll<()> {
        if self.count() == 0 {
            return Poll::Ready(());
        }
        self.changed.clear();
        self.changed.register_uncancelled(cx, What(&"connections to end"), None);
        Poll::Pending
    }

    fn end_all(&self) {
        self.ended.set(true);
        let wakers: Vec<_> =
            self.connections.borrow().iter().filter_map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Serving a listener, ready to be started; see [`Listener::serve`].
#[must_use = "nothing is served until `until_cancelled` or `until` is awaited"]
pub struct Serve<'a, F: Family, H> {
    listener: &'a Listener<F>,
    handler: H,
    connections_max: usize,
    drain: Duration,
    on_error: OnError,
}

impl<F: Family> Listener<F> {
    /// Serves each connection with `handler`, in a task of its own. An error or a panic of the handler ends its
    /// connection only, and is told to [`on_error`](Serve::on_error).
    ///
    /// # Examples
    /// ```no_run
    /// use proactor::net::{TcpListener, TcpStream};
    ///
    /// async fn echo(stream: TcpStream) -> std::io::Result<()> {
    ///     while let Some(chunk) = stream.receive().await? {
    ///         stream.send(chunk).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// fn main() -> std::io::Result<()> {
    ///     proactor::run(async {
    ///         let listener = TcpListener::bind("127.0.0.1:7000").await?;
    ///         listener.serve(echo).max_connections(10_000).until_cancelled().await
    ///     })
    /// }
    /// ```
    pub fn serve<H, E>(&self, handler: H) -> Serve<'_, F, H>
    where
        H: AsyncFn(Stream<F>) -> Result<(), E> + 'static,
        E: fmt::Display + 'static,
    {
        Serve {
            listener: self,
            handler,
            connections_max: usize::MAX,
            drain: Duration::ZERO,
            on_error: Rc::new(|error| exception::say(error)),
        }
    }
}

impl<F: Family, H> Serve<'_, F, H> {
    /// How many connections may be served at a time. Others wait: a few hundred that were accepted already, the rest in
    /// the kernel's backlog. Default: no limit.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.connections_max = count.max(1);
        self
    }

    /// How long open connections may go on after the shutdown of [`until`](Self::until). Default: not at all.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Who is told of errors and panics. Default: they are written to standard error.
    pub fn on_error(mut self, f: impl Fn(&ServeError) + 'static) -> Self {
        self.on_error = Rc::new(f);
        self
    }
}

impl<F: Family, H, E> Serve<'_, F, H>
where
    H: AsyncFn(Stream<F>) -> Result<(), E> + 'static,
    E: fmt::Display + 'static,
{
    /// Serves until it is cancelled or dropped. Connections that are open then go on by themselves.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: connections that were not served yet stay with the listener.
    ///
    /// # Errors
    /// If the listener fails for good.
    pub fn until_cancelled(self) -> impl Future<Output = io::Result<()>> {
        self.until(pending::<()>())
    }

    /// Serves until `shutdown` completes; then takes no more connections, waits for the open ones to end, at most as
    /// long as [`drain`](Self::drain) says, and ends the rest.
    ///
    /// From the shutdown on, the socket of the listener does not listen any more: new connections are refused, and
    /// the listener is of no further use. A listener that was taken over ([`from_std`](Listener::from_std),
    /// [`listen_fds`](crate::net::listen_fds)) may be shared with a successor, so it only stops accepting.
    ///
    /// # Cancel safety
    /// *Nothing is lost*, as for [`until_cancelled`](Self::until_cancelled).
    ///
    /// # Errors
    /// If the listener fails for good.
    pub fn until<S: Future>(self, shutdown: S) -> impl Future<Output = io::Result<()>> {
        async move {
            let server = Server { handler: self.handler, on_error: self.on_error, open: Open::default() };
            let server = Rc::new(server);
            let open = &server.open;
            let start = |stream| start_one(serve_one(Place::new(&server), stream));
            let mut shutdown = pin!(shutdown);
            loop {
                let mut accept = self.listener.accept();
                let accepted = poll_fn(|cx| {
                    if shutdown.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    std::task::ready!(open.poll_below(self.connections_max, cx));
                    Pin::new(&mut accept).poll(cx).map(Some)
                });
                match accepted.await {
                    Some(Ok(stream)) => start(stream),
                    Some(Err(error)) if is_over(&error) => return Err(error),
                    Some(Err(error)) => (server.on_error)(&ServeError::Accept(error)),
                    None => break,
                }
            }
            // Nobody new: who connects now is refused. Who was accepted already is served with the others.
            self.listener.stop_listening().into_iter().for_each(start);
            let mut limit = pin!(sleep(self.drain));
            poll_fn(|cx| match open.poll_below(1, cx) {
                Poll::Pending => limit.as_mut().poll(cx).map(drop),
                ready => ready,
            })
            .await;
            open.end_all();
            poll_fn(|cx| open.poll_none(cx)).await;
            Ok(())
        }
    }
}

/// Errors after which accepting can never work again: it is no listener, or it was closed.
pub(crate) fn is_over(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(errno) => {
            matches!(errno, libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::ECANCELED)
        }
        None => true,
    }
}

/// Nobody asks how the task of a connection has ended: what there is to tell, it has told.
struct Unasked;

impl Ending<()> for Unasked {
    fn end(&self, _: Result<(), JoinError>) -> Option<Result<(), JoinError>> {
        None
    }

    fn wake(&self) {}
}

/// Makes a task of what serves one connection; nobody awaits it.
pub(crate) fn start_one(connection: impl Future<Output = ()> + 'static) {
    let core = core::current();
    if !core.closed.get() {
        let info = core.new_info(Location::caller());
        core.start(task::new_with(connection, info, Unasked), NONE);
    }
}

/// Runs one connection to its end, whatever that is. (What it keeps is memory of each idle connection; an `async fn`
/// would keep its arguments twice.)
fn serve_one<F, H, E>(place: Place<H>, stream: Stream<F>) -> impl Future<Output = ()>
where
    F: Family,
    H: AsyncFn(Stream<F>) -> Result<(), E>,
    E: fmt::Display + 'static,
{
    let mut stream = Some(stream);
    async move {
        let mut future = pin!(None);
        let outcome = poll_fn(|cx| {
            if place.server.open.ended.get() {
                return Poll::Ready(Ok(Ok(())));
            }
            let poll = || {
                if let Some(stream) = stream.take() {
                    place.set_waker(cx);
                    // The call too is made in here: it may panic.
                    future.set(Some((place.server.handler)(stream)));
                }
                future.as_mut().as_pin_mut().expect("begun").poll(cx)
            };
            match catch_unwind(AssertUnwindSafe(poll)) {
                Ok(polled) => polled.map(Ok),
                Err(payload) => Poll::Ready(Err(payload)),
            }
        });
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => (place.server.on_error)(&ServeError::Handler(Box::new(error))),
            Err(payload) => (place.server.on_error)(&ServeError::Panic(payload)),
        }
    }
}

impl<F: Family, H> fmt::Debug for Serve<'_, F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listener", self.listener)
            .field("max_connections", &self.connections_max)
            .finish_non_exhaustive()
    }
}
