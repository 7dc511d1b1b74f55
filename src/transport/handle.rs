//! The handle of a transport, and the state that it shares with its pump.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use crate::buf::Chunk;
use crate::driver::control;
use crate::error::{Busy, Closed};
use crate::runtime::contain;
use crate::runtime::wait::Waiter;
use crate::stream::{Attributes, TypedAttributeProvider};
use crate::transport::address::SocketAddress;
use crate::transport::below::{Below, Way};
use crate::transport::course::Course;
use crate::transport::limits::WriteBufferLimits;
use crate::transport::protocol::{AnyProtocol, IntoProtocol};
use crate::transport::report::call;

/// The end of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eof {
    No,
    /// When everything is sent that was written.
    Asked,
    Sent,
}

pub(super) struct State {
    pub(super) course: Course,
    /// `None` when the connection is over (who keeps a transport does not keep the socket open), and while something
    /// else is put on top of it.
    below: RefCell<Option<Below>>,
    pub(super) protocol: RefCell<Option<AnyProtocol>>,
    pub(super) is_reading_paused: Cell<bool>,
    /// The peer sends no more, and the protocol keeps the connection open.
    pub(super) is_at_eof: Cell<bool>,
    /// Of what carries the bytes.
    can_write_eof: Cell<bool>,
    pub(super) eof: Cell<Eof>,
    /// The buffer that is being received into belongs to a protocol that was replaced.
    pub(super) is_switched: Cell<bool>,
    /// What the transport stands on has changed, or is being changed.
    pub(super) is_moved: Cell<bool>,
    /// Wakes whoever uses what carries the bytes beside the pump, if the connection is lost meanwhile: who puts TLS on top,
    /// or sends a file over a stream.
    pub(super) outsider: Waiter,
    /// What came and found no room in a buffer of the protocol.
    pub(super) rest: Cell<Option<Chunk>>,
    /// Files that are being sent.
    pub(super) files: Cell<usize>,
    /// What was written behind a file that is read and written piece by piece.
    held: RefCell<Vec<Bytes>>,
}

impl State {
    pub(super) fn new(below: Below, protocol: AnyProtocol) -> Rc<Self> {
        let (course, can_write_eof) = (Course::new(below.names()), below.can_write_eof());
        Rc::new(Self {
            course,
            below: RefCell::new(Some(below)),
            protocol: RefCell::new(Some(protocol)),
            is_reading_paused: Cell::new(false),
            is_at_eof: Cell::new(false),
            can_write_eof: Cell::new(can_write_eof),
            eof: Cell::new(Eof::No),
            is_switched: Cell::new(false),
            is_moved: Cell::new(false),
            outsider: Waiter::new(),
            rest: Cell::default(),
            files: Cell::new(0),
            held: RefCell::default(),
        })
    }

    /// What carries the bytes, until the connection is over.
    pub(super) fn below(&self) -> Option<Below> {
        self.below.borrow().clone()
    }

    /// Takes what carries the bytes out, to put something else on top of it: nothing is received or written meanwhile.
    /// To `received` it adds what came and was not given to the protocol.
    #[cfg(feature = "tls")]
    pub(super) fn take_below(&self, mut received: Vec<u8>) -> (Option<Below>, Vec<u8>) {
        received.extend_from_slice(self.rest.take().as_deref().unwrap_or_default());
        let below = self.below.take();
        self.is_moved.set(true);
        self.course.pump.wake();
        (below, received)
    }

    /// From now on this carries the bytes. Gives it back if the connection is lost.
    #[cfg(feature = "tls")]
    pub(super) fn set_below(&self, below: Below) -> Result<(), Below> {
        if self.course.is_closing() {
            return Err(below);
        }
        self.can_write_eof.set(below.can_write_eof());
        self.below.replace(Some(below));
        self.is_moved.set(true);
        self.course.pump.wake();
        Ok(())
    }

    /// The connection is over: lets go of the socket and the protocol.
    pub(super) fn leave(&self) {
        // Errors and protocols are the program's, and dropped with nothing borrowed.
        let before = self.course.over();
        let protocol = self.protocol.take();
        if let Some(below) = self.below.take() {
            below.leave();
        }
        drop((self.rest.take(), self.held.take()));
        contain(|| drop((before, protocol)));
    }

