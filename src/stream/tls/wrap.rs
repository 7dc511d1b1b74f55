//! How a stream becomes a TLS stream.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};

use crate::cancel::fail_after;
use crate::net::names::in_pool;
use crate::net::shared::Shared;
use crate::runtime::core;
use crate::runtime::scope::What;
use crate::stream::ByteStream;
use crate::stream::tls::config::{default_client_config, server_name};
use crate::stream::tls::kernel;
use crate::stream::tls::session::Session;
use crate::stream::tls::stream::{FAREWELL, TlsStream};

/// The limit of a handshake where none was given.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a failed handshake waits for the peer to take the alert that says why.
const ALERT: Duration = Duration::from_secs(1);

/// A handshake failed, or took too long: why, and the stream below, which is of little further use.
#[derive(Debug)]
#[non_exhaustive]
pub struct HandshakeFailed<S> {
    /// What went wrong.
    pub error: io::Error,
    /// The stream below.
    pub stream: S,
}

impl<S> fmt::Display for HandshakeFailed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS handshake failed: {}", self.error)
    }
}

impl<S: fmt::Debug> std::error::Error for HandshakeFailed<S> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<S> From<HandshakeFailed<S>> for io::Error {
    fn from(failed: HandshakeFailed<S>) -> Self {
        failed.error
    }
}

enum Side {
    Client { name: String, config: Option<Arc<ClientConfig>> },
    Server { config: Arc<ServerConfig> },
}

/// A stream that is to become a TLS stream, ready for [`handshake`](Self::handshake).
#[must_use = "nothing happens until `handshake` is awaited"]
pub struct Wrap<S> {
    stream: S,
    side: Side,
    standard_compatible: bool,
    limit: Duration,
    farewell: Duration,
    received: Vec<u8>,
    kernel_send: bool,
    /// The socket of the stream below, where that does not say it itself.
    socket: Option<Rc<Shared>>,
}

impl<S: ByteStream + 'static> TlsStream<S> {
    /// Makes `stream` the client's side of a TLS connection to the server `name`, whose certificate is checked against
    /// that name, and against the authorities that this system trusts if no other
    /// [configuration](Wrap::client_config) is given.
    ///
    /// # Examples
    /// ```no_run
    /// use proactor::net::TcpStream;
    /// use proactor::stream::tls::TlsStream;
    /// use proactor::stream::{ByteReceiveStream, ByteSendStream};
    ///
    /// fn main() -> std::io::Result<()> {
    ///     proactor::run(async {
    ///         let tcp = TcpStream::connect(("example.org", 443)).await?;
    ///         // Servers of HTTP close without ending TLS; there the length says what is missing.
    ///         let tls = TlsStream::client(tcp, "example.org").standard_compatible(false).handshake().await?;
    ///         tls.send("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n").await?;
    ///         while let Some(chunk) = tls.receive().await? {
    ///             print!("{}", String::from_utf8_lossy(&chunk));
    ///         }
    ///         Ok::<_, std::io::Error>(())
    ///     })
    /// }
    /// ```
    #[doc(alias = "wrap")]
    #[doc(alias = "start_tls")]
    pub fn client(stream: S, name: &str) -> Wrap<S> {
        Wrap::new(stream, Side::Client { name: name.to_owned(), config: None })
    }

    /// Makes `stream` the server's side of a TLS connection.
    ///
    /// # Examples
    /// ```no_run
    /// use std::sync::Arc;
    /// use proactor::net::{TcpListener, TcpStream};
    /// use proactor::stream::tls::{TlsStream, load_cert_chain, server_config};
    /// use proactor::stream::{AsyncResource, ByteReceiveStream, ByteSendStream};
    ///
    /// fn main() -> std::io::Result<()> {
    ///     let (chain, key) = load_cert_chain("cert.pem", "key.pem")?;
    ///     let config = Arc::new(server_config(chain, key)?);
    ///     proactor::run(async {
    ///         let listener = TcpListener::bind("127.0.0.1:7000").await?;
    ///         let echo = async move |tcp: TcpStream| {
    ///             let tls = TlsStream::server(tcp, config.clone()).handshake().await?;
    ///             while let Some(chunk) = tls.receive().await? {
    ///                 tls.send(chunk).await?;
    ///             }
    ///             tls.aclose().await
    ///         };
    ///         listener.serve(echo).max_connections(1000).until_cancelled().await
    ///     })
    /// }
    /// ```
    #[doc(alias = "wrap")]
    #[doc(alias = "start_tls")]
    pub fn server(stream: S, config: Arc<ServerConfig>) -> Wrap<S> {
        Wrap::new(stream, Side::Server { config })
    }
}

