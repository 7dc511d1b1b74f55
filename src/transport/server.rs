//! Listeners whose connections go to protocols.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::SockAddr;

use crate::driver::Driver;
use crate::driver::control::{self, ListenOptions};
use crate::error::Closed;
use crate::net::addrs::{Addrs, IntoAddrs, resolve};
use crate::net::late::Late;
use crate::net::serve::{is_over, start_one};
use crate::net::shared::Shared;
use crate::net::{IpVersion, TcpListener, UnixListener};
use crate::op::run_in_pool;
use crate::runtime::LoopHandle;
use crate::runtime::core::{self, Core};
use crate::runtime::exception::{ExceptionKind, Panicked};
use crate::sync::Event;
use crate::transport::address::SocketAddress;
use crate::transport::below::Below;
use crate::transport::protocol::{AnyProtocol, IntoProtocol};
use crate::transport::pump::begin;
use crate::transport::report::report;
#[cfg(feature = "tls")]
use crate::transport::tls::Tls;

/// Connections that the kernel holds before they are accepted, as asyncio has it.
const BACKLOG: u32 = 100;

/// A listener that a [`Server`] takes over.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerListener {
    /// Of TCP.
    Tcp(TcpListener),
    /// Of UNIX sockets.
    Unix(UnixListener),
}

impl From<TcpListener> for ServerListener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for ServerListener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl ServerListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Rc<Shared>>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|stream| stream.into_shared()),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|stream| stream.into_shared()),
        }
    }

    fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(listener) => listener.with_socket(f),
            Self::Unix(listener) => listener.with_socket(f),
        }
    }

    async fn close(self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.close().await,
            Self::Unix(listener) => listener.close().await,
        }
    }
}

struct State {
    factory: Box<dyn Fn() -> AnyProtocol>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    backlog: i32,
    handle: LoopHandle,
    /// Those that nobody accepts from yet.
    idle: RefCell<Vec<ServerListener>>,
    addresses: Vec<SocketAddress>,
    /// Listeners that are accepted from, or being closed.
    accepting: Cell<usize>,
    /// Somebody is in `serve_forever`.
    is_awaited: Cell<bool>,
    closing: Event,
    closed: Event,
}

impl State {
    fn make_protocol(self: &Rc<Self>) -> Option<AnyProtocol> {
        catch_unwind(AssertUnwindSafe(|| (self.factory)()))
            .map_err(|payload| {
                let error = Panicked::new(payload);
                report(
                    &self.server(),
                    ExceptionKind::Panicked,
                    "the protocol factory of a server failed",
                    error,
                );
            })
            .ok()
    }

    fn server(self: &Rc<Self>) -> Server {
        Server { state: self.clone() }
    }

    /// A connection came.
    fn serve(self: &Rc<Self>, stream: Rc<Shared>) {
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.clone() {
            let server = self.clone();
            return start_one(async move { server.shake_hands(tls, stream).await });
        }
        self.attach(stream.into());
    }

    #[cfg(feature = "tls")]
    async fn shake_hands(self: Rc<Self>, tls: Tls, stream: Rc<Shared>) {
        match tls.on_top_of(stream.into(), &[]).await {
            Ok(below) => self.attach(below),
            // Anybody can bring that about, so it is no news but for who looks for something.
            Err(error) if core::current().exceptions.debug.get() => {
                let message = "the TLS handshake of a connection to a server failed";
                report(&self.server(), ExceptionKind::Other, message, error);
            }
            Err(_) => {}
        }
    }

    fn attach(self: &Rc<Self>, below: Below) {
        match self.make_protocol() {
            Some(protocol) => drop(begin(below, protocol, None)),
            None => below.leave(),
        }
    }

    /// Accepts until the server is closed, or the listener is of no use any more.
    async fn accept_all(self: Rc<Self>, listener: ServerListener) {
        let mut closing = self.closing.wait();
        loop {
            let accepted = poll_fn(|cx| match Pin::new(&mut closing).poll(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => listener.poll_accept(cx).map(Some),
            });
            match accepted.await {
                Some(Ok(stream)) => self.serve(stream),
                // Out of descriptors or memory: the next accept waits a little.
                Some(Err(error)) if !is_over(&error) => {
                    let message = "a server cannot accept connections for now";
                    report(&self.server(), ExceptionKind::Other, message, error);
                }
                Some(Err(_)) | None => break,
            }
        }
        // What can go wrong here, nobody can change.
        let _ = listener.close().await;
        self.accepting.set(self.accepting.get() - 1);
        if self.accepting.get() == 0 {
            self.closing.set();
            self.closed.set();
        }
    }

    fn close(&self) {
        let idle = self.idle.take();
        self.closing.set();
        if self.accepting.get() == 0 {
            self.closed.set();
        }
        drop(idle);
    }
}

/// Listeners whose connections go to protocols, one of its own each.
///
/// A clone is another handle of the same server. Dropping the handles changes nothing: the loop keeps a server that serves
/// until it is closed.
#[derive(Clone)]
pub struct Server {
    state: Rc<State>,
}

