//! Connections as asyncio has them: a [`Transport`] that writes, and a [`Protocol`] that is called when something
//! happens.
//!
//! For new code the streams of [`net`](crate::net) are simpler. Transports are for protocols that are state machines
//! anyway, and for code that comes from asyncio.

mod address;
mod connect;
mod handle;
mod limits;
mod protocol;
mod pump;
mod server;

pub use address::SocketAddress;
pub use connect::{CreateConnection, connect_accepted_socket, create_connection, create_unix_connection};
pub use handle::Transport;
pub use limits::WriteBufferLimits;
pub use protocol::{AnyProtocol, Buffered, BufferedProtocol, IntoProtocol, Protocol};
pub use server::{CreateServer, Server, ServerListener, create_server, create_unix_server};
