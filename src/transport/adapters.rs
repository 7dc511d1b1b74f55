//! From byte streams to transports, and back.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf};
use crate::error::{Closed, Failed, MayBeCancelled};
use crate::net::shared::Shared;
use crate::stream::link::Link;
use crate::stream::{
    AsyncResource, Attributes, BoxFuture, ByteReceiveStream, ByteSendStream, ByteStream, PollByteStream,
    TypedAttributeProvider,
};
use crate::sync::ResourceGuard;
use crate::transport::below::{Below, Carrier};
use crate::transport::connect::attach;
use crate::transport::handle::Transport;
use crate::transport::protocol::{IntoProtocol, Protocol};
use crate::transport::reader::{STREAM_LIMIT, StreamReader};
use crate::transport::writer::{StreamReaderProtocol, StreamWriter};

/// How much is received at a time.
const PIECE: usize = 64 << 10;

/// Makes a transport of a byte stream of any kind, with the protocol that `protocol_factory` makes: of a TLS stream, of one
/// in memory or over a child's pipes, of a type of your own. Complete means that the protocol was told that the connection
/// is made.
///
/// For streams of [`net`](crate::net), [`connect_accepted_socket`](crate::transport::connect_accepted_socket) does the same
/// with less in between.
///
/// # Cancel safety
/// *Data already received is lost*, and the stream dropped.
///
/// # Errors
/// If it is cancelled.
///
/// # Panics
/// If the factory does.
///
/// # Examples
/// ```
/// use proactor::net::{UnixStream, pipe};
/// use proactor::stream::StapledByteStream;
/// use proactor::transport::{Protocol, Transport, connect_stream};
///
/// struct Greet;
/// impl Protocol for Greet {
///     fn connection_made(&self, transport: &Transport) {
///         transport.write("hello").ok();
///         transport.close();
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (out, input) = pipe().await?;
///     let (never, _kept) = pipe().await?;
///     connect_stream(|| Greet, StapledByteStream::new(input, never)).await?;
///     assert_eq!(&out.receive().await?.unwrap()[..], b"hello");
///     assert!(out.receive().await?.is_none());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[doc(alias = "create_connection")]
pub fn connect_stream<S: ByteStream + 'static, P: IntoProtocol>(
    protocol_factory: impl FnOnce() -> P,
    stream: S,
) -> impl Future<Output = io::Result<(Transport, Rc<P>)>> {
    attach(protocol_factory, Below::Stream(Rc::new(Over(Link::new(stream)))))
}

/// A byte stream of any kind that carries a transport.
struct Over<S>(Link<S>);

impl<S: ByteStream + 'static> Over<S> {
    async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.0.poll_flush(cx, 0)).await
    }
}

impl<S: ByteStream + 'static> PollByteStream for Over<S> {
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.0.poll_receive(cx)
    }

    fn write(&self, data: Bytes) -> io::Result<usize> {
        if data.is_empty() { Ok(self.0.queued()) } else { self.0.write(data) }
    }

    fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx, below)
    }
}

impl<S: ByteStream + 'static> Carrier for Over<S> {
    fn faces(&self) -> &dyn PollByteStream {
        self
    }

    fn attributes(&self) -> Attributes<'_> {
        self.0.stream().extra_attributes()
    }

    fn can_write_eof(&self) -> bool {
        true
    }

    fn send_eof(self: Rc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            self.flush().await?;
            self.0.stream().send_eof().await
        })
    }

    fn base(&self) -> Option<&Rc<Shared>> {
        None
    }

    fn close(self: Rc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let sent = self.flush().await;
            let closed = self.0.stream().aclose().await;
            sent.and(closed)
        })
    }
}

