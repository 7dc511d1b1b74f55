//! TLS on transports: from the beginning of a connection, or from its middle on.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};

use crate::cancel::fail_after;
use crate::error::{Busy, Closed, MayBeCancelled};
use crate::net::shared::Shared;
use crate::runtime::scope::What;
use crate::stream::AsyncResource;
use crate::stream::tls::TlsStream;
use crate::stream::{Attributes, BoxFuture, ByteStream, PollByteStream, TypedAttributeProvider};
use crate::transport::below::{Below, Carrier, Lower, Way};
use crate::transport::handle::{Eof, State, Transport};
use crate::transport::reader::again;

/// As asyncio has it.
const HANDSHAKE: Duration = Duration::from_secs(60);
const SHUTDOWN: Duration = Duration::from_secs(30);

const HANDSHAKE_TO_END: What = What(&"a TLS handshake");

#[derive(Clone)]
enum Side {
    Client { name: String, config: Option<Arc<ClientConfig>> },
    Server { config: Arc<ServerConfig> },
}

/// How a connection speaks TLS: for [`CreateConnection::tls`](crate::transport::CreateConnection::tls),
/// [`CreateServer::tls`](crate::transport::CreateServer::tls), [`OpenConnection::tls`](crate::transport::OpenConnection::tls)
/// and [`Transport::start_tls`].
///
/// The protocol is told of the connection after the handshake, and what it then writes and is given is plain. When the peer
/// ends TLS, `eof_received` is called and the transport closes, whatever that returns, as there is no half-closed state; an
/// end of the connection without an end of TLS is the error [`Truncated`](crate::stream::tls::Truncated). [`close`](Transport::close) sends what was
/// written, says goodbye and waits for the peer's goodbye; [`abort`](Transport::abort) does nothing of that. What TLS knows
/// (asyncio's `get_extra_info`) are [attributes](TypedAttributeProvider::extra) of the transport, named in
/// [`TlsAttribute`](crate::stream::tls::TlsAttribute).
#[doc(alias = "ssl")]
#[doc(alias = "sslcontext")]
#[derive(Clone)]
pub struct Tls {
    side: Side,
    handshake_timeout: Duration,
    shutdown_timeout: Duration,
    kernel_send: bool,
}

impl Tls {
    /// The client's side of a connection to the server `name`, whose certificate is checked against that name, and against
    /// the authorities that this system trusts if no other [configuration](Self::client_config) is given.
    #[doc(alias = "server_hostname")]
    pub fn client(name: impl Into<String>) -> Self {
        Self::new(Side::Client { name: name.into(), config: None })
    }

    /// The server's side.
    #[doc(alias = "server_side")]
    pub fn server(config: Arc<ServerConfig>) -> Self {
        Self::new(Side::Server { config })
    }

    fn new(side: Side) -> Self {
        Self { side, handshake_timeout: HANDSHAKE, shutdown_timeout: SHUTDOWN, kernel_send: false }
    }

    /// The configuration of a client; a server has been given one already.
    #[must_use]
    pub fn client_config(mut self, new: Arc<ClientConfig>) -> Self {
        if let Side::Client { config, .. } = &mut self.side {
            *config = Some(new);
        }
        self
    }

    /// How long the handshake may take. Default: a minute.
    #[doc(alias = "ssl_handshake_timeout")]
    #[must_use]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit;
        self
    }

    /// How long a close may take, from the call on: the sending of what was written, and the goodbyes. After that the
    /// transport is aborted, and `connection_lost` is told [`TimedOut`](crate::TimedOut). Default: half a minute.
    #[doc(alias = "ssl_shutdown_timeout")]
    #[must_use]
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.shutdown_timeout = limit;
        self
    }

    /// As [`Wrap::kernel_send`](crate::stream::tls::Wrap::kernel_send), for connections over TCP: whether the kernel shall
    /// encrypt what is written, if it can. [Files](Transport::sendfile) are read and written as ever. Default: no.
    #[doc(alias = "ktls")]
    #[must_use]
    pub fn kernel_send(mut self, on: bool) -> Self {
        self.kernel_send = on;
        self
    }

    /// Puts TLS on top of `below`; `received` came from there already.
    pub(super) async fn on_top_of(&self, below: Below, received: &[u8]) -> io::Result<Below> {
        let base = below.base().cloned();
        // With TLS below, what the socket gets is not what is sent here.
        let socket = if let Below::Socket(shared, Way::Both) = &below { Some(shared.clone()) } else { None };
        let lower = Lower::new(below);
        let wrap = match &self.side {
            Side::Server { config } => TlsStream::server(lower, config.clone()),
            Side::Client { name, config: None } => TlsStream::client(lower, name),
            Side::Client { name, config: Some(config) } => {
                TlsStream::client(lower, name).client_config(config.clone())
            }
        };
        let wrap = wrap.handshake_timeout(self.handshake_timeout).shutdown_timeout(self.shutdown_timeout);
        let wrap = wrap.kernel_send(self.kernel_send).socket(socket);
        let stream = wrap.received(received).handshake().await.map_err(|failed| failed.error)?;
        Ok(Below::Stream(Rc::new(Secure { stream, base, limit: self.shutdown_timeout })))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server", &matches!(self.side, Side::Server { .. }))
            .field("handshake_timeout", &self.handshake_timeout)
            .field("shutdown_timeout", &self.shutdown_timeout)
            .finish_non_exhaustive()
    }
}

