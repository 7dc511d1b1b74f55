//! From names to addresses and back, in a thread of the pool.

use std::ffi::{CString, c_int};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::driver::Driver;
use crate::net::addrs::{IntoAddrs, resolve};
use crate::net::late::Late;
use crate::op;
use crate::runtime::core;
use crate::runtime::scope::What;
use crate::runtime::wait::{check, cut};
use crate::sys::names::{self, Found, Hints, Refusal};

const ADDRESS: What = What(&"a name to be looked up");
const NAME: What = What(&"the name of an address");

/// The addresses of a host, in the order in which they should be tried, each with the port. Looked up in a thread of the
/// pool, as files and name servers are asked; numbers never are. Names beyond ASCII are translated as IDNA 2008 says
/// (UTS 46, non-transitional).
///
/// [`getaddrinfo`] has options.
///
/// # Cancel safety
/// *Nothing is lost*: a cancelled wait ends at once, and the answer comes unheard.
///
/// # Errors
/// [`NameError`], inside of an [`io::Error`]; of kind `NotFound`, if there is no such name. `InvalidInput`, if the text
/// is no address. `OutOfMemory`, if no thread can be made.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let addresses = proactor::net::lookup_host(("localhost", 80)).await?;
///     assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn lookup_host(addrs: impl IntoAddrs) -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
    let driver = core::current().driver.clone();
    let addrs = addrs.into_addrs();
    async move { resolve(&driver, addrs).await }
}

/// A version of the internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Those of `addresses` that are of the version, if there is one: at least one.
    pub(crate) fn only(version: Option<Self>, addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
        let Some(version) = version else { return Ok(addresses) };
        let is_wanted = |address: &SocketAddr| address.is_ipv4() == (version == Self::V4);
        let wanted: Vec<_> = addresses.into_iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            let text = "there is no address of the version of the internet protocol that was asked for";
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        Ok(wanted)
    }
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketType {
    /// A stream of bytes: TCP.
    Stream,
    /// Messages: UDP.
    Datagram,
    /// Packets of the internet protocol itself.
    Raw,
}

impl SocketType {
    fn number(self) -> c_int {
        match self {
            Self::Stream => libc::SOCK_STREAM,
            Self::Datagram => libc::SOCK_DGRAM,
            Self::Raw => libc::SOCK_RAW,
        }
    }

    fn from_number(number: c_int) -> Option<Self> {
        [Self::Stream, Self::Datagram, Self::Raw].into_iter().find(|kind| kind.number() == number)
    }
}

/// A port, or the name of a service that has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Its number.
    Port(u16),
    /// Its name, as in `/etc/services`.
    Name(String),
}

impl From<u16> for Service {
    fn from(port: u16) -> Self {
        Self::Port(port)
    }
}

impl From<&str> for Service {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Service {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

/// An answer of [`getaddrinfo`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddrInfo {
    /// The address, with the port of the service.
    pub address: SocketAddr,
    /// What kind of socket it is for.
    pub socket_type: SocketType,
    /// The canonical name of the host, with the first answer, if it was asked for.
    pub canonical_name: Option<String>,
}

/// All that the resolver knows of a host and a service; [`lookup_host`] is the short form. The future has options.
///
/// Without a host it is this machine: the loopback addresses, or the wildcard addresses if
/// [`passive`](GetAddrInfo::passive) is set. Numbers are not looked up, names beyond ASCII are translated as IDNA 2008
/// says (UTS 46, non-transitional).
///
/// # Cancel safety
/// *Nothing is lost*: a cancelled wait ends at once, and the answer comes unheard.
///
/// # Errors
/// As [`lookup_host`].
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use proactor::net::{IpVersion, SocketType, getaddrinfo};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let found = getaddrinfo("127.0.0.1", 53).family(IpVersion::V4).socket_type(SocketType::Datagram).await?;
///     assert_eq!(found[0].address, ([127, 0, 0, 1], 53).into());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
///
/// # References
/// [getaddrinfo(3)](https://man7.org/linux/man-pages/man3/getaddrinfo.3.html),
/// [UTS 46](https://www.unicode.org/reports/tr46/)
#[track_caller]
pub fn getaddrinfo<'a>(host: impl Into<Option<&'a str>>, service: impl Into<Service>) -> GetAddrInfo {
    let driver = core::current().driver.clone();
    let host = host.into().map(str::to_owned);
    GetAddrInfo(Late::Asked(Question { driver, host, service: service.into(), hints: Hints::default() }))
}

/// The future of [`getaddrinfo`].
#[must_use = "futures do nothing unless awaited"]
pub struct GetAddrInfo(Late<Question, io::Result<Vec<AddrInfo>>>);

struct Question {
    driver: Rc<Driver>,
    host: Option<String>,
    service: Service,
    hints: Hints,
}

impl GetAddrInfo {
    /// Only addresses of this version. Default: both.
    pub fn family(self, version: IpVersion) -> Self {
        let family = match version {
            IpVersion::V4 => libc::AF_INET,
            IpVersion::V6 => libc::AF_INET6,
        };
        Self(self.0.set(|asked| asked.hints.family = family))
    }

