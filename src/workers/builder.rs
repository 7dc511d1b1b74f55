//! How many workers, on which CPUs, with which loops; and starting them.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::runtime::exception;
use crate::runtime::{Builder, EventLoop, LoopHandle};
use crate::sys::affinity;
use crate::workers::Workers;
use crate::workers::failure::WorkerFailed;
use crate::workers::phase::Signal;
use crate::workers::thread::{self, Worker};

type OnFailure = Arc<dyn Fn(&WorkerFailed) + Send + Sync>;

#[derive(Debug, Clone)]
enum Cpus {
    /// Wherever the kernel puts them.
    Any,
    /// One on each of those that this process may use.
    Allowed,
    These(Vec<usize>),
}

/// How [`Workers`] shall be made.
#[derive(Clone)]
#[must_use = "a builder does nothing until `start`"]
pub struct WorkersBuilder {
    count: Option<usize>,
    cpus: Cpus,
    event_loop: Option<Builder>,
    on_failure: OnFailure,
    clean_up: Duration,
}

impl Default for WorkersBuilder {
    fn default() -> Self {
        Self {
            count: None,
            cpus: Cpus::Any,
            event_loop: None,
            on_failure: Arc::new(|failed| exception::say(failed)),
            clean_up: Duration::from_secs(10),
        }
    }
}

impl WorkersBuilder {
    /// How many workers, at least one. Default: as many as there are CPUs for this process
    /// ([`available_parallelism`](std::thread::available_parallelism)), or as are named by [`on_cpus`](Self::on_cpus).
    pub fn count(mut self, workers: usize) -> Self {
        self.count = Some(workers.max(1));
        self
    }

    /// Keeps each worker on a CPU of its own, of those that the process may use. Default: no.
    ///
    /// That helps where nothing else wants the CPUs; where something does, a worker that may not move waits for it.
    pub fn pinned(mut self, on: bool) -> Self {
        self.cpus = if on { Cpus::Allowed } else { Cpus::Any };
        self
    }

