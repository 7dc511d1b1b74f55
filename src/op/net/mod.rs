//! Operations on sockets.

mod accept;
mod connect;
mod landing;
mod medium;
mod receive;
mod receive_error;
mod receive_message;
mod relay;
mod send;
mod send_fds;
mod send_file;
mod send_message;
mod send_record;

pub(crate) use accept::{AcceptMulti, AcceptTarget};
pub(crate) use connect::Connect;
pub(crate) use medium::{Medium, Short};
pub(crate) use receive::{ReceiveInto, ReceiveMulti, ReceiveTarget, SHOTS_OVER, receive_now};
pub(crate) use receive_error::{ErrorTarget, ReceiveErrors};
pub(crate) use receive_message::{
    Arrival, Incoming, IncomingTarget, MessageTarget, ReceiveMessageInto, ReceiveMessages,
};
pub(crate) use relay::{Relay, WORTH, WaitForBytes, splice_may_kill};
use send::send_flags;
pub(crate) use send::{Batch, SendAll, SendBatch, SendOp, SendTarget, SendVectored, passes_turn};
pub(crate) use send_fds::SendFds;
pub(crate) use send_file::{FileTrouble, SendFile, SendFileOptions, Sent, Source};
pub(crate) use send_message::{Envelope, MessageSender, SendMessage, WithFds};
pub(crate) use send_record::{Record, SendRecord};
