//! What is called when something happens to a connection.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::Rc;

use bytes::BytesMut;

use crate::buf::Chunk;
use crate::transport::Transport;

/// What is told of a connection of a stream: that it is made, what comes, that it is lost.
///
/// `connection_made` comes first, then `data_received` any number of times, then perhaps `eof_received`, and last, exactly
/// once, `connection_lost`; a loop that is closed before drops its connections without a word, as asyncio's does (at the end
/// of [`run`](crate::run) each is told). They are called by the loop, none inside of another one; but `pause_writing` is called from
/// inside of [`Transport::write`], and so while another one runs. That is why all of them take `&self`.
///
/// A panic in `data_received` or `eof_received` ends the connection: it is aborted, and `connection_lost` is told of it. A
/// panic in the others leaves it as it is. The exception handler of the loop hears of all of them, and of which transport:
/// [`about`](crate::event_loop::ExceptionContext::about).
///
/// # Examples
/// ```
/// use std::cell::OnceCell;
/// use proactor::buf::Chunk;
/// use proactor::transport::{Protocol, Transport};
///
/// #[derive(Default)]
/// struct Echo {
///     transport: OnceCell<Transport>,
/// }
///
/// impl Protocol for Echo {
///     fn connection_made(&self, transport: &Transport) {
///         self.transport.set(transport.clone()).ok();
///     }
///
///     fn data_received(&self, data: Chunk) {
///         if let Some(transport) = self.transport.get() {
///             transport.write(data).ok();
///         }
///     }
/// }
/// ```
pub trait Protocol: 'static {
    /// The connection is there. Whoever wants to write later keeps a clone of the transport.
    fn connection_made(&self, transport: &Transport) {
        let _ = transport;
    }

    /// Bytes came, at least one. The chunk is still in the buffer that the kernel wrote into; dropping it gives that back.
    fn data_received(&self, data: Chunk) {
        drop(data);
    }

    /// The peer sends no more. With true the connection stays open for writing; with false the transport closes. Over TLS and
    /// of pipes it closes in any case: see [`Transport::can_write_eof`].
    fn eof_received(&self) -> bool {
        false
    }

    /// The connection is over, since it was closed or aborted (`None`), or for this reason. Nothing is called after it.
    fn connection_lost(&self, error: Option<io::Error>) {
        drop(error);
    }

    /// More is waiting to be sent than the high mark of the transport allows: better write no more for now.
    fn pause_writing(&self) {}

    /// What waits to be sent has shrunk to the low mark. Each `pause_writing` is followed by one of these, if the
    /// connection lives.
    fn resume_writing(&self) {}
}

/// A [`Protocol`] that brings the buffers for what comes: the kernel writes straight into them.
///
/// Wrapped in [`Buffered`], it goes wherever a protocol goes.
pub trait BufferedProtocol: 'static {
    /// As [`Protocol::connection_made`].
    fn connection_made(&self, transport: &Transport) {
        let _ = transport;
    }

    /// Hands over a buffer, into whose whole capacity the kernel may write, from its start. (For bytes behind others that
    /// came before: [`BytesMut::split_off`] at their end, and [`BytesMut::unsplit`] afterwards.) A buffer without
    /// capacity ends the connection with an error.
    ///
    /// It is called when the transport begins to wait for bytes, so a connection on which nothing happens keeps one
    /// buffer. It comes back by [`buffer_updated`](Self::buffer_updated), unless the connection ends before, or gets
    /// another protocol.
    fn get_buffer(&self, size_hint: Option<usize>) -> BytesMut;

    /// Gives a buffer back: its first `count` bytes, at least one, are what came, and its length is `count`.
    fn buffer_updated(&self, buffer: BytesMut, count: usize);

    /// As [`Protocol::eof_received`].
    fn eof_received(&self) -> bool {
        false
    }

    /// As [`Protocol::connection_lost`].
    fn connection_lost(&self, error: Option<io::Error>) {
        drop(error);
    }

    /// As [`Protocol::pause_writing`].
    fn pause_writing(&self) {}

    /// As [`Protocol::resume_writing`].
    fn resume_writing(&self) {}
}

/// The protocol of a transport: one of the two kinds.
#[derive(Clone)]
#[non_exhaustive]
pub enum AnyProtocol {
    /// It is given chunks.
    Stream(Rc<dyn Protocol>),
    /// It brings its buffers.
    Buffered(Rc<dyn BufferedProtocol>),
}

macro_rules! either {
    ($self:ident, $protocol:ident => $call:expr) => {
        match $self {
            Self::Stream($protocol) => $call,
            Self::Buffered($protocol) => $call,
        }
    };
}

impl AnyProtocol {
    pub(crate) fn connection_made(&self, transport: &Transport) {
        either!(self, protocol => protocol.connection_made(transport));
    }

    pub(crate) fn eof_received(&self) -> bool {
        either!(self, protocol => protocol.eof_received())
    }

    pub(crate) fn connection_lost(&self, error: Option<io::Error>) {
        either!(self, protocol => protocol.connection_lost(error));
    }

    pub(crate) fn pause_writing(&self) {
        either!(self, protocol => protocol.pause_writing());
    }

    pub(crate) fn resume_writing(&self) {
        either!(self, protocol => protocol.resume_writing());
    }
}

impl fmt::Debug for AnyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream(_) => "Protocol",
            Self::Buffered(_) => "BufferedProtocol",
        })
    }
}

/// What can be the protocol of a transport: every [`Protocol`], and every [`BufferedProtocol`] in a [`Buffered`].
pub trait IntoProtocol: 'static {
    /// As one of the two kinds.
    fn into_protocol(self: Rc<Self>) -> AnyProtocol;
}

impl<P: Protocol> IntoProtocol for P {
    fn into_protocol(self: Rc<Self>) -> AnyProtocol {
        AnyProtocol::Stream(self)
    }
}

/// Marks a [`BufferedProtocol`] as one.
#[derive(Debug, Clone, Default)]
pub struct Buffered<P>(pub P);

impl<P> Deref for Buffered<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0
    }
}

impl<P: BufferedProtocol> BufferedProtocol for Buffered<P> {
    fn connection_made(&self, transport: &Transport) {
        self.0.connection_made(transport);
    }

    fn get_buffer(&self, size_hint: Option<usize>) -> BytesMut {
        self.0.get_buffer(size_hint)
    }

    fn buffer_updated(&self, buffer: BytesMut, count: usize) {
        self.0.buffer_updated(buffer, count);
    }

    fn eof_received(&self) -> bool {
        self.0.eof_received()
    }

    fn connection_lost(&self, error: Option<io::Error>) {
        self.0.connection_lost(error);
    }

    fn pause_writing(&self) {
        self.0.pause_writing();
    }

    fn resume_writing(&self) {
        self.0.resume_writing();
    }
}

impl<P: BufferedProtocol> IntoProtocol for Buffered<P> {
    fn into_protocol(self: Rc<Self>) -> AnyProtocol {
        AnyProtocol::Buffered(self)
    }
}

impl<P: Protocol + ?Sized> Protocol for Rc<P> {
    fn connection_made(&self, transport: &Transport) {
        (**self).connection_made(transport);
    }

    fn data_received(&self, data: Chunk) {
        (**self).data_received(data);
    }

    fn eof_received(&self) -> bool {
        (**self).eof_received()
    }

    fn connection_lost(&self, error: Option<io::Error>) {
        (**self).connection_lost(error);
    }

    fn pause_writing(&self) {
        (**self).pause_writing();
    }

    fn resume_writing(&self) {
        (**self).resume_writing();
    }
}
