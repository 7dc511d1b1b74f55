//! Connections whose events go to a protocol, made by this side.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::net::addrs::IntoAddrs;
use crate::net::late::Late;
use crate::net::{ConnectTcp, Family, IpVersion, Stream, UnixStream, connect_tcp};
use crate::stream::BoxFuture;
use crate::transport::below::{Below, Lower};
use crate::transport::handle::Transport;
use crate::transport::protocol::IntoProtocol;
use crate::transport::pump::start;
#[cfg(feature = "tls")]
use crate::transport::tls::Tls;

/// Connects by TCP and makes a transport of it, with the protocol that `protocol_factory` makes. The future has options.
/// Complete means that the protocol was told that the connection is made.
///
/// # Cancel safety
/// *Nothing is lost*: an unfinished connection is closed.
///
/// # Errors
/// As [`connect_tcp`].
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::cell::RefCell;
/// use proactor::buf::Chunk;
/// use proactor::net::TcpListener;
/// use proactor::transport::{Protocol, create_connection};
///
/// #[derive(Default)]
/// struct Collect(RefCell<Vec<u8>>);
///
/// impl Protocol for Collect {
///     fn data_received(&self, data: Chunk) {
///         self.0.borrow_mut().extend_from_slice(&data);
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let (transport, collect) = create_connection(Collect::default, listener.local_addr()?).await?;
///     let peer = listener.accept().await?;
///     peer.send("hello").await?;
///     transport.write("goodbye")?;
///     transport.close();
///     assert_eq!(&peer.receive().await?.unwrap()[..], b"goodbye");
///     # drop(collect);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn create_connection<P: IntoProtocol, M: FnOnce() -> P + 'static>(
    protocol_factory: M,
    addrs: impl IntoAddrs,
) -> CreateConnection<P, M> {
    CreateConnection(Late::Asked(Asked { factory: protocol_factory, connect: Connect::tcp(addrs) }))
}

/// Connects to the UNIX listener at `path` and makes a transport of it, with the protocol that `protocol_factory` makes.
/// Complete means that the protocol was told that the connection is made. Of the future's options only
/// [`tls`](CreateConnection::tls) changes anything.
///
/// # Cancel safety
/// *Nothing is lost*: an unfinished connection is closed.
///
/// # Errors
/// As [`UnixStream::connect`].
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn create_unix_connection<P: IntoProtocol, M: FnOnce() -> P + 'static>(
    protocol_factory: M,
    path: impl AsRef<Path>,
) -> CreateConnection<P, M> {
    CreateConnection(Late::Asked(Asked { factory: protocol_factory, connect: Connect::unix(path) }))
}

