//! A connected stream socket.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf, IoBufMut};
use crate::driver::{Driver, control};
use crate::error::{Busy, Closed, Failed};
use crate::net::Family;
use crate::net::halves::{ReceiveHalf, SendHalf};
use crate::net::shared::Shared;
use crate::op::Descriptor;
use crate::op::net::{SendAll, SendVectored, Short};
use crate::runtime::core;
use crate::runtime::scope::What;
use crate::runtime::wait::cut;

/// A connected stream socket of family `F`: [`TcpStream`](crate::net::TcpStream) or
/// [`UnixStream`](crate::net::UnixStream).
///
/// One task may receive while another sends; a second receiver is told [`Busy`], a second sender queues. Dropping the
/// stream closes it and drops what was queued; [`close`](Self::close) sends that first.
pub struct Stream<F: Family> {
    pub(crate) shared: Rc<Shared>,
    family: PhantomData<F>,
}

impl<F: Family> Stream<F> {
    pub(crate) fn new(driver: &Rc<Driver>, fd: OwnedFd) -> Self {
        Self::from_descriptor(Descriptor::new(driver, fd))
    }

    /// What the stream consists of, without the stream: whoever has it calls `drop_handle` in the end.
    pub(crate) fn into_shared(self) -> Rc<Shared> {
        self.shared.add_handle();
        self.shared.clone()
    }

    pub(crate) fn from_descriptor(descriptor: Descriptor) -> Self {
        let short = if F::CARRIES_MORE { Short::Unknown } else { Short::All };
        Self { shared: Shared::new(descriptor, short), family: PhantomData }
    }

