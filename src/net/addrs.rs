//! What may be given as an address: numbers, or a name that is looked up off the loop.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::rc::Rc;

use crate::driver::Driver;
use crate::net::names::stream_addresses;

/// Addresses, or a name to look up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Addrs {
    /// Known already.
    Known(Vec<SocketAddr>),
    /// A host name and a port.
    Name(String, u16),
    /// Text that is neither.
    Invalid(String),
}

/// What can be turned into socket addresses: like [`ToSocketAddrs`](std::net::ToSocketAddrs) of std, but a look-up does not block the loop.
pub trait IntoAddrs {
    /// The addresses, or what to look up.
    fn into_addrs(self) -> Addrs;
}

impl IntoAddrs for Addrs {
    fn into_addrs(self) -> Addrs {
        self
    }
}

macro_rules! known {
    ($($t:ty),*) => {
        $(impl IntoAddrs for $t {
            fn into_addrs(self) -> Addrs {
                Addrs::Known(vec![self.into()])
            }
        })*
    };
}

known!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

impl IntoAddrs for &[SocketAddr] {
    fn into_addrs(self) -> Addrs {
        Addrs::Known(self.to_vec())
    }
}

impl IntoAddrs for Vec<SocketAddr> {
    fn into_addrs(self) -> Addrs {
        Addrs::Known(self)
    }
}

impl IntoAddrs for (&str, u16) {
    fn into_addrs(self) -> Addrs {
        match self.0.parse::<IpAddr>() {
            Ok(ip) => Addrs::Known(vec![(ip, self.1).into()]),
            Err(_) => Addrs::Name(self.0.to_owned(), self.1),
        }
    }
}

impl IntoAddrs for (String, u16) {
    fn into_addrs(self) -> Addrs {
        (self.0.as_str(), self.1).into_addrs()
    }
}

impl IntoAddrs for &str {
    fn into_addrs(self) -> Addrs {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return Addrs::Known(vec![address]);
        }
        let parts = self.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() && !host.contains([':', '[', '/']) => {
                Addrs::Name(host.to_owned(), port)
            }
            _ => Addrs::Invalid(self.to_owned()),
        }
    }
}

impl IntoAddrs for String {
    fn into_addrs(self) -> Addrs {
        self.as_str().into_addrs()
    }
}

impl IntoAddrs for &String {
    fn into_addrs(self) -> Addrs {
        self.as_str().into_addrs()
    }
}

/// The addresses, at least one; a name is looked up in a thread of the pool.
pub(crate) async fn resolve(driver: &Rc<Driver>, addrs: Addrs) -> io::Result<Vec<SocketAddr>> {
    let found = match addrs {
        Addrs::Known(found) => found,
        Addrs::Name(host, port) => stream_addresses(driver, host, port).await?,
        Addrs::Invalid(text) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{text:?} is no address: use host:port, 127.0.0.1:80 or [::1]:80"),
            ));
        }
    };
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address was given or found"));
    }
    Ok(found)
}
