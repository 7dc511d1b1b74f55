//! The addresses of both ends of a connection.

use std::fmt;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::rc::Rc;

use socket2::SockAddr;

use crate::net::{Family, Unix};

/// The address of one end of a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SocketAddress {
    /// Of a TCP or UDP socket.
    Ip(SocketAddr),
    /// Of a UNIX socket: a path, an abstract name, or nothing.
    Unix(Rc<UnixAddr>),
}

impl SocketAddress {
    pub(crate) fn of(address: &SockAddr) -> Option<Self> {
        let unix = || Some(Self::Unix(Rc::new(<Unix as Family>::address(address).ok()?)));
        address.as_socket().map(Self::Ip).or_else(unix)
    }

    /// Whether both name the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let name = |unix: &UnixAddr| {
            (unix.as_pathname().map(Path::to_owned), unix.as_abstract_name().map(<[u8]>::to_vec))
        };
        match (self, other) {
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Unix(one), Self::Unix(other)) => name(one) == name(other),
            _ => false,
        }
    }

    /// The address, if it is one of TCP or UDP.
    pub fn as_ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The address, if it is one of a UNIX socket.
    pub fn as_unix(&self) -> Option<&UnixAddr> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(address) => Some(address),
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix(address) => write!(f, "{address:?}"),
        }
    }
}