    /// Takes over a connected stream of std.
    ///
    /// # Errors
    /// If the descriptor is refused.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_std(stream: F::StdStream) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        let fd = stream.into();
        driver.adopt(&fd)?;
        Ok(Self::new(&driver, fd))
    }

    /// Stops receiving and gives the stream to std, in blocking mode, with the bytes that had come already. What was
    /// queued is sent first.
    ///
    /// # Cancel safety
    /// *Data already received is lost*, and the connection closed.
    ///
    /// # Errors
    /// If sending fails or the stream is closed.
    pub fn into_std(self) -> impl Future<Output = io::Result<(F::StdStream, Vec<Chunk>)>> {
        let give_away = async move {
            let turn = self.shared.turn().await?;
            poll_fn(|cx| self.shared.poll_idle(cx)).await;
            let received = self.shared.take_inbound();
            let fd = self.shared.descriptor.take().ok_or(Closed::new("the stream"))?;
            control::options(&fd, |socket| socket.set_nonblocking(false))?;
            drop(turn);
            Ok((fd.into(), received))
        };
        cut(What(&"a stream to stop"), give_away)
    }

    /// Completes with the next bytes, as they came: a chunk, never empty, or `None` when the peer sends no more.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: bytes stay with the stream.
    ///
    /// # Errors
    /// What the kernel says (`ConnectionReset` …), [`Busy`] while another task receives, [`Closed`]. The kernel tells of
    /// a reset once, to whoever meets it first. On TCP it is never taken for the end of the stream, even if a send met
    /// it; on a UNIX stream it is, where io_uring's send was half done then.
    ///
    /// # Kernel
    /// Multishot `IORING_OP_RECV` into a ring of provided buffers (6.0); before that `IORING_OP_POLL_ADD` and
    /// `IORING_OP_RECV`. On epoll, `recv(2)` when the socket is readable.
    ///
    /// # References
    /// [recv(2)](https://man7.org/linux/man-pages/man2/recv.2.html)
    pub fn receive(&self) -> Receive<'_, F> {
        Receive::of(&self.shared)
    }

    /// The poll face of [`receive`](Self::receive). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As [`receive`](Self::receive), but for `Busy`.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.shared.poll_receive(cx)
    }

    /// Completes with the number of bytes received into `buf`, from its start, and `buf` itself; 0 when the peer sends
    /// no more, or if `buf` has no room. The length of a `Vec` becomes that number.
    ///
    /// Takes bytes that came already first; then it stops the pooled receive until the next
    /// [`receive`](Self::receive), so use one of the two for most of a connection.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: bytes that came too late stay with the stream. The buffer is gone.
    ///
    /// # Errors
    /// As [`receive`](Self::receive); the buffer comes back in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_RECV` (5.6); on epoll `recv(2)`.
    pub fn receive_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, F, B> {
        self.shared.receive_into(buf)
    }

    /// Sends all of `buf` and gives it back. Complete means that the kernel has taken it.
    ///
    /// # Cancel safety
    /// *May have happened*: dropped while it waits for earlier sends, nothing is sent; once begun, all of it is sent,
    /// unless the stream is closed.
    ///
    /// # Errors
    /// What the kernel says (`BrokenPipe`, `ConnectionReset` …), and then for every later send, or [`Closed`]. The
    /// buffer and the number of bytes sent are in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_SEND` (5.6), with `MSG_WAITALL` from 6.0 on; on epoll `send(2)`.
    ///
    /// # References
    /// [send(2)](https://man7.org/linux/man-pages/man2/send.2.html)
    pub fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, F, B> {
        self.shared.send(SendAll::new(self.shared.clone(), buf))
    }

    /// Sends all of several buffers, together, and gives them back.
    ///
    /// # Cancel safety
    /// *May have happened*, as for [`send`](Self::send).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Kernel
    /// `IORING_OP_SENDMSG` (5.3); on epoll `sendmsg(2)`.
    pub fn send_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
    ) -> impl Future<Output = Result<Vec<B>, Failed<Vec<B>>>> + use<'_, F, B> {
        self.shared.send(SendVectored::new(self.shared.clone(), bufs))
    }

    /// Queues bytes and returns how many are queued now; they go out in order, as soon as the socket takes them.
    /// Wait with [`flush`](Self::flush) or [`poll_flush`](Self::poll_flush) where the peer may be slow.
    ///
    /// # Errors
    /// If an earlier send failed, the writing side is shut down, or the stream closed.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<usize> {
        self.shared.write(data.into())
    }

    /// Ready when at most `below` queued bytes are left.
    ///
    /// # Errors
    /// If a send failed or the stream is closed.
    pub fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.shared.poll_flush(cx, below)
    }

    /// Completes when the kernel has taken everything that was queued with [`write`](Self::write).
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// If a send failed or the stream is closed.
    #[doc(alias = "drain")]
    pub fn flush(&self) -> impl Future<Output = io::Result<()>> + use<'_, F> {
        poll_fn(|cx| self.shared.poll_flush(cx, 0))
    }

    /// Sends what is queued and then says that no more comes: the peer receives the end of the stream. Receiving goes
    /// on. Doing it twice does nothing.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// If a send fails, the peer is gone, or the stream is closed.
    ///
    /// # References
    /// [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html)
    #[doc(alias = "write_eof")]
    #[doc(alias = "send_eof")]
    pub fn shutdown_write(&self) -> impl Future<Output = io::Result<()>> + use<'_, F> {
        self.shared.shutdown_write()
    }

    /// Sends what is queued, then closes. Complete means that the descriptor is closed.
    ///
    /// # Cancel safety
    /// *May have happened*: the stream is closed in any case, but what was queued may be lost.
    ///
    /// # Errors
    /// If a send fails; the stream is closed all the same.
    ///
    /// # Kernel
    /// `IORING_OP_CLOSE` (5.6), on epoll `close(2)`; on both `close(2)` in a thread of the pool if the socket lingers.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        let close = async move { self.shared.close().await };
        // Cut short by a cancel, the rest happens when the stream is dropped.
        cut(What(&"a stream to close"), close)
    }

    /// Two halves for two tasks. The stream is closed when both are dropped.
    pub fn split(self) -> (ReceiveHalf<F>, SendHalf<F>) {
        (ReceiveHalf::new(self.shared.clone()), SendHalf::new(self.shared.clone()))
    }

    /// The address of this side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`].
    pub fn local_addr(&self) -> io::Result<F::Address> {
        self.shared.descriptor.with(|fd| F::address(&control::local_address(fd)?))
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// What the kernel says (`NotConnected` after a reset), or [`Closed`].
    pub fn peer_addr(&self) -> io::Result<F::Address> {
        self.shared.descriptor.with(|fd| F::address(&control::peer_address(fd)?))
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`].
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        self.shared.descriptor.with(|fd| control::options(fd, f))
    }

    /// What closing does with data that the peer has not received: with `Some`, `close` waits for at most that long,
    /// and zero means that the connection is reset.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`].
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.with_socket(|socket| socket.set_linger(linger))?;
        self.shared.descriptor.set_lingers(linger.is_some_and(|linger| !linger.is_zero()));
        Ok(())
    }
}

impl<F: Family> AsRawFd for Stream<F> {
    /// The number of the descriptor, for calls that leave the socket's state alone.
    fn as_raw_fd(&self) -> RawFd {
        self.shared.descriptor.number()
    }
}

impl<F: Family> Drop for Stream<F> {
    fn drop(&mut self) {
        self.shared.drop_handle();
    }
}

impl<F: Family> fmt::Debug for Stream<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shared, f)
    }
}

/// The future of [`Stream::receive`].
#[must_use = "futures do nothing unless awaited"]
pub struct Receive<'a, F: Family> {
    shared: &'a Shared,
    waiting: bool,
    family: PhantomData<F>,
}

impl<'a, F: Family> Receive<'a, F> {
    pub(crate) fn of(shared: &'a Shared) -> Self {
        Self { shared, waiting: false, family: PhantomData }
    }
}

impl<F: Family> Unpin for Receive<'_, F> {}

impl<F: Family> Future for Receive<'_, F> {
    type Output = io::Result<Option<Chunk>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.waiting && self.shared.receive_claimed.get() {
            return Poll::Ready(Err(Busy::new("receiving from").into()));
        }
        let polled = self.shared.poll_receive(cx);
        self.waiting = polled.is_pending();
        self.shared.receive_claimed.set(self.waiting);
        polled
    }
}

impl<F: Family> Drop for Receive<'_, F> {
    fn drop(&mut self) {
        if self.waiting {
            self.shared.forget_receiver();
        }
    }
}

impl<F: Family> fmt::Debug for Receive<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}
