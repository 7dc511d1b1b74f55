//! What can be asked of the kernel: each operation once, its ring face and its epoll face side by side.
#![allow(unsafe_code)]
//!
//! # Safety
//! An operation owns what its submission points to, and stays in place in the in-flight table until its final
//! completion (contract rule C3); each address that `prepare`, `attempt` or `call` hands out is one of these.

pub(crate) mod fs;
pub(crate) mod net;
pub(crate) mod pipe;
pub(crate) mod poll;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::mpsc;

use io_uring::opcode;
use io_uring::squeue::Entry;

use crate::driver::blocking::Call;
use crate::driver::control;
use crate::driver::{Answer, Attempt, Close, Driver, Features, Op, Pending, Route};
use crate::error::Closed;
use crate::sys::file;

/// A descriptor that is closed through the driver, after its last operation: each operation holds a reference (C13).
pub(crate) struct Descriptor {
    fd: Cell<Option<OwnedFd>>,
    number: RawFd,
    driver: Rc<Driver>,
    lingers: Cell<bool>,
    /// It was made non-blocking, for operations that need it.
    nonblocking: Cell<bool>,
}

impl Descriptor {
    pub(crate) fn new(driver: &Rc<Driver>, fd: OwnedFd) -> Self {
        let number = fd.as_raw_fd();
        // Accepted sockets block on every driver: its own calls say each time that they must not.
        let (lingers, nonblocking) = (Cell::new(false), Cell::new(false));
        Self { fd: Cell::new(Some(fd)), number, driver: driver.clone(), lingers, nonblocking }
    }

    #[inline]
    pub(crate) fn driver(&self) -> &Rc<Driver> {
        &self.driver
    }

    #[inline]
    pub(crate) fn number(&self) -> RawFd {
        self.number
    }

    /// Lends the descriptor for a synchronous call; an error after it was closed or given away.
    pub(crate) fn with<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        /// Puts the descriptor back, also when `f` panics: only the driver may close it.
        struct PutBack<'a>(&'a Descriptor, Option<OwnedFd>);
        impl Drop for PutBack<'_> {
            fn drop(&mut self) {
                self.0.fd.set(self.1.take());
            }
        }
        let lent = PutBack(self, self.fd.take());
        let fd = lent.1.as_ref().ok_or(Closed::new("the socket"))?;
        f(fd.as_fd())
    }

    /// Whether closing may wait: for data to be delivered, or for a file to be written back.
    pub(crate) fn set_lingers(&self, lingers: bool) {
        self.lingers.set(lingers);
    }

    /// Makes a socket non-blocking, once; whether it is. The ring's own sends and receives do not care.
    pub(crate) fn make_nonblocking(&self) -> bool {
        let set = |fd: BorrowedFd<'_>| control::options(fd, |socket| socket.set_nonblocking(true));
        let is = self.nonblocking.get() || self.with(set).is_ok();
        self.nonblocking.set(is);
        is
    }

    /// Takes the descriptor out, when no operation uses it: to close it with an answer, or to give it away.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        let fd = self.fd.take()?;
        self.driver.forget(self.number);
        Some(fd)
    }

    /// Closes the descriptor and says how that went. Call it when no operation uses it.
    pub(crate) fn close(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let pending = self.take().map(|fd| Pending::new(&self.driver, Close::new(fd, self.lingers.get())));
        async move {
            match pending {
                Some(pending) => file::result(pending.await.0).map(drop),
                None => Ok(()),
            }
        }
    }

    /// Closes the descriptor, unheard. Call it when no operation uses it.
    pub(crate) fn release(&self) {
        if let Some(fd) = self.fd.take() {
            self.driver.close(fd, self.lingers.get());
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.release();
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.number
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({})", self.number)
    }
}

/// Does nothing, through the kernel: `IORING_OP_NOP` (5.1).
pub(crate) struct Nop;

impl Op for Nop {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        Some(opcode::Nop::new().build())
    }

    fn route(&self) -> Route {
        Route::Now
    }

    fn attempt(&mut self) -> Attempt {
        Attempt::Complete(Answer::once(0))
    }
}

/// A function that runs in a thread of the pool, on every driver.
pub(crate) struct Run {
    job: Option<Box<dyn FnOnce() + Send>>,
}

impl Op for Run {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        None
    }

    fn route(&self) -> Route {
        Route::Pool
    }

    fn call(&mut self) -> Call {
        Call::Run(self.job.take().expect("a job is called once"))
    }

    /// The job owns all that it touches.
    fn may_abandon(&self) -> bool {
        true
    }
}

/// What became of a function in the pool: it returned, it panicked, or it never ran.
pub(crate) type PoolResult<T> = io::Result<std::thread::Result<T>>;

/// Runs `function` in a thread of the pool. Dropping the future takes the job back if no thread has begun it; else it
/// runs to its end, unheard.
pub(crate) async fn run_in_pool<T: Send + 'static>(
    driver: &Rc<Driver>,
    function: impl FnOnce() -> T + Send + 'static,
) -> PoolResult<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let job = move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(function));
        // Nobody listens any more if the future was dropped.
        let _ = sender.send(outcome);
    };
    let (result, _) = Pending::new(driver, Run { job: Some(Box::new(job)) }).await;
    receiver.try_recv().map_err(|_| {
        file::result(result).err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::ECANCELED))
    })
}
