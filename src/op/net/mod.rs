//! Operations on sockets.

mod accept;
mod connect;
mod receive;
mod relay;
mod send;
mod send_file;

pub(crate) use accept::{AcceptMulti, AcceptTarget};
pub(crate) use connect::Connect;
pub(crate) use receive::{ReceiveInto, ReceiveMulti, ReceiveTarget, SHOTS_OVER};
pub(crate) use relay::{Relay, WORTH, WaitForBytes};
use send::send_flags;
pub(crate) use send::{Batch, SendAll, SendBatch, SendOp, SendTarget, SendVectored};
pub(crate) use send_file::{FileTrouble, SendFile, SendFileOptions, Sent, Source};
