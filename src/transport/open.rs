//! Streams: a reader and a writer for each connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::net::addrs::IntoAddrs;
use crate::net::late::Late;
use crate::net::{Family, Stream};
use crate::transport::below::Below;
use crate::transport::connect::{Connect, attach};
use crate::transport::reader::{STREAM_LIMIT, StreamReader};
use crate::transport::server::{CreateServer, create_server, create_unix_server};
#[cfg(feature = "tls")]
use crate::transport::tls::Tls;
use crate::transport::writer::{StreamReaderProtocol, StreamWriter};

/// Connects by TCP and gives both sides of the connection. The future has options; for others, see
/// [`create_connection`](crate::transport::create_connection) with a [`StreamReaderProtocol`], or
/// [`connect_tcp`](crate::net::connect_tcp) and [`open_stream`].
///
/// # Cancel safety
/// *Nothing is lost*: an unfinished connection is closed.
///
/// # Errors
/// As [`create_connection`](crate::transport::create_connection).
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use proactor::transport::{open_connection, start_server};
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let server = start_server(
///         async |reader, writer| {
///             let line = reader.readline().await?;
///             writer.write(line)?;
///             writer.drain().await
///         },
///         "127.0.0.1:0",
///     );
///     let server = server.await?;
///     let (reader, writer) = open_connection(server.sockets()[0].as_ip().unwrap()).await?;
///     writer.write("hello\n")?;
///     assert_eq!(&reader.readline().await?[..], b"hello\n");
///     writer.close();
///     writer.wait_closed().await?;
///     server.close();
///     server.wait_closed().await
/// })
/// # }
/// ```
#[track_caller]
pub fn open_connection(addrs: impl IntoAddrs) -> OpenConnection {
    OpenConnection(Late::Asked((STREAM_LIMIT, Connect::tcp(addrs))))
}

/// Connects to the UNIX listener at `path` and gives both sides of the connection. The future has options.
///
/// # Cancel safety
/// *Nothing is lost*: an unfinished connection is closed.
///
/// # Errors
/// As [`create_unix_connection`](crate::transport::create_unix_connection).
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn open_unix_connection(path: impl AsRef<Path>) -> OpenConnection {
    OpenConnection(Late::Asked((STREAM_LIMIT, Connect::unix(path))))
}

/// The future of [`open_connection`] and [`open_unix_connection`].
#[must_use = "futures do nothing unless awaited"]
pub struct OpenConnection(Late<(usize, Connect), io::Result<(StreamReader, StreamWriter)>>);

impl OpenConnection {
    /// The limit of the reader. Default: [`STREAM_LIMIT`].
    ///
    /// # Panics
    /// If it is zero.
    pub fn limit(self, bytes: usize) -> Self {
        assert!(bytes > 0, "the limit of a StreamReader is above zero");
        Self(self.0.set(|(limit, _)| *limit = bytes))
    }

    /// Speaks TLS.
    #[cfg(feature = "tls")]
    #[doc(alias = "ssl")]
    pub fn tls(self, tls: Tls) -> Self {
        Self(self.0.set(|(_, connect)| connect.tls = Some(tls)))
    }
}

impl Future for OpenConnection {
    type Output = io::Result<(StreamReader, StreamWriter)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0
            .poll(cx, async |(limit, connect): (usize, Connect)| sides(limit, connect.connect().await?).await)
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConnection").finish_non_exhaustive()
    }
}

/// Both sides of a connection.
async fn sides(limit: usize, below: Below) -> io::Result<(StreamReader, StreamWriter)> {
    let reader = StreamReader::new(limit);
    let fed = reader.clone();
    let (transport, protocol) = attach(move || StreamReaderProtocol::new(fed), below).await?;
    Ok((reader, protocol.writer(transport)))
}

/// Gives both sides of a stream that is connected already, with a reader that has this limit.
///
/// # Cancel safety
/// *Data already received is lost*, and the connection closed.
///
/// # Errors
/// If it is cancelled.
///
/// # Panics
/// If the limit is zero.
#[doc(alias = "open_connection")]
pub fn open_stream<F: Family>(
    stream: Stream<F>,
    limit: usize,
) -> impl Future<Output = io::Result<(StreamReader, StreamWriter)>> {
    assert!(limit > 0, "the limit of a StreamReader is above zero");
    async move { sides(limit, stream.into_shared().into()).await }
}

/// Listens by TCP and gives both sides of each connection to `handler`, in a task of its own. The future has options. For
/// another limit of the readers, give [`StreamReaderProtocol::serving`] to [`create_server`].
///
/// A handler that returns or panics drops its writer, which closes the connection.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// As [`create_server`].
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn start_server<H, E>(handler: H, addrs: impl IntoAddrs) -> CreateServer
where
    H: AsyncFn(StreamReader, StreamWriter) -> Result<(), E> + 'static,
    E: 'static,
{
    create_server(StreamReaderProtocol::serving(STREAM_LIMIT, handler), addrs)
}

/// Listens on the UNIX socket at `path`, as [`create_unix_server`] does, and gives both sides of each connection to
/// `handler`, as [`start_server`] does.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// As [`create_unix_server`].
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn start_unix_server<H, E>(handler: H, path: impl AsRef<Path>) -> CreateServer
where
    H: AsyncFn(StreamReader, StreamWriter) -> Result<(), E> + 'static,
    E: 'static,
{
    create_unix_server(StreamReaderProtocol::serving(STREAM_LIMIT, handler), path)
}
