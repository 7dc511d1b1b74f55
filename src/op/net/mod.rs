//! Operations on sockets.

mod accept;
mod connect;
mod receive;
mod send;

pub(crate) use accept::{AcceptMulti, AcceptTarget};
pub(crate) use connect::Connect;
pub(crate) use receive::{ReceiveInto, ReceiveMulti, ReceiveTarget, SHOTS_OVER};
pub(crate) use send::{Batch, SendAll, SendBatch, SendOp, SendTarget, SendVectored};

/// The most bytes of one send or receive.
const LEN_MAX: usize = 0x7fff_f000;
