//! What carries the bytes of a transport: a socket or a pipe of this crate, or any byte stream.

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf};
use crate::driver::control;
use crate::error::Failed;
use crate::net::shared::Shared;
use crate::runtime::contain;
use crate::stream::{
    AsyncResource, Attributes, BoxFuture, ByteReceiveStream, ByteSendStream, ByteStream, PollByteStream,
    SocketAttribute, TypedAttributeProvider,
};
use crate::transport::address::SocketAddress;

/// A byte stream that a transport stands on.
pub(super) trait Carrier {
    fn faces(&self) -> &dyn PollByteStream;
    fn attributes(&self) -> Attributes<'_>;
    /// Whether the sending side can be closed alone.
    fn can_write_eof(&self) -> bool;
    fn send_eof(self: Rc<Self>) -> BoxFuture<'static, io::Result<()>>;
    /// The socket at the bottom.
    fn base(&self) -> Option<&Rc<Shared>>;
    /// Sends what was written, then closes.
    fn close(self: Rc<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// In which directions bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Both,
    /// The end of a pipe that bytes come out of.
    In,
    /// The end of a pipe that bytes go into, and whether it can be seen that nobody reads any more.
    Out {
        is_watched: bool,
    },
}

#[derive(Clone)]
pub(super) enum Below {
    /// Whoever has it calls `leave` in the end: it is one handle of the socket, however many clones there are.
    Socket(Rc<Shared>, Way),
    Stream(Rc<dyn Carrier>),
}

impl From<Rc<Shared>> for Below {
    fn from(shared: Rc<Shared>) -> Self {
        Self::Socket(shared, Way::Both)
    }
}

impl Below {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::Socket(_, way) => *way,
            Self::Stream(_) => Way::Both,
        }
    }

    pub(super) fn can_write_eof(&self) -> bool {
        match self {
            Self::Socket(_, way) => *way != Way::In,
            Self::Stream(carrier) => carrier.can_write_eof(),
        }
    }

    /// Bytes that were written and are not sent yet.
    pub(super) fn queued(&self) -> usize {
        match self {
            Self::Socket(shared, _) => shared.outbound.bytes(),
            // A stream that is over has nothing any more.
            Self::Stream(carrier) => carrier.faces().write(Bytes::new()).unwrap_or(0),
        }
    }

    /// Whether nothing waits to be sent, and nothing is on its way: a socket can be closed at once then.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Socket(shared, _) if !shared.outbound.is_busy())
    }

    /// Queues bytes. An error here is one that the pump does not learn of.
    pub(super) fn write(&self, bytes: Bytes) -> io::Result<()> {
        match self {
            // Why it fails, the pump learns too, and ends the connection.
            Self::Socket(shared, _) => {
                let _ = shared.write(bytes);
                Ok(())
            }
            Self::Stream(carrier) => carrier.faces().write(bytes).map(drop),
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(shared, _) => shared.poll_flush(cx, below),
            Self::Stream(carrier) => carrier.faces().poll_flush(cx, below),
        }
    }

    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        match self {
            Self::Socket(shared, _) => shared.poll_receive(cx),
            Self::Stream(carrier) => carrier.faces().poll_receive(cx),
        }
    }

    /// From now on the task of `cx` is woken when sending fails for good, as far as that can be known.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        if let Self::Socket(shared, _) = self {
            shared.watch(cx);
        }
    }

    /// Why sending is over for good, if that is known without sending.
    pub(super) fn send_error(&self) -> Option<io::Error> {
        match self {
            Self::Socket(shared, _) => shared.send_error(),
            Self::Stream(_) => None,
        }
    }

    pub(super) fn stop_receiving(&self) {
        if let Self::Socket(shared, _) = self {
            shared.stop_receiving();
        }
    }

    /// Drops what waits to be sent.
    pub(super) fn clear(&self) {
        if let Self::Socket(shared, _) = self {
            shared.outbound.clear();
        }
    }

    /// Waits until all is sent that was written, or is being sent.
    pub(super) fn sent(&self) -> BoxFuture<'static, io::Result<()>> {
        let this = self.clone();
        Box::pin(async move {
            match this {
                Self::Socket(shared, _) => shared.turn().await.map(drop),
                Self::Stream(carrier) => poll_fn(|cx| carrier.faces().poll_flush(cx, 0)).await,
            }
        })
    }

    pub(super) fn leave(self) {
        match self {
            Self::Socket(shared, _) => shared.drop_handle(),
            Self::Stream(carrier) => contain(|| drop(carrier)),
        }
    }

    pub(super) fn attributes(&self) -> Attributes<'static> {
        match self {
            Self::Socket(shared, Way::Both) => Attributes::of_shared(shared, Shared::attributes),
            Self::Socket(..) => Attributes::new(),
            Self::Stream(carrier) => Attributes::of_shared(carrier, |carrier| carrier.attributes()),
        }
    }

    /// The addresses of this side and of the other one.
    pub(super) fn names(&self) -> (Option<SocketAddress>, Option<SocketAddress>) {
        let name = |address: Option<_>| address.and_then(|address| SocketAddress::of(&address));
        match self {
            Self::Socket(shared, _) => {
                let names = shared.descriptor.with(|fd| {
                    Ok((name(control::local_address(fd).ok()), name(control::peer_address(fd).ok())))
                });
                names.unwrap_or_default()
            }
            Self::Stream(carrier) => {
                let attributes = carrier.attributes();
                let local = attributes.get(SocketAttribute::LOCAL_ADDRESS);
                (name(local), name(attributes.get(SocketAttribute::REMOTE_ADDRESS)))
            }
        }
    }

    /// The socket or pipe at the bottom, if it is one of this crate.
    pub(super) fn base(&self) -> Option<&Rc<Shared>> {
        match self {
            Self::Socket(shared, _) => Some(shared),
            Self::Stream(carrier) => carrier.base(),
        }
    }
}

