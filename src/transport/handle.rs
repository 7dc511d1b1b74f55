//! The handle of a transport, and the state that it shares with its pump.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use crate::driver::control;
use crate::error::Closed;
use crate::net::shared::Shared;
use crate::runtime::contain;
use crate::runtime::wait::Waiter;
use crate::transport::address::SocketAddress;
use crate::transport::limits::WriteBufferLimits;
use crate::transport::protocol::{AnyProtocol, IntoProtocol};
use crate::transport::report::call;

/// How far a connection is.
#[derive(Default)]
pub(super) enum Life {
    #[default]
    Open,
    /// Closed when everything is sent that was written.
    Closing,
    /// The protocol is to be told that it is lost, in a turn of its own.
    Lost(Option<io::Error>),
    /// The protocol was told.
    Over,
}

/// The end of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eof {
    No,
    /// When everything is sent that was written.
    Asked,
    Sent,
}

pub(super) struct State {
    /// `None` when the connection is over: who keeps a transport does not keep the socket open.
    stream: RefCell<Option<Rc<Shared>>>,
    pub(super) protocol: RefCell<Option<AnyProtocol>>,
    pub(super) life: RefCell<Life>,
    pub(super) limits: Cell<WriteBufferLimits>,
    pub(super) is_reading_paused: Cell<bool>,
    pub(super) is_writing_paused: Cell<bool>,
    /// The peer sends no more, and the protocol keeps the connection open.
    pub(super) is_at_eof: Cell<bool>,
    pub(super) eof: Cell<Eof>,
    /// The buffer that is being received into belongs to a protocol that was replaced.
    pub(super) is_switched: Cell<bool>,
    /// Files that are being sent.
    pub(super) files: Cell<usize>,
    /// Wakes the pump when somebody else changed something.
    pub(super) pump: Waiter,
    sockname: Option<SocketAddress>,
    peername: Option<SocketAddress>,
}

impl State {
    pub(super) fn new(stream: Rc<Shared>, protocol: AnyProtocol) -> Rc<Self> {
        let names = stream.descriptor.with(|fd| {
            let address =
                |address: io::Result<_>| address.ok().and_then(|address| SocketAddress::of(&address));
            Ok((address(control::local_address(fd)), address(control::peer_address(fd))))
        });
        let (sockname, peername) = names.unwrap_or_default();
        Rc::new(Self {
            stream: RefCell::new(Some(stream)),
            protocol: RefCell::new(Some(protocol)),
            life: RefCell::default(),
            limits: Cell::default(),
            is_reading_paused: Cell::new(false),
            is_writing_paused: Cell::new(false),
            is_at_eof: Cell::new(false),
            eof: Cell::new(Eof::No),
            is_switched: Cell::new(false),
            files: Cell::new(0),
            pump: Waiter::new(),
            sockname,
            peername,
        })
    }

    /// The stream, until the connection is over.
    pub(super) fn stream(&self) -> Option<Rc<Shared>> {
        self.stream.borrow().clone()
    }

    /// The connection is over: lets go of the socket and the protocol.
    pub(super) fn leave(&self) {
        *self.life.borrow_mut() = Life::Over;
        let protocol = self.protocol.take();
        if let Some(stream) = self.stream.take() {
            stream.drop_handle();
        }
        contain(|| drop(protocol));
    }

    /// Bytes that were written and that the kernel has not taken.
    fn queued(&self) -> usize {
        self.stream().map_or(0, |stream| stream.outbound.bytes())
    }

    /// Whether everything is sent that was written.
    fn is_sent(&self) -> bool {
        self.files.get() == 0 && self.queued() == 0
    }

    /// Whether nothing is sent or received any more.
    pub(super) fn is_lost(&self) -> bool {
        matches!(&*self.life.borrow(), Life::Lost(_) | Life::Over)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(&*self.life.borrow(), Life::Over)
    }

    /// Why the connection is lost, if that is to be told.
    pub(super) fn take_lost(&self) -> Option<Option<io::Error>> {
        match &mut *self.life.borrow_mut() {
            Life::Lost(error) => Some(error.take()),
            _ => None,
        }
    }

    /// Whether the protocol is given nothing for now, or ever.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_closing() || self.is_reading_paused.get() || self.is_at_eof.get()
    }

    pub(super) fn is_closing(&self) -> bool {
        !matches!(&*self.life.borrow(), Life::Open)
    }

    pub(super) fn protocol(&self) -> Option<AnyProtocol> {
        self.protocol.borrow().clone()
    }

    /// Sends what was written, then the connection is over.
    pub(super) fn close(&self) {
        if self.is_closing() {
            return;
        }
        if let Some(stream) = self.stream() {
            stream.stop_receiving();
        }
        // A protocol that was told to pause is told that all is sent, before the end.
        let is_over = self.is_sent() && !self.is_writing_paused.get();
        *self.life.borrow_mut() = if is_over { Life::Lost(None) } else { Life::Closing };
        self.pump.wake();
    }

    /// The connection is over now; what was not sent is dropped.
    pub(super) fn force_close(&self, error: Option<io::Error>) {
        if self.is_lost() {
            return;
        }
        *self.life.borrow_mut() = Life::Lost(error);
        if let Some(stream) = self.stream() {
            stream.stop_receiving();
            stream.outbound.clear();
        }
        self.pump.wake();
    }

    /// Tells the protocol to pause if more is queued than it should be.
    fn pause_if_above(&self) {
        if self.queued() <= self.limits.get().high || self.is_writing_paused.replace(true) {
            return;
        }
        if let Some(protocol) = self.protocol() {
            let _ = call("pause_writing", || protocol.pause_writing());
        }
        self.pump.wake();
    }
}