enum Place {
    /// Always there, but while an option is set.
    Tcp(Option<ConnectTcp>),
    Unix(BoxFuture<'static, io::Result<UnixStream>>),
}

/// What is to be connected, and how.
pub(super) struct Connect {
    place: Place,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl Connect {
    #[track_caller]
    pub(super) fn tcp(addrs: impl IntoAddrs) -> Self {
        Self::to(Place::Tcp(Some(connect_tcp(addrs))))
    }

    #[track_caller]
    pub(super) fn unix(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self::to(Place::Unix(Box::pin(UnixStream::connect(path))))
    }

    fn to(place: Place) -> Self {
        Self {
            place,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    fn change(&mut self, change: impl FnOnce(ConnectTcp) -> ConnectTcp) {
        if let Place::Tcp(connect) = &mut self.place {
            let changed = connect.take().map(change);
            *connect = changed;
        }
    }

    pub(super) async fn connect(self) -> io::Result<Below> {
        let below = match self.place {
            Place::Tcp(connect) => connect.expect("it is there").await?.into_shared().into(),
            Place::Unix(connect) => connect.await?.into_shared().into(),
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            return tls.on_top_of(below, &[]).await;
        }
        Ok(below)
    }
}

struct Asked<M> {
    factory: M,
    connect: Connect,
}

/// The future of [`create_connection`] and [`create_unix_connection`].
#[must_use = "futures do nothing unless awaited"]
pub struct CreateConnection<P, M>(Late<Asked<M>, io::Result<(Transport, Rc<P>)>>);

impl<P, M> CreateConnection<P, M> {
    fn with(self, change: impl FnOnce(ConnectTcp) -> ConnectTcp) -> Self {
        Self(self.0.set(|asked| asked.connect.change(change)))
    }

    /// Speaks TLS. The protocol is made when the handshake is done.
    #[cfg(feature = "tls")]
    #[doc(alias = "ssl")]
    pub fn tls(self, tls: Tls) -> Self {
        Self(self.0.set(|asked| asked.connect.tls = Some(tls)))
    }

    /// As [`ConnectTcp::local_addr`].
    pub fn local_addr(self, addrs: impl IntoAddrs) -> Self {
        self.with(|connect| connect.local_addr(addrs))
    }

    /// As [`ConnectTcp::ip_version`].
    #[doc(alias = "family")]
    pub fn ip_version(self, version: IpVersion) -> Self {
        self.with(|connect| connect.ip_version(version))
    }

    /// As [`ConnectTcp::attempt_delay`].
    #[doc(alias = "happy_eyeballs_delay")]
    pub fn attempt_delay(self, delay: Duration) -> Self {
        self.with(|connect| connect.attempt_delay(delay))
    }

    /// As [`ConnectTcp::interleave`].
    pub fn interleave(self, first_count: usize) -> Self {
        self.with(|connect| connect.interleave(first_count))
    }

    /// As [`ConnectTcp::time_limit`]. (For TLS, see [`Tls::handshake_timeout`](crate::transport::Tls::handshake_timeout).)
    pub fn time_limit(self, limit: Duration) -> Self {
        self.with(|connect| connect.time_limit(limit))
    }
}

impl<P: IntoProtocol, M: FnOnce() -> P + 'static> Future for CreateConnection<P, M> {
    type Output = io::Result<(Transport, Rc<P>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, async |asked: Asked<M>| attach(asked.factory, asked.connect.connect().await?).await)
    }
}

// Nothing in it is pinned.
impl<P, M> Unpin for CreateConnection<P, M> {}

impl<P, M> fmt::Debug for CreateConnection<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateConnection").finish_non_exhaustive()
    }
}

/// Makes a transport of a stream, whoever connected it, with the protocol that `protocol_factory` makes. Complete means
/// that the protocol was told that the connection is made.
///
/// # Cancel safety
/// *Data already received is lost*, and the connection closed.
///
/// # Errors
/// If it is cancelled.
///
/// # Panics
/// If the factory does.
#[doc(alias = "create_connection")]
pub fn connect_accepted_socket<F: Family, P: IntoProtocol>(
    protocol_factory: impl FnOnce() -> P,
    stream: Stream<F>,
) -> impl Future<Output = io::Result<(Transport, Rc<P>)>> {
    async move { attach(protocol_factory, stream.into_shared().into()).await }
}

/// As [`connect_accepted_socket`], for a connection that speaks TLS from its beginning on. Complete means that the
/// handshake is done and the protocol was told that the connection is made.
///
/// # Cancel safety
/// *Data already received is lost*, and the connection closed.
///
/// # Errors
/// As [`Wrap::handshake`](crate::stream::tls::Wrap::handshake); if it is cancelled.
///
/// # Panics
/// If the factory does.
#[cfg(feature = "tls")]
#[doc(alias = "create_connection")]
pub fn connect_accepted_tls<F: Family, P: IntoProtocol>(
    protocol_factory: impl FnOnce() -> P,
    stream: Stream<F>,
    tls: Tls,
) -> impl Future<Output = io::Result<(Transport, Rc<P>)>> {
    async move {
        let below = tls.on_top_of(stream.into_shared().into(), &[]).await?;
        attach(protocol_factory, below).await
    }
}

pub(super) async fn attach<P: IntoProtocol>(
    factory: impl FnOnce() -> P,
    below: Below,
) -> io::Result<(Transport, Rc<P>)> {
    let below = Lower::new(below); // it is closed if the factory panics
    let protocol = Rc::new(factory());
    let transport = start(below.into_below(), protocol.clone().into_protocol()).await?;
    Ok((transport, protocol))
}
