//! UNIX stream sockets: paths, abstract names, pairs, and the peer's credentials.

use std::future::Future;
use std::io;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, SockAddr, Type};

use crate::driver::Driver;
use crate::driver::control::{self, UnixListenOptions};
use crate::net::message::unix_name;
use crate::net::{Family, Listener, Stream, UnixSeqpacketListener};
use crate::op::Descriptor;
use crate::op::net::Connect;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, outcome};
use crate::runtime::{core, sleep};

/// The family of UNIX stream sockets.
#[derive(Debug)]
pub enum Unix {}

/// A UNIX connection.
pub type UnixStream = Stream<Unix>;
/// A UNIX socket that listens.
pub type UnixListener = Listener<Unix>;

impl Family for Unix {
    type Address = SocketAddr;
    type StdStream = std::os::unix::net::UnixStream;
    type StdListener = std::os::unix::net::UnixListener;
    const CARRIES_MORE: bool = true;

    fn address(address: &SockAddr) -> io::Result<SocketAddr> {
        unix_name(address)
    }
}

/// Connections that the kernel holds before they are accepted.
const BACKLOG: i32 = 1024;
/// How long a connect waits when the queue of the listener is full; doubled each time, up to a limit.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// How a UNIX listener shall be made.
///
/// # Examples
/// ```
/// use proactor::net::UnixListener;
/// # fn demo() -> impl Future<Output = std::io::Result<()>> {
/// async {
///     let listener = UnixListener::builder().mode(0o660).unlink_on_close(true).bind("/run/service.sock").await?;
///     listener.close().await
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a builder does nothing until `bind`"]
pub struct UnixListenerBuilder {
    backlog: i32,
    mode: Option<u32>,
    remove_stale: bool,
    unlink: bool,
}

impl UnixListenerBuilder {
    pub(crate) fn new() -> Self {
        Self { backlog: BACKLOG, mode: None, remove_stale: true, unlink: false }
    }

    /// Connections that the kernel holds before they are accepted, up to the sysctl `net.core.somaxconn`. Default: 1024.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = i32::try_from(connections).unwrap_or(i32::MAX);
        self
    }

    /// Who may connect: the permissions of the socket's file, such as `0o660`, set before anybody can. Default: as the
    /// `umask` of the process says.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Whether a socket that is there already, and that nobody listens on, is removed. Default: yes.
    pub fn remove_stale(mut self, on: bool) -> Self {
        self.remove_stale = on;
        self
    }

    /// Whether the socket's file is removed when the listener is closed or dropped, if it is still the same. Default: no.
    #[doc(alias = "cleanup_socket")]
    pub fn unlink_on_close(mut self, on: bool) -> Self {
        self.unlink = on;
        self
    }

    /// Listens at `path`; a path that begins with a zero byte is an abstract name, which is no file.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What the kernel says: `AddrInUse` if there is a file that is no socket, or a socket that somebody listens on;
    /// `PermissionDenied` …
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn bind(self, path: impl AsRef<Path>) -> impl Future<Output = io::Result<UnixListener>> {
        self.listen(path.as_ref(), Type::STREAM)
    }

    /// As [`bind`](Self::bind), for connections of messages.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn bind_seqpacket(
        self,
        path: impl AsRef<Path>,
    ) -> impl Future<Output = io::Result<UnixSeqpacketListener>> {
        let listening = self.listen(path.as_ref(), Type::SEQPACKET);
        async move { listening.await.map(UnixSeqpacketListener::of) }
    }

    #[track_caller]
    fn listen<F: Family>(
        self,
        path: &Path,
        kind: Type,
    ) -> impl Future<Output = io::Result<Listener<F>>> + use<F> {
        let driver = core::current().driver.clone();
        let path: PathBuf = path.to_owned();
        async move {
            let options = UnixListenOptions {
                kind,
                backlog: self.backlog,
                mode: self.mode,
                remove_stale: self.remove_stale,
                unlink: self.unlink,
            };
            let (fd, file) = control::listen_unix(&path, &options, driver.wants_nonblocking())?;
            let listener = Listener::new(&driver, fd, true);
            listener.keep_file(file);
            Ok(listener)
        }
    }
}

impl UnixListener {
    /// Listens at `path`; [`builder`](Self::builder) has options. A socket that is there already and that nobody listens on
    /// is removed; the file stays when the listener is closed.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What the kernel says: `AddrInUse` if there is a file that is no socket, or a socket that somebody listens on;
    /// `PermissionDenied` …
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "create_unix_listener")]
    #[doc(alias = "create_unix_server")]
    #[track_caller]
    pub fn bind(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        Self::builder().bind(path)
    }

    /// Options before it listens.
    pub fn builder() -> UnixListenerBuilder {
        UnixListenerBuilder::new()
    }
}

impl UnixStream {
    /// Connects to the listener at `path`; a path that begins with a zero byte is an abstract name. While its queue is
    /// full, waits.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: an unfinished connection is closed.
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `ConnectionRefused` if nobody listens …
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    ///
    /// # Kernel
    /// `IORING_OP_CONNECT` (5.5); on epoll `connect(2)`, again and again with pauses while the queue is full.
    #[doc(alias = "connect_unix")]
    #[track_caller]
    pub fn connect(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let driver = core::current().driver.clone();
        let address = SockAddr::unix(path);
        async move {
            let connected = connect_descriptor(&driver, address?, Type::STREAM).await?;
            Ok(Self::from_descriptor(connected))
        }
    }

    /// Two connected streams.
    ///
    /// # Errors
    /// If descriptors or memory are short.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn pair() -> io::Result<(Self, Self)> {
        let driver = core::current().driver.clone();
        let (a, b) = control::pair(Type::STREAM, driver.wants_nonblocking())?;
        Ok((Self::new(&driver, a), Self::new(&driver, b)))
    }

    /// Who is at the other end, as it was when the connection was made: process, user and group.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # References
    /// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SO_PEERCRED`
    pub fn peer_cred(&self) -> io::Result<PeerCredentials> {
        peer_credentials(&self.shared.descriptor)
    }
}

/// Who is at the other end of a UNIX connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

pub(crate) fn peer_credentials(descriptor: &Descriptor) -> io::Result<PeerCredentials> {
    descriptor.with(|fd| {
        let credentials = getsockopt(&fd, sockopt::PeerCredentials)?;
        Ok(PeerCredentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
    })
}

/// Connects a new socket. While the listener's queue is full, waits.
pub(crate) async fn connect_descriptor(
    driver: &Rc<Driver>,
    address: SockAddr,
    kind: Type,
) -> io::Result<Descriptor> {
    let mut pause = RETRY.0;
    loop {
        if let Some(descriptor) = connect_once(driver, &address, kind).await? {
            return Ok(descriptor);
        }
        sleep(pause).await?;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// `None`: the listener's queue is full.
async fn connect_once(driver: &Rc<Driver>, address: &SockAddr, kind: Type) -> io::Result<Option<Descriptor>> {
    let fd = control::socket(Domain::UNIX, kind, driver.wants_nonblocking())?;
    let descriptor = Rc::new(Descriptor::new(driver, fd));
    let connect = Connect::new(descriptor.clone(), address.clone());
    let (result, op) = Ask::new(driver, connect, What(&"a connection")).await;
    if op.is_queue_full() {
        return Ok(None);
    }
    drop(op);
    outcome(result)?;
    Ok(Some(Rc::into_inner(descriptor).expect("the operation is over, nobody else has it")))
}
