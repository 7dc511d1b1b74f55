//! The synchronous calls on sockets: making, binding, options, names. None of them waits.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::sys::socket;

/// How a listening socket shall be made.
#[derive(Debug, Clone)]
pub(crate) struct ListenOptions {
    pub(crate) backlog: i32,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: Option<bool>,
    pub(crate) nodelay: bool,
}

fn stream_type(nonblocking: bool) -> Type {
    if nonblocking { Type::STREAM.nonblocking() } else { Type::STREAM }
}

/// A stream socket that is not connected yet.
pub(crate) fn stream_socket(domain: Domain, nonblocking: bool) -> io::Result<OwnedFd> {
    Socket::new(domain, stream_type(nonblocking), None).map(OwnedFd::from)
}

/// Gives a socket its own address.
pub(crate) fn bind(fd: impl AsFd, address: &SockAddr) -> io::Result<()> {
    SockRef::from(&fd).bind(address)
}

/// A listening stream socket.
pub(crate) fn listen(address: &SockAddr, options: &ListenOptions, nonblocking: bool) -> io::Result<OwnedFd> {
    let fd = bound(address, options, nonblocking)?;
    SockRef::from(&fd).listen(options.backlog)?;
    Ok(fd)
}

/// A stream socket that has its address, and does not listen yet.
pub(crate) fn bound(address: &SockAddr, options: &ListenOptions, nonblocking: bool) -> io::Result<OwnedFd> {
    let socket = Socket::new(address.domain(), stream_type(nonblocking), None)?;
    if address.domain() != Domain::UNIX {
        socket.set_reuse_address(options.reuse_address)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if options.nodelay {
            socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
        }
        if let (Domain::IPV6, Some(only_v6)) = (address.domain(), options.only_v6) {
            socket.set_only_v6(only_v6)?;
        }
    }
    socket.bind(address)?;
    Ok(socket.into())
}

/// Makes a foreign socket fit for the driver.
pub(crate) fn adopt(fd: &OwnedFd, nonblocking: Option<bool>) -> io::Result<()> {
    let socket = SockRef::from(fd);
    socket.set_cloexec(true)?;
    nonblocking.map_or(Ok(()), |on| socket.set_nonblocking(on))
}

/// Two connected UNIX stream sockets.
pub(crate) fn pair(nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    Socket::pair(Domain::UNIX, stream_type(nonblocking), None).map(|(a, b)| (a.into(), b.into()))
}

/// Whether a descriptor is a listening stream socket, and of which family.
pub(crate) fn listening_domain(fd: impl AsFd) -> io::Result<Option<Domain>> {
    let socket = SockRef::from(&fd);
    let listens = socket.is_listener()? && socket.r#type()? == Type::STREAM;
    Ok(if listens { Some(socket.domain()?) } else { None })
}

pub(crate) fn local_address(fd: impl AsFd) -> io::Result<SockAddr> {
    SockRef::from(&fd).local_addr()
}

pub(crate) fn peer_address(fd: impl AsFd) -> io::Result<SockAddr> {
    SockRef::from(&fd).peer_addr()
}

/// Whether a TCP connection is gone though the peer had not ended it, whoever was told of that; false while there are
/// bytes to be received.
pub(crate) fn was_cut_off(fd: impl AsFd) -> bool {
    socket::was_cut_off(fd.as_fd().as_raw_fd())
}

/// Reads or sets options of a socket.
pub(crate) fn options<R>(fd: impl AsFd, f: impl FnOnce(&SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
    f(&SockRef::from(&fd))
}

/// Half-closes the writing side.
pub(crate) fn shutdown_write(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd).shutdown(Shutdown::Write)
}

/// Makes a listening socket refuse new connections.
pub(crate) fn stop_listening(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd).shutdown(Shutdown::Read)
}
