//! Connections as asyncio has them: a [`Transport`] that writes, and a [`Protocol`] that is called when something
//! happens.
//!
//! Over what the bytes go is the same for a protocol: TCP, UNIX sockets, pipes, TLS, or any byte stream
//! ([`connect_stream`]). Datagrams have a protocol of their own, [`DatagramProtocol`].
//!
//! For new code the streams of [`net`](crate::net) are simpler. Transports are for protocols that are state machines
//! anyway, and for code that comes from asyncio.

mod adapters;
mod address;
mod below;
mod connect;
mod datagram;
mod endpoint;
mod handle;
mod limits;
mod open;
mod pipe;
mod protocol;
mod pump;
mod reader;
mod report;
mod sendfile;
mod server;
#[cfg(feature = "tls")]
mod tls;
mod writer;

pub use adapters::{TransportStream, connect_stream};
pub use address::SocketAddress;
#[cfg(feature = "tls")]
pub use connect::connect_accepted_tls;
pub use connect::{CreateConnection, connect_accepted_socket, create_connection, create_unix_connection};
pub use datagram::{DatagramProtocol, DatagramTransport, EndpointSocket};
pub use endpoint::{CreateDatagramEndpoint, create_datagram_endpoint};
pub use handle::Transport;
pub use limits::WriteBufferLimits;
pub use open::{
    OpenConnection, open_connection, open_stream, open_unix_connection, start_server, start_unix_server,
};
pub use pipe::{connect_read_pipe, connect_write_pipe};
pub use protocol::{AnyProtocol, Buffered, BufferedProtocol, IntoProtocol, Protocol};
pub use reader::{STREAM_LIMIT, StreamReader};
pub use sendfile::{Sendfile, SendfileOptions};
pub use server::{CreateServer, Server, ServerListener, create_server, create_unix_server};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use writer::{StreamReaderProtocol, StreamWriter};
