//! A TCP server on every core: a listener in each worker, among which the kernel spreads the connections.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::error::Closed;
use crate::net::{ServeError, TcpListener, TcpListenerBuilder, TcpStream};
use crate::runtime::exception;
use crate::thread::to_thread;
use crate::workers::failure::WorkersFailed;
use crate::workers::phase::Change;
use crate::workers::thread::Worker;
use crate::workers::{Workers, WorkersBuilder};

/// How long connections have to end at a shutdown, where nothing else is said.
const DRAIN: Duration = Duration::from_secs(10);

type OnError = Arc<dyn Fn(&ServeError) + Send + Sync>;

/// Serves each connection to `address` with `handler`, in a task of its own, on every core.
///
/// Each worker has a listener of its own, and the kernel spreads the connections among them by their addresses and ports
/// (`SO_REUSEPORT`): evenly where there are many. A connection stays with its worker. The kernel lets every process of
/// the same user join in, so a second server on the address is no error.
///
/// See [`ServeEverywhere`] for what can be set, and how to start it.
pub fn serve<A, H, E>(address: A, handler: H) -> ServeEverywhere<A, H>
where
    A: ToSocketAddrs,
    H: AsyncFn(TcpStream) -> Result<(), E> + Clone + Send + 'static,
    E: fmt::Display + 'static,
{
    ServeEverywhere {
        address,
        handler,
        workers: Workers::builder(),
        listener: TcpListener::builder(),
        connections_max: usize::MAX,
        drain: DRAIN,
        on_error: Arc::new(|error| exception::say(error)),
    }
}

/// A server for every core, ready to be started; see [`serve`].
#[must_use = "nothing is served until `until` or `start` is called"]
pub struct ServeEverywhere<A, H> {
    address: A,
    handler: H,
    workers: WorkersBuilder,
    listener: TcpListenerBuilder,
    connections_max: usize,
    drain: Duration,
    on_error: OnError,
}

impl<A, H> ServeEverywhere<A, H> {
    /// How many workers, on which CPUs, with which loops. Default: one for each CPU.
    pub fn workers(mut self, workers: WorkersBuilder) -> Self {
        self.workers = workers;
        self
    }

    /// The options of the listeners, `reuse_port` apart.
    pub fn listener(mut self, listener: TcpListenerBuilder) -> Self {
        self.listener = listener;
        self
    }

    /// How many connections each worker serves at a time; see [`Serve::max_connections`](crate::net::Serve::max_connections).
    /// Default: no limit.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.connections_max = count;
        self
    }

    /// How long open connections may go on after the shutdown. Default: ten seconds.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Who is told, on the thread of the worker, of what goes wrong with connections; see
    /// [`Serve::on_error`](crate::net::Serve::on_error). Default: it is written to standard error.
    pub fn on_error(mut self, f: impl Fn(&ServeError) + Send + Sync + 'static) -> Self {
        self.on_error = Arc::new(f);
        self
    }
}

impl<A, H, E> ServeEverywhere<A, H>
where
    A: ToSocketAddrs,
    H: AsyncFn(TcpStream) -> Result<(), E> + Clone + Send + 'static,
    E: fmt::Display + 'static,
{
    /// Starts to serve, in threads of the workers, and returns at once. Looking up the name of the address blocks.
    ///
    /// # Errors
    /// If the address cannot be looked up or bound, or as [`WorkersBuilder::start`].
    pub fn start(self) -> io::Result<Serving> {
        let addresses: Vec<SocketAddr> = self.address.to_socket_addrs()?.collect();
        let count = self.workers.worker_count()?;
        let (local, listeners) = self.listener.bind_several(&addresses, count)?;
        // Each worker takes its own.
        let listeners: Vec<Mutex<Option<OwnedFd>>> =
            listeners.into_iter().map(|listener| Mutex::new(Some(listener))).collect();
        let listeners = Arc::new(listeners);
        let (handler, connections_max, on_error) = (self.handler, self.connections_max, self.on_error);
        let main = async move |worker: Worker| {
            let listener = listeners[worker.index()].lock().unwrap_or_else(PoisonError::into_inner).take();
            let listener = TcpListener::adopt(listener.ok_or_else(|| Closed::new("the listener"))?)?;
            let on_error = on_error.clone();
            listener
                .serve(handler.clone())
                .max_connections(connections_max)
                // Its limit is that of the shutdown, which cancels what is open then.
                .drain(Duration::MAX)
                .on_error(move |error| on_error(error))
                .until(worker.stopping())
                .await
        };
        let workers = self.workers.start(main)?;
        Ok(Serving { workers, local, drain: self.drain })
    }

    /// Serves until the future of `shutdown` completes, then shuts down: takes no more connections, waits for the open
    /// ones to end, at most as long as [`drain`](Self::drain) says, and ends the rest. Blocks this thread meanwhile, which
    /// runs that future in a loop of its own. `proactor::signal::ctrl_c` is such a function.
    ///
    /// # Errors
    /// As [`start`](Self::start); which workers have failed, after all the others have been shut down; if a loop runs on
    /// this thread.
    pub fn until<S: Future>(self, shutdown: impl FnOnce() -> S) -> io::Result<()> {
        let event_loop = self.workers.make_loop()?;
        event_loop.run_until_complete(async {
            // Called before anything is served: from the beginning a signal shuts the server down, not the process.
            let mut shutdown = pin!(shutdown());
            let serving = self.start()?;
            let mut change = Change::of(&serving.workers.signal);
            poll_fn(|cx| {
                let is_over = shutdown.as_mut().poll(cx).is_ready() || change.poll_ended(cx).is_ready();
                if is_over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            // In a thread, so that what `shutdown` has spawned goes on: it may wait for a second signal.
            match to_thread::run_sync(move || serving.shutdown()).await {
                Ok(outcome) => Ok(outcome?),
                Err(error) => Err(io::Error::other(error.to_string())),
            }
        })?
    }
}

impl<A: fmt::Debug, H> fmt::Debug for ServeEverywhere<A, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeEverywhere")
            .field("address", &self.address)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// A server that runs on every core. Dropping it ends it at once.
#[derive(Debug)]
#[must_use = "dropping it ends the server"]
pub struct Serving {
    workers: Workers,
    local: SocketAddr,
    drain: Duration,
}

impl Serving {
    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The workers that serve.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Takes no more connections, blocks until the open ones have ended, at most as long as
    /// [`drain`](ServeEverywhere::drain) says, and ends the rest.
    ///
    /// # Errors
    /// As [`Workers::shutdown`].
    pub fn shutdown(self) -> Result<(), WorkersFailed> {
        self.workers.shutdown(self.drain)
    }
}