impl Server {
    /// Begins to listen and to accept. Doing it twice does nothing.
    ///
    /// # Errors
    /// If it cannot listen, or is closed.
    pub fn start_serving(&self) -> io::Result<()> {
        let state = &self.state;
        if state.closing.is_set() {
            return Err(Closed::new("the server").into());
        }
        let idle = state.idle.take();
        for listener in &idle {
            if let Err(error) = listener.with_socket(|socket| socket.listen(state.backlog)) {
                state.idle.replace(idle);
                return Err(error);
            }
        }
        state.accepting.set(state.accepting.get() + idle.len());
        for listener in idle {
            start_one(state.clone().accept_all(listener));
        }
        Ok(())
    }

    /// Serves until the server is [closed](Self::close). Cancelled or dropped, it closes the server.
    ///
    /// # Cancel safety
    /// *May have happened*: the server is closed.
    ///
    /// # Errors
    /// If the server is closed already, if somebody else is in here, if it cannot listen.
    pub fn serve_forever(&self) -> impl Future<Output = io::Result<()>> + use<> {
        struct Awaited(Rc<State>);
        impl Drop for Awaited {
            fn drop(&mut self) {
                self.0.is_awaited.set(false);
                self.0.close();
            }
        }
        let server = self.clone();
        async move {
            if server.state.is_awaited.replace(true) {
                return Err(io::Error::other("somebody else serves this server for ever already"));
            }
            let awaited = Awaited(server.state.clone());
            server.start_serving()?;
            server.state.closed.wait().await?;
            drop(awaited);
            Ok(())
        }
    }

    /// Stops listening. Connections that were accepted stay open. Doing it twice does nothing.
    pub fn close(&self) {
        self.state.close();
    }

    /// Completes when the server is [closed](Self::close) and its addresses are free again. Connections may still be open.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// If it is cancelled.
    pub fn wait_closed(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let wait = self.state.closed.wait();
        async move { Ok(wait.await?) }
    }

    /// Whether connections are accepted.
    pub fn is_serving(&self) -> bool {
        self.state.accepting.get() > 0 && !self.state.closing.is_set()
    }

    /// The addresses that it listens on; none when it is closed.
    pub fn sockets(&self) -> &[SocketAddress] {
        if self.state.closing.is_set() { &[] } else { &self.state.addresses }
    }

    /// The loop that serves.
    #[doc(alias = "get_loop")]
    pub fn handle(&self) -> &LoopHandle {
        &self.state.handle
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("sockets", &self.sockets())
            .field("serving", &self.is_serving())
            .finish_non_exhaustive()
    }
}

/// Listens by TCP and gives each connection a protocol that `protocol_factory` makes. The future has options.
///
/// All of the addresses are listened on, each once. IPv6 listeners take IPv6 connections only. Port 0 lets the kernel
/// choose, for each address another one.
///
/// A panic of the factory closes the connection. The exception handler of the loop hears of it, and of accepts that fail.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// If a name is not found, or an address cannot be bound: then none is.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::rc::Rc;
/// use proactor::net::TcpStream;
/// use proactor::transport::{Protocol, Transport, create_server};
///
/// struct Greet;
///
/// impl Protocol for Greet {
///     fn connection_made(&self, transport: &Transport) {
///         transport.write("hello").ok();
///         transport.close();
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let server = create_server(|| Greet, "127.0.0.1:0").await?;
///     let client = TcpStream::connect(server.sockets()[0].as_ip().unwrap()).await?;
///     assert_eq!(&client.receive().await?.unwrap()[..], b"hello");
///     server.close();
///     server.wait_closed().await
/// })
/// # }
/// ```
#[track_caller]
pub fn create_server<P: IntoProtocol>(
    protocol_factory: impl Fn() -> P + 'static,
    addrs: impl IntoAddrs,
) -> CreateServer {
    CreateServer::new(protocol_factory, vec![Place::Tcp(addrs.into_addrs())])
}

/// Listens on the UNIX socket at `path` and gives each connection a protocol that `protocol_factory` makes. The future has
/// options. A socket that is at `path` already is replaced, whoever listens on it; any other file is not.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// What the kernel says.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn create_unix_server<P: IntoProtocol>(
    protocol_factory: impl Fn() -> P + 'static,
    path: impl AsRef<Path>,
) -> CreateServer {
    CreateServer::new(protocol_factory, vec![Place::Unix(path.as_ref().to_owned())])
}

enum Place {
    Tcp(Addrs),
    Unix(PathBuf),
    Taken(ServerListener),
}