/// A byte stream that is a transport below: for what takes streams, where there is a transport.
///
/// Made of a [`StreamReader`] and its [`StreamWriter`], or of a [transport](Transport::into_stream). One task may receive
/// while another sends; a second one in the same direction is told [`Busy`](crate::Busy). A send completes when the
/// transport has taken the bytes and no more waits than its low mark. Dropping it closes the transport, after what was
/// written is sent.
///
/// # Examples
/// ```
/// use proactor::stream::{ByteReceiveStream, ByteSendStream};
/// use proactor::transport::{TransportStream, open_connection, start_server};
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let echo = async |reader, writer| {
///         let stream = TransportStream::new(reader, writer);
///         while let Some(chunk) = stream.receive().await? {
///             stream.send(chunk).await?;
///         }
///         Ok::<_, std::io::Error>(())
///     };
///     let server = start_server(echo, "127.0.0.1:0").await?;
///     let (reader, writer) = open_connection(server.sockets()[0].as_ip().unwrap()).await?;
///     let stream = TransportStream::new(reader, writer);
///     stream.send("hello").await?;
///     assert_eq!(&stream.receive().await?.unwrap()[..], b"hello");
///     server.close();
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct TransportStream {
    reader: StreamReader,
    writer: StreamWriter,
    sending: ResourceGuard,
    is_closed: Cell<bool>,
}

impl TransportStream {
    /// Of both sides of a connection. What the reader holds is received first.
    pub fn new(reader: StreamReader, writer: StreamWriter) -> Self {
        Self { reader, writer, sending: ResourceGuard::new("sending to"), is_closed: Cell::new(false) }
    }

    /// Both sides, to be used on their own.
    pub fn into_parts(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }

    /// The transport below.
    pub fn transport(&self) -> &Transport {
        self.writer.transport()
    }

    fn check_open(&self) -> io::Result<()> {
        if self.is_closed.get() { Err(Closed::new("the stream").into()) } else { Ok(()) }
    }
}

impl From<(StreamReader, StreamWriter)> for TransportStream {
    fn from((reader, writer): (StreamReader, StreamWriter)) -> Self {
        Self::new(reader, writer)
    }
}

impl Transport {
    /// Makes a byte stream of a live connection, which gets another protocol for that: the one before is told nothing more.
    pub fn into_stream(self) -> TransportStream {
        let reader = StreamReader::new(STREAM_LIMIT);
        reader.set_transport(&self);
        let protocol = Rc::new(StreamReaderProtocol::new(reader.clone()));
        if self.state.is_at_eof.get() || self.is_closing() {
            reader.feed_eof();
        }
        if self.state.course.is_writing_paused.get() {
            protocol.clear_room();
        }
        if self.state.course.is_over() {
            protocol.connection_lost(None); // nobody else tells it
        }
        self.set_protocol(protocol.clone());
        self.resume_reading();
        TransportStream::new(reader, protocol.writer(self))
    }
}

impl AsyncResource for TransportStream {
    /// Sends what was written, then closes, as [`Transport::close`] does.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        /// Cut short, it does not wait for what is not sent.
        struct Abort<'a>(Option<&'a Transport>);
        impl Drop for Abort<'_> {
            fn drop(&mut self) {
                if let Some(transport) = self.0 {
                    transport.abort();
                }
            }
        }
        async move {
            if self.is_closed.replace(true) {
                return Ok(());
            }
            let mut abort = Abort(Some(self.transport()));
            self.writer.close();
            self.reader.set_exception(Closed::new("the stream").into());
            let closed = self.writer.wait_closed().await;
            abort.0 = None;
            closed
        }
    }
}

impl TypedAttributeProvider for TransportStream {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.transport().extra_attributes()
    }
}

impl ByteReceiveStream for TransportStream {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        async move {
            self.check_open()?;
            let read = self.reader.read(PIECE).await;
            // A close tells whoever waits here.
            self.check_open()?;
            let data = match read {
                // What came before the connection broke is received first.
                Err(error) if !error.is_cancelled() => self.reader.take_left().ok_or(error)?,
                read => read?,
            };
            Ok(if data.is_empty() { None } else { Some(Chunk::from(Vec::from(data))) })
        }
    }
}

impl ByteSendStream for TransportStream {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        async move {
            let mut done = 0;
            let sent = async {
                self.check_open()?;
                let _sending = self.sending.enter()?;
                if self.writer.is_closing() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                self.writer.write(Bytes::copy_from_slice(buf.as_slice()))?;
                done = buf.as_slice().len();
                self.writer.drain().await
            };
            match sent.await {
                Ok(()) => Ok(buf),
                Err(error) => Err(Failed::new(error, buf, done)),
            }
        }
    }
}

impl ByteStream for TransportStream {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            self.check_open()?;
            let _sending = self.sending.enter()?;
            self.writer.write_eof()
        }
    }
}

impl fmt::Debug for TransportStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportStream").field("transport", self.transport()).finish_non_exhaustive()
    }
}
