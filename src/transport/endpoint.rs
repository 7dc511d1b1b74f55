//! Making datagram sockets whose events go to a protocol.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::net::addrs::{Addrs, IntoAddrs, resolve};
use crate::net::late::Late;
use crate::net::{IpVersion, UdpSocket, UdpSocketBuilder, UnixDatagram};
use crate::runtime::core::{self, Core};
use crate::transport::datagram::{DatagramProtocol, DatagramTransport, EndpointSocket, start};
use crate::transport::server::remove_socket;

/// Makes a datagram socket, UDP or UNIX, and gives its events to the protocol that `protocol_factory` makes. The future has
/// options, of which at least one says which socket: [`local_addr`](CreateDatagramEndpoint::local_addr),
/// [`remote_addr`](CreateDatagramEndpoint::remote_addr), [`local_path`](CreateDatagramEndpoint::local_path),
/// [`remote_path`](CreateDatagramEndpoint::remote_path), or [`socket`](CreateDatagramEndpoint::socket). Complete means
/// that the protocol was told of it.
///
/// # Cancel safety
/// *Nothing is lost*: a socket that was made is closed.
///
/// # Errors
/// If a name is not found or no address can be had: the last one's error; `InvalidInput`, if nothing says which socket.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::cell::OnceCell;
/// use proactor::buf::Chunk;
/// use proactor::net::UdpSocket;
/// use proactor::transport::{DatagramProtocol, DatagramTransport, SocketAddress, create_datagram_endpoint};
///
/// #[derive(Default)]
/// struct Echo(OnceCell<DatagramTransport>);
///
/// impl DatagramProtocol for Echo {
///     fn connection_made(&self, transport: &DatagramTransport) {
///         self.0.set(transport.clone()).ok();
///     }
///     fn datagram_received(&self, data: Chunk, source: SocketAddress) {
///         if let Some(transport) = self.0.get() {
///             transport.sendto(data, Some(&source)).ok();
///         }
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (transport, _) = create_datagram_endpoint(Echo::default).local_addr("127.0.0.1:0").await?;
///     let client = UdpSocket::connect(transport.sockname().unwrap().as_ip().unwrap()).await?;
///     client.send("hello").await?;
///     assert_eq!(&client.receive().await?[..], b"hello");
///     transport.close();
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn create_datagram_endpoint<P: DatagramProtocol, M: FnOnce() -> P + 'static>(
    protocol_factory: M,
) -> CreateDatagramEndpoint<P, M> {
    CreateDatagramEndpoint(Late::Asked(Asked {
        core: core::current(),
        factory: protocol_factory,
        place: Place::Nowhere,
        version: None,
        builder: UdpSocket::builder(),
    }))
}

enum Place {
    Nowhere,
    Udp { local: Option<Addrs>, remote: Option<Addrs> },
    Unix { local: Option<PathBuf>, remote: Option<PathBuf> },
    Taken(EndpointSocket),
}

struct Asked<M> {
    core: Rc<Core>,
    factory: M,
    place: Place,
    version: Option<IpVersion>,
    builder: UdpSocketBuilder,
}

/// The future of [`create_datagram_endpoint`].
#[must_use = "futures do nothing unless awaited"]
pub struct CreateDatagramEndpoint<P, M>(Late<Asked<M>, io::Result<(DatagramTransport, Rc<P>)>>);

impl<P, M> CreateDatagramEndpoint<P, M> {
    fn udp(self, set: impl FnOnce(&mut Option<Addrs>, &mut Option<Addrs>)) -> Self {
        Self(self.0.set(|asked| {
            if !matches!(asked.place, Place::Udp { .. }) {
                asked.place = Place::Udp { local: None, remote: None };
            }
            if let Place::Udp { local, remote } = &mut asked.place {
                set(local, remote);
            }
        }))
    }

    fn unix(self, set: impl FnOnce(&mut Option<PathBuf>, &mut Option<PathBuf>)) -> Self {
        Self(self.0.set(|asked| {
            if !matches!(asked.place, Place::Unix { .. }) {
                asked.place = Place::Unix { local: None, remote: None };
            }
            if let Place::Unix { local, remote } = &mut asked.place {
                set(local, remote);
            }
        }))
    }

    fn change(self, change: impl FnOnce(UdpSocketBuilder) -> UdpSocketBuilder) -> Self {
        Self(self.0.set(|asked| asked.builder = change(std::mem::take(&mut asked.builder))))
    }

