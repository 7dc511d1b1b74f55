//! Transports, protocols, servers and streams in asyncio's way.

mod behaviour;
mod recorded;
mod scenario;
