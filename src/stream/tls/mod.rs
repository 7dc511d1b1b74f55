//! TLS over any byte stream, by `rustls`.

mod config;
mod session;

/// The TLS library, whose configurations are given to this module.
pub use rustls;

pub use config::{client_config, load_cert_chain, server_config, system_roots};
pub(crate) use config::{default_client_config, server_name};
pub(crate) use session::{PIECE, Session};
