//! What the network says of datagrams that were sent: errors, with the address that they concern.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::driver::{Aftermath, Key};
use crate::error::Busy;
use crate::net::UdpSocket;
use crate::net::message::inet_address;
use crate::net::messages::Messages;
use crate::op::Descriptor;
use crate::op::net::{ErrorTarget, Incoming, ReceiveErrors};
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::sys::message::Controls;

const ERROR: What = What(&"an error of the network");

/// The most errors that wait for somebody who wants to know; then the oldest is forgotten for each one.
const ERRORS_MAX: usize = 64;

/// Who said that a datagram did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorOrigin {
    /// This machine: there is no way there, or the datagram was too big for it.
    Local,
    /// A router, or the machine that it was sent to, by ICMP.
    Icmp {
        /// The type of the ICMP message: 3 means that it could not be delivered.
        kind: u8,
        /// Its code: of type 3, 3 means that nobody listens at this port.
        code: u8,
    },
    /// The same by ICMPv6.
    IcmpV6 {
        /// The type of the ICMPv6 message: 1 means that it could not be delivered.
        kind: u8,
        /// Its code: of type 1, 4 means that nobody listens at this port.
        code: u8,
    },
    /// Something else, of this number (`SO_EE_ORIGIN_…`).
    Other(u8),
}

/// What became of a datagram that was sent; see [`UdpSocket::receive_error`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkError {
    /// The error, as a number of the system: `ECONNREFUSED` if nobody listens there, `EHOSTUNREACH`, `EMSGSIZE` …
    pub errno: i32,
    /// Who said it.
    pub origin: ErrorOrigin,
    /// Where the datagram was sent to.
    pub destination: SocketAddr,
    /// The address of who said it, if it was not this machine.
    pub reporter: Option<IpAddr>,
    /// Of a datagram that was too big (`EMSGSIZE`): how big one may be, with its headers.
    pub mtu: Option<u32>,
    /// The beginning of the datagram, as far as it came back.
    pub payload: Vec<u8>,
}

impl NetworkError {
    /// The error as one of std.
    pub fn to_io_error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    /// None if it is not about a datagram, such as time stamps of sends.
    fn new(incoming: &Incoming, payload: &[u8]) -> Option<Self> {
        let is_error = |level, kind| {
            matches!(
                (level, kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            )
        };
        let mut controls = Controls(incoming.control());
        let (_, _, data) = controls.find(|(level, kind, _)| is_error(*level, *kind))?;
        // As `sock_extended_err`: errno, origin, type, code, a byte of nothing, information, more of it; then an address.
        let (fixed, reporter) = data.split_at_checked(16)?;
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| fixed[at + byte]));
        let (errno, origin, kind, code) = (number(0) as i32, fixed[4], fixed[5], fixed[6]);
        let origin = match origin {
            libc::SO_EE_ORIGIN_LOCAL => ErrorOrigin::Local,
            libc::SO_EE_ORIGIN_ICMP => ErrorOrigin::Icmp { kind, code },
            libc::SO_EE_ORIGIN_ICMP6 => ErrorOrigin::IcmpV6 { kind, code },
            other => ErrorOrigin::Other(other),
        };
        Some(Self {
            errno,
            origin,
            destination: inet_address(incoming.name()).ok()?,
            reporter: inet_address(reporter).ok().map(|address| address.ip()),
            mtu: (errno == libc::EMSGSIZE).then(|| number(8)),
            payload: payload.to_vec(),
        })
    }
}

/// What a socket keeps that wants to know errors.
#[derive(Default)]
pub(crate) struct Errors {
    is_on: Cell<bool>,
    /// What reads them.
    reading: Cell<Option<Key>>,
    queue: RefCell<VecDeque<NetworkError>>,
    /// Reading failed with this errno.
    failure: Cell<Option<i32>>,
    waiter: Waiter,
    claimed: Cell<bool>,
}

impl Errors {
    pub(crate) fn are_read(&self) -> bool {
        self.reading.get().is_some()
    }

    /// Nobody waits any more; what reads is to be cancelled.
    pub(crate) fn close(&self, after: &mut Aftermath) -> Option<Key> {
        after.wake(self.waiter.take());
        self.is_on.set(false);
        self.reading.get()
    }
}

/// What the network says of a datagram, and nothing else.
fn is_of_the_network(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::EACCES
    )
}

impl Messages {
    /// Whether this errno of a receive is about a datagram that was sent, and is told by its error.
    pub(crate) fn is_told_elsewhere(&self, errno: i32) -> bool {
        self.errors.get().is_some_and(|errors| errors.is_on.get()) && is_of_the_network(errno)
    }

    fn read_errors(self: &Rc<Self>, on: bool) -> io::Result<()> {
        let errors = self.errors.get_or_init(Box::default);
        errors.is_on.set(on);
        match errors.reading.get() {
            None if on => {
                errors.failure.set(None);
                errors.reading.set(self.driver().submit_detached(ReceiveErrors::new(self.clone())?));
            }
            Some(key) if !on => self.driver().cancel(key),
            _ => {}
        }
        Ok(())
    }