/// What a transport stands on, as a byte stream: TLS is put on top of it.
pub(super) struct Lower(Option<Below>);

impl Lower {
    pub(super) fn new(below: Below) -> Self {
        Self(Some(below))
    }

    pub(super) fn into_below(mut self) -> Below {
        self.0.take().expect("it is there until here")
    }

    fn below(&self) -> &Below {
        self.0.as_ref().expect("it is there as long as this is")
    }
}

impl Drop for Lower {
    fn drop(&mut self) {
        if let Some(below) = self.0.take() {
            below.leave();
        }
    }
}

impl AsyncResource for Lower {
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        let below = self.below().clone();
        async move {
            match below {
                Below::Socket(shared, _) => shared.aclose().await,
                Below::Stream(carrier) => carrier.close().await,
            }
        }
    }
}

impl TypedAttributeProvider for Lower {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.below().attributes()
    }
}

impl ByteReceiveStream for Lower {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        poll_fn(|cx| self.below().poll_receive(cx))
    }
}

impl ByteSendStream for Lower {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        async move {
            let sent = match self.write(Bytes::copy_from_slice(buf.as_slice())) {
                Ok(_) => poll_fn(|cx| self.below().poll_flush(cx, 0)).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => Ok(buf),
                Err(error) => Err(Failed::new(error, buf, 0)),
            }
        }
    }
}

impl ByteStream for Lower {
    async fn send_eof(&self) -> io::Result<()> {
        match self.below() {
            Below::Socket(shared, _) => shared.shutdown_write().await,
            Below::Stream(carrier) => carrier.clone().send_eof().await,
        }
    }

    fn poll_faces(&self) -> Option<&dyn PollByteStream> {
        Some(self)
    }
}

impl PollByteStream for Lower {
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.below().poll_receive(cx)
    }

    fn write(&self, data: Bytes) -> io::Result<usize> {
        match self.below() {
            Below::Socket(shared, _) => shared.write(data),
            Below::Stream(carrier) => carrier.faces().write(data),
        }
    }

    fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.below().poll_flush(cx, below)
    }
}
