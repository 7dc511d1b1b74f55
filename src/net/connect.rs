//! Connecting to the first of several addresses that answers: happy eyeballs, RFC 8305.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::Domain;

use crate::cancel::fail_after;
use crate::driver::{Driver, control};
use crate::error::MayBeCancelled;
use crate::net::addrs::{Addrs, IntoAddrs, resolve};
use crate::net::late::Late;
use crate::net::{IpVersion, TcpStream};
use crate::op::Descriptor;
use crate::op::net::Connect;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, outcome};
use crate::runtime::{Sleep, core, sleep};

/// Connects to the first of the addresses that answers. The future has options; without any it is
/// [`TcpStream::connect`].
///
/// The addresses are tried in turn, one of each version of the internet protocol, beginning with the first one (RFC 8305
/// calls it happy eyeballs). The next one is tried as soon as one has failed, or has not answered for 250 ms, while the
/// earlier ones go on. When one is connected the others are given up.
///
/// # Cancel safety
/// *Nothing is lost*: unfinished connections are closed.
///
/// # Errors
/// If none of them answers: their error, if it is the same for all of them, else [`ConnectFailed`] inside of an
/// [`io::Error`] of the kind of the last one. As [`lookup_host`](crate::net::lookup_host), if there are no such
/// addresses. [`TimedOut`](crate::TimedOut), if there is a [`time_limit`](ConnectTcp::time_limit) and it passed.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Kernel
/// `IORING_OP_CONNECT` (5.5); on epoll `connect(2)`.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use proactor::net::{TcpListener, connect_tcp};
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let port = listener.local_addr()?.port();
///     let stream = connect_tcp(("localhost", port)).time_limit(Duration::from_secs(10)).await?;
///     assert_eq!(stream.peer_addr()?, listener.local_addr()?);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
///
/// # References
/// [RFC 8305](https://www.rfc-editor.org/rfc/rfc8305), [connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html)
#[doc(alias = "create_connection")]
#[doc(alias = "open_connection")]
#[track_caller]
pub fn connect_tcp(addrs: impl IntoAddrs) -> ConnectTcp {
    let driver = core::current().driver.clone();
    let (addrs, time_limit) = (addrs.into_addrs(), None);
    ConnectTcp(Late::Asked(Asked { driver, addrs, options: Options::default(), time_limit }))
}

/// The future of [`connect_tcp`].
#[must_use = "futures do nothing unless awaited"]
pub struct ConnectTcp(Late<Asked, io::Result<TcpStream>>);

struct Asked {
    driver: Rc<Driver>,
    addrs: Addrs,
    options: Options,
    time_limit: Option<Duration>,
}

/// How several addresses are tried.
pub(crate) struct Options {
    local: Option<Addrs>,
    version: Option<IpVersion>,
    attempt_delay: Duration,
    interleave: usize,
}

impl Default for Options {
    /// As RFC 8305 recommends, §4 and §5.
    fn default() -> Self {
        Self { local: None, version: None, attempt_delay: Duration::from_millis(250), interleave: 1 }
    }
}

impl ConnectTcp {
    /// The addresses of this side: the first one of the same version of the internet protocol as the other side that can
    /// be bound. Port 0 lets the kernel choose. Default: the kernel chooses both.
    #[doc(alias = "local_host")]
    pub fn local_addr(self, addrs: impl IntoAddrs) -> Self {
        let local = addrs.into_addrs();
        Self(self.0.set(|asked| asked.options.local = Some(local)))
    }

    /// Only addresses of this version of the internet protocol are tried. Default: both.
    #[doc(alias = "family")]
    pub fn ip_version(self, version: IpVersion) -> Self {
        Self(self.0.set(|asked| asked.options.version = Some(version)))
    }

    /// How long an address has to answer before the next one is tried too. With [`Duration::MAX`] one is tried after the
    /// other. Default: 250 ms.
    #[doc(alias = "happy_eyeballs_delay")]
    pub fn attempt_delay(self, delay: Duration) -> Self {
        Self(self.0.set(|asked| asked.options.attempt_delay = delay))
    }

    /// How many addresses of the first one's version of the internet protocol are tried before those of both take turns.
    /// With 0 the order stays as it is. Default: 1.
    #[doc(alias = "first_address_family_count")]
    pub fn interleave(self, first_count: usize) -> Self {
        Self(self.0.set(|asked| asked.options.interleave = first_count))
    }

    /// How long it may take all in all, with the look-up, from the first poll on. Default: for ever.
    pub fn time_limit(self, limit: Duration) -> Self {
        Self(self.0.set(|asked| asked.time_limit = Some(limit)))
    }
}

impl Future for ConnectTcp {
    type Output = io::Result<TcpStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, async |asked: Asked| {
            let connected = connect(&asked.driver, asked.addrs, asked.options);
            match asked.time_limit {
                Some(limit) => fail_after(limit, connected).await,
                None => connected.await,
            }
        })
    }
}

impl fmt::Debug for ConnectTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectTcp").finish_non_exhaustive()
    }
}

