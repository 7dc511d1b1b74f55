//! TCP: connecting, listening, and the options that only TCP has.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::SockAddr;

use crate::driver::control::{self, ListenOptions};
use crate::net::addrs::{IntoAddrs, resolve};
use crate::net::connect::{Options, connect};
use crate::net::{Family, Listener, Stream};
use crate::runtime::core;

/// The family of TCP sockets.
#[derive(Debug)]
pub enum Tcp {}

/// A TCP connection.
pub type TcpStream = Stream<Tcp>;
/// A TCP socket that listens.
pub type TcpListener = Listener<Tcp>;

impl Family for Tcp {
    type Address = SocketAddr;
    type StdStream = std::net::TcpStream;
    type StdListener = std::net::TcpListener;
    const CARRIES_MORE: bool = false;

    fn address(address: &SockAddr) -> io::Result<SocketAddr> {
        address.as_socket().ok_or_else(|| io::Error::other("this is no TCP socket"))
    }
}

/// How a TCP listener shall be made.
///
/// # Examples
/// ```
/// use proactor::net::TcpListener;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let listener = TcpListener::builder().backlog(4096).reuse_port(true).bind("127.0.0.1:0").await?;
///     println!("listening on {}", listener.local_addr()?);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `bind`"]
pub struct TcpListenerBuilder {
    options: ListenOptions,
}

impl TcpListenerBuilder {
    /// Connections that the kernel holds before they are accepted, up to the sysctl `net.core.somaxconn`. Default: 1024.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options.backlog = i32::try_from(connections).unwrap_or(i32::MAX);
        self
    }

    /// Whether the address may be bound while old connections of it are still closing (`SO_REUSEADDR`). Default: yes.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.options.reuse_address = on;
        self
    }

    /// Whether several sockets may listen on the address, and share its connections (`SO_REUSEPORT`). Default: no.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.options.reuse_port = on;
        self
    }

    /// Whether an IPv6 listener takes IPv4 connections too. Default: as the sysctl `net.ipv6.bindv6only` says.
    pub fn dual_stack(mut self, on: bool) -> Self {
        self.options.only_v6 = Some(!on);
        self
    }

    /// Whether small messages on accepted connections are sent at once (`TCP_NODELAY`). Default: yes.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.options.nodelay = on;
        self
    }

    /// Listens on the first of the addresses that can be bound. Port 0 lets the kernel choose.
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
    pub fn bind(self, addrs: impl IntoAddrs) -> impl Future<Output = io::Result<TcpListener>> {
        let driver = core::current().driver.clone();
        let addrs = addrs.into_addrs();
        async move {
            let mut last = None;
            for address in resolve(&driver, addrs).await? {
                match control::listen(&address.into(), &self.options, driver.wants_nonblocking()) {
                    Ok(fd) => return Ok(TcpListener::new(&driver, fd, true)),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.expect("there is at least one address"))
        }
    }
}

impl TcpListenerBuilder {
    /// Sockets that share the connections to the first of the addresses that can be bound, and that address.
    pub(crate) fn bind_several(
        mut self,
        addresses: &[SocketAddr],
        count: usize,
    ) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
        self.options.reuse_port = true;
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "there is no address to listen on");
        for address in addresses {
            match control::listen(&(*address).into(), &self.options, false) {
                Ok(first) => {
                    // The port may have been chosen by the kernel: the others bind what the first has.
                    let local = control::local_address(&first)?;
                    let others = (1..count).map(|_| control::listen(&local, &self.options, false));
                    let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
                    return Ok((Tcp::address(&local)?, sockets));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl TcpListener {
    /// A listener of this loop for a socket that was made by [`TcpListenerBuilder::bind_several`].
    #[track_caller]
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        driver.adopt(&fd)?;
        Ok(Self::new(&driver, fd, true))
    }

    /// Listens on the first of the addresses that can be bound; see [`TcpListenerBuilder::bind`].
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn bind(addrs: impl IntoAddrs) -> impl Future<Output = io::Result<Self>> {
        Self::builder().bind(addrs)
    }

    /// A builder, for what differs from the defaults.
    pub fn builder() -> TcpListenerBuilder {
        TcpListenerBuilder {
            options: ListenOptions {
                backlog: 1024,
                reuse_address: true,
                reuse_port: false,
                only_v6: None,
                nodelay: true,
            },
        }
    }
}

impl TcpStream {
    /// Connects to the first of the addresses that answers; see [`connect_tcp`](crate::net::connect_tcp), which has
    /// options. Small messages are sent at once (`TCP_NODELAY`), as in asyncio.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: an unfinished connection is closed.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    ///
    /// # Kernel
    /// `IORING_OP_CONNECT` (5.5); on epoll `connect(2)`.
    ///
    /// # References
    /// [connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html)
    #[track_caller]
    pub fn connect(addrs: impl IntoAddrs) -> impl Future<Output = io::Result<Self>> {
        let driver = core::current().driver.clone();
        let addrs = addrs.into_addrs();
        async move { connect(&driver, addrs, Options::default()).await }
    }

    /// Whether small messages are sent at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.with_socket(|socket| socket.tcp_nodelay())
    }

    /// Whether small messages shall be sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.with_socket(|socket| socket.set_tcp_nodelay(on))
    }
}
