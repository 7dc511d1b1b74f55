//! UNIX stream sockets: paths, abstract names, pairs, and the peer's credentials.

use std::future::Future;
use std::io;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, SockAddr};

use crate::driver::Driver;
use crate::driver::control::{self, ListenOptions};
use crate::net::{Family, Listener, Stream};
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
    const SHORT_MEANS_ALL: bool = false;

    fn address(address: &SockAddr) -> io::Result<SocketAddr> {
        address.as_unix().ok_or_else(|| io::Error::other("this is no UNIX socket"))
    }
}

/// Connections that the kernel holds before they are accepted.
const BACKLOG: i32 = 1024;
/// How long a connect waits when the queue of the listener is full; doubled each time, up to a limit.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

impl UnixListener {
    /// Listens at `path`, which must not exist. The file stays when the listener is closed.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What the kernel says: `AddrInUse` if the path exists, `PermissionDenied` …
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "create_unix_listener")]
    #[track_caller]
    pub fn bind(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let driver = core::current().driver.clone();
        let path = path.as_ref().to_owned();
        async move {
            let options = ListenOptions {
                backlog: BACKLOG,
                reuse_address: false,
                reuse_port: false,
                only_v6: None,
                nodelay: false,
            };
            let fd = control::listen(&SockAddr::unix(&path)?, &options, driver.wants_nonblocking())?;
            Ok(Self::new(&driver, fd, true))
        }
    }
}

impl UnixStream {
    /// Connects to the listener at `path`. While its queue is full, waits.
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
        let path: PathBuf = path.as_ref().to_owned();
        async move {
            let address = SockAddr::unix(&path)?;
            let mut pause = RETRY.0;
            loop {
                match connect_once(&driver, &address).await {
                    Ok(Some(stream)) => return Ok(stream),
                    Ok(None) => sleep(pause).await?,
                    Err(error) => return Err(error),
                }
                pause = (pause * 2).min(RETRY.1);
            }
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
        let (a, b) = control::pair(driver.wants_nonblocking())?;
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
        self.shared.descriptor.with(|fd| {
            let credentials = getsockopt(&fd, sockopt::PeerCredentials)?;
            Ok(PeerCredentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
        })
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

/// `None`: the listener's queue is full.
async fn connect_once(driver: &Rc<Driver>, address: &SockAddr) -> io::Result<Option<UnixStream>> {
    let fd = control::stream_socket(Domain::UNIX, driver.wants_nonblocking())?;
    let descriptor = Rc::new(Descriptor::new(driver, fd));
    let connect = Connect::new(descriptor.clone(), address.clone());
    let (result, op) = Ask::new(driver, connect, What(&"a connection")).await;
    if op.is_queue_full() {
        return Ok(None);
    }
    drop(op);
    outcome(result)?;
    let descriptor = Rc::into_inner(descriptor).expect("the operation is over, nobody else has it");
    Ok(Some(UnixStream::from_descriptor(descriptor)))
}
