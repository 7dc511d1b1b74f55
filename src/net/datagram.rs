//! A socket of datagrams: UDP or UNIX.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use socket2::SockAddr;

use crate::buf::{Chunk, IoBuf, IoBufMut};
use crate::driver::{Driver, control};
use crate::error::{EndOfStream, Failed};
use crate::net::message::Message;
use crate::net::messages::{Came, Kind, Messages};
use crate::op::Descriptor;
use crate::op::net::{Arrival, Envelope};
use crate::runtime::core;

/// A family of datagram sockets: [`Udp`](crate::net::Udp) or [`UnixDatagrams`](crate::net::UnixDatagrams).
pub trait DatagramFamily: sealed::Sealed + Sized + 'static {
    /// What addresses of the family look like.
    type Address;
    /// The socket of std.
    type StdSocket: From<OwnedFd> + Into<OwnedFd>;

    #[doc(hidden)]
    fn parse(name: &[u8]) -> io::Result<Self::Address>;
    #[doc(hidden)]
    fn unparse(address: &Self::Address) -> io::Result<SockAddr>;
    #[doc(hidden)]
    fn is_unix() -> bool;
}

pub(crate) mod sealed {
    #[allow(unnameable_types, reason = "this is what seals it")]
    pub trait Sealed {}
}

/// A datagram socket of family `F`: [`UdpSocket`](crate::net::UdpSocket) or
/// [`UnixDatagram`](crate::net::UnixDatagram).
///
/// One task may receive, others are told [`Busy`](crate::Busy); any number may send. Datagrams that came wait in the socket, about 128
/// of them; what comes then stays in the kernel's buffer, which drops what finds no room there (UDP) or lets the sender
/// wait (UNIX). Dropping the socket closes it; what was written and is not sent yet is dropped.
pub struct DatagramSocket<F: DatagramFamily> {
    pub(crate) messages: Rc<Messages>,
    family: PhantomData<F>,
}

/// What is known of a datagram that was received into a buffer of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received<A> {
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of the datagram. Those that found no room in the buffer are lost.
    pub sent_len: usize,
    /// Where it comes from.
    pub source: A,
}

impl<F: DatagramFamily> DatagramSocket<F> {
    pub(crate) fn new(driver: &Rc<Driver>, fd: OwnedFd) -> Self {
        let kind = if F::is_unix() { Kind::Unix } else { Kind::Inet };
        Self { messages: Messages::new(Descriptor::new(driver, fd), kind), family: PhantomData }
    }

