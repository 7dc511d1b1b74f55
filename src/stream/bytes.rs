//! Streams of bytes: the traits, and their faces for trait objects.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf};
use crate::error::Failed;
use crate::stream::{AsyncResource, Attributes, TypedAttributeProvider};

/// Receives bytes from one peer.
pub trait ByteReceiveStream: AsyncResource + TypedAttributeProvider {
    /// Completes with the next bytes, never none; or with `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: whoever implements it sees to that.
    ///
    /// # Errors
    /// [`Closed`](crate::Closed), if this side closed the stream; [`Busy`](crate::Busy), if another task receives; what
    /// else went wrong.
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>>;
}

/// Sends bytes to one peer.
pub trait ByteSendStream: AsyncResource + TypedAttributeProvider {
    /// Sends all of `buf`, and gives it back.
    ///
    /// # Cancel safety
    /// *May have happened.* Cancelled by its scope it says in [`Failed::done`] how much was sent.
    ///
    /// # Errors
    /// [`Closed`](crate::Closed), if this side closed the stream; what else went wrong.
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>>;
}

/// Sends bytes to one peer and receives some from it.
///
/// # Examples
/// A wrapper that counts:
/// ```
/// use std::cell::Cell;
/// use std::io;
/// use proactor::Failed;
/// use proactor::buf::{Chunk, IoBuf};
/// use proactor::stream::*;
///
/// struct Counted<S> { stream: S, received: Cell<usize> }
///
/// impl<S: ByteStream> AsyncResource for Counted<S> {
///     async fn aclose(&self) -> io::Result<()> { self.stream.aclose().await }
/// }
/// impl<S: ByteStream> TypedAttributeProvider for Counted<S> {
///     fn extra_attributes(&self) -> Attributes<'_> { self.stream.extra_attributes() }
/// }
/// impl<S: ByteStream> ByteReceiveStream for Counted<S> {
///     async fn receive(&self) -> io::Result<Option<Chunk>> {
///         let chunk = self.stream.receive().await?;
///         self.received.set(self.received.get() + chunk.as_ref().map_or(0, |chunk| chunk.len()));
///         Ok(chunk)
///     }
/// }
/// impl<S: ByteStream> ByteSendStream for Counted<S> {
///     async fn send<B: IoBuf>(&self, buf: B) -> Result<B, Failed<B>> { self.stream.send(buf).await }
/// }
/// impl<S: ByteStream> ByteStream for Counted<S> {
///     async fn send_eof(&self) -> io::Result<()> { self.stream.send_eof().await }
/// }
/// ```
pub trait ByteStream: ByteReceiveStream + ByteSendStream {
    /// Tells the peer that no more is sent; receiving goes on. Doing it twice does nothing.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// As [`send`](ByteSendStream::send).
    fn send_eof(&self) -> impl Future<Output = io::Result<()>>;

    /// The poll faces of a stream that has some: what is built on this one, TLS for example, then needs no memory for
    /// its waits. Most have none.
    fn poll_faces(&self) -> Option<&dyn PollByteStream> {
        None
    }
}

/// The faces of a byte stream for code that polls. Whatever is asked for belongs to the stream: a wait that is given up
/// costs nothing.
pub trait PollByteStream {
    /// The poll face of [`receive`](ByteReceiveStream::receive). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there.
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>>;

    /// Queues bytes to be sent, behind those before, and returns how many are queued now.
    ///
    /// # Errors
    /// As [`send`](ByteSendStream::send).
    fn write(&self, data: Bytes) -> io::Result<usize>;

    /// Ready when at most `below` queued bytes are left.
    ///
    /// # Errors
    /// As [`send`](ByteSendStream::send).
    fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>>;
}

/// The future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// [`AsyncResource`] as a trait object; every resource is one.
pub trait DynAsyncResource {
    /// As [`AsyncResource::aclose`].
    fn aclose_dyn(&self) -> BoxFuture<'_, io::Result<()>>;
    /// As [`TypedAttributeProvider::extra_attributes`].
    fn extra_attributes_dyn(&self) -> Attributes<'_>;
}

impl<S: AsyncResource + TypedAttributeProvider> DynAsyncResource for S {
    fn aclose_dyn(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.aclose())
    }
    fn extra_attributes_dyn(&self) -> Attributes<'_> {
        self.extra_attributes()
    }
}

