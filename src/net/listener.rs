//! A listening socket, which owns its accept and the connections that came.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::driver::control::SocketFile;
use crate::driver::{Aftermath, Driver, Key, control};
use crate::error::Closed;
use crate::net::Family;
use crate::net::stream::Stream;
use crate::op::Descriptor;
use crate::op::net::{AcceptMulti, AcceptTarget};
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check, cut};
use crate::runtime::{Sleep, budget, core, sleep};
use crate::stream::{Attributes, of_socket};

/// Connections that a listener takes from the kernel before anybody asks; then accepting is stopped until they were
/// taken, and the kernel's backlog holds the rest.
const READY_MARK: usize = 256;
/// The number of whoever uses the poll face.
const POLL_FACE: u64 = 0;
/// How long a listener waits after the process ran out of descriptors or memory; doubled each time, up to a limit.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

const ACCEPT: What = What(&"a connection to accept");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    Idle,
    Armed(Key),
}

pub(crate) struct Shared {
    descriptor: Descriptor,
    ready: RefCell<VecDeque<OwnedFd>>,
    accepting: Cell<Accepting>,
    /// The errno that ended the last accept, to be told to the next who asks.
    error: Cell<Option<i32>>,
    /// Running out of something: no accept before this is over.
    backoff: RefCell<Option<Sleep>>,
    backoff_next: Cell<Duration>,
    /// Who waits, in order, each with the number of its future: each connection wakes one.
    waiting: RefCell<VecDeque<(u64, Waiter)>>,
    futures_made: Cell<u64>,
    closed: Cell<bool>,
    /// The end of the accept that is on its way closes the descriptor.
    abandoned: Cell<bool>,
    /// The socket was made here, so no other process listens on it.
    is_ours: bool,
    /// The file of a UNIX socket that is removed when it is closed.
    file: Cell<Option<SocketFile>>,
}

impl Shared {
    fn arm(self: &Rc<Self>) {
        let driver = self.descriptor.driver();
        if let Some(key) = driver.submit_detached(AcceptMulti::new(self.clone())) {
            self.accepting.set(Accepting::Armed(key));
        }
    }

    fn stop(&self) {
        if let Accepting::Armed(key) = self.accepting.get() {
            self.descriptor.driver().cancel(key);
        }
    }

    fn register(&self, future: u64, cx: &Context<'_>) {
        // Registering clones the waker, which is foreign code: nothing is borrowed meanwhile.
        let find =
            |waiting: &mut VecDeque<(u64, Waiter)>| waiting.iter().position(|(other, _)| *other == future);
        let known = {
            let waiting = &mut *self.waiting.borrow_mut();
            find(waiting).map(|at| std::mem::take(&mut waiting[at].1))
        };
        let is_new = known.is_none();
        let waiter = known.unwrap_or_default();
        waiter.register_for(cx, ACCEPT);
        let waiting = &mut *self.waiting.borrow_mut();
        if is_new {
            waiting.push_back((future, waiter));
        } else if let Some(at) = find(waiting) {
            waiting[at].1 = waiter;
        }
    }

    /// A future does not wait any more; false if it was woken.
    fn unregister(&self, future: u64) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let found = waiting.iter().position(|(other, _)| *other == future);
        let entry = found.and_then(|at| waiting.remove(at));
        drop(waiting);
        entry.is_some()
    }

    /// Waits out the time after running out of descriptors or memory.
    fn poll_backoff(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut backoff = self.backoff.borrow_mut();
        if let Some(sleep) = &mut *backoff {
            // An error means that the loop is closing: then there is no more waiting.
            ready!(Pin::new(sleep).poll(cx)).ok();
            *backoff = None;
        }
        Poll::Ready(())
    }

    fn poll_accept(self: &Rc<Self>, future: u64, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        ready!(check(cx))?;
        if self.closed.get() {
            return Poll::Ready(Err(Closed::new("the listener").into()));
        }
        if !self.ready.borrow().is_empty() {
            ready!(budget::spend(cx));
            let connection = self.ready.borrow_mut().pop_front();
            self.backoff_next.set(BACKOFF.0);
            return Poll::Ready(Ok(connection.expect("it was not empty")));
        }
        if let Some(errno) = self.error.take() {
            if is_exhaustion(errno) {
                let limit = self.backoff_next.get();
                *self.backoff.borrow_mut() = Some(sleep(limit));
                self.backoff_next.set((limit * 2).min(BACKOFF.1));
            }
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        self.register(future, cx);
        ready!(self.poll_backoff(cx));
        if self.accepting.get() == Accepting::Idle {
            self.arm();
        }
        Poll::Pending
    }

    fn wake_all(&self, after: &mut Aftermath) {
        after.wake(self.waiting.borrow_mut().drain(..).filter_map(|(_, waiter)| waiter.take()));
    }

    /// Closes the descriptor of an abandoned listener, once no operation uses it (C13).
    fn close_if_over(&self) {
        if self.abandoned.get() && self.accepting.get() == Accepting::Idle {
            self.descriptor.release();
        }
    }

    /// Closes a listener that others hold too; who waits is told.
    async fn aclose(&self) -> io::Result<()> {
        /// However it ends, the descriptor is closed.
        struct Abandon<'a>(&'a Shared);
        impl Drop for Abandon<'_> {
            fn drop(&mut self) {
                self.0.abandoned.set(true);
                let ready = std::mem::take(&mut *self.0.ready.borrow_mut());
                drop((ready, self.0.file.take()));
                self.0.close_if_over();
            }
        }
        if self.closed.replace(true) {
            return Ok(());
        }
        let _abandon = Abandon(self);
        let mut after = Aftermath::default();
        self.wake_all(&mut after);
        after.run();
        self.stopped().await;
        self.descriptor.close().await
    }

    /// Waits until no accept is on its way.
    async fn stopped(&self) {
        std::future::poll_fn(|cx| {
            if self.accepting.get() == Accepting::Idle {
                return Poll::Ready(());
            }
            self.register(POLL_FACE, cx);
            self.stop();
            Poll::Pending
        })
        .await;
    }

    fn wake_one(&self, after: &mut Aftermath) {
        after.wake(self.waiting.borrow_mut().pop_front().and_then(|(_, waiter)| waiter.take()));
    }
}