impl<S: ByteStream + 'static> Wrap<S> {
    fn new(stream: S, side: Side) -> Self {
        Self {
            stream,
            side,
            standard_compatible: true,
            limit: LIMIT,
            farewell: FAREWELL,
            received: Vec::new(),
            kernel_send: false,
            socket: None,
        }
    }

    /// The configuration of a client; a server has been given one already.
    #[doc(alias = "ssl_context")]
    pub fn client_config(mut self, new: Arc<ClientConfig>) -> Self {
        if let Side::Client { config, .. } = &mut self.side {
            *config = Some(new);
        }
        self
    }

    /// Whether the end of TLS is told to the peer when the stream is closed, and required of it: an end of the connection
    /// without it is then an error, [`Truncated`](crate::stream::tls::Truncated), else the end of the stream like any
    /// other. Default: yes. Protocols that say themselves how much they send may do without; HTTP is one.
    pub fn standard_compatible(mut self, on: bool) -> Self {
        self.standard_compatible = on;
        self
    }

    /// How long the handshake may take. Default: a minute.
    #[doc(alias = "ssl_handshake_timeout")]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long a close may take: the sending of what is left, and the wait for the peer to end TLS too. Default: half a
    /// minute.
    #[doc(alias = "ssl_shutdown_timeout")]
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.farewell = limit;
        self
    }

    /// Bytes of the peer's TLS that were received from the stream already: where a connection becomes a TLS one in its
    /// middle, the peer may have been quick.
    pub fn received(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.received.extend_from_slice(bytes.as_ref());
        self
    }

    /// Whether the kernel shall encrypt what is sent, from the end of the handshake on: the bytes go to the socket as they
    /// are, and [files](TlsStream::send_file) without passing through the program. Default: no.
    ///
    /// It does so where it can, else nothing changes; [`TlsAttribute::KERNEL_SEND`](crate::stream::tls::TlsAttribute) says
    /// which it is. That needs a [`TcpStream`](crate::net::TcpStream), a configuration of this module or with a
    /// [provider](crate::stream::tls::kernel_send_provider) that tells its keys, and a kernel with its TLS module loaded
    /// (`modprobe tls`) that knows the cipher: AES-GCM, and CHACHA20-POLY1305.
    ///
    /// There is no way back: [`unwrap`](TlsStream::unwrap) fails, and a stream that is dropped without `aclose` may lose
    /// the end of what a peer has not taken. `aclose` waits until the kernel has room for that; where it does not wait for
    /// the peer too, and the send buffer is smaller than a record, the end may be lost all the same. New keys are for kernels
    /// that take them: on others, once a peer asks for some, or the keys are [used up](TlsStream::renew_keys), sends fail.
    ///
    /// Records are as long as the kernel likes, up to 16 KiB: a `max_fragment_size` of the configuration is for what `rustls`
    /// sends. What is called during the handshake (verifiers, resolvers, session stores) may work on other connections of
    /// `rustls`, but if it does so then and there, the kernel is not asked.
    ///
    /// A network adapter encrypts instead of the processor if it can, and was told to (`ethtool -K … tls-hw-tx-offload on`).
    /// Linux lets it do so for TLS 1.2 only, which has no new keys.
    ///
    /// # Kernel
    /// `TCP_ULP` and `TLS_TX` (4.13; TLS 1.3 5.1, CHACHA20-POLY1305 5.11, new keys 6.14); then as a TCP stream sends, and
    /// `IORING_OP_SENDMSG` for what TLS has to say itself.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn demo(tcp: proactor::net::TcpStream) -> std::io::Result<()> {
    /// use proactor::stream::TypedAttributeProvider;
    /// use proactor::stream::tls::{TlsAttribute, TlsStream};
    ///
    /// let tls = TlsStream::client(tcp, "example.org").kernel_send(true).handshake().await?;
    /// println!("the kernel sends: {:?}", tls.extra(TlsAttribute::KERNEL_SEND));
    /// # Ok(()) }
    /// ```
    ///
    /// # References
    /// [Kernel TLS](https://docs.kernel.org/networking/tls.html)
    #[doc(alias = "ktls")]
    #[doc(alias = "OP_ENABLE_KTLS")]
    pub fn kernel_send(mut self, on: bool) -> Self {
        self.kernel_send = on;
        self
    }

    /// The socket that the kernel can send on, if all bytes of the stream below go through it as they are.
    pub(crate) fn socket(mut self, socket: Option<Rc<Shared>>) -> Self {
        self.socket = socket;
        self
    }

    /// Speaks with the peer until both know the keys.
    ///
    /// # Cancel safety
    /// *Data already received is lost*, and the stream with it.
    ///
    /// # Errors
    /// With the stream: a [`rustls::Error`] inside of an `io::Error` of kind `InvalidData`, if the peer is not who it
    /// should be, or does not speak TLS; [`TimedOut`](crate::TimedOut); `InvalidInput`, if the name of the server is none;
    /// those of the stream.
    #[doc(alias = "do_handshake")]
    pub fn handshake(self) -> impl Future<Output = Result<TlsStream<S>, HandshakeFailed<S>>> {
        async move {
            let mut session = match session(self.side).await {
                Ok(session) => session,
                Err(error) => return Err(HandshakeFailed { error, stream: self.stream }),
            };
            let socket = self.socket.or_else(|| kernel::socket(&self.stream)).filter(|_| self.kernel_send);
            if socket.is_some() {
                session.note_keys();
            }
            let tls = TlsStream::new(self.stream, session, self.standard_compatible, self.farewell);
            if !self.received.is_empty() {
                tls.take_in(&self.received);
            }
            match fail_after(self.limit, poll_fn(|cx| tls.poll_handshake(cx))).await {
                Ok(()) => {
                    if let Some(shared) = socket {
                        tls.offer_to_kernel(shared);
                    }
                    Ok(tls)
                }
                Err(error) => {
                    // The alert that says why, if the peer takes it.
                    let _ = fail_after(ALERT, poll_fn(|cx| tls.link.poll_flush(cx, 0))).await;
                    Err(HandshakeFailed { error, stream: tls.link.into_stream() })
                }
            }
        }
    }
}

async fn session(side: Side) -> io::Result<Session> {
    match side {
        Side::Server { config } => Session::server(config),
        Side::Client { name, config } => {
            let name = server_name(&name)?;
            let config = match config {
                Some(config) => config,
                // It reads files.
                None => {
                    let driver = core::current().driver.clone();
                    in_pool(&driver, What(&"the trusted certificates"), default_client_config).await??
                }
            };
            Session::client(config, name)
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Wrap<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrap")
            .field("stream", &self.stream)
            .field("server", &matches!(self.side, Side::Server { .. }))
            .finish_non_exhaustive()
    }
}
