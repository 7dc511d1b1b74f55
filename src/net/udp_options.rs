//! What a UDP socket can be asked for beyond bytes: control messages, segments, multicast.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, InterfaceIndexOrAddress};

use crate::buf::IoBuf;
use crate::driver::control;
use crate::error::Failed;
use crate::net::UdpSocket;
use crate::op::net::Envelope;
use crate::sys::message::push_control;

/// Where a datagram goes, and what goes with it; see [`UdpSocket::send_message`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "it only says how something shall be sent"]
pub struct SendOptions {
    destination: Option<SocketAddr>,
    source: Option<IpAddr>,
    interface: u32,
    hop_limit: Option<u8>,
    traffic_class: Option<u8>,
    segment_size: Option<u16>,
}

impl SendOptions {
    /// To the address that the socket is connected to.
    pub fn new() -> Self {
        Self::default()
    }

    /// To this address.
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.destination = Some(address);
        self
    }

    /// From this one of our addresses: an answer comes from where the question went to, as
    /// [`Message::destination`](crate::net::Message::destination) tells.
    pub fn source(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// By the interface of this number.
    pub fn interface(mut self, number: u32) -> Self {
        self.interface = number;
        self
    }

    /// How many routers it may pass (TTL, hop limit).
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = Some(hops);
        self
    }

    /// The traffic class (type of service), whose last two bits are ECN.
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.traffic_class = Some(class);
        self
    }

    /// The bytes are several datagrams of this length, of which the last may be shorter (`UDP_SEGMENT`). At most 64, and
    /// 64 KiB together.
    pub fn segment_size(mut self, bytes: u16) -> Self {
        self.segment_size = Some(bytes);
        self
    }

    fn write(&self, envelope: &mut Envelope, is_v6: bool) {
        envelope.address = self.destination.map(Into::into);
        let control = &mut envelope.control;
        let number = |value: i32| value.to_ne_bytes().into_iter();
        if let Some(size) = self.segment_size {
            push_control(control, libc::SOL_UDP, libc::UDP_SEGMENT, size.to_ne_bytes().into_iter());
        }
        if self.source.is_some() || self.interface != 0 {
            if is_v6 {
                let address = match self.source {
                    Some(IpAddr::V6(address)) => address,
                    Some(IpAddr::V4(address)) => address.to_ipv6_mapped(),
                    None => Ipv6Addr::UNSPECIFIED,
                };
                let data = address.octets().into_iter().chain(self.interface.to_ne_bytes());
                push_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data);
            } else {
                let address = match self.source {
                    Some(IpAddr::V4(address)) => address,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                // Interface, the address to send from, and one that only receivers look at.
                let data = self.interface.to_ne_bytes().into_iter().chain(address.octets()).chain([0; 4]);
                push_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, data);
            }
        }
        // On a dual-stack socket the options of the version that the datagram travels by count.
        let travels_v6 = is_v6
            && self
                .destination
                .is_none_or(|to| matches!(to.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_none()));
        if let Some(hops) = self.hop_limit {
            let (level, kind) = match travels_v6 {
                true => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
                false => (libc::IPPROTO_IP, libc::IP_TTL),
            };
            push_control(control, level, kind, number(hops.into()));
        }
        if let Some(class) = self.traffic_class {
            let (level, kind) = match travels_v6 {
                true => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
                false => (libc::IPPROTO_IP, libc::IP_TOS),
            };
            push_control(control, level, kind, number(class.into()));
        }
    }
}

