//! Running a function in another process: one that computes for long, may crash, or must be killable.
//!
//! Code cannot be sent to another process, so the workers are this program, started again. It says at the very beginning
//! of `main`, by [`init`], which functions it has for them; in a worker `init` does not return. Arguments and results are
//! bytes; what they mean is the functions' affair.
//!
//! ```
//! use proactor::process::to_process::{self, Function};
//!
//! const SUM: Function = Function::new("sum", |bytes| {
//!     bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>().to_le_bytes().to_vec()
//! });
//!
//! fn main() -> std::io::Result<()> {
//!     to_process::init(&[SUM]);
//!     proactor::run(async {
//!         let sum = to_process::run_sync(SUM, vec![1; 300]).await?;
//!         assert_eq!(sum, 300_u64.to_le_bytes());
//!         Ok(())
//!     })
//! }
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::error::{BrokenWorker, WorkerPanicked};
use crate::net::UnixStream;
use crate::process::worker::{self, ANSWER_HEADER, Answer, Process};
use crate::runtime::core::{self, Core};
use crate::runtime::outcome::{Outcome, Promise};
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::sync::{AcquireToken, CapacityLimiter, CapacityToken};
use crate::thread::{InPool, THREADS};

const WORKER: What = What(&"a worker process");
/// A worker that had nothing to do for so long is ended when the next function is run.
const IDLE_MAX: Duration = Duration::from_secs(5 * 60);
/// The most bytes of an answer that are received at once.
const RECEIVE_MAX: u64 = 1 << 20;

/// A function for worker processes, under a name that no other one has.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    name: &'static str,
    call: fn(Vec<u8>) -> Vec<u8>,
}

impl Function {
    /// A function, and its name.
    pub const fn new(name: &'static str, call: fn(Vec<u8>) -> Vec<u8>) -> Self {
        Self { name, call }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn call(&self, argument: Vec<u8>) -> Vec<u8> {
        (self.call)(argument)
    }
}

/// What `init` was told.
struct Setup {
    functions: Vec<Function>,
    arguments: Vec<String>,
}

static SETUP: OnceLock<Setup> = OnceLock::new();

/// Says which functions worker processes shall have. Call it first of all in `main`: a worker runs `main` too, and goes
/// no further than this.
///
/// The first call counts. A worker's standard input is empty, what it writes to standard output is dropped, and standard
/// error is that of the program. It ends with the program, however that ends.
#[doc(alias = "freeze_support")]
pub fn init(functions: &[Function]) {
    init_with_arguments(functions, &[]);
}

/// As [`init`], for programs whose workers come to it by certain arguments only. Such are the test programs of cargo,
/// whose `main` is not in their hands: there one test calls this, and `["--exact", "name_of_that_test"]` leads to it.
pub fn init_with_arguments(functions: &[Function], arguments: &[&str]) {
    if worker::is_worker() {
        worker::serve(functions);
    }
    SETUP.get_or_init(|| Setup {
        functions: functions.to_vec(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
    });
}

fn setup(function: Function) -> io::Result<&'static Setup> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let setup = SETUP.get().ok_or_else(|| wrong("to_process::init was not called"))?;
    match setup.functions.iter().any(|known| known.name == function.name) {
        true => Ok(setup),
        false => Err(wrong(&format!("to_process::init was not told of the function {:?}", function.name))),
    }
}

/// Runs `function` in a worker process and completes with its result. Workers are started when all others are busy, and
/// used again.
///
/// # Cancel safety
/// *May have happened*: the worker goes on, and its result is dropped; a [`cancellable`](RunSync::cancellable) one is
/// killed.
///
/// # Errors
/// [`BrokenWorker`] if the worker ended before it had a result: it crashed, or somebody killed it. [`WorkerPanicked`] if
/// the function panicked. If no worker can be started; if [`init`] was not called, or was not told of the function. If the
/// wait was cancelled: before the function began, or a [`cancellable`](RunSync::cancellable) one. All of them as an
/// [`io::Error`].
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Kernel
/// The program is started as `/proc/self/exe`; a UNIX socket leads to it.
#[track_caller]
pub fn run_sync(function: Function, argument: impl Into<Vec<u8>>) -> RunSync {
    let core = core::current();
    let stage = Stage::New(function, argument.into());
    RunSync { core, called_at: Location::caller(), cancellable: false, limiter: None, stage }
}

/// The limiter that [`run_sync`] uses where none is given: one for each loop, of as many tokens as there are processors.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn current_default_process_limiter() -> CapacityLimiter {
    default_limiter(&core::current())
}