    /// Keeps the workers on these CPUs, in this order, one on each.
    pub fn on_cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.cpus = Cpus::These(cpus.into_iter().collect());
        self
    }

    /// How each loop is made. Default: as [`EventLoop::new`] makes it.
    pub fn event_loop(mut self, builder: Builder) -> Self {
        self.event_loop = Some(builder);
        self
    }

    /// Who is told, on the thread of the worker, when one has failed. Default: it is written to standard error.
    pub fn on_failure(mut self, f: impl Fn(&WorkerFailed) + Send + Sync + 'static) -> Self {
        self.on_failure = Arc::new(f);
        self
    }

    /// How long what is cancelled at the end of a worker has to clean up: its function at a
    /// [`shutdown`](Workers::shutdown) that took too long, and the tasks that the function has left. Default: ten seconds.
    pub fn clean_up(mut self, limit: Duration) -> Self {
        self.clean_up = limit;
        self
    }

    /// Starts the workers. Each calls a clone of `main` in its loop, and ends when that is done; tasks that are left
    /// then are cancelled, and may [`clean_up`](Self::clean_up). `main` should heed [`Worker::stopping`].
    ///
    /// # Errors
    /// If there are fewer CPUs than workers to be kept on them, if a CPU is not there or not for this process, if a loop
    /// cannot be made, or if there is no thread for it. Then no `main` was called.
    pub fn start<F, E>(self, main: F) -> io::Result<Workers>
    where
        F: AsyncFn(Worker) -> Result<(), E> + Clone + Send + 'static,
        E: fmt::Display + 'static,
    {
        let places = self.places()?;
        let count = places.len();
        let signal = Arc::new(Signal::new(count));
        let (tell_end, ends) = channel();
        let clean_up = self.clean_up;
        let mut workers =
            Workers { signal, handles: Vec::new(), threads: Vec::new(), ends, failed: Vec::new(), clean_up };
        let mut starts = Vec::with_capacity(count);
        let mut made = Vec::with_capacity(count);
        for (index, cpu) in places.into_iter().enumerate() {
            let (tell_made, is_made) = sync_channel(1);
            let (start, wait_for_start) = sync_channel(1);
            let worker = Worker { index, count, cpu, clean_up, signal: workers.signal.clone() };
            let start_up = StartUp { event_loop: self.event_loop.clone(), tell_made, wait_for_start };
            let (main, on_failure, tell_end) = (main.clone(), self.on_failure.clone(), tell_end.clone());
            let body = move || {
                let end = End { worker: worker.clone(), tell_end, failed: None };
                start_up.run(worker, main, &on_failure, end);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?;
            workers.threads.push(Some(thread));
            starts.push(start);
            made.push(is_made);
        }
        for is_made in made {
            let handle =
                is_made.recv().map_err(|_| io::Error::other("a worker ended while it started"))??;
            workers.handles.push(handle);
        }
        // From here on nothing can fail: one that does not hear this has heard that the others failed.
        for start in starts {
            let _ = start.send(());
        }
        Ok(workers)
    }

    /// A loop as the workers have.
    pub(super) fn make_loop(&self) -> io::Result<EventLoop> {
        make_loop(self.event_loop.as_ref())
    }

    /// How many there will be.
    pub(super) fn worker_count(&self) -> io::Result<usize> {
        Ok(self.places()?.len())
    }

    /// A CPU, or none, for each worker.
    fn places(&self) -> io::Result<Vec<Option<usize>>> {
        let cpus = match &self.cpus {
            Cpus::Any => {
                let count = self.count.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
                return Ok(vec![None; count.unwrap_or(1)]);
            }
            Cpus::Allowed => affinity::allowed()?,
            Cpus::These(cpus) => cpus.clone(),
        };
        let count = self.count.unwrap_or(cpus.len());
        if count == 0 || count > cpus.len() {
            let text = format!("{count} workers cannot be kept on {} CPUs, one on each", cpus.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(cpus.into_iter().take(count).map(Some).collect())
    }
}

fn make_loop(builder: Option<&Builder>) -> io::Result<EventLoop> {
    builder.map_or_else(EventLoop::new, |builder| builder.clone().build())
}

impl fmt::Debug for WorkersBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkersBuilder")
            .field("count", &self.count)
            .field("cpus", &self.cpus)
            .field("event_loop", &self.event_loop)
            .finish_non_exhaustive()
    }
}

/// Says that the worker has ended, whatever ended it.
struct End {
    worker: Worker,
    tell_end: Sender<(usize, Option<WorkerFailed>)>,
    failed: Option<WorkerFailed>,
}

impl Drop for End {
    fn drop(&mut self) {
        // Where nobody asks, it was told to `on_failure`.
        let _ = self.tell_end.send((self.worker.index, self.failed.take()));
        self.worker.signal.ended();
    }
}

/// What a worker does before its function: the loop is made, and all wait until all have theirs.
struct StartUp {
    event_loop: Option<Builder>,
    tell_made: SyncSender<io::Result<LoopHandle>>,
    wait_for_start: Receiver<()>,
}

impl StartUp {
    fn run<F, E>(self, worker: Worker, main: F, on_failure: &OnFailure, mut end: End)
    where
        F: AsyncFn(Worker) -> Result<(), E> + 'static,
        E: fmt::Display + 'static,
    {
        match self.make(&worker) {
            Ok(event_loop) => {
                let _ = self.tell_made.send(Ok(event_loop.handle()));
                if self.wait_for_start.recv().is_err() {
                    return; // another could not start
                }
                end.failed = thread::run(event_loop, worker, main);
                if let Some(failed) = &end.failed {
                    on_failure(failed);
                }
            }
            Err(error) => drop(self.tell_made.send(Err(error))),
        }
    }

    /// Pinned first, so that the memory of the loop is near its CPU.
    fn make(&self, worker: &Worker) -> io::Result<EventLoop> {
        if let Some(cpu) = worker.cpu {
            affinity::pin(cpu).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("worker {} cannot run on CPU {cpu}: {error}", worker.index),
                )
            })?;
        }
        make_loop(self.event_loop.as_ref())
    }
}
