//! Datagram sockets whose events go to a protocol.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::buf::Chunk;
use crate::driver::control;
use crate::error::Closed;
use crate::net::messages::Messages;
use crate::net::{DatagramFamily, DatagramSocket, Message, Udp, UdpSocket, UnixDatagram, UnixDatagrams};
use crate::runtime::contain;
use crate::runtime::scope::What;
use crate::stream::{Attributes, TypedAttributeProvider};
use crate::sync::Event;
use crate::transport::address::SocketAddress;
use crate::transport::course::{Course, Moved, is_made, run};
use crate::transport::limits::WriteBufferLimits;
use crate::transport::report::call;

/// What is told of a datagram socket.
///
/// `connection_made` comes first, and `connection_lost` last, exactly once, unless the loop is closed before. A panic in
/// any of them changes nothing but that the exception handler of the loop hears of it.
///
/// # Examples
/// See [`create_datagram_endpoint`](crate::transport::create_datagram_endpoint).
pub trait DatagramProtocol: 'static {
    /// The socket is there. Whoever wants to send later keeps a clone of the transport.
    fn connection_made(&self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// A datagram came; it may be empty. Of a UNIX socket without a name the source is unnamed.
    fn datagram_received(&self, data: Chunk, source: SocketAddress) {
        drop((data, source));
    }

    /// An earlier datagram could not be sent or delivered, as the kernel says (`ConnectionRefused` on a connected socket),
    /// or one could not be received. The transport goes on. Each one is told; of more than 64 at a time the last.
    fn error_received(&self, error: io::Error) {
        drop(error);
    }

    /// The socket is closed, since that was asked for (`None`), or for this reason. Nothing is called after it.
    fn connection_lost(&self, error: Option<io::Error>) {
        drop(error);
    }

    /// More is waiting to be sent than the high mark of the transport allows: better send no more for now.
    fn pause_writing(&self) {}

    /// What waits to be sent has shrunk to the low mark.
    fn resume_writing(&self) {}
}

/// A datagram socket of either family, for [`CreateDatagramEndpoint::socket`](crate::transport::CreateDatagramEndpoint::socket).
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointSocket {
    /// Of UDP.
    Udp(UdpSocket),
    /// Of UNIX datagrams.
    Unix(UnixDatagram),
}

impl From<UdpSocket> for EndpointSocket {
    fn from(socket: UdpSocket) -> Self {
        Self::Udp(socket)
    }
}

impl From<UnixDatagram> for EndpointSocket {
    fn from(socket: UnixDatagram) -> Self {
        Self::Unix(socket)
    }
}

impl EndpointSocket {
    fn messages(&self) -> &Rc<Messages> {
        match self {
            Self::Udp(socket) => &socket.messages,
            Self::Unix(socket) => &socket.messages,
        }
    }

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Chunk, SocketAddress)>> {
        match self {
            Self::Udp(socket) => receive::<Udp>(socket, cx, SocketAddress::Ip),
            Self::Unix(socket) => {
                receive::<UnixDatagrams>(socket, cx, |address| SocketAddress::Unix(Rc::new(address)))
            }
        }
    }

    fn write(&self, data: Bytes, target: Option<&SocketAddress>) -> io::Result<usize> {
        match (self, target) {
            (Self::Udp(socket), None) => socket.write(data),
            (Self::Unix(socket), None) => socket.write(data),
            (Self::Udp(socket), Some(SocketAddress::Ip(address))) => socket.write_to(data, *address),
            (Self::Unix(socket), Some(SocketAddress::Unix(address))) => socket.write_to_addr(data, address),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "an address of another family")),
        }
    }
}

fn receive<F: DatagramFamily>(
    socket: &DatagramSocket<F>,
    cx: &mut Context<'_>,
    address: impl FnOnce(F::Address) -> SocketAddress,
) -> Poll<io::Result<(Chunk, SocketAddress)>> {
    let message: Message<F> = ready!(socket.poll_receive_message(cx))?;
    if message.is_truncated() {
        return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EMSGSIZE)));
    }
    let source = address(message.source()?);
    Poll::Ready(Ok((message.into_data(), source)))
}

struct State {
    course: Course,
    /// `None` when it is over.
    socket: RefCell<Option<Rc<EndpointSocket>>>,
    protocol: RefCell<Option<Rc<dyn DatagramProtocol>>>,
    is_connected: bool,
}

