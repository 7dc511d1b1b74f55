//! Many cores: a loop on each of several threads, started, watched and shut down together.
//!
//! Nothing inside a loop is shared between threads, so a program uses many cores by running many loops. [`serve`] is that
//! for a TCP server, in one line; [`Workers`] runs any async function in every loop.
//!
//! Each worker has its own loop, made in its own thread (with its own ring, buffers, timers and tasks). A worker that fails
//! or panics is reported, and ends with all of its tasks; the others go on.
//!
//! # Examples
//! ```no_run
//! use proactor::net::TcpStream;
//! use proactor::{signal, workers};
//!
//! async fn echo(stream: TcpStream) -> std::io::Result<()> {
//!     while let Some(chunk) = stream.receive().await? {
//!         stream.send(chunk).await?;
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     workers::serve("127.0.0.1:7007", echo).until(signal::ctrl_c)
//! }
//! ```

mod builder;
mod failure;
mod phase;
mod serve;
mod thread;

pub use builder::WorkersBuilder;
pub use failure::{WorkerFailed, WorkerFailure, WorkersFailed};
pub use serve::{ServeEverywhere, Serving, serve};
pub use thread::{Stopping, Worker};

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::runtime::LoopHandle;
use phase::{Phase, Signal};

/// How long a loop takes at most to close, with some time to spare for a busy machine.
const CLOSING: Duration = Duration::from_secs(3);

/// Loops on threads of their own, which run the same async function.
///
/// Dropping it cancels all of them, and blocks until they have ended: not much longer than [`WorkersBuilder::clean_up`]
/// says.
///
/// # Examples
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use proactor::workers::{Worker, Workers};
/// # fn main() -> std::io::Result<()> {
/// static SUM: AtomicUsize = AtomicUsize::new(0);
/// let workers = Workers::builder().count(3).start(async |worker: Worker| {
///     SUM.fetch_add(worker.index(), Ordering::Relaxed);
///     Ok::<_, std::io::Error>(())
/// })?;
/// workers.join()?;
/// assert_eq!(SUM.load(Ordering::Relaxed), 0 + 1 + 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it ends the workers"]
pub struct Workers {
    signal: Arc<Signal>,
    handles: Vec<LoopHandle>,
    /// Of those that have not ended.
    threads: Vec<Option<JoinHandle<()>>>,
    /// Each worker says when it has ended, as the last thing it does, and how.
    ends: Receiver<(usize, Option<WorkerFailed>)>,
    failed: Vec<WorkerFailed>,
    clean_up: Duration,
}

impl Workers {
    /// A builder: how many workers, where, and how their loops are made.
    pub fn builder() -> WorkersBuilder {
        WorkersBuilder::default()
    }

    /// How many there are, with those that have ended.
    #[allow(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// The ways into the loops, in the order of the workers.
    pub fn handles(&self) -> &[LoopHandle] {
        &self.handles
    }

    /// Asks all workers to end: [`Worker::stopping`] completes in each. Does not wait for them.
    pub fn stop(&self) {
        self.signal.advance(Phase::Stopping);
    }

    /// Blocks until every worker has ended by itself.
    ///
    /// # Errors
    /// Which of them have failed, and how.
    pub fn join(mut self) -> Result<(), WorkersFailed> {
        self.collect(None);
        self.outcome()
    }

    /// Asks all workers to end, and blocks until they have. Those that have not after `limit` are cancelled, and may
    /// [`clean_up`](WorkersBuilder::clean_up); a thread that does not end even then is left behind, and named in the error.
    ///
    /// # Errors
    /// Which of them have failed, and how. To be cancelled here is no failure.
    pub fn shutdown(mut self, limit: Duration) -> Result<(), WorkersFailed> {
        self.signal.advance(Phase::Stopping);
        self.collect(Some(limit));
        self.signal.advance(Phase::Cancelled);
        self.collect(Some(self.clean_up.saturating_add(CLOSING)));
        self.outcome()
    }

    /// Waits for the ends of workers: for all of them, or for so long.
    fn collect(&mut self, limit: Option<Duration>) {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        while self.threads.iter().any(Option::is_some) {
            let next = match end {
                Some(end) => self.ends.recv_timeout(end.saturating_duration_since(Instant::now())),
                None => self.ends.recv().map_err(RecvTimeoutError::from),
            };
            // All of them hold the other end until they have said it.
            let Ok((index, failed)) = next else { return };
            self.failed.extend(failed);
            // It has nothing left to do but to return.
            let _ = self.threads[index].take().map(JoinHandle::join);
        }
    }

    fn outcome(&mut self) -> Result<(), WorkersFailed> {
        let left =
            self.threads.iter_mut().enumerate().filter_map(|(index, thread)| thread.take().and(Some(index)));
        let left = left.map(|worker| WorkerFailed { worker, failure: WorkerFailure::LeftBehind });
        let mut failed = std::mem::take(&mut self.failed);
        failed.extend(left);
        if failed.is_empty() { Ok(()) } else { Err(WorkersFailed(failed)) }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.signal.advance(Phase::Cancelled);
        self.collect(Some(self.clean_up.saturating_add(CLOSING)));
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("count", &self.len())
            .field("running", &self.signal.running())
            .finish_non_exhaustive()
    }
}