pub(crate) async fn connect(driver: &Rc<Driver>, addrs: Addrs, options: Options) -> io::Result<TcpStream> {
    let addresses = IpVersion::only(options.version, resolve(driver, addrs).await?)?;
    let local = match options.local {
        Some(local) => Some(resolve(driver, local).await?),
        None => None,
    };
    let local = local.as_deref();
    if let [only] = *addresses {
        return connect_one(driver, only, local).await;
    }
    let addresses = interleave(addresses, options.interleave);
    race(addresses, options.attempt_delay, |address| connect_one(driver, address, local)).await
}

/// So many addresses of the first one's family, then one of each in turn.
fn interleave(addresses: Vec<SocketAddr>, first_count: usize) -> VecDeque<SocketAddr> {
    if first_count == 0 {
        return addresses.into();
    }
    let begins_with_v4 = addresses[0].is_ipv4();
    let (first, other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == begins_with_v4);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut order: VecDeque<_> = first.by_ref().take(first_count - 1).collect();
    while first.len() + other.len() > 0 {
        order.extend(first.next());
        order.extend(other.next());
    }
    order
}

/// The first attempt that succeeds. The next one is begun when one fails, and when so much time has passed.
async fn race<T, F>(
    mut addresses: VecDeque<SocketAddr>,
    delay: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut running: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::new();
    let mut failed = Vec::new();
    let mut pause: Option<Sleep> = None;
    // No more attempts are begun then. One that succeeds in spite of it wins, so all of them are waited for.
    let mut cancelled: Option<io::Error> = None;
    poll_fn(|cx| {
        loop {
            if pause.is_none()
                && cancelled.is_none()
                && let Some(address) = addresses.pop_front()
            {
                running.push((address, Box::pin(attempt(address))));
                pause = Some(sleep(delay));
            }
            let mut has_failed = false;
            let mut index = 0;
            while let Some((address, attempt)) = running.get_mut(index) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(value)) => return Poll::Ready(Ok(value)),
                    Poll::Ready(Err(error)) => {
                        if error.is_cancelled() {
                            cancelled = Some(error);
                        } else {
                            failed.push((*address, error));
                        }
                        drop(running.remove(index));
                        has_failed = true;
                    }
                    Poll::Pending => index += 1,
                }
            }
            if cancelled.is_some() || addresses.is_empty() {
                pause = None;
                if !running.is_empty() {
                    return Poll::Pending;
                }
                return Poll::Ready(Err(cancelled
                    .take()
                    .unwrap_or_else(|| all(std::mem::take(&mut failed)))));
            }
            if !has_failed && let Some(pause) = &mut pause {
                cancelled = ready!(Pin::new(pause).poll(cx)).err().map(io::Error::from);
            }
            pause = None;
        }
    })
    .await
}

/// What all the failures come to.
fn all(mut failed: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let (_, last) = failed.last().expect("there is at least one address");
    let (kind, text) = (last.kind(), last.to_string());
    if failed.iter().all(|(_, error)| error.to_string() == text) {
        return failed.swap_remove(0).1;
    }
    io::Error::new(kind, ConnectFailed { attempts: failed })
}

/// No address could be connected to, for different reasons.
///
/// It is inside of an [`io::Error`], where [`get_ref`](io::Error::get_ref) finds it. Its source is the last error.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectFailed {
    attempts: Vec<(SocketAddr, io::Error)>,
}

impl ConnectFailed {
    /// The addresses and what went wrong with each, in the order in which it did.
    pub fn attempts(&self) -> &[(SocketAddr, io::Error)] {
        &self.attempts
    }

    /// As [`attempts`](Self::attempts), to keep.
    pub fn into_attempts(self) -> Vec<(SocketAddr, io::Error)> {
        self.attempts
    }
}

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address could be connected to")?;
        for (index, (address, error)) in self.attempts.iter().enumerate() {
            write!(f, "{}{address}: {error}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.attempts.last().map(|(_, error)| error as _)
    }
}

async fn connect_one(
    driver: &Rc<Driver>,
    address: SocketAddr,
    local: Option<&[SocketAddr]>,
) -> io::Result<TcpStream> {
    let fd = control::stream_socket(Domain::for_address(address), driver.wants_nonblocking())?;
    control::options(&fd, |socket| socket.set_tcp_nodelay(true))?;
    if let Some(local) = local {
        bind_first(&fd, local.iter().filter(|local| local.is_ipv4() == address.is_ipv4()))?;
    }
    let descriptor = Rc::new(Descriptor::new(driver, fd));
    let connect = Connect::new(descriptor.clone(), address.into());
    let (result, op) = Ask::new(driver, connect, What(&"a connection")).await;
    drop(op);
    outcome(result)?;
    Ok(TcpStream::from_descriptor(
        Rc::into_inner(descriptor).expect("the operation is over, nobody else has it"),
    ))
}

/// Binds a socket to the first of the addresses that can be had.
fn bind_first<'a>(fd: &OwnedFd, local: impl Iterator<Item = &'a SocketAddr>) -> io::Result<()> {
    let mut last = None;
    for address in local {
        match control::bind(fd, &(*address).into()) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    let text = "no local address was given for this version of the internet protocol";
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, text)))
}