/// [`ByteReceiveStream`] as a trait object: `Box<dyn DynByteReceiveStream>` is one.
pub trait DynByteReceiveStream: DynAsyncResource {
    /// As [`ByteReceiveStream::receive`].
    fn receive_dyn(&self) -> BoxFuture<'_, io::Result<Option<Chunk>>>;
}

impl<S: ByteReceiveStream> DynByteReceiveStream for S {
    fn receive_dyn(&self) -> BoxFuture<'_, io::Result<Option<Chunk>>> {
        Box::pin(self.receive())
    }
}

/// A buffer of a type that is not known.
pub type AnyBuf = Rc<dyn IoBuf>;

/// [`ByteSendStream`] as a trait object: `Box<dyn DynByteSendStream>` is one.
pub trait DynByteSendStream: DynAsyncResource {
    /// As [`ByteSendStream::send`].
    fn send_dyn(&self, buf: AnyBuf) -> BoxFuture<'_, Result<AnyBuf, Failed<AnyBuf>>>;
}

impl<S: ByteSendStream> DynByteSendStream for S {
    fn send_dyn(&self, buf: AnyBuf) -> BoxFuture<'_, Result<AnyBuf, Failed<AnyBuf>>> {
        Box::pin(self.send(buf))
    }
}

/// [`ByteStream`] as a trait object: `Box<dyn DynByteStream>` is one.
///
/// # Examples
/// ```
/// use proactor::net::{TcpStream, UnixStream};
/// use proactor::stream::{ByteReceiveStream, ByteSendStream, DynByteStream};
///
/// async fn greet(stream: &Box<dyn DynByteStream>) -> std::io::Result<()> {
///     stream.send("hello").await?;
///     stream.receive().await?;
///     Ok(())
/// }
///
/// fn all(tcp: TcpStream, unix: UnixStream) -> [Box<dyn DynByteStream>; 2] {
///     [Box::new(tcp), Box::new(unix)]
/// }
/// ```
pub trait DynByteStream: DynByteReceiveStream + DynByteSendStream {
    /// As [`ByteStream::send_eof`].
    fn send_eof_dyn(&self) -> BoxFuture<'_, io::Result<()>>;
    /// As [`ByteStream::poll_faces`].
    fn poll_faces_dyn(&self) -> Option<&dyn PollByteStream>;
}

impl<S: ByteStream> DynByteStream for S {
    fn send_eof_dyn(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.send_eof())
    }
    fn poll_faces_dyn(&self) -> Option<&dyn PollByteStream> {
        self.poll_faces()
    }
}

macro_rules! boxed_face {
    ($($name:ident $(<$t:ident>)?),*) => {
        $(impl<$($t)?> AsyncResource for Box<dyn $name $(<$t>)? + '_> {
            fn aclose(&self) -> impl Future<Output = io::Result<()>> {
                (**self).aclose_dyn()
            }
        }

        impl<$($t)?> TypedAttributeProvider for Box<dyn $name $(<$t>)? + '_> {
            fn extra_attributes(&self) -> Attributes<'_> {
                (**self).extra_attributes_dyn()
            }
        })*
    };
}
pub(crate) use boxed_face;

macro_rules! boxed_receive {
    ($($name:ident),*) => {
        $(impl ByteReceiveStream for Box<dyn $name + '_> {
            fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
                (**self).receive_dyn()
            }
        })*
    };
}

macro_rules! boxed_send {
    ($($name:ident),*) => {
        $(impl ByteSendStream for Box<dyn $name + '_> {
            fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
                async move {
                    // One handle goes through, one waits here to tell what type it is.
                    let buf = Rc::new(buf);
                    let sent = (**self).send_dyn(buf.clone()).await;
                    let outcome = sent.map(drop).map_err(|failed| (failed.error, failed.done));
                    let buf = Rc::into_inner(buf).expect("the stream gave the buffer back");
                    match outcome {
                        Ok(()) => Ok(buf),
                        Err((error, done)) => Err(Failed::new(error, buf, done)),
                    }
                }
            }
        })*
    };
}

boxed_face!(DynByteReceiveStream, DynByteSendStream, DynByteStream);
boxed_receive!(DynByteReceiveStream, DynByteStream);
boxed_send!(DynByteSendStream, DynByteStream);

impl ByteStream for Box<dyn DynByteStream + '_> {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        (**self).send_eof_dyn()
    }
    fn poll_faces(&self) -> Option<&dyn PollByteStream> {
        (**self).poll_faces_dyn()
    }
}
