//! How workers fail.

use std::fmt;
use std::io;

/// A worker that failed; the others go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("worker {worker} {failure}")]
#[non_exhaustive]
pub struct WorkerFailed {
    /// Its [index](super::Worker::index).
    pub worker: usize,
    /// What happened.
    pub failure: WorkerFailure,
}

/// What happened to a worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WorkerFailure {
    /// Its function returned an error, with this text; or its loop could not go on.
    Error(String),
    /// Its function panicked, or a callback of its loop, with this text.
    Panicked(String),
    /// It was asked to end, and cancelled, and did not end in time. Its thread goes on.
    LeftBehind,
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(text) => write!(f, "failed: {text}"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::LeftBehind => write!(f, "did not end in time, and was left behind"),
        }
    }
}

/// The workers that failed: at least one.
#[derive(Debug, Clone)]
pub struct WorkersFailed(pub(super) Vec<WorkerFailed>);

impl WorkersFailed {
    /// Each of them, in the order of their ends.
    pub fn workers(&self) -> &[WorkerFailed] {
        &self.0
    }
}

impl fmt::Display for WorkersFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failed) in self.0.iter().enumerate() {
            write!(f, "{}{failed}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for WorkersFailed {}

impl From<WorkersFailed> for io::Error {
    fn from(failed: WorkersFailed) -> Self {
        Self::other(failed)
    }
}
