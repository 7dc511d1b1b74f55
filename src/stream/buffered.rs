//! A byte stream with a buffer of its own: exact numbers of bytes, and parts that end with a delimiter.

use std::cell::RefCell;
use std::future::Future;
use std::io;

use bytes::{Bytes, BytesMut};

use crate::buf::{Chunk, IoBuf};
use crate::error::{DelimiterNotFound, Failed, IncompleteRead};
use crate::stream::{
    AsyncResource, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, TypedAttributeProvider,
};
use crate::sync::ResourceGuard;

/// Wraps a byte stream and receives from it what a protocol asks for: so many bytes, or all up to a delimiter. Around a
/// stream that sends too, it does that as well.
///
/// # Examples
/// ```
/// use proactor::net::{TcpListener, TcpStream};
/// use proactor::stream::BufferedByteStream;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let client = TcpStream::connect(listener.local_addr()?).await?;
///     client.send("LEN 5\r\nhello and more").await?;
///
///     let stream = BufferedByteStream::new(listener.accept().await?);
///     let line = stream.receive_until("\r\n", 100).await?;
///     assert_eq!(line, "LEN 5");
///     assert_eq!(stream.receive_exactly(5).await?, "hello");
///     assert_eq!(stream.buffered(), " and more".len());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct BufferedByteReceiveStream<S> {
    stream: S,
    buffer: RefCell<BytesMut>,
    guard: ResourceGuard,
}

/// The same, around a stream that sends too.
pub type BufferedByteStream<S> = BufferedByteReceiveStream<S>;

impl<S> BufferedByteReceiveStream<S> {
    /// A buffer, empty, in front of `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: RefCell::default(), guard: ResourceGuard::new("receiving from") }
    }

    /// The wrapped stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The wrapped stream, and what was received but not taken.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.buffer.into_inner().freeze())
    }

    /// Puts bytes behind those in the buffer, as if they had come.
    pub fn feed_data(&self, data: &[u8]) {
        self.buffer.borrow_mut().extend_from_slice(data);
    }

    /// How many bytes the buffer holds.
    pub fn buffered(&self) -> usize {
        self.buffer.borrow().len()
    }

    fn take(&self, count: usize) -> Bytes {
        self.buffer.borrow_mut().split_to(count).freeze()
    }

    fn incomplete(&self, expected: Option<usize>) -> io::Error {
        IncompleteRead::new(std::mem::take(&mut *self.buffer.borrow_mut()).into(), expected).into()
    }
}

impl<S: ByteReceiveStream> BufferedByteReceiveStream<S> {
    /// Waits for more bytes; false at the end of the stream.
    async fn fill(&self) -> io::Result<bool> {
        let chunk = self.stream.receive().await?;
        Ok(chunk.map(|chunk| self.feed_data(&chunk)).is_some())
    }

    /// Completes with `count` bytes.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what came stays in the buffer.
    ///
    /// # Errors
    /// [`IncompleteRead`] with what there was, if the stream ends before; [`Busy`](crate::Busy), while another task
    /// receives; those of the stream.
    #[doc(alias = "readexactly")]
    pub fn receive_exactly(&self, count: usize) -> impl Future<Output = io::Result<Bytes>> + use<'_, S> {
        async move {
            let _receiving = self.guard.enter()?;
            while self.buffered() < count {
                if !self.fill().await? {
                    return Err(self.incomplete(Some(count)));
                }
            }
            Ok(self.take(count))
        }
    }

    /// Completes with the bytes in front of the next `delimiter`, and takes that away too.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what came stays in the buffer.
    ///
    /// # Errors
    /// [`DelimiterNotFound`], if there are `max_bytes` bytes without one: they stay in the buffer. [`IncompleteRead`] with
    /// what there was, if the stream ends before. `InvalidInput`, if the delimiter is empty. [`Busy`](crate::Busy), while
    /// another task receives; those of the stream.
    #[doc(alias = "readuntil")]
    #[doc(alias = "readline")]
    pub fn receive_until<D: AsRef<[u8]>>(
        &self,
        delimiter: D,
        max_bytes: usize,
    ) -> impl Future<Output = io::Result<Bytes>> + use<'_, S, D> {
        async move {
            let _receiving = self.guard.enter()?;
            let delimiter = delimiter.as_ref();
            if delimiter.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the delimiter is empty"));
            }
            let mut searched = 0;
            loop {
                let found = find(&self.buffer.borrow()[searched..], delimiter);
                if let Some(at) = found {
                    let part = self.take(searched + at);
                    drop(self.take(delimiter.len()));
                    return Ok(part);
                }
                if self.buffered() >= max_bytes {
                    return Err(DelimiterNotFound::new(max_bytes).into());
                }
                // The first bytes of a delimiter may be there already.
                searched = (self.buffered() + 1).saturating_sub(delimiter.len());
                if !self.fill().await? {
                    return Err(self.incomplete(None));
                }
            }
        }
    }

    /// Completes with the next bytes, at most `max_bytes`; or with `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Busy`](crate::Busy), while another task receives; those of the stream.
    ///
    /// # Panics
    /// If `max_bytes` is 0.
    pub fn receive_up_to(
        &self,
        max_bytes: usize,
    ) -> impl Future<Output = io::Result<Option<Chunk>>> + use<'_, S> {
        assert!(max_bytes > 0, "at least one byte is received");
        async move {
            let _receiving = self.guard.enter()?;
            if self.buffered() > 0 {
                let count = self.buffered().min(max_bytes);
                return Ok(Some(Chunk::from(Vec::from(self.take(count)))));
            }
            // Straight from the stream: no copy.
            let Some(mut chunk) = self.stream.receive().await? else { return Ok(None) };
            if chunk.len() > max_bytes {
                let head = chunk.split_to(max_bytes);
                self.feed_data(&chunk);
                chunk = head;
            }
            Ok(Some(chunk))
        }
    }
}

fn find(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    match delimiter {
        [byte] => bytes.iter().position(|other| other == byte),
        _ => bytes.windows(delimiter.len()).position(|window| window == delimiter),
    }
}

impl<S: AsyncResource> AsyncResource for BufferedByteReceiveStream<S> {
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.stream.aclose()
    }
}

impl<S: TypedAttributeProvider> TypedAttributeProvider for BufferedByteReceiveStream<S> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.stream.extra_attributes()
    }
}

impl<S: ByteReceiveStream> ByteReceiveStream for BufferedByteReceiveStream<S> {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        self.receive_up_to(usize::MAX)
    }
}

impl<S: ByteStream> ByteSendStream for BufferedByteReceiveStream<S> {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        self.stream.send(buf)
    }
}

impl<S: ByteStream> ByteStream for BufferedByteReceiveStream<S> {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        self.stream.send_eof()
    }
}
