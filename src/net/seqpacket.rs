//! UNIX SEQPACKET: connections that carry messages, whole and in order, until one side ends.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use socket2::{SockAddr, Type};

use crate::buf::{Chunk, IoBuf, IoBufMut};
use crate::driver::{Driver, control};
use crate::error::{Closed, Failed};
use crate::net::message::{Message, unix_name};
use crate::net::messages::{Kind, Messages};
use crate::net::stream::Stream;
use crate::net::unix::{UnixListenerBuilder, connect_descriptor, peer_credentials};
use crate::net::{Family, Listener, PeerCredentials, UnixDatagrams, sealed};
use crate::op::Descriptor;
use crate::runtime::core;

/// One side of a connection that carries messages.
///
/// One task may receive while others send; a second receiver is told [`Busy`](crate::Busy). Dropping it closes it.
///
/// # Examples
/// ```
/// use proactor::net::UnixSeqpacket;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (ours, theirs) = UnixSeqpacket::pair()?;
///     ours.send("one").await?;
///     ours.send("two").await?;
///     ours.close().await?;
///     assert_eq!(&theirs.receive().await?.unwrap()[..], b"one");
///     assert_eq!(&theirs.receive().await?.unwrap()[..], b"two");
///     assert!(theirs.receive().await?.is_none());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct UnixSeqpacket {
    pub(crate) messages: Rc<Messages>,
}

impl UnixSeqpacket {
    fn new(descriptor: Descriptor) -> Self {
        Self { messages: Messages::new(descriptor, Kind::Seqpacket) }
    }

    fn of(driver: &Rc<Driver>, fd: OwnedFd) -> Self {
        Self::new(Descriptor::new(driver, fd))
    }

