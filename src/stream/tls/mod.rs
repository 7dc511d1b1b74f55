//! TLS over any byte stream, by [`rustls`].
//!
//! [`TlsStream::client`] and [`TlsStream::server`] make a TLS stream of a stream, also in the middle of a connection;
//! [`TlsListener`] does so for each stream of a listener. [`client_config`] and [`server_config`] give configurations with
//! secure defaults; those of `rustls` can do more: certificates of clients, several names, resumption, other cryptography.

mod attribute;
pub(crate) mod config;
mod kernel;
mod keys;
mod listener;
pub(crate) mod session;
mod stream;
mod wrap;

/// The TLS library, whose configurations are given to this module.
pub use rustls;

pub use attribute::TlsAttribute;
pub use config::{client_config, load_cert_chain, server_config, system_roots};
pub use keys::kernel_send_provider;
pub use listener::TlsListener;
pub use stream::{TlsStream, Truncated};
pub use wrap::{HandshakeFailed, Wrap};
