//! Any socket that the program owns, whatever its kind: what asyncio's `sock_…` functions do.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use socket2::{Domain, SockAddr, Type};

use crate::buf::{IoBuf, IoBufMut};
use crate::driver::control;
use crate::error::Failed;
use crate::net::datagram::Received;
use crate::net::messages::{Came, Messages};
use crate::op::Descriptor;
use crate::op::net::Envelope;
use crate::runtime::core::{self, Core};
use crate::runtime::readiness::{Direction, WaitReady};
use crate::sys::message;

/// A socket of any family and kind, with one call of the kernel for each call here, and nothing ahead of them.
///
/// For what the typed sockets do not know: other families, sockets that somebody else made. They are faster, since they
/// receive before they are asked.
///
/// # Examples
/// ```
/// use proactor::net::Socket;
/// use socket2::{Domain, SockAddr, Type};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let listener = Socket::new(Domain::IPV4, Type::STREAM)?;
///     listener.with_socket(|socket| {
///         let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
///         socket.bind(&any.into())?;
///         socket.listen(16)
///     })?;
///     let client = Socket::new(Domain::IPV4, Type::STREAM)?;
///     client.connect(&listener.local_addr()?).await?;
///     let (server, _) = listener.accept().await?;
///     client.send_all("hello").await?;
///     let (count, buf) = server.receive_into(vec![0; 100]).await?;
///     assert_eq!(&buf[..count], b"hello");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct Socket {
    messages: Rc<Messages>,
    core: Rc<Core>,
}