/// The process or the system ran out of something: trying again at once would fail again.
fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
}

/// The connection was gone before it was accepted, as accept(2) lists it: the listener is well, others wait.
fn is_of_one_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EPERM
    )
}

impl AcceptTarget for Shared {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn accepted(&self, connection: OwnedFd, after: &mut Aftermath) -> bool {
        if self.closed.get() {
            drop(connection); // nobody is left to serve it
            return true;
        }
        self.ready.borrow_mut().push_back(connection);
        self.wake_one(after);
        self.ready.borrow().len() >= READY_MARK
    }

    fn accept_over(&self, result: i32, after: &mut Aftermath) {
        self.accepting.set(Accepting::Idle);
        let errno = -result;
        let stopped = errno == libc::ECANCELED && !self.descriptor.driver().is_closed();
        if !stopped && !is_of_one_connection(errno) {
            self.error.set(Some(errno));
        }
        // All who wait ask again: one gets the error, the next arms again.
        self.wake_all(after);
        self.close_if_over();
    }
}

/// A listening socket of family `F`: [`TcpListener`](crate::net::TcpListener) or
/// [`UnixListener`](crate::net::UnixListener).
///
/// Dropping it closes it; connections that were not accepted are reset.
pub struct Listener<F: Family> {
    shared: Rc<Shared>,
    family: PhantomData<F>,
}

impl<F: Family> Listener<F> {
    /// `is_ours`: the socket was made here.
    pub(crate) fn new(driver: &Rc<Driver>, fd: OwnedFd, is_ours: bool) -> Self {
        let shared = Rc::new(Shared {
            descriptor: Descriptor::new(driver, fd),
            ready: RefCell::default(),
            accepting: Cell::new(Accepting::Idle),
            error: Cell::new(None),
            backoff: RefCell::default(),
            backoff_next: Cell::new(BACKOFF.0),
            waiting: RefCell::default(),
            futures_made: Cell::new(POLL_FACE),
            closed: Cell::new(false),
            abandoned: Cell::new(false),
            is_ours,
            file: Cell::new(None),
        });
        Self { shared, family: PhantomData }
    }

    /// The file goes with the listener.
    pub(crate) fn keep_file(&self, file: Option<SocketFile>) {
        self.shared.file.set(file);
    }