    /// Takes over a socket of std.
    ///
    /// # Errors
    /// If the descriptor is refused.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_std(socket: F::StdSocket) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        let fd = socket.into();
        driver.adopt(&fd)?;
        Ok(Self::new(&driver, fd))
    }

    /// Completes with the next datagram: its bytes, and where it comes from. A datagram may be empty.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: datagrams stay with the socket.
    ///
    /// # Errors
    /// What the kernel says, once: a connected socket is told when nobody listens there (`ConnectionRefused`), an
    /// unconnected one is not; neither, where [`receive_error`](crate::net::UdpSocket::receive_error) tells of it. `EMSGSIZE` for a datagram that was too big for a buffer, some 65 KiB (UNIX
    /// only): use [`receive_from_into`](Self::receive_from_into) for bigger ones. [`Busy`](crate::Busy) while another task
    /// receives; [`Closed`](crate::Closed).
    ///
    /// # Kernel
    /// Multishot `IORING_OP_RECVMSG` into a ring of provided buffers (6.0), before that `IORING_OP_POLL_ADD` and
    /// `IORING_OP_RECVMSG`. On epoll, `recvmsg(2)` when the socket is readable.
    ///
    /// # References
    /// [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html)
    #[doc(alias = "recvfrom")]
    pub fn receive_from(&self) -> impl Future<Output = io::Result<(Chunk, F::Address)>> + use<'_, F> {
        async move {
            let arrival = whole(self.next().await?)?;
            let source = F::parse(arrival.name())?;
            Ok((arrival.data, source))
        }
    }

    /// Completes with the bytes of the next datagram.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: datagrams stay with the socket.
    ///
    /// # Errors
    /// As [`receive_from`](Self::receive_from).
    #[doc(alias = "recv")]
    pub fn receive(&self) -> impl Future<Output = io::Result<Chunk>> + use<'_, F> {
        async move { Ok(whole(self.next().await?)?.data) }
    }

    /// Completes with the next datagram and everything that came with it.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: datagrams stay with the socket.
    ///
    /// # Errors
    /// As [`receive_from`](Self::receive_from), but that a truncated message is no error.
    #[doc(alias = "recvmsg")]
    pub fn receive_message(&self) -> impl Future<Output = io::Result<Message<F>>> + use<'_, F> {
        async move { Ok(Message::new(self.next().await?)) }
    }

    /// Completes with all datagrams that are there, at least one and at most `max`, appended to `into`.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: datagrams stay with the socket.
    ///
    /// # Errors
    /// As [`receive_message`](Self::receive_message).
    #[doc(alias = "recvmmsg")]
    pub fn receive_batch<'a>(
        &'a self,
        into: &'a mut Vec<Message<F>>,
        max: usize,
    ) -> impl Future<Output = io::Result<usize>> + use<'a, F> {
        async move {
            if max == 0 {
                return Ok(0);
            }
            into.push(Message::new(self.next().await?));
            let rest = std::iter::from_fn(|| self.messages.try_receive()).take(max - 1);
            let before = into.len() - 1;
            into.extend(rest.map(Message::new));
            Ok(into.len() - before)
        }
    }

    /// The poll face of [`receive_message`](Self::receive_message). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there, but for `Busy`.
    pub fn poll_receive_message(&self, cx: &mut Context<'_>) -> Poll<io::Result<Message<F>>> {
        let arrival = ready!(self.messages.poll_receive(cx))?.ok_or(EndOfStream)?;
        Poll::Ready(Ok(Message::new(arrival)))
    }

    /// The next message; there is no end.
    async fn next(&self) -> io::Result<Arrival> {
        self.messages.next().await?.ok_or_else(|| EndOfStream.into())
    }

    /// Completes with what is known of the next datagram, whose bytes are in `buf`, from its start. What does not fit is
    /// lost. The length of a `Vec` becomes the number of bytes.
    ///
    /// Takes what came already first; then it stops the pooled receive until that is used again, so use one of the two for
    /// most of a socket's life.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a datagram that came too late stays with the socket. The buffer is gone.
    ///
    /// # Errors
    /// As [`receive_from`](Self::receive_from), but that a truncated message is no error. The buffer comes back in
    /// [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_RECVMSG` (5.3); on epoll `recvmsg(2)`.
    #[doc(alias = "recvfrom_into")]
    pub fn receive_from_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(Received<F::Address>, B), Failed<B>>> + use<'_, F, B> {
        async move {
            let look = |came: Came<'_>| Ok((came.sent, F::parse(came.name)?));
            let (len, (sent_len, source), buf) = self.messages.receive_into(buf, look).await?;
            Ok((Received { len, sent_len, source }, buf))
        }
    }

    /// Completes with the number of bytes of the next datagram, which are in `buf`. What does not fit is lost.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a datagram that came too late stays with the socket. The buffer is gone.
    ///
    /// # Errors
    /// As [`receive_from_into`](Self::receive_from_into).
    #[doc(alias = "recv_into")]
    pub fn receive_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, F, B> {
        async move {
            let (len, (), buf) = self.messages.receive_into(buf, |_| Ok(())).await?;
            Ok((len, buf))
        }
    }

    /// Sends a datagram to whom the socket is connected to, and gives the buffer back. Complete means that the kernel has
    /// taken it.
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// What the kernel says: `EMSGSIZE` if it is too big, `ENOTCONN`, what became of an earlier one (`ConnectionRefused`);
    /// [`Closed`](crate::Closed). The buffer comes back in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_SEND` (5.6); on epoll `sendto(2)`.
    ///
    /// # References
    /// [send(2)](https://man7.org/linux/man-pages/man2/send.2.html)
    pub fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, F, B> {
        self.messages.send(buf, |_: &mut Envelope| Ok(()))
    }

    pub(crate) fn send_to_address<B: IoBuf>(
        &self,
        buf: B,
        address: SockAddr,
    ) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, F, B> {
        self.messages.send(buf, move |envelope: &mut Envelope| {
            envelope.address = Some(address.clone());
            Ok(())
        })
    }

    /// Queues a datagram to whom the socket is connected to, and returns how many bytes are queued now, eight more for each
    /// datagram. Wait with
    /// [`flush`](Self::flush) or [`poll_flush`](Self::poll_flush) where there may be many.
    ///
    /// # Errors
    /// If the socket is closed. What the kernel says of it, a flush tells: of each one once, of more than 64 the last.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<usize> {
        self.messages.write(data.into(), |_| Ok(()))
    }

    pub(crate) fn write_to_address(&self, data: Bytes, address: SockAddr) -> io::Result<usize> {
        self.messages.write(data, move |envelope| {
            envelope.address = Some(address);
            Ok(())
        })
    }

    /// Ready when at most `below` queued bytes are left.
    ///
    /// # Errors
    /// Why a datagram that was written could not be sent, the first one since the last flush; others were sent
    /// nevertheless. [`Closed`](crate::Closed).
    pub fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.messages.poll_flush(cx, below)
    }

    /// Completes when the kernel has taken everything that was written.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`poll_flush`](Self::poll_flush).
    #[doc(alias = "drain")]
    pub fn flush(&self) -> impl Future<Output = io::Result<()>> + use<'_, F> {
        poll_fn(|cx| self.messages.poll_flush(cx, 0))
    }

    /// Sends what was written, then closes. Complete means that the descriptor is closed.
    ///
    /// # Cancel safety
    /// *May have happened*: the socket is closed in any case, but what was written may be lost.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); the socket is closed all the same.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        async move {
            let messages = self.messages.clone();
            messages.close(self).await
        }
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`](crate::Closed).
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        self.messages.descriptor.with(|fd| control::options(fd, f))
    }
}

impl<F: DatagramFamily> AsRawFd for DatagramSocket<F> {
    /// The number of the descriptor, for calls that leave the socket's state alone.
    fn as_raw_fd(&self) -> RawFd {
        self.messages.descriptor.number()
    }
}

impl<F: DatagramFamily> Drop for DatagramSocket<F> {
    fn drop(&mut self) {
        self.messages.drop_handle();
    }
}

impl<F: DatagramFamily> fmt::Debug for DatagramSocket<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.messages, f)
    }
}

/// A message that found room, or an error: nobody shall take a part of one for the whole.
fn whole(arrival: Arrival) -> io::Result<Arrival> {
    match arrival.flags() & libc::MSG_TRUNC {
        0 => Ok(arrival),
        _ => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
    }
}
