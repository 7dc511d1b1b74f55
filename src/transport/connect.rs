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
use crate::transport::handle::Transport;
use crate::transport::protocol::IntoProtocol;
use crate::transport::pump::start;

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
    let asked = Asked { connect: connect_tcp(addrs), factory: protocol_factory };
    CreateConnection(Late::Asked(asked))
}

struct Asked<M> {
    connect: ConnectTcp,
    factory: M,
}

/// The future of [`create_connection`].
#[must_use = "futures do nothing unless awaited"]
pub struct CreateConnection<P, M>(Late<Asked<M>, io::Result<(Transport, Rc<P>)>>);

impl<P, M> CreateConnection<P, M> {
    fn with(self, change: impl FnOnce(ConnectTcp) -> ConnectTcp) -> Self {
        Self(match self.0 {
            Late::Asked(asked) => Late::Asked(Asked { connect: change(asked.connect), ..asked }),
            late => late,
        })
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

    /// As [`ConnectTcp::time_limit`].
    pub fn time_limit(self, limit: Duration) -> Self {
        self.with(|connect| connect.time_limit(limit))
    }
}

impl<P: IntoProtocol, M: FnOnce() -> P + 'static> Future for CreateConnection<P, M> {
    type Output = io::Result<(Transport, Rc<P>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, async |asked: Asked<M>| attach(asked.factory, asked.connect.await?).await)
    }
}

// Nothing in it is pinned.
impl<P, M> Unpin for CreateConnection<P, M> {}

impl<P, M> fmt::Debug for CreateConnection<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateConnection").finish_non_exhaustive()
    }
}

/// Connects to the UNIX listener at `path` and makes a transport of it, with the protocol that `protocol_factory` makes.
/// Complete means that the protocol was told that the connection is made.
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
pub fn create_unix_connection<P: IntoProtocol>(
    protocol_factory: impl FnOnce() -> P,
    path: impl AsRef<Path>,
) -> impl Future<Output = io::Result<(Transport, Rc<P>)>> {
    let connect = UnixStream::connect(path);
    async move { attach(protocol_factory, connect.await?).await }
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
    attach(protocol_factory, stream)
}

async fn attach<F: Family, P: IntoProtocol>(
    factory: impl FnOnce() -> P,
    stream: Stream<F>,
) -> io::Result<(Transport, Rc<P>)> {
    let protocol = Rc::new(factory());
    let transport = start(stream.into_shared(), protocol.clone().into_protocol()).await?;
    Ok((transport, protocol))
}
