//! Two streams, one for each direction, as one.

use std::future::Future;
use std::io;

use crate::buf::{Chunk, IoBuf};
use crate::error::{Failed, Unsent};
use crate::stream::{
    AsyncResource, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, ObjectReceiveStream,
    ObjectSendStream, ObjectStream, TypedAttributeProvider, UnreliableObjectReceiveStream,
    UnreliableObjectSendStream,
};

macro_rules! stapled {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Its attributes are those of both, and of the receiving one where both have one. Ending the sending side closes
        /// the stream that sends.
        #[derive(Debug)]
        pub struct $name<S, R> {
            /// The stream that sends.
            pub send_stream: S,
            /// The stream that receives.
            pub receive_stream: R,
        }

        impl<S, R> $name<S, R> {
            /// These two as one.
            pub fn new(send_stream: S, receive_stream: R) -> Self {
                Self { send_stream, receive_stream }
            }
        }

        impl<S: AsyncResource, R: AsyncResource> AsyncResource for $name<S, R> {
            fn aclose(&self) -> impl Future<Output = io::Result<()>> {
                async move {
                    let sending = self.send_stream.aclose().await;
                    sending.and(self.receive_stream.aclose().await)
                }
            }
        }

        impl<S: TypedAttributeProvider, R: TypedAttributeProvider> TypedAttributeProvider for $name<S, R> {
            fn extra_attributes(&self) -> Attributes<'_> {
                self.send_stream.extra_attributes().merged(self.receive_stream.extra_attributes())
            }
        }
    };
}

stapled! {
    /// Two byte streams as one that goes both ways: the standard output and input of a process, for example.
    ///
    /// # Examples
    /// ```
    /// use proactor::net::TcpStream;
    /// use proactor::stream::{ByteStream, StapledByteStream};
    ///
    /// fn again_one(stream: TcpStream) -> impl ByteStream {
    ///     let (receive, send) = stream.split();
    ///     StapledByteStream::new(send, receive)
    /// }
    /// ```
    StapledByteStream
}

stapled! {
    /// Two object streams as one that goes both ways.
    ///
    /// # Examples
    /// ```
    /// use proactor::stream::{ObjectStream, StapledObjectStream, memory_object_stream};
    ///
    /// fn pair() -> [impl ObjectStream; 2] {
    ///     let (to_right, from_left) = memory_object_stream::<String>(0);
    ///     let (to_left, from_right) = memory_object_stream::<String>(0);
    ///     [StapledObjectStream::new(to_right, from_right), StapledObjectStream::new(to_left, from_left)]
    /// }
    /// ```
    StapledObjectStream
}

impl<S: ByteSendStream, R: ByteReceiveStream> ByteReceiveStream for StapledByteStream<S, R> {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        self.receive_stream.receive()
    }
}

impl<S: ByteSendStream, R: ByteReceiveStream> ByteSendStream for StapledByteStream<S, R> {
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        self.send_stream.send(buf)
    }
}

impl<S: ByteSendStream, R: ByteReceiveStream> ByteStream for StapledByteStream<S, R> {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        self.send_stream.aclose()
    }
}

impl<S: AsyncResource, R: ObjectReceiveStream> UnreliableObjectReceiveStream for StapledObjectStream<S, R>
where
    S: TypedAttributeProvider,
{
    type Item = R::Item;

    fn receive(&self) -> impl Future<Output = io::Result<Option<R::Item>>> {
        self.receive_stream.receive()
    }
}

impl<S: ObjectSendStream, R: AsyncResource> UnreliableObjectSendStream for StapledObjectStream<S, R>
where
    R: TypedAttributeProvider,
{
    type Item = S::Item;

    fn send(&self, item: S::Item) -> impl Future<Output = Result<(), Unsent<S::Item, io::Error>>> {
        self.send_stream.send(item)
    }
}

impl<T, S, R> ObjectReceiveStream for StapledObjectStream<S, R>
where
    S: ObjectSendStream<Item = T>,
    R: ObjectReceiveStream<Item = T>,
{
}

impl<T, S, R> ObjectSendStream for StapledObjectStream<S, R>
where
    S: ObjectSendStream<Item = T>,
    R: ObjectReceiveStream<Item = T>,
{
}

impl<T, S, R> ObjectStream for StapledObjectStream<S, R>
where
    S: ObjectSendStream<Item = T>,
    R: ObjectReceiveStream<Item = T>,
{
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        self.send_stream.aclose()
    }
}