/// A connection that speaks TLS.
struct Secure {
    stream: TlsStream<Lower>,
    base: Option<Rc<Shared>>,
    /// How long a close may take.
    limit: Duration,
}

impl Carrier for Secure {
    fn faces(&self) -> &dyn PollByteStream {
        &self.stream
    }

    fn attributes(&self) -> Attributes<'_> {
        self.stream.extra_attributes()
    }

    fn can_write_eof(&self) -> bool {
        false
    }

    fn send_eof(self: Rc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move { self.stream.send_eof().await })
    }

    fn base(&self) -> Option<&Rc<Shared>> {
        self.base.as_ref()
    }

    fn close(self: Rc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let close = async {
                poll_fn(|cx| self.faces().poll_flush(cx, 0)).await?;
                match self.stream.aclose().await {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut || error.is_cancelled() => {
                        Err(error)
                    }
                    // All was sent that was written: how the peer goes, or that it says no goodbye, is no matter any more.
                    _ => Ok(()),
                }
            };
            fail_after(self.limit, close).await
        })
    }
}

/// Aborts the transport if TLS is not started after all.
struct Starting(Option<Rc<State>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.force_close(None);
        }
    }
}

/// Starts TLS on a live transport; `received` is what came already and is of TLS.
pub(super) async fn start_tls(state: Rc<State>, tls: Tls, received: Vec<u8>) -> io::Result<()> {
    if state.course.is_closing() {
        return Err(Closed::new("the transport").into());
    }
    if state.eof.get() != Eof::No || state.is_at_eof.get() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    if state.files.get() > 0 {
        return Err(Busy::new("sending a file over").into());
    }
    let way = state.below().ok_or(Busy::new("starting TLS on"))?.way();
    if way != Way::Both {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut starting = Starting(Some(state.clone()));
    let (below, received) = state.take_below(received);
    let mut handshake = pin!(tls.on_top_of(below.expect("it was there"), &received));
    let shaken = poll_fn(|cx| {
        if state.course.is_lost() {
            return Poll::Ready(Err(Closed::new("the transport").into()));
        }
        state.outsider.register_for(cx, HANDSHAKE_TO_END);
        handshake.as_mut().poll(cx)
    });
    let shaken = shaken.await;
    state.outsider.clear();
    match shaken.map(|below| state.set_below(below)) {
        Ok(Ok(())) => {
            starting.0 = None;
            Ok(())
        }
        Ok(Err(below)) => {
            below.leave();
            Err(Closed::new("the transport").into())
        }
        Err(error) => {
            state.force_close(Some(again(&error)));
            Err(error)
        }
    }
}

impl Transport {
    /// Goes on with TLS, on a connection that was plain (or has TLS already: then with TLS inside of it). Complete means
    /// that both sides know the keys. The transport and its protocol stay the same; `connection_made` is not called again.
    ///
    /// What was written before is sent before, in plain; what the protocol was not given before belongs to TLS. Until it is
    /// complete nothing can be written, and the protocol is given nothing. If the handshake fails, the transport is aborted
    /// and `connection_lost` is told why.
    ///
    /// # Cancel safety
    /// *May have happened*, and the transport is aborted.
    ///
    /// # Errors
    /// As [`Wrap::handshake`](crate::stream::tls::Wrap::handshake). [`Closed`] if the transport is closing, `BrokenPipe`
    /// after [`write_eof`](Self::write_eof) or the end of what is received, [`Busy`] if TLS is being started already or a
    /// file is being sent, `Unsupported` for pipes.
    ///
    /// # Examples
    /// ```no_run
    /// use proactor::transport::{Protocol, Tls, create_connection};
    ///
    /// struct Silent;
    /// impl Protocol for Silent {}
    ///
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let (transport, _) = create_connection(|| Silent, ("mail.example.org", 25)).await?;
    ///     transport.write("STARTTLS\r\n")?;
    ///     // … when the server has answered that it is ready:
    ///     transport.start_tls(Tls::client("mail.example.org")).await?;
    ///     transport.write("EHLO me\r\n")
    /// })
    /// # }
    /// ```
    pub fn start_tls(&self, tls: Tls) -> impl Future<Output = io::Result<()>> + use<> {
        start_tls(self.state.clone(), tls, Vec::new())
    }
}