/// The handle of a connection whose events go to a [`Protocol`](crate::transport::Protocol). Clones are the same connection; dropping them all changes
/// nothing, as the loop keeps a transport until it is closed.
#[derive(Clone)]
pub struct Transport {
    pub(super) state: Rc<State>,
}

impl Transport {
    /// Sends bytes, after what was written before. It never waits: what the kernel does not take is queued, and
    /// [`Protocol::pause_writing`](crate::transport::Protocol::pause_writing) is called when the queue is long. After the
    /// connection is lost, it does nothing.
    ///
    /// # Errors
    /// `BrokenPipe` after [`write_eof`](Self::write_eof).
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<()> {
        self.writelines([data])
    }

    /// Sends several pieces, together.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn writelines<B: Into<Bytes>>(&self, data: impl IntoIterator<Item = B>) -> io::Result<()> {
        let state = &self.state;
        if state.eof.get() != Eof::No {
            let text = "nothing can be written after write_eof";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, text));
        }
        let stream = state.stream().filter(|_| !state.is_lost());
        for piece in data {
            let bytes = piece.into();
            if let Some(stream) = &stream {
                // Why it fails, the pump learns too, and ends the connection.
                let _ = stream.write(bytes);
            }
        }
        state.pause_if_above();
        Ok(())
    }

    /// Says that no more is written: the peer receives the end of the stream after all that was. Receiving goes on. Doing
    /// it twice, or on a transport that is closing, does nothing.
    ///
    /// # Errors
    /// What the kernel says (`NotConnected` …).
    #[doc(alias = "send_eof")]
    pub fn write_eof(&self) -> io::Result<()> {
        let state = &self.state;
        let Some(stream) = state.stream().filter(|_| !state.is_closing() && state.eof.get() == Eof::No)
        else {
            return Ok(());
        };
        if state.is_sent() {
            state.eof.set(Eof::Sent);
            return stream.shut_now();
        }
        state.eof.set(Eof::Asked);
        state.pump.wake();
        Ok(())
    }

    /// Whether [`write_eof`](Self::write_eof) is possible: yes, for sockets.
    pub fn can_write_eof(&self) -> bool {
        true
    }

    /// Sends what was written, then closes; the protocol is told by `connection_lost(None)`. Nothing is received any more.
    pub fn close(&self) {
        self.state.close();
    }

    /// Closes at once; what was not sent yet is lost. The protocol is told by `connection_lost(None)`.
    pub fn abort(&self) {
        self.state.force_close(None);
    }

    /// Whether it is closing, or closed.
    pub fn is_closing(&self) -> bool {
        self.state.is_closing()
    }

    /// The protocol is given no more bytes until [`resume_reading`](Self::resume_reading). Doing it twice does nothing.
    pub fn pause_reading(&self) {
        self.state.is_reading_paused.set(true);
    }

    /// The protocol is given bytes again. Doing it twice does nothing.
    pub fn resume_reading(&self) {
        if self.state.is_reading_paused.replace(false) {
            self.state.pump.wake();
        }
    }

    /// Whether the protocol is given bytes: neither paused nor closing.
    pub fn is_reading(&self) -> bool {
        !self.state.is_closing() && !self.state.is_reading_paused.get()
    }

    /// The protocol that is told of the connection; `None` when it is over.
    #[doc(alias = "get_protocol")]
    pub fn protocol(&self) -> Option<AnyProtocol> {
        self.state.protocol()
    }

    /// Gives the connection another protocol, which is told of everything from now on. (Not of `connection_made`, which
    /// has happened.)
    pub fn set_protocol<P: IntoProtocol>(&self, protocol: Rc<P>) {
        if self.state.is_over() {
            return;
        }
        let before = self.state.protocol.replace(Some(protocol.into_protocol()));
        self.state.is_switched.set(true);
        self.state.pump.wake();
        drop(before); // user code, with nothing borrowed
    }

    /// The address of this side.
    #[doc(alias = "get_extra_info")]
    pub fn sockname(&self) -> Option<&SocketAddress> {
        self.state.sockname.as_ref()
    }

    /// The address of the other side, as it was when the connection was made: also after that is gone.
    #[doc(alias = "get_extra_info")]
    pub fn peername(&self) -> Option<&SocketAddress> {
        self.state.peername.as_ref()
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`](crate::Closed).
    #[doc(alias = "get_extra_info")]
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        let stream = self.state.stream().ok_or(Closed::new("the transport"))?;
        stream.descriptor.with(|fd| control::options(fd, f))
    }

    /// How many bytes were written that the kernel has not taken yet.
    #[doc(alias = "get_write_buffer_size")]
    pub fn write_buffer_size(&self) -> usize {
        self.state.queued()
    }

    /// When the protocol is told to pause and to go on.
    #[doc(alias = "get_write_buffer_limits")]
    pub fn write_buffer_limits(&self) -> WriteBufferLimits {
        self.state.limits.get()
    }

    /// Sets when the protocol is told to pause and to go on; see [`WriteBufferLimits::new`]. With zero for both it is told
    /// to pause whenever something is queued.
    ///
    /// # Errors
    /// If the low mark is above the high one.
    pub fn set_write_buffer_limits(&self, high: Option<usize>, low: Option<usize>) -> io::Result<()> {
        self.state.limits.set(WriteBufferLimits::new(high, low)?);
        self.state.pause_if_above();
        Ok(())
    }
}

impl PartialEq for Transport {
    /// Whether both are the same connection.
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.state, &other.state)
    }
}

impl Eq for Transport {}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("stream", &self.state.stream())
            .field("closing", &self.is_closing())
            .field("reading", &self.is_reading())
            .field("limits", &self.write_buffer_limits())
            .finish_non_exhaustive()
    }
}
