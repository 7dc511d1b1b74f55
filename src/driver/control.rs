//! The synchronous calls on sockets: making, binding, options, names. None of them waits.

use std::fs::{self, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::sys::{file, pipe, socket};

/// How a listening socket shall be made.
#[derive(Debug, Clone)]
pub(crate) struct ListenOptions {
    pub(crate) backlog: i32,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: Option<bool>,
    pub(crate) nodelay: bool,
}

/// A stream socket that is not connected yet.
pub(crate) fn stream_socket(domain: Domain, nonblocking: bool) -> io::Result<OwnedFd> {
    self::socket(domain, Type::STREAM, nonblocking)
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
    let fd = stream_socket(address.domain(), nonblocking)?;
    let socket = SockRef::from(&fd);
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
    Ok(fd)
}

/// How a UNIX socket that listens shall be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnixListenOptions {
    pub(crate) kind: Type,
    pub(crate) backlog: i32,
    pub(crate) mode: Option<u32>,
    pub(crate) remove_stale: bool,
    pub(crate) unlink: bool,
}

/// A listening UNIX socket, and its file, if that is to be removed some day.
pub(crate) fn listen_unix(
    path: &Path,
    options: &UnixListenOptions,
    nonblocking: bool,
) -> io::Result<(OwnedFd, Option<SocketFile>)> {
    let address = SockAddr::unix(path)?;
    let is_file = path.as_os_str().as_bytes().first().is_some_and(|first| *first != 0);
    let fd = self::socket(Domain::UNIX, options.kind, nonblocking)?;
    match bind(&fd, &address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_file && options.remove_stale => {
            if !is_stale(path, &address, options.kind) {
                return Err(error);
            }
            fs::remove_file(path)?;
            bind(&fd, &address)?;
        }
        bound => bound?,
    }
    let file = if is_file { Some(SocketFile::new(path)?) } else { None };
    let listening = || {
        if let (Some(mode), true) = (options.mode, is_file) {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        // From here on others can connect.
        SockRef::from(&fd).listen(options.backlog)
    };
    // What was made and cannot be used is removed: that is what dropping the file does.
    listening()?;
    Ok((fd, if options.unlink { file } else { file.and_then(SocketFile::leave) }))
}

/// Whether there is a socket that nobody listens on. (Between the question and the answer somebody may begin to.)
fn is_stale(path: &Path, address: &SockAddr, kind: Type) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let connect = || Socket::new(Domain::UNIX, kind.nonblocking(), None)?.connect(address);
    is_socket && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The file of a socket. Dropping it removes the file, unless it is another one by now.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // What is at the path of the process now need not be there later.
        let path = std::path::absolute(path)?;
        let found = fs::symlink_metadata(&path)?;
        Ok(Self { path, identity: (found.dev(), found.ino()) })
    }

    /// The file stays.
    fn leave(mut self) -> Option<Self> {
        self.identity = (0, 0);
        None
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // Nobody can be told that it failed; the file is stale then.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a foreign socket fit for the driver.
pub(crate) fn adopt(fd: &OwnedFd, nonblocking: Option<bool>) -> io::Result<()> {
    let socket = SockRef::from(fd);
    socket.set_cloexec(true)?;
    nonblocking.map_or(Ok(()), |on| socket.set_nonblocking(on))
}

/// Two connected UNIX sockets.
pub(crate) fn pair(kind: Type, nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = if nonblocking { kind.nonblocking() } else { kind };
    Socket::pair(Domain::UNIX, kind, None).map(|(a, b)| (a.into(), b.into()))
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

/// Whether the peer of a connection has ended it, and nothing but empty messages is left to receive.
pub(crate) fn is_at_end(fd: impl AsFd) -> bool {
    socket::is_at_end(fd.as_fd().as_raw_fd())
}

/// A socket of any kind.
pub(crate) fn socket(domain: Domain, kind: Type, nonblocking: bool) -> io::Result<OwnedFd> {
    let kind = if nonblocking { kind.nonblocking() } else { kind };
    Socket::new(domain, kind, None).map(OwnedFd::from)
}

/// How a datagram socket shall be made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DatagramOptions {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) broadcast: bool,
    pub(crate) only_v6: Option<bool>,
}

/// A datagram socket of the internet, bound to nothing yet.
pub(crate) fn datagram_socket(
    domain: Domain,
    options: &DatagramOptions,
    nonblocking: bool,
) -> io::Result<OwnedFd> {
    let fd = self::socket(domain, Type::DGRAM, nonblocking)?;
    let socket = SockRef::from(&fd);
    if options.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.broadcast {
        socket.set_broadcast(true)?;
    }
    if let (Domain::IPV6, Some(only_v6)) = (domain, options.only_v6) {
        socket.set_only_v6(only_v6)?;
    }
    Ok(fd)
}

/// Sets an option that is one number.
pub(crate) fn set_number(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    file::result(socket::set_number(fd.as_fd().as_raw_fd(), level, name, value)).map(drop)
}

/// By which interface multicast of IPv4 leaves.
pub(crate) fn set_multicast_interface(fd: impl AsFd, number: u32) -> io::Result<()> {
    file::result(socket::set_multicast_interface(fd.as_fd().as_raw_fd(), number)).map(drop)
}

/// Both ends of a new pipe.
pub(crate) fn pipe(nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    pipe::pipe(nonblocking)
}

/// What kind of file it is, of the bits `S_IFMT`.
pub(crate) fn file_kind(fd: impl AsFd) -> io::Result<u32> {
    pipe::kind(fd.as_fd())
}

/// Changes whether a file blocks, for all who share its opening.
pub(crate) fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    pipe::set_nonblocking(fd.as_fd(), on)
}

/// Opens what is open here once more, with a mode of its own.
pub(crate) fn reopen(fd: impl AsFd, writes: bool) -> io::Result<OwnedFd> {
    pipe::reopen(fd.as_fd(), writes)
}

/// Writing to a pipe that nobody reads raises no signal from now on, if that would end the process.
pub(crate) fn ignore_broken_pipes() {
    pipe::ignore_broken_pipes();
}

/// Takes a connection from the queue of a socket that does not block.
pub(crate) fn accept(fd: impl AsFd) -> io::Result<(OwnedFd, SockAddr)> {
    let (socket, address) = SockRef::from(&fd).accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)?;
    Ok((socket.into(), address))
}

/// Connects a datagram socket, which only names its peer; or begins to, a stream socket that does not block.
pub(crate) fn connect(fd: impl AsFd, address: &SockAddr) -> io::Result<()> {
    SockRef::from(&fd).connect(address)
}