    /// UDP, bound to the first of these addresses that can be had. Port 0 lets the kernel choose.
    pub fn local_addr(self, addrs: impl IntoAddrs) -> Self {
        self.udp(|local, _| *local = Some(addrs.into_addrs()))
    }

    /// UDP, connected to the first of these addresses that can be had: it sends there, and receives from there only.
    pub fn remote_addr(self, addrs: impl IntoAddrs) -> Self {
        self.udp(|_, remote| *remote = Some(addrs.into_addrs()))
    }

    /// UNIX datagrams, bound to this path. A socket that is there already is replaced.
    #[doc(alias = "local_addr")]
    pub fn local_path(self, path: impl AsRef<Path>) -> Self {
        self.unix(|local, _| *local = Some(path.as_ref().to_owned()))
    }

    /// UNIX datagrams, connected to the socket at this path.
    #[doc(alias = "remote_addr")]
    pub fn remote_path(self, path: impl AsRef<Path>) -> Self {
        self.unix(|_, remote| *remote = Some(path.as_ref().to_owned()))
    }

    /// This socket, of either family.
    #[doc(alias = "sock")]
    pub fn socket(self, socket: impl Into<EndpointSocket>) -> Self {
        let socket = socket.into();
        Self(self.0.set(|asked| asked.place = Place::Taken(socket)))
    }

    /// Only addresses of this version of the internet protocol are taken. Default: both.
    #[doc(alias = "family")]
    pub fn ip_version(self, version: IpVersion) -> Self {
        Self(self.0.set(|asked| asked.version = Some(version)))
    }

    /// As [`UdpSocketBuilder::reuse_port`]. Default: no.
    pub fn reuse_port(self, on: bool) -> Self {
        self.change(|builder| builder.reuse_port(on))
    }

    /// As [`UdpSocketBuilder::broadcast`]. Default: no.
    #[doc(alias = "allow_broadcast")]
    pub fn broadcast(self, on: bool) -> Self {
        self.change(|builder| builder.broadcast(on))
    }
}

impl<P: DatagramProtocol, M: FnOnce() -> P + 'static> Future for CreateDatagramEndpoint<P, M> {
    type Output = io::Result<(DatagramTransport, Rc<P>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, async |asked: Asked<M>| {
            let socket = open(&asked.core, asked.place, asked.version, asked.builder).await?;
            let protocol = Rc::new((asked.factory)());
            Ok((start(socket, protocol.clone()).await?, protocol))
        })
    }
}

// Nothing in it is pinned.
impl<P, M> Unpin for CreateDatagramEndpoint<P, M> {}

impl<P, M> fmt::Debug for CreateDatagramEndpoint<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateDatagramEndpoint").finish_non_exhaustive()
    }
}

async fn open(
    core: &Rc<Core>,
    place: Place,
    version: Option<IpVersion>,
    builder: UdpSocketBuilder,
) -> io::Result<EndpointSocket> {
    let driver = &core.driver;
    let addresses = async |addrs: Addrs| IpVersion::only(version, resolve(driver, addrs).await?);
    match place {
        Place::Nowhere => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "an endpoint has a local or a remote address"))
        }
        Place::Taken(socket) => Ok(socket),
        Place::Unix { local, remote } => {
            let socket = match local {
                Some(path) => {
                    remove_socket(driver, path.clone()).await?;
                    UnixDatagram::bind(path)?
                }
                None => UnixDatagram::unbound()?,
            };
            remote.map_or(Ok(()), |path| socket.connect(path))?;
            Ok(socket.into())
        }
        Place::Udp { local, remote: None } => {
            let local = addresses(local.expect("one of them was set")).await?;
            Ok(builder.bind(&local[..]).await?.into())
        }
        Place::Udp { local: None, remote: Some(remote) } => {
            Ok(builder.connect(&addresses(remote).await?[..]).await?.into())
        }
        Place::Udp { local: Some(local), remote: Some(remote) } => {
            let remote = addresses(remote).await?;
            let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no two addresses of one family");
            for local in addresses(local).await? {
                let same = remote.iter().copied().filter(|other| other.is_ipv4() == local.is_ipv4());
                let same: Vec<_> = same.collect();
                if same.is_empty() {
                    continue;
                }
                match builder.clone().local_addr(local).connect(&same[..]).await {
                    Ok(socket) => return Ok(socket.into()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}