impl State {
    fn socket(&self) -> Option<Rc<EndpointSocket>> {
        self.socket.borrow().clone()
    }

    fn protocol(&self) -> Option<Rc<dyn DatagramProtocol>> {
        self.protocol.borrow().clone()
    }

    fn queued(&self) -> usize {
        let socket = self.socket().filter(|_| !self.course.is_lost());
        socket.map_or(0, |socket| socket.messages().sends.bytes())
    }
}

/// The handle of a datagram socket whose events go to a [`DatagramProtocol`]. Clones are the same socket; dropping them all
/// changes nothing, as the loop keeps a transport until it is closed.
#[derive(Clone)]
pub struct DatagramTransport {
    state: Rc<State>,
}

impl DatagramTransport {
    /// Sends a datagram to `target`, or with `None` to whom the socket is connected to. It never waits: what the kernel
    /// does not take is queued, and [`DatagramProtocol::pause_writing`] is called when the queue is long. What the kernel
    /// says of it, `error_received` is told. On a transport that is closing it does nothing.
    ///
    /// # Errors
    /// `InvalidInput`, if the socket is connected to somebody else than `target`, or to nobody and `target` is `None`, or
    /// for an address of another family.
    pub fn sendto(&self, data: impl Into<Bytes>, target: Option<&SocketAddress>) -> io::Result<()> {
        let state = &self.state;
        let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let target = match target {
            None if !state.is_connected => return invalid("the socket is connected to nobody: where to?"),
            Some(target)
                if state.is_connected
                    && !state.course.peername.as_ref().is_some_and(|peer| peer.is_same(target)) =>
            {
                return invalid("the socket is connected to another address");
            }
            _ if state.is_connected => None,
            target => target,
        };
        let Some(socket) = state.socket().filter(|_| !state.course.is_closing()) else { return Ok(()) };
        socket.write(data.into(), target)?;
        state.course.pump.wake();
        self.pause_if_above();
        Ok(())
    }

    fn pause_if_above(&self) {
        let state = &self.state;
        if !state.course.begins_to_pause(state.queued()) {
            return;
        }
        if let Some(protocol) = state.protocol() {
            let _ = call(self, "pause_writing", || protocol.pause_writing());
        }
        state.course.pump.wake();
    }

    /// Sends what is queued, then closes; the protocol is told by `connection_lost(None)`. Nothing is received any more.
    pub fn close(&self) {
        let state = &self.state;
        if !state.course.is_closing() {
            state.course.close(state.queued() == 0);
        }
    }

    /// Closes at once; what was not sent yet is lost. The protocol is told by `connection_lost(None)`.
    pub fn abort(&self) {
        self.state.course.lose(None);
    }

    /// Whether it is closing, or closed.
    pub fn is_closing(&self) -> bool {
        self.state.course.is_closing()
    }

    /// The protocol; `None` when it is over.
    #[doc(alias = "get_protocol")]
    pub fn protocol(&self) -> Option<Rc<dyn DatagramProtocol>> {
        self.state.protocol()
    }

    /// Gives the socket another protocol, which is told of everything from now on.
    pub fn set_protocol<P: DatagramProtocol>(&self, protocol: Rc<P>) {
        if !self.state.course.is_over() {
            let before = self.state.protocol.replace(Some(protocol));
            drop(before); // user code, with nothing borrowed
        }
    }

    /// The address of this side.
    #[doc(alias = "get_extra_info")]
    pub fn sockname(&self) -> Option<&SocketAddress> {
        self.state.course.sockname.as_ref()
    }