    fn poll_error(&self, cx: &mut Context<'_>) -> Poll<io::Result<NetworkError>> {
        ready!(check(cx))?;
        self.check_open()?;
        let off = || io::Error::new(io::ErrorKind::InvalidInput, "set_receive_errors is off");
        let errors = self.errors.get().ok_or_else(off)?;
        if let Some(error) = errors.queue.borrow_mut().pop_front() {
            return Poll::Ready(Ok(error));
        }
        if let Some(errno) = errors.failure.get() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if !errors.is_on.get() {
            return Poll::Ready(Err(off()));
        }
        errors.waiter.register_for(cx, ERROR);
        Poll::Pending
    }

    async fn receive_error(&self) -> io::Result<NetworkError> {
        struct Claim<'a>(&'a Errors);
        impl Drop for Claim<'_> {
            fn drop(&mut self) {
                self.0.claimed.set(false);
                self.0.waiter.clear();
            }
        }
        let errors = self.errors.get_or_init(Box::default);
        if errors.claimed.replace(true) {
            return Err(Busy::new("receiving errors from").into());
        }
        let _claim = Claim(errors);
        poll_fn(|cx| self.poll_error(cx)).await
    }
}

impl ErrorTarget for Messages {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn error_came(&self, incoming: &Incoming, bytes: &[u8], after: &mut Aftermath) {
        let (Some(errors), Some(error)) = (self.errors.get(), NetworkError::new(incoming, bytes)) else {
            return;
        };
        let mut queue = errors.queue.borrow_mut();
        if queue.len() == ERRORS_MAX {
            queue.pop_front();
        }
        queue.push_back(error);
        after.wake(errors.waiter.take());
    }

    fn errors_over(&self, result: i32, after: &mut Aftermath) {
        if let Some(errors) = self.errors.get() {
            errors.reading.set(None);
            if -result != libc::ECANCELED {
                errors.failure.set(Some(-result));
            }
            after.wake(errors.waiter.take());
            // It was turned off, and on again before it had stopped.
            if errors.is_on.get()
                && -result == libc::ECANCELED
                && !self.driver().is_closed()
                && let Some(this) = self.rc()
                && let Err(error) = this.read_errors(true)
            {
                errors.failure.set(error.raw_os_error());
            }
        }
        self.wake_closer(after);
    }
}

impl UdpSocket {
    /// Whether errors that the network tells of (ICMP), and those of sends that this machine cannot do, are kept with the
    /// addresses that they concern (`IP_RECVERR`), also on a socket that is not connected. Default: no.
    ///
    /// While it is on, [`receive_error`](Self::receive_error) tells of them, and receives do not: those of datagrams that
    /// nobody took would make them fail. The last 64 are kept.
    ///
    /// # Errors
    /// What the kernel says, or [`Closed`](crate::Closed).
    #[doc(alias = "IP_RECVERR")]
    pub fn set_receive_errors(&self, on: bool) -> io::Result<()> {
        self.messages.check_open()?;
        self.set_both(libc::IP_RECVERR, libc::IPV6_RECVERR, on)?;
        self.messages.read_errors(on)
    }

    /// Completes with what became of a datagram that did not arrive, as far as anybody tells: in order, each one once. After
    /// [`set_receive_errors`](Self::set_receive_errors).
    ///
    /// # Cancel safety
    /// *Nothing is lost*: errors stay with the socket, the last 64.
    ///
    /// # Errors
    /// `InvalidInput` while that is off and none is left, [`Busy`](crate::Busy) while another task waits for one,
    /// [`Closed`](crate::Closed).
    ///
    /// # Kernel
    /// `IORING_OP_POLL_ADD` (5.1) and `IORING_OP_RECVMSG` (5.3) with `MSG_ERRQUEUE`; on epoll `recvmsg(2)`, for which the
    /// socket has a second descriptor.
    ///
    /// # Examples
    /// ```
    /// use proactor::net::UdpSocket;
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let socket = UdpSocket::bind("127.0.0.1:0").await?;
    ///     socket.set_receive_errors(true)?;
    ///     // Nobody listens at the port of a socket that is closed.
    ///     let gone = UdpSocket::bind("127.0.0.1:0").await?;
    ///     let address = gone.local_addr()?;
    ///     gone.close().await?;
    ///     socket.send_to("anybody?", address).await?;
    ///     let error = socket.receive_error().await?;
    ///     assert_eq!(error.destination, address);
    ///     assert_eq!(error.to_io_error().kind(), std::io::ErrorKind::ConnectionRefused);
    ///     assert_eq!(&error.payload[..], b"anybody?");
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// # References
    /// [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html), `IP_RECVERR`
    pub fn receive_error(&self) -> impl Future<Output = io::Result<NetworkError>> + use<'_> {
        self.messages.receive_error()
    }
}
