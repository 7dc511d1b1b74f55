//! Operations on sockets.

mod accept;
mod connect;
mod receive;
mod send;

pub(crate) use accept::{AcceptMulti, AcceptTarget};
pub(crate) use connect::Connect;
pub(crate) use receive::{ReceiveInto, ReceiveMulti, ReceiveTarget, SHOTS_OVER};
pub(crate) use send::{Batch, SendAll, SendBatch, SendOp, SendTarget, SendVectored};