    /// Only for sockets of this kind. Default: an answer for each kind.
    pub fn socket_type(self, kind: SocketType) -> Self {
        Self(self.0.set(|asked| asked.hints.socket_type = kind.number()))
    }

    /// Whether the addresses are to listen on: this counts only where no host is given. Default: no.
    #[doc(alias = "AI_PASSIVE")]
    pub fn passive(self, on: bool) -> Self {
        self.flag(libc::AI_PASSIVE, on)
    }

    /// Whether the canonical name of the host is asked for too. Default: no.
    #[doc(alias = "AI_CANONNAME")]
    pub fn canonical_name(self, on: bool) -> Self {
        self.flag(libc::AI_CANONNAME, on)
    }

    /// Whether versions of the internet protocol are left out of which this machine has no address. Default: no.
    #[doc(alias = "AI_ADDRCONFIG")]
    pub fn only_configured(self, on: bool) -> Self {
        self.flag(libc::AI_ADDRCONFIG, on)
    }

    fn flag(self, flag: c_int, on: bool) -> Self {
        Self(self.0.set(|asked| set_flag(&mut asked.hints.flags, flag, on)))
    }
}

fn set_flag(flags: &mut c_int, flag: c_int, on: bool) {
    if on { *flags |= flag } else { *flags &= !flag }
}

impl Future for GetAddrInfo {
    type Output = io::Result<Vec<AddrInfo>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, async |asked: Question| {
            let found = look_up(&asked.driver, asked.host, asked.service, asked.hints).await?;
            let answer = |found: Found| {
                let socket_type = SocketType::from_number(found.socket_type)?;
                Some(AddrInfo { address: found.address, socket_type, canonical_name: found.canonical_name })
            };
            Ok(found.into_iter().filter_map(answer).collect())
        })
    }
}

impl fmt::Debug for GetAddrInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetAddrInfo").finish_non_exhaustive()
    }
}

/// The addresses of a host, for streams.
pub(crate) async fn stream_addresses(
    driver: &Rc<Driver>,
    host: String,
    port: u16,
) -> io::Result<Vec<SocketAddr>> {
    let hints = Hints { socket_type: libc::SOCK_STREAM, ..Hints::default() };
    let found = look_up(driver, Some(host), Service::Port(port), hints).await?;
    Ok(found.into_iter().map(|found| found.address).collect())
}

async fn look_up(
    driver: &Rc<Driver>,
    host: Option<String>,
    service: Service,
    mut hints: Hints,
) -> io::Result<Vec<Found>> {
    let name = match (&host, &service) {
        (Some(host), _) => host.clone(),
        (None, Service::Name(service)) => service.clone(),
        (None, Service::Port(_)) => "this host".to_owned(),
    };
    let invalid =
        |text| NameError { name: name.clone(), code: None, kind: io::ErrorKind::InvalidInput, text };
    let host = host.map(|host| to_ascii(host).ok_or_else(|| invalid("it is no name of a host".into())));
    let host = host.transpose()?;
    // A percent sign begins the zone of an IPv6 address, and is in no name.
    let is_number = host.as_ref().is_some_and(|host| host.parse::<IpAddr>().is_ok() || host.contains('%'));
    let needs_thread = !is_number || matches!(service, Service::Name(_));
    if is_number {
        hints.flags |= libc::AI_NUMERICHOST;
    }
    let service = match service {
        Service::Port(port) => {
            hints.flags |= libc::AI_NUMERICSERV;
            port.to_string()
        }
        Service::Name(service) => service,
    };
    let text = |text: String| CString::new(text).map_err(|error| invalid(error.to_string()));
    let (host, service) = (host.map(text).transpose()?, text(service)?);
    let ask = move || names::getaddrinfo(host.as_ref(), &service, hints);
    let answer = if needs_thread { in_pool(driver, ADDRESS, ask).await? } else { ask() };
    answer.map_err(|refusal| NameError::new(name, refusal).into())
}

/// The name as the resolver takes it; `None` if it cannot be one.
pub(crate) fn to_ascii(host: String) -> Option<String> {
    if host.is_ascii() {
        return Some(host);
    }
    let rules = (AsciiDenyList::URL, Hyphens::Allow, DnsLength::VerifyAllowRootDot);
    let ascii = Uts46::new().to_ascii(host.as_bytes(), rules.0, rules.1, rules.2);
    ascii.ok().map(String::from)
}