    /// Takes over a listener of std.
    ///
    /// # Errors
    /// If the descriptor is refused.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_std(listener: F::StdListener) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        let fd = listener.into();
        driver.adopt(&fd)?;
        Ok(Self::new(&driver, fd, false))
    }

    /// Completes with the next connection. Several tasks may accept from one listener; they get connections in turn.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a connection stays with the listener.
    ///
    /// # Errors
    /// What the kernel says. After `EMFILE`, `ENFILE`, `ENOMEM` or `ENOBUFS` the next call waits a little (5 ms, then
    /// longer, up to 1 s) before it tries again, so a loop that logs and goes on does not spin. Connections that broke
    /// before they were accepted are no error.
    ///
    /// # Kernel
    /// Multishot `IORING_OP_ACCEPT` (5.19), before that one by one; on epoll `accept4(2)`.
    ///
    /// # References
    /// [accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html)
    pub fn accept(&self) -> Accept<'_, F> {
        let number = self.shared.futures_made.get() + 1;
        self.shared.futures_made.set(number);
        Accept { listener: self, number, waiting: false }
    }

    /// The poll face of [`accept`](Self::accept). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream<F>>> {
        let fd = ready!(self.shared.poll_accept(POLL_FACE, cx))?;
        Poll::Ready(Ok(Stream::new(self.shared.descriptor.driver(), fd)))
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<F::Address> {
        self.shared.descriptor.with(|fd| F::address(&control::local_address(fd)?))
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says.
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        self.shared.descriptor.with(|fd| control::options(fd, f))
    }

    /// Stops accepting and listening; returns the connections that came already.
    pub(crate) fn stop_listening(&self) -> Vec<Stream<F>> {
        self.shared.stop();
        if self.shared.is_ours {
            // The kernel refuses who comes from now on. It fails where that was done before.
            let _ = self.shared.descriptor.with(|fd| control::stop_listening(fd));
        }
        let ready = std::mem::take(&mut *self.shared.ready.borrow_mut());
        ready.into_iter().map(|fd| Stream::new(self.shared.descriptor.driver(), fd)).collect()
    }

    pub(crate) fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        cut(ACCEPT, self.shared.aclose())
    }

    pub(crate) fn attributes(&self) -> Attributes<'_> {
        let local = || self.shared.descriptor.with(|fd| control::local_address(fd)).ok();
        of_socket(self.shared.descriptor.number(), local, || None)
    }

    /// Stops accepting and closes the listener. Complete means that its address is free again.
    ///
    /// # Cancel safety
    /// *May have happened*: the listener is closed in any case.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        async move {
            let shared = &self.shared;
            shared.closed.set(true);
            // Cut short by a cancel, it goes on when this is dropped.
            let close = async {
                shared.stopped().await;
                shared.ready.borrow_mut().clear();
                drop(shared.file.take());
                shared.descriptor.close().await
            };
            cut(ACCEPT, close).await
        }
    }
}

impl<F: Family> AsRawFd for Listener<F> {
    /// The number of the descriptor, for calls that leave the socket's state alone.
    fn as_raw_fd(&self) -> RawFd {
        self.shared.descriptor.number()
    }
}

impl<F: Family> Drop for Listener<F> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        self.shared.stop();
        let ready = std::mem::take(&mut *self.shared.ready.borrow_mut());
        let waiting = std::mem::take(&mut *self.shared.waiting.borrow_mut());
        let backoff = self.shared.backoff.borrow_mut().take();
        drop((ready, waiting, backoff, self.shared.file.take()));
    }
}

impl<F: Family> fmt::Debug for Listener<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("fd", &self.as_raw_fd())
            .field("ready", &self.shared.ready.borrow().len())
            .finish_non_exhaustive()
    }
}

/// The future of [`Listener::accept`].
#[must_use = "futures do nothing unless awaited"]
pub struct Accept<'a, F: Family> {
    listener: &'a Listener<F>,
    number: u64,
    waiting: bool,
}

impl<F: Family> Unpin for Accept<'_, F> {}

impl<F: Family> Future for Accept<'_, F> {
    type Output = io::Result<Stream<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.listener.shared;
        let polled = shared.poll_accept(self.number, cx);
        match &polled {
            // Polled for another reason, it was never woken: others must not be announced to it.
            Poll::Ready(Ok(_)) if self.waiting => drop(shared.unregister(self.number)),
            Poll::Ready(Err(_)) if self.waiting => self.give_up(),
            _ => {}
        }
        let driver = shared.descriptor.driver();
        let polled = polled.map(|accepted| accepted.map(|fd| Stream::new(driver, fd)));
        self.waiting = polled.is_pending();
        polled
    }
}

impl<F: Family> Accept<'_, F> {
    /// Stops waiting; what it was woken for goes to somebody else.
    fn give_up(&self) {
        let shared = &self.listener.shared;
        let was_woken = !shared.unregister(self.number);
        let mut after = Aftermath::default();
        if was_woken && !shared.ready.borrow().is_empty() {
            // The wake-up was meant for a connection, which somebody else can take.
            shared.wake_one(&mut after);
        }
        if shared.accepting.get() == Accepting::Idle {
            // It may have been the one to arm again, after an error or a pause.
            shared.wake_one(&mut after);
        }
        after.run();
    }
}

impl<F: Family> Drop for Accept<'_, F> {
    fn drop(&mut self) {
        if self.waiting {
            self.give_up();
        }
    }
}

impl<F: Family> fmt::Debug for Accept<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").field("listener", self.listener).finish_non_exhaustive()
    }
}