    /// Takes over a connected SEQPACKET socket.
    ///
    /// # Errors
    /// If it is none, or the descriptor is refused.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        if control::options(&fd, |socket| socket.r#type())? != Type::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no SEQPACKET socket"));
        }
        driver.adopt(&fd)?;
        Ok(Self::of(&driver, fd))
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
        let (a, b) = control::pair(Type::SEQPACKET, driver.wants_nonblocking())?;
        Ok((Self::of(&driver, a), Self::of(&driver, b)))
    }

    /// Connects to the listener at `path`; a path that begins with a zero byte is an abstract name. While its queue is full,
    /// waits.
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
    #[track_caller]
    pub fn connect(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let driver = core::current().driver.clone();
        let address = SockAddr::unix(path);
        async move { Ok(Self::new(connect_descriptor(&driver, address?, Type::SEQPACKET).await?)) }
    }

    /// Completes with the next message, or `None` when the peer sends no more. A message may be empty; behind the end of the
    /// peer, empty messages that nothing follows are the end.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: messages stay with the socket.
    ///
    /// # Errors
    /// What the kernel says (`ConnectionReset` if the peer closed and left messages unread …). `EMSGSIZE` for a message that
    /// was too big for a buffer, some 65 KiB: use [`receive_into`](Self::receive_into) for bigger ones.
    /// [`Busy`](crate::Busy) while another task receives; [`Closed`](crate::Closed).
    ///
    /// # Kernel
    /// Multishot `IORING_OP_RECVMSG` into a ring of provided buffers (6.0), before that `IORING_OP_POLL_ADD` and
    /// `IORING_OP_RECVMSG`. On epoll, `recvmsg(2)` when the socket is readable.
    pub fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> + use<'_> {
        async move {
            match self.receive_message().await? {
                Some(message) if message.is_truncated() => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
                message => Ok(message.map(Message::into_data)),
            }
        }
    }

    /// Completes with the next message and everything that came with it, or `None` when the peer sends no more.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: messages stay with the socket.
    ///
    /// # Errors
    /// As [`receive`](Self::receive), but that a truncated message is no error.
    pub fn receive_message(
        &self,
    ) -> impl Future<Output = io::Result<Option<Message<UnixDatagrams>>>> + use<'_> {
        async move { Ok(self.messages.next().await?.map(Message::new)) }
    }

    /// The poll face of [`receive_message`](Self::receive_message). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there, but for `Busy`.
    pub fn poll_receive_message(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Message<UnixDatagrams>>>> {
        let arrival = ready!(self.messages.poll_receive(cx))?;
        Poll::Ready(Ok(arrival.map(Message::new)))
    }

    /// Completes with the number of bytes of the next message, which are in `buf`; what does not fit is lost. 0 when the
    /// peer sends no more, or for an empty message.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a message that came too late stays with the socket. The buffer is gone.
    ///
    /// # Errors
    /// As [`receive`](Self::receive), but that a truncated message is no error. The buffer comes back in [`Failed`].
    pub fn receive_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, B> {
        async move {
            let (len, (), buf) = self.messages.receive_into(buf, |_| Ok(())).await?;
            Ok((len, buf))
        }
    }

    /// Sends a message and gives the buffer back. While the peer's queue is full, waits. Complete means that the message is
    /// there.
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// What the kernel says (`BrokenPipe`, `EMSGSIZE` …), or [`Closed`](crate::Closed). The buffer comes back in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_SEND` (5.6); on epoll `sendto(2)`.
    pub fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        self.messages.send(buf, |_| Ok(()))
    }

    /// Sends what waits to be sent and then says that no more comes: the peer receives the end.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn shutdown_write(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        self.messages.shutdown_write()
    }

    /// Closes, once what waits to be sent is sent. Complete means that the descriptor is closed.
    ///
    /// # Cancel safety
    /// *May have happened*: the socket is closed in any case.
    ///
    /// # Errors
    /// What the kernel says; the socket is closed all the same.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        async move {
            let messages = self.messages.clone();
            messages.close(self).await
        }
    }

    /// Who is at the other end, as it was when the connection was made: process, user and group.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn peer_cred(&self) -> io::Result<PeerCredentials> {
        peer_credentials(&self.messages.descriptor)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.messages.descriptor.with(|fd| Seqpacket::address(&control::local_address(fd)?))
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.messages.descriptor.with(|fd| Seqpacket::address(&control::peer_address(fd)?))
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`](crate::Closed).
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        self.messages.descriptor.with(|fd| control::options(fd, f))
    }
}

impl AsRawFd for UnixSeqpacket {
    /// The number of the descriptor, for calls that leave the socket's state alone.
    fn as_raw_fd(&self) -> RawFd {
        self.messages.descriptor.number()
    }
}

impl Drop for UnixSeqpacket {
    fn drop(&mut self) {
        self.messages.drop_handle();
    }
}

impl fmt::Debug for UnixSeqpacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.messages, f)
    }
}

/// For the listener, which knows families of streams.
#[derive(Debug)]
pub(crate) enum Seqpacket {}

impl sealed::Sealed for Seqpacket {}

impl Family for Seqpacket {
    type Address = SocketAddr;
    type StdStream = OwnedFd;
    type StdListener = OwnedFd;
    const CARRIES_MORE: bool = true;

    fn address(address: &SockAddr) -> io::Result<SocketAddr> {
        unix_name(address)
    }
}

/// A socket that listens for [`UnixSeqpacket`] connections.
pub struct UnixSeqpacketListener {
    listener: Listener<Seqpacket>,
}

impl UnixSeqpacketListener {
    /// Listens at `path`; as [`UnixListener::bind`](crate::net::UnixListener::bind).
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
    pub fn bind(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        UnixListenerBuilder::new().bind_seqpacket(path)
    }

    pub(crate) fn of(listener: Listener<Seqpacket>) -> Self {
        Self { listener }
    }

    /// Completes with the next connection. Several tasks may accept from one listener; they get connections in turn.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a connection stays with the listener.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub fn accept(&self) -> impl Future<Output = io::Result<UnixSeqpacket>> + use<'_> {
        async move { connection(self.listener.accept().await?) }
    }

    /// The poll face of [`accept`](Self::accept). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixSeqpacket>> {
        Poll::Ready(connection(ready!(self.listener.poll_accept(cx))?))
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Stops accepting and closes the listener.
    ///
    /// # Cancel safety
    /// *May have happened*: the listener is closed in any case.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        self.listener.close()
    }
}

impl AsRawFd for UnixSeqpacketListener {
    /// The number of the descriptor, for calls that leave the socket's state alone.
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl fmt::Debug for UnixSeqpacketListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.listener, f)
    }
}

/// What the listener took for a stream.
fn connection(stream: Stream<Seqpacket>) -> io::Result<UnixSeqpacket> {
    let descriptor = &stream.shared.descriptor;
    let fd = descriptor.take().ok_or(Closed::new("the connection"))?;
    Ok(UnixSeqpacket::of(descriptor.driver(), fd))
}