/// Asks in a thread. In a cancelled scope the answer is not waited for.
pub(crate) async fn in_pool<T: Send + 'static>(
    driver: &Rc<Driver>,
    what: What,
    ask: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    poll_fn(|cx| check(cx)).await?;
    let answer = cut(what, op::run_in_pool(driver, ask)).await?;
    Ok(answer.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// The name of the host that has an address, and the name of the service at the port. The future has options. Where
/// there is no name, it is the number.
///
/// # Cancel safety
/// *Nothing is lost*: a cancelled wait ends at once, and the answer comes unheard.
///
/// # Errors
/// [`NameError`], inside of an [`io::Error`]. `OutOfMemory`, if no thread can be made.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::net::Ipv4Addr;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let address = (Ipv4Addr::LOCALHOST, 80).into();
///     let (host, port) = proactor::net::getnameinfo(address).numeric_service(true).await?;
///     println!("{host} has this address, its port is {port}");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
///
/// # References
/// [getnameinfo(3)](https://man7.org/linux/man-pages/man3/getnameinfo.3.html)
#[track_caller]
pub fn getnameinfo(address: SocketAddr) -> GetNameInfo {
    GetNameInfo(Late::Asked(WhoIs { driver: core::current().driver.clone(), address, flags: 0 }))
}

/// The future of [`getnameinfo`].
#[must_use = "futures do nothing unless awaited"]
pub struct GetNameInfo(Late<WhoIs, io::Result<(String, String)>>);

struct WhoIs {
    driver: Rc<Driver>,
    address: SocketAddr,
    flags: c_int,
}

impl GetNameInfo {
    /// Whether the number of the host is wanted instead of its name. Default: no.
    #[doc(alias = "NI_NUMERICHOST")]
    pub fn numeric_host(self, on: bool) -> Self {
        self.flag(libc::NI_NUMERICHOST, on)
    }

    /// Whether the number of the port is wanted instead of the name of its service. Default: no.
    #[doc(alias = "NI_NUMERICSERV")]
    pub fn numeric_service(self, on: bool) -> Self {
        self.flag(libc::NI_NUMERICSERV, on)
    }

    /// Whether it is an error if the host has no name. Default: no.
    #[doc(alias = "NI_NAMEREQD")]
    pub fn name_required(self, on: bool) -> Self {
        self.flag(libc::NI_NAMEREQD, on)
    }

    /// Whether the service is one of datagrams. Default: no.
    #[doc(alias = "NI_DGRAM")]
    pub fn datagram(self, on: bool) -> Self {
        self.flag(libc::NI_DGRAM, on)
    }

    fn flag(self, flag: c_int, on: bool) -> Self {
        Self(self.0.set(|asked| set_flag(&mut asked.flags, flag, on)))
    }
}

impl Future for GetNameInfo {
    type Output = io::Result<(String, String)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, async |WhoIs { driver, address, flags }| {
            let numbers = libc::NI_NUMERICHOST | libc::NI_NUMERICSERV;
            let ask = move || names::getnameinfo(address, flags);
            let answer = if flags & numbers == numbers { ask() } else { in_pool(&driver, NAME, ask).await? };
            answer.map_err(|refusal| NameError::new(address.to_string(), refusal).into())
        })
    }
}

impl fmt::Debug for GetNameInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetNameInfo").finish_non_exhaustive()
    }
}

/// A name, or the name of an address, could not be found.
///
/// Converts into an [`io::Error`], in which [`get_ref`](io::Error::get_ref) finds it.
#[doc(alias = "gaierror")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot look up {name}: {text}")]
#[non_exhaustive]
pub struct NameError {
    name: String,
    code: Option<c_int>,
    kind: io::ErrorKind,
    text: String,
}

impl NameError {
    fn new(name: String, refusal: Refusal) -> Self {
        match refusal {
            Refusal::System(error) => Self { name, code: None, kind: error.kind(), text: error.to_string() },
            Refusal::Code(code) => {
                Self { name, code: Some(code), kind: kind_of(code), text: names::text_of(code) }
            }
        }
    }

    /// What was looked up.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the resolver said: one of the numbers `EAI_…`. None, if the name is invalid, or the system refused.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// Whether it may be found another time: the servers did not answer.
    pub fn is_temporary(&self) -> bool {
        self.code == Some(libc::EAI_AGAIN)
    }
}

fn kind_of(code: c_int) -> io::ErrorKind {
    /// There is such a host, but it has no address of the family. Of `netdb.h`.
    const EAI_ADDRFAMILY: c_int = -9;
    match code {
        libc::EAI_NONAME | libc::EAI_NODATA | EAI_ADDRFAMILY => io::ErrorKind::NotFound,
        libc::EAI_BADFLAGS | libc::EAI_FAMILY | libc::EAI_SERVICE | libc::EAI_SOCKTYPE => {
            io::ErrorKind::InvalidInput
        }
        _ => io::ErrorKind::Other,
    }
}

impl From<NameError> for io::Error {
    fn from(error: NameError) -> Self {
        Self::new(error.kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::to_ascii;

    #[test]
    fn names_are_translated_as_idna_2008_says() {
        let same = ["example.org", "_service.example", "UPPER.example.", "a b"];
        let pairs = [
            ("bücher.example", "xn--bcher-kva.example"),
            ("faß.de.", "xn--fa-hia.de."),
            ("例え。jp", "xn--r8jz45g.jp"),
        ];
        for (name, ascii) in same.map(|name| (name, name)).into_iter().chain(pairs) {
            assert_eq!(to_ascii(name.to_owned()).as_deref(), Some(ascii), "{name}");
        }
        for name in ["ü b", "ü/", "ü..example", "\u{200d}ü"] {
            assert_eq!(to_ascii(name.to_owned()), None, "{name}");
        }
    }
}
