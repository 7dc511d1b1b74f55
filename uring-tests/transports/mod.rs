//! Transports, protocols, servers and streams in asyncio's way.

mod adapters;
mod beginning;
mod behaviour;
mod datagrams;
mod endings;
mod peer;
mod perform;
mod pipes;
mod recorded;
mod recorder;
mod scenario;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_endings;
