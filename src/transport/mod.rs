//! Connections as asyncio has them: a [`Transport`] that writes, and a [`Protocol`] that is called when something
//! happens.
//!
//! For new code the streams of [`net`](crate::net) are simpler. Transports are for protocols that are state machines
//! anyway, and for code that comes from asyncio.

mod address;
mod connect;
mod handle;
mod limits;
mod open;
mod protocol;
mod pump;
mod reader;
mod report;
mod sendfile;
mod server;
mod writer;

pub use address::SocketAddress;
pub use connect::{CreateConnection, connect_accepted_socket, create_connection, create_unix_connection};
pub use handle::Transport;
pub use limits::WriteBufferLimits;
pub use open::{open_connection, open_stream, open_unix_connection, start_server, start_unix_server};
pub use protocol::{AnyProtocol, Buffered, BufferedProtocol, IntoProtocol, Protocol};
pub use reader::{STREAM_LIMIT, StreamReader};
pub use sendfile::{Sendfile, SendfileOptions};
pub use server::{CreateServer, Server, ServerListener, create_server, create_unix_server};
pub use writer::{StreamReaderProtocol, StreamWriter};
