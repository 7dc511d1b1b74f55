//! Streams of objects and of bytes.

mod memory;
#[cfg(feature = "tls")]
pub mod tls;

pub use memory::{
    MemoryObjectStreamStatistics, NextItem, ObjectReceiver, ObjectSender, ReceiveError, ReceiveItem,
    SendError, SendItem, memory_object_stream,
};