struct Asked {
    core: Rc<Core>,
    factory: Box<dyn Fn() -> AnyProtocol>,
    places: Vec<Place>,
    options: ListenOptions,
    version: Option<IpVersion>,
    starts: bool,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// The future of [`create_server`] and [`create_unix_server`].
#[must_use = "futures do nothing unless awaited"]
pub struct CreateServer(Late<Asked, io::Result<Server>>);

impl CreateServer {
    #[track_caller]
    fn new<P: IntoProtocol>(factory: impl Fn() -> P + 'static, places: Vec<Place>) -> Self {
        let options = ListenOptions {
            backlog: BACKLOG as i32,
            reuse_address: true,
            reuse_port: false,
            only_v6: Some(true),
            nodelay: true,
        };
        Self(Late::Asked(Asked {
            core: core::current(),
            factory: Box::new(move || Rc::new(factory()).into_protocol()),
            places,
            options,
            version: None,
            starts: true,
            #[cfg(feature = "tls")]
            tls: None,
        }))
    }

    /// Listens on these addresses too.
    pub fn host(self, addrs: impl IntoAddrs) -> Self {
        let addrs = addrs.into_addrs();
        Self(self.0.set(|asked| asked.places.push(Place::Tcp(addrs))))
    }

    /// Takes this listener too; with an empty list of addresses, only this one.
    #[doc(alias = "sock")]
    pub fn listener(self, listener: impl Into<ServerListener>) -> Self {
        let listener = listener.into();
        Self(self.0.set(|asked| asked.places.push(Place::Taken(listener))))
    }

    /// Only addresses of this version of the internet protocol are listened on. Default: both.
    #[doc(alias = "family")]
    pub fn ip_version(self, version: IpVersion) -> Self {
        Self(self.0.set(|asked| asked.version = Some(version)))
    }

    /// Connections that the kernel holds before they are accepted, for each address. Default: 100.
    pub fn backlog(self, connections: u32) -> Self {
        Self(self.0.set(|asked| asked.options.backlog = i32::try_from(connections).unwrap_or(i32::MAX)))
    }

    /// As [`TcpListenerBuilder::reuse_address`](crate::net::TcpListenerBuilder::reuse_address). Default: yes.
    pub fn reuse_address(self, on: bool) -> Self {
        Self(self.0.set(|asked| asked.options.reuse_address = on))
    }

    /// As [`TcpListenerBuilder::reuse_port`](crate::net::TcpListenerBuilder::reuse_port). Default: no.
    pub fn reuse_port(self, on: bool) -> Self {
        Self(self.0.set(|asked| asked.options.reuse_port = on))
    }

    /// Speaks TLS. The protocol of a connection is made when its handshake is done; one that fails or takes too long closes
    /// the connection, and is told to the exception handler in debug mode only.
    #[cfg(feature = "tls")]
    #[doc(alias = "ssl")]
    pub fn tls(self, tls: Tls) -> Self {
        Self(self.0.set(|asked| asked.tls = Some(tls)))
    }

    /// Whether connections are accepted at once. Else they are refused until [`Server::start_serving`] or
    /// [`Server::serve_forever`]. Default: yes.
    pub fn start_serving(self, on: bool) -> Self {
        Self(self.0.set(|asked| asked.starts = on))
    }
}

impl Future for CreateServer {
    type Output = io::Result<Server>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, create)
    }
}

impl fmt::Debug for CreateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateServer").finish_non_exhaustive()
    }
}

async fn create(asked: Asked) -> io::Result<Server> {
    let driver = &asked.core.driver;
    let bind = |address: &SockAddr| control::bound(address, &asked.options, driver.wants_nonblocking());
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for place in asked.places {
        match place {
            Place::Tcp(Addrs::Known(none)) if none.is_empty() => {}
            Place::Tcp(addrs) => {
                for address in IpVersion::only(asked.version, resolve(driver, addrs).await?)? {
                    if address.port() == 0 || !bound.contains(&address) {
                        bound.push(address);
                        let fd = bind(&address.into())?;
                        listeners.push(TcpListener::new(driver, fd, true).into());
                    }
                }
            }
            Place::Unix(path) => {
                let address = SockAddr::unix(&path)?;
                remove_socket(driver, path).await?;
                listeners.push(UnixListener::new(driver, bind(&address)?, true).into());
            }
            Place::Taken(listener) => listeners.push(listener),
        }
    }
    let address = |listener: &ServerListener| {
        let address = listener.with_socket(|socket| socket.local_addr());
        address.ok().and_then(|address| SocketAddress::of(&address))
    };
    let state = State {
        factory: asked.factory,
        #[cfg(feature = "tls")]
        tls: asked.tls,
        backlog: asked.options.backlog,
        handle: LoopHandle::of(&asked.core),
        addresses: listeners.iter().filter_map(address).collect(),
        idle: RefCell::new(listeners),
        accepting: Cell::new(0),
        is_awaited: Cell::new(false),
        closing: Event::new(),
        closed: Event::new(),
    };
    let server = Server { state: Rc::new(state) };
    if asked.starts {
        server.start_serving()?;
    }
    Ok(server)
}

/// Removes a socket that an earlier server has left at `path`.
pub(super) async fn remove_socket(driver: &Rc<Driver>, path: PathBuf) -> io::Result<()> {
    let remove = move || {
        use std::os::unix::fs::FileTypeExt;
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(&path),
            _ => Ok(()),
        }
    };
    run_in_pool(driver, remove).await?.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