    /// Bytes that were written and that the kernel has not taken.
    fn queued(&self) -> usize {
        let held: usize = self.held.borrow().iter().map(Bytes::len).sum();
        held + self.below().filter(|_| !self.course.is_lost()).map_or(0, |below| below.queued())
    }

    /// Whether everything is sent that was written, and nothing is on its way.
    fn is_sent(&self) -> bool {
        self.files.get() == 0 && self.below().is_none_or(|below| below.is_idle())
    }

    /// Whether the protocol is given nothing for now, or ever.
    pub(super) fn is_deaf(&self) -> bool {
        self.course.is_closing() || self.is_reading_paused.get() || self.is_at_eof.get()
    }

    pub(super) fn protocol(&self) -> Option<AnyProtocol> {
        self.protocol.borrow().clone()
    }

    /// Sends what was written, then the connection is over.
    pub(super) fn close(&self) {
        if self.course.is_closing() {
            return;
        }
        let Some(below) = self.below() else { return self.force_close(None) };
        below.stop_receiving();
        self.course.close(self.is_sent());
    }

    /// The connection is over now; what was not sent is dropped.
    pub(super) fn force_close(&self, error: Option<io::Error>) {
        if !self.course.lose(error) {
            return;
        }
        if let Some(below) = self.below() {
            below.stop_receiving();
            below.clear();
        }
        self.held.take();
        self.outsider.wake();
    }

    /// Tells the protocol to pause if more is queued than it should be.
    fn pause_if_above(self: &Rc<Self>) {
        if !self.course.begins_to_pause(self.queued()) {
            return;
        }
        if let Some(protocol) = self.protocol() {
            let transport = Transport { state: self.clone() };
            let _ = call(&transport, "pause_writing", || protocol.pause_writing());
        }
        self.course.pump.wake();
    }

    /// Gives bytes to what carries them.
    fn put(&self, below: &Below, bytes: Bytes) {
        if let Below::Stream(_) = below {
            if self.files.get() > 0 {
                return self.held.borrow_mut().push(bytes);
            }
            // It moves on while it is asked.
            self.course.pump.wake();
        }
        match below.write(bytes) {
            // What comes behind the goodbye of TLS is dropped, as after the end; else the close says what is wrong.
            Err(error) if !self.course.is_closing() => self.force_close(Some(error)),
            _ => {}
        }
    }

    /// A file was sent, or given up.
    pub(super) fn file_over(&self) {
        self.files.set(self.files.get() - 1);
        self.outsider.clear();
        if let Some(below) = self.below().filter(|_| self.files.get() == 0 && !self.course.is_lost()) {
            self.held.take().into_iter().for_each(|bytes| self.put(&below, bytes));
        }
        self.course.pump.wake();
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
    /// `BrokenPipe` after [`write_eof`](Self::write_eof); [`Busy`] while TLS is being started; `Unsupported` at the end of
    /// a pipe that is read.
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
        let below = state.below().filter(|_| !state.course.is_lost());
        match &below {
            Some(below) if below.way() == Way::In => return Err(io::ErrorKind::Unsupported.into()),
            None if !state.course.is_lost() => return Err(Busy::new("starting TLS on").into()),
            _ => {}
        }
        for piece in data {
            let bytes = piece.into();
            if let Some(below) = &below {
                state.put(below, bytes);
            }
        }
        state.pause_if_above();
        Ok(())
    }

    /// Says that no more is written: the peer receives the end of the stream after all that was. Receiving goes on. Doing
    /// it twice, or on a transport that is closing, does nothing. A pipe it closes.
    ///
    /// # Errors
    /// What the kernel says (`NotConnected` …). `Unsupported`, where that is not [possible](Self::can_write_eof).
    #[doc(alias = "send_eof")]
    pub fn write_eof(&self) -> io::Result<()> {
        let state = &self.state;
        if state.course.is_closing() || state.eof.get() != Eof::No {
            return Ok(());
        }
        let below = state.below().ok_or(Busy::new("starting TLS on"))?;
        if !state.can_write_eof.get() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match &below {
            Below::Socket(_, Way::Out { .. }) => state.close(),
            Below::Socket(shared, _) if state.is_sent() => {
                state.eof.set(Eof::Sent);
                return shared.shut_now();
            }
            _ => {
                state.eof.set(Eof::Asked);
                state.course.pump.wake();
            }
        }
        Ok(())
    }

