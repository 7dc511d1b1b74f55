//! A received message, and what came with it.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::time::{Duration, SystemTime};

use socket2::SockAddr;

use crate::buf::Chunk;
use crate::net::DatagramFamily;
use crate::op::net::Arrival;
use crate::sys::message::{self, Controls};

/// A received message: its bytes, where it comes from, and what was asked for to come with it.
///
/// The bytes are where the kernel put them, in a pooled buffer, which the message keeps; see
/// [`Chunk`].
pub struct Message<F: DatagramFamily> {
    arrival: Arrival,
    family: PhantomData<F>,
}

impl<F: DatagramFamily> Message<F> {
    pub(crate) fn new(arrival: Arrival) -> Self {
        Self { arrival, family: PhantomData }
    }

    /// Takes the bytes out.
    pub fn into_data(self) -> Chunk {
        self.arrival.data
    }

    /// Where it comes from.
    ///
    /// # Errors
    /// If the kernel named no address of this family.
    pub fn source(&self) -> io::Result<F::Address> {
        F::parse(self.arrival.name())
    }

    /// How long the message was when it was sent: more than came where it found no room ([`is_truncated`]).
    ///
    /// [`is_truncated`]: Self::is_truncated
    pub fn sent_len(&self) -> usize {
        self.arrival.sent()
    }

    /// Whether the end of the message is lost, for want of room in the buffer.
    pub fn is_truncated(&self) -> bool {
        self.arrival.flags() & libc::MSG_TRUNC != 0
    }

    /// Whether something that should have come with the message is lost, for want of room for it: descriptors, beyond as
    /// many as were expected.
    pub fn is_control_truncated(&self) -> bool {
        self.arrival.flags() & libc::MSG_CTRUNC != 0
    }

    /// The descriptors that came with the message, of a socket that expects some. Those that nobody takes are closed.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.arrival.fds)
    }

    pub(crate) fn into_parts(self) -> (Chunk, Vec<OwnedFd>) {
        (self.arrival.data, self.arrival.fds)
    }

    fn control<T>(&self, find: impl Fn(i32, i32, &[u8]) -> Option<T>) -> Option<T> {
        Controls(self.arrival.control()).find_map(|(level, kind, data)| find(level, kind, data))
    }

    /// When the kernel received it, if [`set_receive_timestamps`](crate::net::UdpSocket::set_receive_timestamps) asked for
    /// that.
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.control(|level, kind, data| {
            let is_time = (level, kind) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS);
            let number = |at: usize| Some(i64::from_ne_bytes(data.get(at..at + 8)?.try_into().ok()?));
            let (seconds, nanoseconds) = (number(0)?, number(8)?);
            let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
            is_time.then(|| SystemTime::UNIX_EPOCH + since)
        })
    }
}

impl Message<crate::net::Udp> {
    /// Which of our addresses it was sent to, if
    /// [`set_receive_packet_info`](crate::net::UdpSocket::set_receive_packet_info) asked for that: what an answer has to
    /// come from, on a socket that is bound to all of them.
    pub fn destination(&self) -> Option<IpAddr> {
        self.control(|level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                Some(IpAddr::from(<[u8; 4]>::try_from(data.get(8..12)?).ok()?))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                Some(IpAddr::from(<[u8; 16]>::try_from(data.get(..16)?).ok()?))
            }
            _ => None,
        })
    }

    /// The number of the interface that it came by, as [`destination`](Self::destination).
    pub fn interface(&self) -> Option<u32> {
        self.control(|level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => number(data, 0),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => number(data, 16),
            _ => None,
        })
    }

    /// How many more routers it might have passed (TTL, hop limit), if
    /// [`set_receive_hop_limit`](crate::net::UdpSocket::set_receive_hop_limit) asked for that.
    pub fn hop_limit(&self) -> Option<u8> {
        self.control(|level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                number(data, 0).map(|hops| hops as u8)
            }
            _ => None,
        })
    }

    /// The traffic class: the type of service of IPv4, whose last two bits are ECN, if
    /// [`set_receive_traffic_class`](crate::net::UdpSocket::set_receive_traffic_class) asked for that.
    pub fn traffic_class(&self) -> Option<u8> {
        self.control(|level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TOS) => data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => number(data, 0).map(|class| class as u8),
            _ => None,
        })
    }

    /// The congestion notification, the last two bits of the traffic class: 3 means that a router on the way is congested.
    pub fn ecn(&self) -> Option<u8> {
        self.traffic_class().map(|class| class & 3)
    }

    /// If several datagrams came as one ([`set_gro`](crate::net::UdpSocket::set_gro)): the length of each, but for the last,
    /// which may be shorter.
    pub fn segment_size(&self) -> Option<usize> {
        self.control(|level, kind, data| match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => number(data, 0).map(|size| size as usize),
            _ => None,
        })
    }

    /// The datagrams of the message: one, or with [`set_gro`](crate::net::UdpSocket::set_gro) several that came as one.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let bytes: &[u8] = self;
        let size = self.segment_size().unwrap_or(bytes.len()).max(1);
        // A datagram without bytes is one, too.
        let empty = bytes.is_empty().then_some(bytes);
        bytes.chunks(size).chain(empty)
    }
}

fn number(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at + 4).or_else(|| data.get(at..at + 2))?;
    let mut whole = [0; 4];
    // Some kernels give the segment size as a half word.
    if cfg!(target_endian = "big") && bytes.len() == 2 {
        whole[2..].copy_from_slice(bytes);
    } else {
        whole[..bytes.len()].copy_from_slice(bytes);
    }
    Some(u32::from_ne_bytes(whole))
}

impl<F: DatagramFamily> Deref for Message<F> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.arrival.data
    }
}

impl<F: DatagramFamily> fmt::Debug for Message<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("len", &self.len())
            .field("descriptors", &self.arrival.fds.len())
            .finish_non_exhaustive()
    }
}

/// What an address of this form is called in messages.
pub(crate) fn inet_address(name: &[u8]) -> io::Result<SocketAddr> {
    let parse = || {
        let family = i32::from(u16::from_ne_bytes(name.get(..2)?.try_into().ok()?));
        let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
        match family {
            libc::AF_INET => {
                let ip: [u8; 4] = name.get(4..8)?.try_into().ok()?;
                Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
            }
            libc::AF_INET6 => {
                let flow = u32::from_be_bytes(name.get(4..8)?.try_into().ok()?);
                let ip: [u8; 16] = name.get(8..24)?.try_into().ok()?;
                let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
            }
            _ => None,
        }
    };
    parse().ok_or_else(|| io::Error::other("the kernel named no address of the internet"))
}

/// The name of a socket, which is a UNIX socket.
pub(crate) fn unix_name(address: &SockAddr) -> io::Result<UnixAddr> {
    match address.is_unix() {
        true => unix_address(message::name(address)),
        false => Err(io::Error::other("this is no UNIX socket")),
    }
}

/// The address of a UNIX socket: a path, an abstract name, or none; none too for a path that std cannot name.
pub(crate) fn unix_address(name: &[u8]) -> io::Result<UnixAddr> {
    match name.get(2..).unwrap_or_default() {
        [] => UnixAddr::from_pathname(""),
        [0, abstract_name @ ..] => UnixAddr::from_abstract_name(abstract_name),
        path => {
            let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
            // A name may have 108 bytes, but not in std. Its message shall come all the same.
            let path = std::ffi::OsStr::from_bytes(&path[..end]);
            UnixAddr::from_pathname(path).or_else(|_| UnixAddr::from_pathname(""))
        }
    }
}
