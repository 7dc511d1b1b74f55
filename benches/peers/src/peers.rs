//! The runtimes by name.

pub(crate) use crate::tasks::compio::Compio;
pub(crate) use crate::tasks::glommio::Glommio;
pub(crate) use crate::tasks::monoio::Monoio;
pub(crate) use crate::tasks::ours::{Epoll, Inline, Ring};
pub(crate) use crate::tasks::smol::Smol;
pub(crate) use crate::tasks::tokio::Tokio;
