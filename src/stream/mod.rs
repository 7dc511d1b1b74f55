//! Streams of objects and of bytes: the traits that all of them share, wrappers, and TLS.
//!
//! A function that takes `&impl ByteStream` works on a TCP connection, a UNIX one, a TLS stream, or a type of your own;
//! for trait objects each trait has a face whose name begins with `Dyn`.

mod attribute;
mod buffered;
mod bytes;
pub(crate) mod link;
mod listener;
mod memory;
mod objects;
mod resource;
mod stapled;
mod text;
#[cfg(feature = "tls")]
pub mod tls;

pub(crate) use attribute::of_socket;
pub use attribute::{Attribute, Attributes, SocketAttribute, TypedAttributeProvider};
pub use buffered::{BufferedByteReceiveStream, BufferedByteStream};
pub use bytes::{
    AnyBuf, BoxFuture, ByteReceiveStream, ByteSendStream, ByteStream, DynAsyncResource, DynByteReceiveStream,
    DynByteSendStream, DynByteStream, PollByteStream,
};
pub use listener::{DynListener, Listener, MultiListener};
pub use memory::{
    MemoryObjectStreamStatistics, NextItem, ObjectReceiver, ObjectSender, ReceiveError, ReceiveItem,
    SendError, SendItem, memory_object_stream,
};
pub use objects::{
    DynObjectReceiveStream, DynObjectSendStream, ObjectReceiveStream, ObjectSendStream, ObjectStream,
    UnreliableObjectReceiveStream, UnreliableObjectSendStream, UnreliableObjectStream,
};
pub use resource::{AsyncResource, aclose_forcefully};
pub use stapled::{StapledByteStream, StapledObjectStream};
pub use text::{TextErrors, TextOptions, TextReceiveStream, TextSendStream, TextStream};
