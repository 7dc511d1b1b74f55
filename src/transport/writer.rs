//! The writing side of a stream, and the protocol that joins both sides to a transport.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use crate::buf::Chunk;
use crate::runtime::{spawn, yield_now};
use crate::sync::Event;
use crate::transport::handle::Transport;
use crate::transport::protocol::Protocol;
use crate::transport::reader::{StreamReader, again};
#[cfg(feature = "tls")]
use crate::transport::tls::{Tls, start_tls};

type Connected = Box<dyn FnOnce(StreamReader, StreamWriter)>;

/// What a connection and the two sides of its stream know of each other.
struct Link {
    reader: StreamReader,
    connected: RefCell<Option<Connected>>,
    /// Set while nobody has to wait before writing more.
    room: Event,
    closed: Event,
    error: RefCell<Option<Rc<io::Error>>>,
}

impl Link {
    /// Why the connection was lost.
    fn error(&self) -> Option<io::Error> {
        let error = self.error.borrow().clone();
        error.as_deref().map(again) // its text is the program's code
    }
}

/// A protocol that feeds a [`StreamReader`], and knows when a [`StreamWriter`] has to wait.
pub struct StreamReaderProtocol {
    link: Rc<Link>,
}

impl StreamReaderProtocol {
    /// A protocol that feeds `reader`.
    pub fn new(reader: StreamReader) -> Self {
        Self::with(reader, None)
    }

    /// As [`new`](Self::new); `connected` is given both sides when the connection is made.
    #[doc(alias = "client_connected_cb")]
    pub fn on_connected(
        reader: StreamReader,
        connected: impl FnOnce(StreamReader, StreamWriter) + 'static,
    ) -> Self {
        Self::with(reader, Some(Box::new(connected)))
    }

    /// Makes protocols whose readers have this limit, and which give both sides of their connections to `handler`, in a
    /// task of its own each: what [`start_server`](crate::transport::start_server) gives to
    /// [`create_server`](crate::transport::create_server). A handler that returns or panics drops its writer, which closes
    /// the connection.
    ///
    /// # Panics
    /// If the limit is zero.
    pub fn serving<H, E>(limit: usize, handler: H) -> impl Fn() -> Self
    where
        H: AsyncFn(StreamReader, StreamWriter) -> Result<(), E> + 'static,
        E: 'static,
    {
        assert!(limit > 0, "the limit of a StreamReader is above zero");
        let handler = Rc::new(handler);
        move || {
            let handler = handler.clone();
            Self::on_connected(StreamReader::new(limit), move |reader, writer| {
                drop(spawn(async move { handler(reader, writer).await }));
            })
        }
    }

    fn with(reader: StreamReader, connected: Option<Connected>) -> Self {
        let room = Event::new();
        room.set();
        let link = Link {
            reader,
            connected: RefCell::new(connected),
            room,
            closed: Event::new(),
            error: RefCell::default(),
        };
        Self { link: Rc::new(link) }
    }

    /// Its transport has told somebody else to pause already.
    pub(super) fn clear_room(&self) {
        self.link.room.clear();
    }

    /// The writing side of `transport`, whose protocol this is.
    pub fn writer(&self, transport: Transport) -> StreamWriter {
        StreamWriter { transport, link: self.link.clone() }
    }
}

impl Protocol for StreamReaderProtocol {
    fn connection_made(&self, transport: &Transport) {
        self.link.reader.set_transport(transport);
        let connected = self.link.connected.take();
        if let Some(connected) = connected {
            connected(self.link.reader.clone(), self.writer(transport.clone()));
        }
    }

    fn data_received(&self, data: Chunk) {
        self.link.reader.feed_data(&data);
    }

    /// The connection stays open for writing.
    fn eof_received(&self) -> bool {
        self.link.reader.feed_eof();
        true
    }

    fn connection_lost(&self, error: Option<io::Error>) {
        let link = &self.link;
        match &error {
            None => link.reader.feed_eof(),
            Some(error) => link.reader.set_exception(again(error)),
        }
        link.error.replace(error.map(Rc::new));
        link.closed.set();
        link.room.set();
    }

    fn pause_writing(&self) {
        self.link.room.clear();
    }

    fn resume_writing(&self) {
        self.link.room.set();
    }
}

impl fmt::Debug for StreamReaderProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReaderProtocol").field("reader", &self.link.reader).finish_non_exhaustive()
    }
}

/// The writing side of a connection: see [`open_connection`](crate::transport::open_connection).
///
/// Dropping it closes the connection, after what was written is sent.
pub struct StreamWriter {
    transport: Transport,
    link: Rc<Link>,
}

impl StreamWriter {
    /// The transport beneath.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// As [`Transport::write`]. [`drain`](Self::drain) afterwards, or memory may fill with what a slow peer does not take.
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<()> {
        self.transport.write(data)
    }

    /// As [`Transport::writelines`].
    ///
    /// # Errors
    /// As there.
    pub fn writelines<B: Into<Bytes>>(&self, data: impl IntoIterator<Item = B>) -> io::Result<()> {
        self.transport.writelines(data)
    }

    /// As [`Transport::write_eof`].
    ///
    /// # Errors
    /// As there.
    pub fn write_eof(&self) -> io::Result<()> {
        self.transport.write_eof()
    }

    /// As [`Transport::can_write_eof`].
    pub fn can_write_eof(&self) -> bool {
        self.transport.can_write_eof()
    }

    /// Completes when more may be written: at once, unless more is queued than the high mark of the transport; then when
    /// it has shrunk to the low mark.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// Why the connection was lost, or `ConnectionReset` after it was closed.
    pub fn drain(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let (link, transport) = (self.link.clone(), self.transport.clone());
        async move {
            if let Some(error) = link.reader.exception() {
                return Err(error);
            }
            if transport.is_closing() {
                // What is lost is told in a later turn.
                yield_now().await;
            }
            if link.closed.is_set() {
                let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection is lost");
                return Err(link.error().unwrap_or_else(lost));
            }
            link.room.wait().await?;
            link.error().map_or(Ok(()), Err)
        }
    }

    /// Goes on with TLS; see [`Transport::start_tls`]. What the reader holds and nobody has read counts as TLS: a peer that
    /// sends something in plain behind its last word in plain is not believed.
    ///
    /// # Cancel safety
    /// *May have happened*, and the connection is closed.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "tls")]
    pub fn start_tls(&self, tls: Tls) -> impl Future<Output = io::Result<()>> + use<> {
        let (reader, state) = (self.link.reader.clone(), self.transport.state.clone());
        async move { start_tls(state, tls, reader.take_all()).await }
    }

    /// Sends what was written, then closes.
    pub fn close(&self) {
        self.transport.close();
    }

    /// Whether it is closing, or closed.
    pub fn is_closing(&self) -> bool {
        self.transport.is_closing()
    }

    /// Completes when the connection is over.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// Why it was lost, if it was not closed.
    pub fn wait_closed(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let link = self.link.clone();
        async move {
            link.closed.wait().await?;
            link.error().map_or(Ok(()), Err)
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.transport.close();
    }
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter").field("transport", &self.transport).finish_non_exhaustive()
    }
}
