//! Sockets as streams and listeners of `stream`: what its traits ask for.

use std::future::Future;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf};
use crate::driver::control;
use crate::error::{Failed, Unsent};
use crate::net::halves::{ReceiveHalf, SendHalf};
use crate::net::messages::Messages;
use crate::net::shared::Shared;
use crate::net::{
    DatagramFamily, DatagramSocket, Family, Listener, PipeReader, PipeWriter, Stream, UnixSeqpacket,
};
use crate::runtime::scope::What;
use crate::runtime::wait::cut;
use crate::stream::{
    AsyncResource, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, ObjectReceiveStream,
    ObjectSendStream, ObjectStream, PollByteStream, TypedAttributeProvider, UnreliableObjectReceiveStream,
    UnreliableObjectSendStream, of_socket,
};

const CLOSE: What = What(&"a stream to close");

impl Shared {
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        let local = || self.descriptor.with(|fd| control::local_address(fd)).ok();
        let remote = || self.descriptor.with(|fd| control::peer_address(fd)).ok();
        of_socket(self.descriptor.number(), local, remote)
    }
}

impl<F: Family> AsyncResource for Stream<F> {
    /// Sends what was [written](Stream::write), as long as that takes, then closes. A send that has begun ends first;
    /// others, and who receives, are told [`Closed`](crate::Closed) at once.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        cut(CLOSE, self.shared.aclose())
    }
}

impl<F: Family> TypedAttributeProvider for Stream<F> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.shared.attributes()
    }
}

impl<F: Family> ByteReceiveStream for Stream<F> {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        Self::receive(self)
    }
}

impl<F: Family> ByteSendStream for Stream<F> {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        Self::send(self, buf)
    }
}

impl<F: Family> ByteStream for Stream<F> {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        self.shutdown_write()
    }

    fn poll_faces(&self) -> Option<&dyn PollByteStream> {
        Some(self)
    }
}

impl<F: Family> PollByteStream for Stream<F> {
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        Self::poll_receive(self, cx)
    }

    fn write(&self, data: Bytes) -> io::Result<usize> {
        self.shared.write(data)
    }

    fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        Self::poll_flush(self, cx, below)
    }
}

impl<F: Family> AsyncResource for ReceiveHalf<F> {
    /// Stops receiving: what comes from now on is dropped. The other half goes on.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.shared().close_receiving();
        std::future::ready(Ok(()))
    }
}

impl<F: Family> TypedAttributeProvider for ReceiveHalf<F> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.shared().attributes()
    }
}

impl<F: Family> ByteReceiveStream for ReceiveHalf<F> {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        Self::receive(self)
    }
}

impl<F: Family> AsyncResource for SendHalf<F> {
    /// Sends what was written, and then the end of the stream. The other half goes on.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.shared().close_sending()
    }
}

impl<F: Family> TypedAttributeProvider for SendHalf<F> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.shared().attributes()
    }
}

impl<F: Family> ByteSendStream for SendHalf<F> {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        Self::send(self, buf)
    }
}

impl<F: Family> AsyncResource for Listener<F> {
    /// Stops accepting and closes; who accepts is told [`Closed`](crate::Closed).
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        Self::aclose(self)
    }
}

impl<F: Family> TypedAttributeProvider for Listener<F> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.attributes()
    }
}

impl<F: Family> crate::stream::Listener for Listener<F> {
    type Stream = Stream<F>;

    fn accept(&self) -> impl Future<Output = io::Result<Stream<F>>> {
        Self::accept(self)
    }
}

impl Messages {
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        let local = || self.descriptor.with(|fd| control::local_address(fd)).ok();
        let remote = || self.descriptor.with(|fd| control::peer_address(fd)).ok();
        of_socket(self.descriptor.number(), local, remote)
    }
}

impl<F: DatagramFamily> AsyncResource for DatagramSocket<F> {
    /// Sends what was [written](DatagramSocket::write), as long as that takes, then closes. Sends that have begun end
    /// first; others, and who receives, are told [`Closed`](crate::Closed) at once.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        cut(CLOSE, self.messages.aclose())
    }
}

/// Datagrams, with the address that they come from or go to: bytes that came are not copied.
impl<F: DatagramFamily> UnreliableObjectReceiveStream for DatagramSocket<F> {
    type Item = (Bytes, F::Address);

    fn receive(&self) -> impl Future<Output = io::Result<Option<Self::Item>>> {
        async move {
            let (bytes, source) = self.receive_from().await?;
            Ok(Some((bytes.into(), source)))
        }
    }
}

impl<F: DatagramFamily> UnreliableObjectSendStream for DatagramSocket<F> {
    type Item = (Bytes, F::Address);

    fn send(&self, item: Self::Item) -> impl Future<Output = Result<(), Unsent<Self::Item, io::Error>>> {
        async move {
            let (bytes, to) = item;
            let address = match F::unparse(&to) {
                Ok(address) => address,
                Err(error) => return Err(Unsent::new((bytes, to), error)),
            };
            match self.send_to_address(bytes, address).await {
                Ok(_) => Ok(()),
                Err(failed) => Err(Unsent::new((failed.buf, to), failed.error)),
            }
        }
    }
}

impl AsyncResource for UnixSeqpacket {
    /// Ends sends that have begun, then closes. Other sends, and who receives, are told [`Closed`](crate::Closed) at
    /// once.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        cut(CLOSE, self.messages.aclose())
    }
}

/// Messages, in order and without loss: those that came are not copied.
impl UnreliableObjectReceiveStream for UnixSeqpacket {
    type Item = Bytes;

    fn receive(&self) -> impl Future<Output = io::Result<Option<Bytes>>> {
        async move { Ok(Self::receive(self).await?.map(Bytes::from)) }
    }
}

impl UnreliableObjectSendStream for UnixSeqpacket {
    type Item = Bytes;

    fn send(&self, item: Bytes) -> impl Future<Output = Result<(), Unsent<Bytes, io::Error>>> {
        async move {
            let sent = Self::send(self, item).await;
            sent.map(drop).map_err(|failed| Unsent::new(failed.buf, failed.error))
        }
    }
}

impl ObjectReceiveStream for UnixSeqpacket {}
impl ObjectSendStream for UnixSeqpacket {}

impl ObjectStream for UnixSeqpacket {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        self.shutdown_write()
    }
}

impl<F: DatagramFamily> TypedAttributeProvider for DatagramSocket<F> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.messages.attributes()
    }
}

impl TypedAttributeProvider for UnixSeqpacket {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.messages.attributes()
    }
}

impl AsyncResource for PipeReader {
    /// Closes it; who receives is told [`Closed`](crate::Closed).
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        cut(CLOSE, self.shared.aclose())
    }
}

impl TypedAttributeProvider for PipeReader {}

impl ByteReceiveStream for PipeReader {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        Self::receive(self)
    }
}

impl AsyncResource for PipeWriter {
    /// Sends what was [written](PipeWriter::write), as long as that takes, then closes: the reader receives the end.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        cut(CLOSE, self.shared.aclose())
    }
}

impl TypedAttributeProvider for PipeWriter {}

impl ByteSendStream for PipeWriter {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        Self::send(self, buf)
    }
}