    /// Whether [`write_eof`](Self::write_eof) is possible: yes for sockets, no over TLS.
    pub fn can_write_eof(&self) -> bool {
        self.state.can_write_eof.get()
    }

    /// Sends what was written, then closes; the protocol is told by `connection_lost(None)`. Nothing is received any more.
    /// What is written while it sends is sent too. While TLS is being started, it is an abort.
    pub fn close(&self) {
        self.state.close();
    }

    /// Closes at once; what was not sent yet is lost. The protocol is told by `connection_lost(None)`.
    pub fn abort(&self) {
        self.state.force_close(None);
    }

    /// Whether it is closing, or closed.
    pub fn is_closing(&self) -> bool {
        self.state.course.is_closing()
    }

    /// The protocol is given no more bytes until [`resume_reading`](Self::resume_reading). Doing it twice does nothing.
    pub fn pause_reading(&self) {
        self.state.is_reading_paused.set(true);
    }

    /// The protocol is given bytes again. Doing it twice does nothing.
    pub fn resume_reading(&self) {
        if self.state.is_reading_paused.replace(false) {
            self.state.course.pump.wake();
        }
    }

    /// Whether the protocol is given bytes: neither paused nor closing.
    pub fn is_reading(&self) -> bool {
        !self.state.course.is_closing() && !self.state.is_reading_paused.get()
    }

    /// The protocol that is told of the connection; `None` when it is over.
    #[doc(alias = "get_protocol")]
    pub fn protocol(&self) -> Option<AnyProtocol> {
        self.state.protocol()
    }

    /// Gives the connection another protocol, which is told of everything from now on. (Not of `connection_made`, which
    /// has happened.)
    pub fn set_protocol<P: IntoProtocol>(&self, protocol: Rc<P>) {
        if self.state.course.is_over() {
            return;
        }
        let before = self.state.protocol.replace(Some(protocol.into_protocol()));
        self.state.is_switched.set(true);
        self.state.course.pump.wake();
        drop(before); // user code, with nothing borrowed
    }

    /// The address of this side.
    #[doc(alias = "get_extra_info")]
    pub fn sockname(&self) -> Option<&SocketAddress> {
        self.state.course.sockname.as_ref()
    }

    /// The address of the other side, as it was when the connection was made: also after that is gone.
    #[doc(alias = "get_extra_info")]
    pub fn peername(&self) -> Option<&SocketAddress> {
        self.state.course.peername.as_ref()
    }

    /// Reads or sets any option of the socket, synchronously.
    ///
    /// # Errors
    /// What `f` says, or [`Closed`](crate::Closed).
    #[doc(alias = "get_extra_info")]
    pub fn with_socket<R>(&self, f: impl FnOnce(&socket2::SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        let below = self.state.below().ok_or(Closed::new("the transport"))?;
        let base = below.base().ok_or(io::ErrorKind::Unsupported)?;
        base.descriptor.with(|fd| control::options(fd, f))
    }

    /// How many bytes were written that the kernel has not taken yet.
    #[doc(alias = "get_write_buffer_size")]
    pub fn write_buffer_size(&self) -> usize {
        self.state.queued()
    }

    /// When the protocol is told to pause and to go on.
    #[doc(alias = "get_write_buffer_limits")]
    pub fn write_buffer_limits(&self) -> WriteBufferLimits {
        self.state.course.limits.get()
    }

    /// Sets when the protocol is told to pause and to go on; see [`WriteBufferLimits::new`]. With zero for both it is told
    /// to pause whenever something is queued, as everything is until the kernel has taken it, in a later turn.
    ///
    /// # Errors
    /// If the low mark is above the high one.
    pub fn set_write_buffer_limits(&self, high: Option<usize>, low: Option<usize>) -> io::Result<()> {
        self.state.course.limits.set(WriteBufferLimits::new(high, low)?);
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
            .field("peername", &self.peername())
            .field("closing", &self.is_closing())
            .field("reading", &self.is_reading())
            .field("limits", &self.write_buffer_limits())
            .finish_non_exhaustive()
    }
}

impl TypedAttributeProvider for Transport {
    /// What is known of the socket, and of TLS: everything that asyncio's `get_extra_info` tells, as long as the
    /// connection is not over; also in `connection_lost`.
    fn extra_attributes(&self) -> Attributes<'_> {
        self.state.below().map_or_else(Attributes::new, |below| below.attributes())
    }
}