    /// Whom the socket is connected to, if it is.
    #[doc(alias = "get_extra_info")]
    pub fn peername(&self) -> Option<&SocketAddress> {
        self.state.course.peername.as_ref()
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`].
    #[doc(alias = "get_extra_info")]
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        let socket = self.state.socket().ok_or(Closed::new("the transport"))?;
        socket.messages().descriptor.with(|fd| control::options(fd, f))
    }

    /// How many bytes wait that the kernel has not taken yet.
    #[doc(alias = "get_write_buffer_size")]
    pub fn write_buffer_size(&self) -> usize {
        self.state.queued()
    }

    /// When the protocol is told to pause and to go on.
    #[doc(alias = "get_write_buffer_limits")]
    pub fn write_buffer_limits(&self) -> WriteBufferLimits {
        self.state.course.limits.get()
    }

    /// As [`Transport::set_write_buffer_limits`](crate::transport::Transport::set_write_buffer_limits).
    ///
    /// # Errors
    /// If the low mark is above the high one.
    pub fn set_write_buffer_limits(&self, high: Option<usize>, low: Option<usize>) -> io::Result<()> {
        self.state.course.limits.set(WriteBufferLimits::new(high, low)?);
        self.pause_if_above();
        self.state.course.pump.wake();
        Ok(())
    }
}

impl TypedAttributeProvider for DatagramTransport {
    fn extra_attributes(&self) -> Attributes<'_> {
        let socket = self.state.socket();
        socket.map_or_else(Attributes::new, |socket| {
            Attributes::of_shared(socket.messages(), Messages::attributes)
        })
    }
}

impl PartialEq for DatagramTransport {
    /// Whether both are the same socket.
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.state, &other.state)
    }
}

impl Eq for DatagramTransport {}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramTransport")
            .field("sockname", &self.sockname())
            .field("peername", &self.peername())
            .field("closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}

/// Starts a transport; complete when the protocol was told.
pub(super) async fn start(
    socket: EndpointSocket,
    protocol: Rc<dyn DatagramProtocol>,
) -> io::Result<DatagramTransport> {
    let name = |address: io::Result<_>| address.ok().and_then(|address| SocketAddress::of(&address));
    let names = socket.messages().descriptor.with(|fd| {
        let peer = control::peer_address(fd);
        let is_connected = peer.is_ok();
        Ok((name(control::local_address(fd)), (name(peer), is_connected)))
    });
    let (sockname, (peername, is_connected)) = names?;
    let state = State {
        course: Course::new((sockname, peername)),
        socket: RefCell::new(Some(Rc::new(socket))),
        protocol: RefCell::new(Some(protocol)),
        is_connected,
    };
    let (transport, made) = (DatagramTransport { state: Rc::new(state) }, Event::new());
    run(Endpoint { transport: transport.clone() }, Some(made.clone()));
    is_made(made, || transport.abort()).await?;
    Ok(transport)
}

/// What is moved of a datagram socket.
struct Endpoint {
    transport: DatagramTransport,
}

impl Endpoint {
    fn tell(&self, callback: &'static str, f: impl FnOnce(&dyn DatagramProtocol)) {
        if let Some(protocol) = self.transport.state.protocol() {
            let _ = call(&self.transport, callback, || f(&*protocol));
        }
    }

    fn error(&self, error: io::Error) {
        // Not the kernel's word on a datagram: the loop closes.
        if error.raw_os_error().is_none() {
            return self.force_close(Some(error));
        }
        self.tell("error_received", |protocol| protocol.error_received(error));
    }
}

impl Moved for Endpoint {
    const WHAT: What = What(&"a datagram socket of a transport");

    fn course(&self) -> &Course {
        &self.transport.state.course
    }

    fn force_close(&self, error: Option<io::Error>) {
        self.course().lose(error);
    }

    fn connection_made(&mut self) {
        self.tell("connection_made", |protocol| protocol.connection_made(&self.transport));
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.tell("connection_lost", |protocol| protocol.connection_lost(error));
    }

    fn leave(&mut self) {
        let state = &self.transport.state;
        let before = state.course.over();
        let (socket, protocol) = (state.socket.take(), state.protocol.take());
        drop(socket);
        contain(|| drop((before, protocol))); // what is the program's
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.transport.state.clone();
        let Some(socket) = state.socket() else { return Poll::Pending };
        if !state.course.is_closing()
            && let Poll::Ready(received) = socket.poll_receive(cx)
        {
            match received {
                Ok((data, source)) => {
                    self.tell("datagram_received", |protocol| protocol.datagram_received(data, source));
                }
                Err(error) => self.error(error),
            }
            return Poll::Ready(());
        }
        let flushed = socket.messages().poll_flush(cx, 0);
        if let Poll::Ready(Err(error)) = flushed {
            self.error(error);
            return Poll::Ready(());
        }
        if state.course.is_writing_paused.get() && state.queued() <= state.course.limits.get().low {
            state.course.is_writing_paused.set(false);
            self.tell("resume_writing", |protocol| protocol.resume_writing());
            return Poll::Ready(());
        }
        if state.course.is_closing() && flushed.is_ready() {
            self.end(None);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
