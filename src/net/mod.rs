//! TCP and UNIX streams and listeners, datagrams, pipes, and the names of hosts.
//!
//! One type serves both families: [`TcpStream`] is [`Stream<Tcp>`], [`UnixStream`] is [`Stream<Unix>`], and likewise
//! for listeners. Methods take `&self`; one task may receive while another sends.

pub(crate) mod addrs;
mod closing;
mod connect;
mod copy;
mod datagram;
mod errors;
mod fds;
mod halves;
mod inbound;
pub(crate) mod late;
mod listener;
mod message;
pub(crate) mod messages;
pub(crate) mod names;
mod outbound;
mod passed;
mod pipe;
mod resource;
mod send_file;
mod sends;
mod seqpacket;
pub(crate) mod serve;
pub(crate) mod shared;
mod single;
mod socket;
mod stdio;
mod stream;
mod tcp;
mod udp;
mod udp_options;
mod unix;
mod unix_datagram;

pub use addrs::{Addrs, IntoAddrs};
pub use connect::{ConnectFailed, ConnectTcp, connect_tcp};
pub use copy::{CopyTarget, CopyTo};
pub use datagram::{DatagramFamily, DatagramSocket, Received};
pub use errors::{ErrorOrigin, NetworkError};
pub use fds::FdsSent;
pub use halves::{ReceiveHalf, SendHalf};
pub use listener::{Accept, Listener};
pub use message::Message;
pub use names::{
    AddrInfo, GetAddrInfo, GetNameInfo, IpVersion, NameError, Service, SocketType, getaddrinfo, getnameinfo,
    lookup_host,
};
pub use passed::{PassedListener, listen_fds};
pub use pipe::{PipeReader, PipeWriter, pipe};
pub use send_file::{FileSource, SendFile};
pub use seqpacket::{UnixSeqpacket, UnixSeqpacketListener};
pub use serve::{Serve, ServeError};
pub use socket::Socket;
pub use stdio::{stderr, stdin, stdout};
pub use stream::{Receive, Stream};
pub use tcp::{Tcp, TcpListener, TcpListenerBuilder, TcpStream};
pub use udp::{Udp, UdpSocket, UdpSocketBuilder};
pub use udp_options::SendOptions;
pub use unix::{PeerCredentials, Unix, UnixListener, UnixListenerBuilder, UnixStream};
pub use unix_datagram::{UnixDatagram, UnixDatagrams};

use std::os::fd::OwnedFd;

/// A family of stream sockets: [`Tcp`] or [`Unix`].
pub trait Family: sealed::Sealed + Sized + 'static {
    /// What addresses of the family look like.
    type Address;
    /// The stream of std.
    type StdStream: From<OwnedFd> + Into<OwnedFd>;
    /// The listener of std.
    type StdListener: From<OwnedFd> + Into<OwnedFd>;

    /// Whether something may come with the bytes, behind which a receive stops: descriptors, credentials.
    #[doc(hidden)]
    const CARRIES_MORE: bool;

    #[doc(hidden)]
    fn address(address: &socket2::SockAddr) -> std::io::Result<Self::Address>;
}

mod sealed {
    #[allow(unnameable_types, reason = "this is what seals it")]
    pub trait Sealed {}
    impl Sealed for super::Tcp {}
    impl Sealed for super::Unix {}
}
