//! Transports, protocols, servers and streams in asyncio's way.

mod recorded;
mod scenario;
