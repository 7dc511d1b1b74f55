//! A stream of another library as a byte stream of this crate.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::buf::{Chunk, IoBuf};
use crate::error::{Closed, Failed};
use crate::runtime::budget;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check, cut};
use crate::stream::{AsyncResource, ByteReceiveStream, ByteSendStream, ByteStream, TypedAttributeProvider};
use crate::sync::ResourceGuard;

const BYTES: What = What(&"bytes from a foreign stream");
const ROOM: What = What(&"room in a foreign stream");
const END: What = What(&"the end of a foreign stream to be sent");

/// What is received at a time, at most.
const PIECE: usize = 64 << 10;

thread_local! {
    /// What a read writes into. The traits keep no buffer between two polls, so one serves all streams of a thread.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

type Polled<R> = Poll<io::Result<R>>;

/// The functions of the traits that the stream has.
struct Calls<T> {
    read: fn(Pin<&mut T>, &mut Context<'_>, &mut [u8]) -> Polled<usize>,
    write: fn(Pin<&mut T>, &mut Context<'_>, &[u8]) -> Polled<usize>,
    flush: fn(Pin<&mut T>, &mut Context<'_>) -> Polled<()>,
    close: fn(Pin<&mut T>, &mut Context<'_>) -> Polled<()>,
}

/// Anything with the I/O traits of another library, as a [`ByteStream`]: with the feature `futures-io` those of `futures`,
/// with `tokio-io` those of tokio. Whatever takes byte streams takes it then: TLS, transports, buffered and text streams.
/// (For the other direction there is [`ForeignIo`](crate::compat::ForeignIo).)
///
/// What it wraps must run here: a socket of tokio's wants tokio's reactor. What is received is copied once.
///
/// One task may receive while another sends; a second one in the same direction is told [`Busy`](crate::Busy). A receive that is
/// dropped or cancelled loses nothing, and a send that is cancelled says how much was taken. Sending the end closes the
/// writing side by the traits, which for some streams ends receiving too. Dropping it drops what it wraps.
///
/// # Examples
/// ```
/// # #[cfg(feature = "tokio-io")]
/// # fn main() -> std::io::Result<()> {
/// use proactor::compat::ForeignStream;
/// use proactor::stream::{BufferedByteStream, ByteSendStream, ByteStream};
///
/// proactor::run(async {
///     let (left, right) = tokio::io::duplex(64);
///     let left = ForeignStream::from_tokio(left);
///     let right = BufferedByteStream::new(ForeignStream::from_tokio(right));
///     left.send("hello\n").await?;
///     left.send_eof().await?;
///     assert_eq!(&right.receive_until(b"\n", 100).await?[..], b"hello");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// # #[cfg(not(feature = "tokio-io"))]
/// # fn main() {}
/// ```
pub struct ForeignStream<T> {
    /// Taken out while it is polled, so that nothing is borrowed then. `None` when it is closed.
    io: Cell<Option<Pin<Box<T>>>>,
    calls: Calls<T>,
    receiving: ResourceGuard,
    sending: ResourceGuard,
    receiver: Waiter,
    sender: Waiter,
    /// The peer sends no more.
    is_at_eof: Cell<bool>,
    /// The end was sent.
    has_ended: Cell<bool>,
    closed: Cell<bool>,
}

#[cfg(feature = "futures-io")]
impl<T: futures_io::AsyncRead + futures_io::AsyncWrite> ForeignStream<T> {
    /// Of the traits of `futures`.
    pub fn from_futures(io: T) -> Self {
        Self::new(
            io,
            Calls { read: T::poll_read, write: T::poll_write, flush: T::poll_flush, close: T::poll_close },
        )
    }
}

#[cfg(feature = "tokio-io")]
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite> ForeignStream<T> {
    /// Of the traits of tokio.
    pub fn from_tokio(io: T) -> Self {
        let read = |io: Pin<&mut T>, cx: &mut Context<'_>, bytes: &mut [u8]| {
            let mut buf = tokio::io::ReadBuf::new(bytes);
            ready!(io.poll_read(cx, &mut buf))?;
            Poll::Ready(Ok(buf.filled().len()))
        };
        Self::new(io, Calls { read, write: T::poll_write, flush: T::poll_flush, close: T::poll_shutdown })
    }
}

/// Nobody waits there any more, however it ended.
struct Forget<'a>(&'a Waiter);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl<T> ForeignStream<T> {
    fn new(io: T, calls: Calls<T>) -> Self {
        Self {
            io: Cell::new(Some(Box::pin(io))),
            calls,
            receiving: ResourceGuard::new("receiving from"),
            sending: ResourceGuard::new("sending to"),
            receiver: Waiter::new(),
            sender: Waiter::new(),
            is_at_eof: Cell::new(false),
            has_ended: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// What it wraps; `None` if it was closed. Nothing that was received is missing there.
    pub fn into_inner(self) -> Option<T>
    where
        T: Unpin,
    {
        self.io.take().map(|io| *Pin::into_inner(io))
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closed.get() { Err(Closed::new("the stream").into()) } else { Ok(()) }
    }

    /// A poll of what it wraps, as a wait of this crate: a cancel ends it, and so does a close.
    fn poll_io<R>(
        &self,
        cx: &mut Context<'_>,
        (waiter, what): (&Waiter, What),
        poll: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Polled<R>,
    ) -> Polled<R> {
        ready!(check(cx))?;
        self.check_open()?;
        ready!(budget::spend(cx));
        let Some(mut io) = self.io.take() else { return Poll::Ready(Err(Closed::new("the stream").into())) };
        let polled = poll(io.as_mut(), cx);
        if self.closed.get() {
            drop(io); // it was closed from inside
        } else {
            self.io.set(Some(io));
        }
        if polled.is_pending() {
            waiter.register_for(cx, what);
        }
        polled
    }

    fn poll_receive(&self, cx: &mut Context<'_>) -> Polled<Option<Chunk>> {
        self.poll_io(cx, (&self.receiver, BYTES), |io, cx| {
            let mut scratch = SCRATCH.take();
            scratch.resize(PIECE, 0);
            let read = (self.calls.read)(io, cx, &mut scratch);
            let chunk = read.map_ok(|count| (count > 0).then(|| Chunk::from(scratch[..count].to_vec())));
            SCRATCH.set(scratch);
            chunk
        })
    }

    async fn send_all(&self, bytes: &[u8], done: &mut usize) -> io::Result<()> {
        self.check_open()?;
        let _sending = self.sending.enter()?;
        let _waiting = Forget(&self.sender);
        if self.has_ended.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        while *done < bytes.len() {
            let rest = &bytes[*done..];
            let write = |cx: &mut Context<'_>| {
                self.poll_io(cx, (&self.sender, ROOM), |io, cx| (self.calls.write)(io, cx, rest))
            };
            match poll_fn(write).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => *done += count,
            }
        }
        poll_fn(|cx| self.poll_io(cx, (&self.sender, ROOM), self.calls.flush)).await
    }
}

impl<T> AsyncResource for ForeignStream<T> {
    /// Sends the end, then drops what it wraps. Whoever sends or receives is told [`Closed`](crate::Closed).
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            if self.closed.replace(true) {
                return Ok(());
            }
            let io = self.io.take();
            self.receiver.wake();
            self.sender.wake();
            match io {
                Some(mut io) if !self.has_ended.get() => {
                    cut(END, poll_fn(|cx| (self.calls.close)(io.as_mut(), cx))).await
                }
                _ => Ok(()),
            }
        }
    }
}

impl<T> TypedAttributeProvider for ForeignStream<T> {}

impl<T> ByteReceiveStream for ForeignStream<T> {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        async move {
            self.check_open()?;
            let _receiving = self.receiving.enter()?;
            let _waiting = Forget(&self.receiver);
            if self.is_at_eof.get() {
                return Ok(None);
            }
            let received = poll_fn(|cx| self.poll_receive(cx)).await?;
            self.is_at_eof.set(received.is_none());
            Ok(received)
        }
    }
}

impl<T> ByteSendStream for ForeignStream<T> {
    /// As the trait says; complete means that it was flushed too.
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        async move {
            let mut done = 0;
            match self.send_all(buf.as_slice(), &mut done).await {
                Ok(()) => Ok(buf),
                Err(error) => Err(Failed::new(error, buf, done)),
            }
        }
    }
}

impl<T> ByteStream for ForeignStream<T> {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            self.check_open()?;
            let _sending = self.sending.enter()?;
            let _waiting = Forget(&self.sender);
            if !self.has_ended.get() {
                poll_fn(|cx| self.poll_io(cx, (&self.sender, END), self.calls.close)).await?;
                self.has_ended.set(true);
            }
            Ok(())
        }
    }
}

impl<T> fmt::Debug for ForeignStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignStream").field("closed", &self.closed.get()).finish_non_exhaustive()
    }
}
