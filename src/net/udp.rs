//! UDP: binding, connecting, sending to addresses.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use socket2::{Domain, SockAddr};

use crate::buf::IoBuf;
use crate::driver::control::{self, DatagramOptions};
use crate::error::Failed;
use crate::net::DatagramFamily;
use crate::net::addrs::{Addrs, IntoAddrs, resolve};
use crate::net::datagram::{DatagramSocket, sealed};
use crate::net::message::inet_address;
use crate::runtime::core;

/// The family of UDP sockets.
#[derive(Debug)]
pub enum Udp {}

/// A UDP socket, connected or not.
///
/// # Examples
/// ```
/// use proactor::net::UdpSocket;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let server = UdpSocket::bind("127.0.0.1:0").await?;
///     let client = UdpSocket::connect(server.local_addr()?).await?;
///     client.send("hello").await?;
///     let (bytes, source) = server.receive_from().await?;
///     server.send_to(bytes, source).await?;
///     assert_eq!(&client.receive().await?[..], b"hello");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub type UdpSocket = DatagramSocket<Udp>;

impl sealed::Sealed for Udp {}

impl DatagramFamily for Udp {
    type Address = SocketAddr;
    type StdSocket = std::net::UdpSocket;

    fn parse(name: &[u8]) -> io::Result<SocketAddr> {
        inet_address(name)
    }

    fn unparse(address: &SocketAddr) -> io::Result<SockAddr> {
        Ok((*address).into())
    }

    fn is_unix() -> bool {
        false
    }
}

/// How a UDP socket shall be made.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `bind` or `connect`"]
pub struct UdpSocketBuilder {
    options: DatagramOptions,
    local: Option<SocketAddr>,
}

impl UdpSocketBuilder {
    /// Whether several sockets may bind the address; the last one gets what is sent to it, and each one gets what is sent
    /// to a multicast group (`SO_REUSEADDR`). Default: no.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.options.reuse_address = on;
        self
    }

    /// Whether several sockets may bind the address, and share what is sent to it (`SO_REUSEPORT`). Default: no.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.options.reuse_port = on;
        self
    }

    /// Whether datagrams may be sent to broadcast addresses. Default: no.
    #[doc(alias = "allow_broadcast")]
    pub fn broadcast(mut self, on: bool) -> Self {
        self.options.broadcast = on;
        self
    }

    /// Whether an IPv6 socket takes IPv4 datagrams too. Default: as the sysctl `net.ipv6.bindv6only` says.
    pub fn dual_stack(mut self, on: bool) -> Self {
        self.options.only_v6 = Some(!on);
        self
    }

    /// What a connected socket sends from. Default: what the kernel chooses.
    pub fn local_addr(mut self, address: SocketAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// A socket bound to the first of the addresses that can be had. Port 0 lets the kernel choose.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// If there is no such address, or none can be bound: the last one's error.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn bind(self, addrs: impl IntoAddrs) -> impl Future<Output = io::Result<UdpSocket>> {
        self.make(addrs.into_addrs(), |fd, address| control::bind(fd, address))
    }

    /// A socket that sends to the first of the addresses that can be had, and receives from there only.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// If there is no such address, or the kernel refuses all of them: the last one's error. Whether anybody listens there,
    /// only sending and receiving tells.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn connect(self, addrs: impl IntoAddrs) -> impl Future<Output = io::Result<UdpSocket>> {
        let local = self.local;
        self.make(addrs.into_addrs(), move |fd, address| {
            if let Some(local) = local {
                control::bind(fd, &local.into())?;
            }
            control::connect(fd, address)
        })
    }

    #[track_caller]
    fn make(
        self,
        addrs: Addrs,
        name: impl Fn(&OwnedFd, &SockAddr) -> io::Result<()>,
    ) -> impl Future<Output = io::Result<UdpSocket>> {
        let driver = core::current().driver.clone();
        async move {
            let mut last = None;
            for address in resolve(&driver, addrs).await? {
                let domain = Domain::for_address(address);
                let nonblocking = driver.wants_nonblocking();
                let made = control::datagram_socket(domain, &self.options, nonblocking)
                    .and_then(|fd| name(&fd, &address.into()).map(|()| fd));
                match made {
                    Ok(fd) => return Ok(UdpSocket::new(&driver, fd)),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.expect("there is at least one address"))
        }
    }
}

impl UdpSocket {
    /// A socket bound to the first of the addresses that can be had; [`builder`](Self::builder) has options.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// If there is no such address, or none can be bound: the last one's error.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "create_udp_socket")]
    #[track_caller]
    pub fn bind(addrs: impl IntoAddrs) -> impl Future<Output = io::Result<Self>> {
        Self::builder().bind(addrs)
    }

    /// A socket that sends to the first of the addresses that can be had, and receives from there only.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`UdpSocketBuilder::connect`].
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "create_connected_udp_socket")]
    #[track_caller]
    pub fn connect(addrs: impl IntoAddrs) -> impl Future<Output = io::Result<Self>> {
        Self::builder().connect(addrs)
    }

    /// Options before the socket is made.
    pub fn builder() -> UdpSocketBuilder {
        UdpSocketBuilder::default()
    }

    /// Sends a datagram to `address` and gives the buffer back. Complete means that the kernel has taken it. Several at once
    /// may overtake each other where the socket's buffer is full.
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// What the kernel says: `EMSGSIZE` if it is too big, `NetworkUnreachable` …; [`Closed`](crate::Closed). The buffer
    /// comes back in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_SEND` with an address (6.1), before that `IORING_OP_SENDMSG` (5.3); on epoll `sendto(2)`.
    #[doc(alias = "sendto")]
    pub fn send_to<B: IoBuf>(
        &self,
        buf: B,
        address: SocketAddr,
    ) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        self.send_to_address(buf, address.into())
    }

    /// Queues a datagram to `address` and returns how many bytes are queued now; see [`write`](Self::write).
    ///
    /// # Errors
    /// If the socket is closed. What the kernel says of the datagram, a flush tells, as for [`write`](Self::write).
    pub fn write_to(&self, data: impl Into<Bytes>, address: SocketAddr) -> io::Result<usize> {
        self.write_to_address(data.into(), address.into())
    }

    /// The address of this side.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.messages.descriptor.with(|fd| control::local_address(fd))?;
        address.as_socket().ok_or_else(|| io::Error::other("this is no socket of the internet"))
    }

    /// The address that it is connected to.
    ///
    /// # Errors
    /// What the kernel says: `NotConnected` if it is not; or [`Closed`](crate::Closed).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let address = self.messages.descriptor.with(|fd| control::peer_address(fd))?;
        address.as_socket().ok_or_else(|| io::Error::other("this is no socket of the internet"))
    }
}