impl UdpSocket {
    /// Sends `buf` as `options` say: to an address, from one, with a hop limit, as several datagrams (GSO) …
    ///
    /// # Cancel safety
    /// *May have happened*: it is sent whole or not at all.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to); `EIO` or `EINVAL` for segments that the network interface cannot take.
    ///
    /// # Kernel
    /// `IORING_OP_SENDMSG` (5.3); on epoll `sendmsg(2)`. Segments 4.18.
    #[doc(alias = "sendmsg")]
    pub fn send_message<B: IoBuf>(
        &self,
        buf: B,
        options: SendOptions,
    ) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        let is_v6 = self.is_v6();
        self.messages.send(buf, move |envelope: &mut Envelope| {
            options.write(envelope, is_v6.as_ref().copied().unwrap_or(false));
            Ok(())
        })
    }

    fn is_v6(&self) -> io::Result<bool> {
        self.with_socket(|socket| Ok(socket.domain()? == Domain::IPV6))
    }

    /// Sets an option that IPv4 and IPv6 have each.
    pub(super) fn set_both(&self, v4: i32, v6: i32, on: bool) -> io::Result<()> {
        let is_v6 = self.is_v6()?;
        self.messages.descriptor.with(|fd| {
            if is_v6 {
                control::set_number(fd, libc::IPPROTO_IPV6, v6, on.into())?;
            }
            control::set_number(fd, libc::IPPROTO_IP, v4, on.into())
        })
    }

    /// Whether messages tell which address they were sent to, and which interface they came by.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_receive_packet_info(&self, on: bool) -> io::Result<()> {
        self.set_both(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO, on)
    }

    /// Whether messages tell their hop limit.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_receive_hop_limit(&self, on: bool) -> io::Result<()> {
        self.set_both(libc::IP_RECVTTL, libc::IPV6_RECVHOPLIMIT, on)
    }

    /// Whether messages tell their traffic class, and with it ECN.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_receive_traffic_class(&self, on: bool) -> io::Result<()> {
        self.set_both(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS, on)
    }

    /// Whether messages tell when the kernel received them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_receive_timestamps(&self, on: bool) -> io::Result<()> {
        self.messages
            .descriptor
            .with(|fd| control::set_number(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, on.into()))
    }

    /// Whether the kernel may deliver several datagrams of one sender as one message (`UDP_GRO`, 5.0), which
    /// [`Message::segments`](crate::net::Message::segments) takes apart. Receive with
    /// [`receive_message`](Self::receive_message) then: the other ways to receive do not tell.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_gro(&self, on: bool) -> io::Result<()> {
        self.messages.descriptor.with(|fd| control::set_number(fd, libc::SOL_UDP, libc::UDP_GRO, on.into()))
    }

    /// Receives what is sent to a group, by the interface of this number, or by one that the kernel chooses (0).
    ///
    /// # Errors
    /// What the kernel says: `InvalidInput` if this is no multicast address.
    #[doc(alias = "IP_ADD_MEMBERSHIP")]
    pub fn join_multicast(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        self.with_socket(|socket| match group {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface))
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, interface),
        })
    }

    /// Receives nothing more that is sent to a group.
    ///
    /// # Errors
    /// What the kernel says: `AddrNotAvailable` if it was not joined.
    #[doc(alias = "IP_DROP_MEMBERSHIP")]
    pub fn leave_multicast(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        self.with_socket(|socket| match group {
            IpAddr::V4(group) => {
                socket.leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface))
            }
            IpAddr::V6(group) => socket.leave_multicast_v6(&group, interface),
        })
    }

    /// Whether what this socket sends to a group comes to members on this machine too. Default: yes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        let is_v6 = self.is_v6()?;
        self.with_socket(|socket| match is_v6 {
            true => socket.set_multicast_loop_v6(on),
            false => socket.set_multicast_loop_v4(on),
        })
    }

    /// How many routers what is sent to a group may pass. Default: none.
    ///
    /// # Errors
    /// What the kernel says.
    #[doc(alias = "set_multicast_ttl")]
    pub fn set_multicast_hops(&self, hops: u8) -> io::Result<()> {
        let is_v6 = self.is_v6()?;
        self.with_socket(|socket| match is_v6 {
            true => socket.set_multicast_hops_v6(hops.into()),
            false => socket.set_multicast_ttl_v4(hops.into()),
        })
    }

    /// By which interface what is sent to a group leaves; 0: by one that the kernel chooses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_multicast_interface(&self, number: u32) -> io::Result<()> {
        let is_v6 = self.is_v6()?;
        self.messages.descriptor.with(|fd| match is_v6 {
            true => control::set_number(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, number as i32),
            false => control::set_multicast_interface(fd, number),
        })
    }

    /// Whether datagrams may be sent to broadcast addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.with_socket(|socket| socket.set_broadcast(on))
    }
}
