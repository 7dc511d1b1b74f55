//! Transports, protocols, servers and streams in asyncio's way.

mod adapters;
mod behaviour;
mod datagrams;
mod endings;
mod peer;
mod pipes;
mod recorded;
mod scenario;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_endings;
