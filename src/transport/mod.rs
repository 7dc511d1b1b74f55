//! Connections as asyncio has them: a [`Transport`] that writes, and a [`Protocol`] that is called when something
//! happens.
//!
//! Over what the bytes go is the same for a protocol: TCP, UNIX sockets, pipes, TLS, or any byte stream
//! ([`connect_stream`]). Datagrams have a protocol of their own, [`DatagramProtocol`].
//!
//! For new code the streams of [`net`](crate::net) are simpler. Transports are for protocols that are state machines
//! anyway, and for code that comes from asyncio.
//!
//! # What is not as in asyncio
//! The sequences of callbacks are those of asyncio: both are recorded in the same scenarios, and compared. What differs:
//! - A write is never done inside of [`Transport::write`]. What was written counts as queued until the kernel has taken it,
//!   and big pieces until it has taken them whole: with limits of zero every write pauses the protocol, for a turn at
//!   least. And what is written after [`close`](Transport::close) is sent as long as something before it is; asyncio does
//!   the same when the kernel's buffer is full.
//! - Data may be written while a file is being sent, and goes behind it; asyncio refuses that.
//! - `start_tls` changes the transport in place, where asyncio gives a new one. A close meanwhile is
//!   an abort.
//! - A panic in `data_received` ends a pipe too, where asyncio goes on without the data.
//! - [`Server::serve_forever`] is over when the server is closed, where asyncio's raises `CancelledError`; and
//!   [`Server::wait_closed`] does not wait for connections, which CPython does since 3.12.
//! - At the end of [`run`](crate::run) each protocol is told that its connection is lost; asyncio forgets them.
//! - Empty datagrams are sent. A datagram counts eight bytes more in the write buffer, as in CPython since 3.13. On a
//!   datagram transport that closes, [`sendto`](DatagramTransport::sendto) does nothing.

mod adapters;
mod address;
mod below;
mod connect;
mod course;
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
