//! Streams of objects: the traits, their faces for trait objects, and the memory object streams as such.

use std::future::Future;
use std::io;

use crate::error::Unsent;
use crate::stream::bytes::{BoxFuture, boxed_face};
use crate::stream::{
    AsyncResource, Attributes, DynAsyncResource, ObjectReceiver, ObjectSender, TypedAttributeProvider,
};

/// Receives objects, perhaps in another order than they were sent in, and perhaps not all of them.
pub trait UnreliableObjectReceiveStream: AsyncResource + TypedAttributeProvider {
    /// What is received.
    type Item;

    /// Completes with the next object, or with `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: whoever implements it sees to that.
    ///
    /// # Errors
    /// [`Closed`](crate::Closed), if this side closed the stream; [`Broken`](crate::Broken), if something else made it
    /// useless.
    fn receive(&self) -> impl Future<Output = io::Result<Option<Self::Item>>>;
}

/// Sends objects, which may arrive in another order, or not at all.
pub trait UnreliableObjectSendStream: AsyncResource + TypedAttributeProvider {
    /// What is sent.
    type Item;

    /// Sends `item`.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// With the object, if it was not sent: [`Closed`](crate::Closed), if this side closed the stream;
    /// [`Broken`](crate::Broken), if the other side is gone.
    fn send(&self, item: Self::Item) -> impl Future<Output = Result<(), Unsent<Self::Item, io::Error>>>;
}

/// Both ways, without a promise of order or of arrival.
pub trait UnreliableObjectStream:
    UnreliableObjectReceiveStream<Item = <Self as UnreliableObjectSendStream>::Item> + UnreliableObjectSendStream
{
}

impl<S, T> UnreliableObjectStream for S where
    S: UnreliableObjectReceiveStream<Item = T> + UnreliableObjectSendStream<Item = T>
{
}

/// Receives every object that was sent, in the order of sending.
pub trait ObjectReceiveStream: UnreliableObjectReceiveStream {}

/// Sends objects that arrive all, in the order of sending.
pub trait ObjectSendStream: UnreliableObjectSendStream {}

/// Both ways, in order and without loss.
pub trait ObjectStream: ObjectReceiveStream + ObjectSendStream + UnreliableObjectStream {
    /// Tells the peer that no more is sent; receiving goes on. Doing it twice does nothing.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// As [`send`](UnreliableObjectSendStream::send).
    fn send_eof(&self) -> impl Future<Output = io::Result<()>>;
}

/// [`ObjectReceiveStream`] as a trait object: `Box<dyn DynObjectReceiveStream<T>>` is one.
pub trait DynObjectReceiveStream<T>: DynAsyncResource {
    /// As [`UnreliableObjectReceiveStream::receive`].
    fn receive_dyn(&self) -> BoxFuture<'_, io::Result<Option<T>>>;
}

impl<S: ObjectReceiveStream> DynObjectReceiveStream<S::Item> for S {
    fn receive_dyn(&self) -> BoxFuture<'_, io::Result<Option<S::Item>>> {
        Box::pin(self.receive())
    }
}

/// [`ObjectSendStream`] as a trait object: `Box<dyn DynObjectSendStream<T>>` is one.
pub trait DynObjectSendStream<T>: DynAsyncResource {
    /// As [`UnreliableObjectSendStream::send`].
    fn send_dyn(&self, item: T) -> BoxFuture<'_, Result<(), Unsent<T, io::Error>>>;
}

impl<S: ObjectSendStream> DynObjectSendStream<S::Item> for S {
    fn send_dyn(&self, item: S::Item) -> BoxFuture<'_, Result<(), Unsent<S::Item, io::Error>>> {
        Box::pin(self.send(item))
    }
}

boxed_face!(DynObjectReceiveStream<T>, DynObjectSendStream<T>);

impl<T> UnreliableObjectReceiveStream for Box<dyn DynObjectReceiveStream<T> + '_> {
    type Item = T;

    fn receive(&self) -> impl Future<Output = io::Result<Option<T>>> {
        (**self).receive_dyn()
    }
}

impl<T> ObjectReceiveStream for Box<dyn DynObjectReceiveStream<T> + '_> {}

impl<T> UnreliableObjectSendStream for Box<dyn DynObjectSendStream<T> + '_> {
    type Item = T;

    fn send(&self, item: T) -> impl Future<Output = Result<(), Unsent<T, io::Error>>> {
        (**self).send_dyn(item)
    }
}

impl<T> ObjectSendStream for Box<dyn DynObjectSendStream<T> + '_> {}

// ---- the memory object streams ----

impl<T> AsyncResource for ObjectReceiver<T> {
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.close();
        std::future::ready(Ok(()))
    }
}

impl<T> AsyncResource for ObjectSender<T> {
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.close();
        std::future::ready(Ok(()))
    }
}

impl<T> TypedAttributeProvider for ObjectReceiver<T> {}
impl<T> TypedAttributeProvider for ObjectSender<T> {}

impl<T> UnreliableObjectReceiveStream for ObjectReceiver<T> {
    type Item = T;

    fn receive(&self) -> impl Future<Output = io::Result<Option<T>>> {
        let next = self.next();
        async move { Ok(next.await?) }
    }
}

impl<T> ObjectReceiveStream for ObjectReceiver<T> {}

impl<T> UnreliableObjectSendStream for ObjectSender<T> {
    type Item = T;

    fn send(&self, item: T) -> impl Future<Output = Result<(), Unsent<T, io::Error>>> {
        let send = ObjectSender::send(self, item);
        async move { send.await.map_err(|unsent| Unsent::new(unsent.item, unsent.error.into())) }
    }
}

impl<T> ObjectSendStream for ObjectSender<T> {}