fn default_limiter(core: &Core) -> CapacityLimiter {
    struct Default(CapacityLimiter);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    core.locals.get(|| Default(CapacityLimiter::new(processors()))).0.clone()
}

/// The future of [`run_sync`].
#[must_use = "futures do nothing unless awaited"]
pub struct RunSync {
    core: Rc<Core>,
    called_at: &'static Location<'static>,
    cancellable: bool,
    limiter: Option<CapacityLimiter>,
    stage: Stage,
}

enum Stage {
    New(Function, Vec<u8>),
    /// Waits for the limiter.
    Acquiring(Function, Vec<u8>, AcquireToken),
    Running(Running),
    Over,
}

impl RunSync {
    /// Whether cancelling the wait, or dropping it, kills the worker. Without this a cancelled wait goes on until the
    /// function is done, and gives its result. Default: off.
    pub fn cancellable(mut self, on: bool) -> Self {
        self.cancellable = on;
        self
    }

    /// The limiter that says when the function may begin: it takes a token, and gives it back when the worker is done.
    /// Default: [`current_default_process_limiter`].
    pub fn limiter(mut self, limiter: &CapacityLimiter) -> Self {
        self.limiter = Some(limiter.clone());
        self
    }

    fn start(&self, function: Function, argument: Vec<u8>, token: CapacityToken) -> io::Result<Running> {
        let setup = setup(function)?;
        let outcome = Arc::new(Outcome::default());
        let promise = Promise::new(&outcome, "the event loop ended");
        let run = Rc::new(Run { worker: RefCell::default(), is_killed: Cell::new(false) });
        let (core, theirs) = (self.core.clone(), run.clone());
        // A task of its own, so that it goes on when nobody waits any more.
        let task = async move {
            let result = theirs.run(&core, setup, function, argument).await;
            drop(token);
            promise.settle(Ok(result));
        };
        drop(self.core.spawn(task, self.called_at));
        Ok(Running { run, outcome, cancellable: self.cancellable, waiter: Waiter::new() })
    }
}

impl Future for RunSync {
    type Output = io::Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::New(function, argument) => {
                    let limiter = self.limiter.take().unwrap_or_else(|| default_limiter(&self.core));
                    self.stage = Stage::Acquiring(function, argument, limiter.acquire());
                }
                Stage::Acquiring(function, argument, mut wait) => match Pin::new(&mut wait).poll(cx)? {
                    Poll::Ready(token) => {
                        self.stage = Stage::Running(self.start(function, argument, token)?);
                    }
                    Poll::Pending => {
                        self.stage = Stage::Acquiring(function, argument, wait);
                        return Poll::Pending;
                    }
                },
                Stage::Running(mut running) => {
                    let polled = running.poll(cx);
                    if polled.is_pending() {
                        self.stage = Stage::Running(running);
                    }
                    return polled;
                }
                Stage::Over => panic!("a future was polled after it had completed"),
            }
        }
    }
}

impl fmt::Debug for RunSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSync").finish_non_exhaustive()
    }
}

/// A wait for a function that a worker has.
struct Running {
    run: Rc<Run>,
    outcome: Arc<Outcome<io::Result<Vec<u8>>>>,
    cancellable: bool,
    waiter: Waiter,
}

impl Running {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        if let Poll::Ready(result) = self.outcome.poll(cx) {
            self.waiter.clear();
            return Poll::Ready(result.map_err(io::Error::from).flatten());
        }
        if self.cancellable {
            // Dropping this kills the worker.
            ready!(check(cx))?;
            self.waiter.register_for(cx, WORKER);
        } else {
            self.waiter.register_uncancelled(cx, WORKER, None);
        }
        Poll::Pending
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.cancellable && !self.outcome.is_settled() {
            self.run.kill();
        }
    }
}

/// One function in one worker, known to the task that runs it and to who waits.
struct Run {
    worker: RefCell<Option<Worker>>,
    is_killed: Cell<bool>,
}

