//! A byte stream behind the I/O traits of other libraries.

use std::fmt;
use std::io;
#[cfg(feature = "futures-io")]
use std::io::{IoSlice, IoSliceMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::buf::Chunk;
use crate::stream::{BoxFuture, ByteStream, PollByteStream};

/// How much may wait to be sent before a write waits too.
const HIGH: usize = 64 << 10;

/// A byte stream with the I/O traits of other libraries, for code that is written for them: with the feature `futures-io`
/// those of `futures`, with `tokio-io` those of tokio (and by `hyper-util` of hyper). Whatever runs on these traits alone
/// runs in our loop then; what asks for tokio's timers or sockets does not.
///
/// A write is done when the stream has taken the bytes, and flushed when they are sent. Reads and writes are copies: who
/// can, uses the stream itself. Closing the writing side is the end of what is sent, and receiving goes on.
///
/// A read or a write that is dropped, or cancelled by its scope, loses nothing.
///
/// # Examples
/// ```
/// # #[cfg(feature = "tokio-io")]
/// # fn main() -> std::io::Result<()> {
/// use proactor::compat::ForeignIo;
/// use proactor::net::{TcpListener, TcpStream};
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
///
/// proactor::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let ours = ForeignIo::new(TcpStream::connect(listener.local_addr()?).await?)?;
///     let mut theirs = ForeignIo::new(listener.accept().await?)?;
///     theirs.write_all(b"hello\nworld\n").await?;
///     theirs.flush().await?;
///     let mut lines = BufReader::new(ours).lines();
///     assert_eq!(lines.next_line().await?.as_deref(), Some("hello"));
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// # #[cfg(not(feature = "tokio-io"))]
/// # fn main() {}
/// ```
#[doc(alias = "Compat")]
#[doc(alias = "TokioIo")]
pub struct ForeignIo<S> {
    stream: Rc<S>,
    /// Received, and not read yet: never empty.
    chunk: Option<Chunk>,
    /// The end of what is sent, on its way.
    ending: Option<BoxFuture<'static, io::Result<()>>>,
    has_ended: bool,
}

impl<S: ByteStream + 'static> ForeignIo<S> {
    /// Wraps a stream that has [poll faces](ByteStream::poll_faces), as sockets and TLS streams have.
    ///
    /// # Errors
    /// Of kind [`Unsupported`](io::ErrorKind::Unsupported), if it has none.
    pub fn new(stream: S) -> io::Result<Self> {
        if stream.poll_faces().is_none() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this stream has no poll faces"));
        }
        Ok(Self { stream: Rc::new(stream), chunk: None, ending: None, has_ended: false })
    }

    /// The stream. What is received from it is missing here.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream, and what was received and not read.
    #[expect(clippy::missing_panics_doc, reason = "nobody else holds the stream")]
    pub fn into_inner(self) -> (S, Option<Chunk>) {
        drop(self.ending);
        let stream = Rc::into_inner(self.stream).expect("only the future that was just dropped held it too");
        (stream, self.chunk)
    }

    fn faces(&self) -> &dyn PollByteStream {
        self.stream.poll_faces().expect("`new` has looked")
    }

    /// What there is to be read; nothing at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.chunk.is_none() {
            let received = ready!(self.faces().poll_receive(cx))?;
            self.chunk = received.filter(|chunk| !chunk.is_empty());
        }
        Poll::Ready(Ok(self.chunk.as_deref().unwrap_or_default()))
    }

    fn take(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let chunk = self.chunk.as_mut().expect("so much was there to be read");
        if count == chunk.len() {
            self.chunk = None;
        } else {
            chunk.advance(count);
        }
    }

    /// Gives bytes to `put` until it takes no more; says how many it took. It waits only if there is not one.
    fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        mut put: impl FnMut(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(self.poll_fill(cx))?;
        let count = put(bytes);
        self.take(count);
        Poll::Ready(Ok(count))
    }

    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.faces().poll_flush(cx, HIGH))?;
        let count = bytes.len().min(HIGH);
        self.faces().write(Bytes::copy_from_slice(&bytes[..count]))?;
        Poll::Ready(Ok(count))
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.faces().poll_flush(cx, 0)
    }

    /// Sends all, and then the end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        if self.ending.is_none() {
            ready!(self.poll_sent(cx))?;
        }
        let stream = self.stream.clone();
        let ending = self.ending.get_or_insert_with(|| Box::pin(async move { stream.send_eof().await }));
        let ended = ready!(ending.as_mut().poll(cx));
        self.ending = None;
        self.has_ended = ended.is_ok();
        Poll::Ready(ended)
    }
}

#[cfg(feature = "futures-io")]
impl<S: ByteStream + 'static> futures_io::AsyncRead for ForeignIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_into(cx, |bytes| copy(bytes, buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_into(cx, |bytes| bufs.iter_mut().fold(0, |count, buf| count + copy(&bytes[count..], buf)))
    }
}

#[cfg(feature = "futures-io")]
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}

#[cfg(feature = "futures-io")]
impl<S: ByteStream + 'static> futures_io::AsyncBufRead for ForeignIo<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().poll_fill(cx)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.take(count);
    }
}

#[cfg(feature = "futures-io")]
impl<S: ByteStream + 'static> futures_io::AsyncWrite for ForeignIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_put(cx, first)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)
    }
}

#[cfg(feature = "tokio-io")]
impl<S: ByteStream + 'static> tokio::io::AsyncRead for ForeignIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_into(cx, |bytes| {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..count]);
            count
        });
        read.map_ok(drop)
    }
}

#[cfg(feature = "tokio-io")]
impl<S: ByteStream + 'static> tokio::io::AsyncBufRead for ForeignIo<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().poll_fill(cx)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.take(count);
    }
}

#[cfg(feature = "tokio-io")]
impl<S: ByteStream + 'static> tokio::io::AsyncWrite for ForeignIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for ForeignIo<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignIo").field("stream", &self.stream).finish_non_exhaustive()
    }
}
