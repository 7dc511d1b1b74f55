//! UNIX datagram sockets: messages between processes of one machine, whole and in order.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use std::ffi::OsStr;
use std::future::Future;

use bytes::Bytes;
use socket2::{Domain, SockAddr, Type};

use crate::buf::IoBuf;
use crate::driver::control;
use crate::error::Failed;
use crate::net::DatagramFamily;
use crate::net::datagram::{DatagramSocket, sealed};
use crate::net::message::{unix_address, unix_name};
use crate::runtime::core;

/// The family of UNIX datagram sockets.
#[derive(Debug)]
pub enum UnixDatagrams {}

/// A UNIX datagram socket, connected or not. Nothing is lost and nothing overtakes: while the receiver's queue is full,
/// whoever sends waits. (Several tasks that wait for room at an address get it in any order.)
///
/// # Examples
/// ```
/// use proactor::net::UnixDatagram;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (ours, theirs) = UnixDatagram::pair()?;
///     ours.send("one").await?;
///     ours.send("two").await?;
///     assert_eq!(&theirs.receive().await?[..], b"one");
///     assert_eq!(&theirs.receive().await?[..], b"two");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub type UnixDatagram = DatagramSocket<UnixDatagrams>;

impl sealed::Sealed for UnixDatagrams {}

impl DatagramFamily for UnixDatagrams {
    type Address = SocketAddr;
    type StdSocket = std::os::unix::net::UnixDatagram;

    fn parse(name: &[u8]) -> io::Result<SocketAddr> {
        unix_address(name)
    }

    fn unparse(address: &SocketAddr) -> io::Result<SockAddr> {
        kernel_address(address)
    }

    fn is_unix() -> bool {
        true
    }
}

/// An address of std as the kernel has it. A path that begins with a zero byte is an abstract name.
pub(crate) fn kernel_address(address: &SocketAddr) -> io::Result<SockAddr> {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => SockAddr::unix(path),
        (None, Some(name)) => SockAddr::unix(OsStr::from_bytes(&[&[0], name].concat())),
        (None, None) => Err(io::Error::new(io::ErrorKind::InvalidInput, "this address has no name")),
    }
}

impl UnixDatagram {
    /// A socket at `path`, which must not exist; a path that begins with a zero byte is an abstract name. The file stays
    /// when the socket is closed.
    ///
    /// # Errors
    /// What the kernel says: `AddrInUse` if the path exists, `PermissionDenied` …
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let socket = Self::unbound()?;
        let address = SockAddr::unix(path)?;
        socket.messages.descriptor.with(|fd| control::bind(fd, &address))?;
        Ok(socket)
    }

    /// A socket without a name, which nobody can send to unless it is connected.
    ///
    /// # Errors
    /// If descriptors or memory are short.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn unbound() -> io::Result<Self> {
        let driver = core::current().driver.clone();
        let fd = control::socket(Domain::UNIX, Type::DGRAM, driver.wants_nonblocking())?;
        Ok(Self::new(&driver, fd))
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    /// If descriptors or memory are short.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "socketpair")]
    #[track_caller]
    pub fn pair() -> io::Result<(Self, Self)> {
        let driver = core::current().driver.clone();
        let (a, b) = control::pair(Type::DGRAM, driver.wants_nonblocking())?;
        Ok((Self::new(&driver, a), Self::new(&driver, b)))
    }

    /// Connects to the socket at `path`: from now on it can [`send`](Self::send) there, and receives from there only.
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `ConnectionRefused` if nobody has the socket open …
    #[doc(alias = "create_connected_unix_datagram_socket")]
    pub fn connect(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let address = SockAddr::unix(path)?;
        self.messages.descriptor.with(|fd| control::connect(fd, &address))
    }

    /// Sends a datagram to the socket at `path`, and gives the buffer back. While that socket's queue is full, waits.
    /// Complete means that the datagram is there.
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `ConnectionRefused` if nobody has the socket open, `EMSGSIZE`;
    /// [`Closed`](crate::Closed). The buffer comes back in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_SEND` with an address (6.1), before that `IORING_OP_SENDMSG` (5.3); on epoll `sendto(2)`. Again and
    /// again with pauses while the queue is full: no readiness tells.
    #[doc(alias = "sendto")]
    pub fn send_to<B: IoBuf>(
        &self,
        buf: B,
        path: impl AsRef<Path>,
    ) -> impl Future<Output = Result<B, Failed<B>>> {
        let address = SockAddr::unix(path);
        async move {
            match address {
                Ok(address) => self.send_to_address(buf, address).await,
                Err(error) => Err(Failed::new(error, buf, 0)),
            }
        }
    }

    /// As [`send_to`](Self::send_to), to an address that a datagram came from.
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// As there; `InvalidInput` if the address has no name.
    pub fn send_to_addr<B: IoBuf>(
        &self,
        buf: B,
        address: &SocketAddr,
    ) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        let address = kernel_address(address);
        async move {
            match address {
                Ok(address) => self.send_to_address(buf, address).await,
                Err(error) => Err(Failed::new(error, buf, 0)),
            }
        }
    }

    /// Queues a datagram to `address` and returns how many bytes are queued now; see [`write`](Self::write).
    ///
    /// # Errors
    /// If the socket is closed, or the address has no name. What the kernel says of the datagram, a flush tells;
    /// `ENOBUFS` where the receiver's queue is full: [`send_to`](Self::send_to) waits.
    pub fn write_to_addr(&self, data: impl Into<Bytes>, address: &SocketAddr) -> io::Result<usize> {
        self.write_to_address(data.into(), kernel_address(address)?)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.messages.descriptor.with(|fd| control::local_address(fd))?;
        unix_name(&address)
    }

    /// The address that it is connected to.
    ///
    /// # Errors
    /// What the kernel says: `NotConnected` if it is not; or [`Closed`](crate::Closed).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let address = self.messages.descriptor.with(|fd| control::peer_address(fd))?;
        unix_name(&address)
    }
}