impl Run {
    /// Kills the worker, or sees to it that there will be none. The task notices.
    fn kill(&self) {
        self.is_killed.set(true);
        if let Some(worker) = &mut *self.worker.borrow_mut() {
            worker.process.kill();
        }
    }

    async fn run(
        &self,
        core: &Rc<Core>,
        setup: &'static Setup,
        function: Function,
        argument: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        let workers = core.locals.get(Idle::default);
        let worker = match workers.take(core) {
            Some(worker) => worker,
            None => Worker::start(core, setup).await?,
        };
        if self.is_killed.get() {
            workers.put(core, worker);
            return Err(io::ErrorKind::Interrupted.into()); // nobody hears it
        }
        let stream = worker.stream.clone();
        self.worker.replace(Some(worker));
        let answered = exchange(&stream, function, argument).await;
        let worker = self.worker.take().expect("only this takes it");
        match answered {
            Ok((which, bytes)) if !self.is_killed.get() => {
                workers.put(core, worker);
                match which {
                    Answer::Result => Ok(bytes),
                    Answer::Panic => Err(WorkerPanicked::new(String::from_utf8_lossy(&bytes)).into()),
                    Answer::Unknown => Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("to_process::init of the worker was not told of {:?}", function.name),
                    )),
                }
            }
            // Whatever went wrong between the two, that worker is of no use any more.
            Ok(_) | Err(_) => Err(BrokenWorker::new(worker.end(core).await).into()),
        }
    }
}

/// Sends a request and receives the answer.
async fn exchange(
    stream: &UnixStream,
    function: Function,
    argument: Vec<u8>,
) -> io::Result<(Answer, Vec<u8>)> {
    stream.send(worker::request_header(function.name, &argument)).await?;
    stream.send(argument).await?;
    let header = receive(stream, ANSWER_HEADER as u64).await?;
    let (which, length) = Answer::parse(&header).ok_or(io::ErrorKind::InvalidData)?;
    Ok((which, receive(stream, length).await?))
}

/// Receives so many bytes. Not by `receive`, which would leave a receive armed while the worker has nothing to do.
async fn receive(stream: &UnixStream, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let room = (length - bytes.len() as u64).min(RECEIVE_MAX) as usize;
        let (count, part) = stream.receive_into(Vec::with_capacity(room)).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes.is_empty() { bytes = part } else { bytes.extend(part) }
    }
    Ok(bytes)
}

struct Worker {
    process: Process,
    stream: Rc<UnixStream>,
}

impl Worker {
    async fn start(core: &Rc<Core>, setup: &'static Setup) -> io::Result<Self> {
        let started = InPool::start(core, &THREADS, || Process::start(&setup.arguments))?;
        let (process, stream) = started.await??;
        Ok(Self { process, stream: Rc::new(UnixStream::from_std(stream)?) })
    }

    /// Ends the worker and says how it ended, where that can be known.
    async fn end(self, core: &Rc<Core>) -> Option<std::process::ExitStatus> {
        let process = self.process;
        let ended = InPool::start(core, &THREADS, move || process.end());
        ended.ok()?.await.ok()?.ok()
    }
}

/// The workers of a loop that have nothing to do, the longest first, and since when. With the loop they end.
#[derive(Default)]
struct Idle {
    workers: RefCell<VecDeque<(Worker, Instant)>>,
}

impl Idle {
    /// The worker that was used last; those that have idled too long, or have died, are ended.
    fn take(&self, core: &Core) -> Option<Worker> {
        let now = core.clock.now();
        let mut workers = self.workers.borrow_mut();
        let is_old = |(_, since): &(Worker, Instant)| now.saturating_duration_since(*since) >= IDLE_MAX;
        let old = workers.iter().take_while(|idle| is_old(idle)).count();
        let mut gone: Vec<_> = workers.drain(..old).collect();
        let mut found = workers.pop_back();
        while let Some((worker, _)) = &mut found
            && !worker.process.is_alive()
        {
            gone.extend(std::mem::replace(&mut found, workers.pop_back()));
        }
        drop(workers);
        drop(gone);
        found.map(|(worker, _)| worker)
    }

    fn put(&self, core: &Core, worker: Worker) {
        self.workers.borrow_mut().push_back((worker, core.clock.now()));
    }
}