impl Socket {
    /// A new socket.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn new(domain: Domain, kind: Type) -> io::Result<Self> {
        Self::of(core::current(), control::socket(domain, kind, true)?)
    }

    /// Takes over a socket, which does not block from now on.
    ///
    /// # Errors
    /// If it is no socket.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_fd(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = socket.into();
        control::adopt(&fd, Some(true))?;
        Self::of(core::current(), fd)
    }

    fn of(core: Rc<Core>, fd: OwnedFd) -> io::Result<Self> {
        let (domain, kind) = control::options(&fd, |socket| Ok((socket.domain()?, socket.r#type()?)))?;
        let descriptor = Descriptor::new(&core.driver, fd);
        Ok(Self { messages: Messages::of_any(descriptor, domain, kind), core })
    }

    fn wait(&self, direction: Direction) -> WaitReady {
        WaitReady::new(self.core.clone(), self.as_raw_fd(), direction)
    }

    /// Completes when the socket can be read, or is at its end, or has an error.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Busy`](crate::Busy) if another task waits for the same already.
    #[doc(alias = "wait_socket_readable")]
    pub fn wait_readable(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        self.wait(Direction::Read)
    }

    /// Completes when the socket can be written, or has an error.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`wait_readable`](Self::wait_readable).
    #[doc(alias = "wait_socket_writable")]
    pub fn wait_writable(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        self.wait(Direction::Write)
    }

    /// Completes with the next connection of a listening socket, and where it comes from.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a connection stays with the listener.
    ///
    /// # Errors
    /// What the kernel says; [`Busy`](crate::Busy) if another task accepts.
    ///
    /// # Kernel
    /// `accept4(2)` when the socket is readable.
    #[doc(alias = "sock_accept")]
    pub fn accept(&self) -> impl Future<Output = io::Result<(Self, SockAddr)>> + use<'_> {
        async move {
            loop {
                self.wait(Direction::Read).await?;
                match self.messages.descriptor.with(|fd| control::accept(fd)) {
                    Ok((fd, address)) => return Ok((Self::of(self.core.clone(), fd)?, address)),
                    // Somebody else has it.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Connects the socket.
    ///
    /// # Cancel safety
    /// *May have happened*: the kernel goes on to connect. Close the socket.
    ///
    /// # Errors
    /// What the kernel says. `WouldBlock` for a UNIX listener whose queue is full: try again a little later.
    ///
    /// # Kernel
    /// `connect(2)`, and its outcome when the socket is writable.
    #[doc(alias = "sock_connect")]
    pub fn connect(&self, address: &SockAddr) -> impl Future<Output = io::Result<()>> + use<'_> {
        let address = address.clone();
        async move {
            match self.messages.descriptor.with(|fd| control::connect(fd, &address)) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                begun => return begun,
            }
            self.wait(Direction::Write).await?;
            self.with_socket(|socket| socket.take_error())?.map_or(Ok(()), Err)
        }
    }

    /// Completes with the number of bytes received into `buf`, from its start; 0 at the end of a stream. Of a message, what
    /// does not fit is lost.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what came too late is received next. The buffer is gone.
    ///
    /// # Errors
    /// What the kernel says; [`Busy`](crate::Busy) while another task receives; [`Closed`](crate::Closed). The buffer comes back in
    /// [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_RECV` (5.6), for messages `IORING_OP_RECVMSG` (5.3); on epoll `recv(2)`, `recvmsg(2)`.
    #[doc(alias = "sock_recv")]
    #[doc(alias = "sock_recv_into")]
    pub fn receive_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, B> {
        async move {
            let (count, (), buf) = self.messages.receive_into(buf, |_| Ok(())).await?;
            Ok((count, buf))
        }
    }

    /// As [`receive_into`](Self::receive_into), and says how long the message was and where it comes from.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what came too late is received next. The buffer is gone.
    ///
    /// # Errors
    /// As there.
    #[doc(alias = "sock_recvfrom")]
    #[doc(alias = "sock_recvfrom_into")]
    pub fn receive_from_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(Received<SockAddr>, B), Failed<B>>> + use<'_, B> {
        async move {
            let look = |came: Came<'_>| Ok((came.sent, message::address(came.name)));
            let (len, (sent_len, source), buf) = self.messages.receive_into(buf, look).await?;
            Ok((Received { len, sent_len, source }, buf))
        }
    }

    /// Sends all of `buf`, a message as a whole, and gives it back. Several sends go one after the other.
    ///
    /// # Cancel safety
    /// *May have happened*: of a stream, all of it is sent once it has begun, unless the socket is closed.
    ///
    /// # Errors
    /// What the kernel says; [`Closed`](crate::Closed). The buffer and the number of bytes sent are in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_SEND` (5.6); on epoll `send(2)`.
    #[doc(alias = "sock_sendall")]
    pub fn send_all<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        self.messages.send(buf, |_: &mut Envelope| Ok(()))
    }

    /// Sends a message to `address` and gives the buffer back.
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// As [`send_all`](Self::send_all).
    #[doc(alias = "sock_sendto")]
    pub fn send_to<B: IoBuf>(
        &self,
        buf: B,
        address: &SockAddr,
    ) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        let address = address.clone();
        self.messages.send(buf, move |envelope: &mut Envelope| {
            envelope.address = Some(address.clone());
            Ok(())
        })
    }

    /// Says that no more comes: the peer receives the end of the stream.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn shutdown_write(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        self.messages.shutdown_write()
    }

    /// The address of this side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn local_addr(&self) -> io::Result<SockAddr> {
        self.messages.descriptor.with(|fd| control::local_address(fd))
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn peer_addr(&self) -> io::Result<SockAddr> {
        self.messages.descriptor.with(|fd| control::peer_address(fd))
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`](crate::Closed).
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        self.messages.descriptor.with(|fd| control::options(fd, f))
    }

    /// Closes the socket. Complete means that the descriptor is closed. A send whose future was dropped is cut off.
    ///
    /// # Cancel safety
    /// *May have happened*: the socket is closed in any case.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        async move {
            self.core.close_watches(self.as_raw_fd());
            let messages = self.messages.clone();
            messages.close(self).await
        }
    }
}

impl AsRawFd for Socket {
    /// The number of the descriptor, for calls that leave the socket's state alone.
    fn as_raw_fd(&self) -> RawFd {
        self.messages.descriptor.number()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.core.close_watches(self.as_raw_fd());
        self.messages.drop_handle();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.messages, f)
    }
}
