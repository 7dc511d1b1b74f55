//! A descriptor that does its I/O by itself, and waits here.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::ready;

use crate::compat::running;
use crate::error::WouldBlock;
use crate::runtime::budget;
use crate::runtime::core::Core;
use crate::runtime::readiness::{Direction, WaitReady};
use crate::runtime::wait::check;

/// Something with a non-blocking descriptor, such as a socket of a C library, or a device.
///
/// Its readiness is remembered from one operation to the next, until one of them would have to wait: so a stream of
/// operations asks the kernel only where there was nothing more to be had. Each operation goes through
/// [`when_readable`](Self::when_readable) or [`when_writable`](Self::when_writable), or by hand through a
/// [`ReadyGuard`].
///
/// # Examples
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// use proactor::compat::AsyncFd;
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (ours, mut theirs) = UnixStream::pair()?;
///     ours.set_nonblocking(true)?;
///     let ours = AsyncFd::new(ours)?;
///     proactor::spawn(async move { theirs.write_all(b"hello") });
///     let mut bytes = [0; 16];
///     let count = ours.when_readable(|mut socket| socket.read(&mut bytes)).await?;
///     assert_eq!(&bytes[..count], b"hello");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct AsyncFd<T> {
    inner: T,
    fd: RawFd,
    core: Rc<Core>,
    /// What is believed: until it was waited for nothing is.
    readable: Cell<bool>,
    writable: Cell<bool>,
}

impl<T: AsRawFd> AsyncFd<T> {
    /// Takes over something with a descriptor, in this thread's loop. Make the descriptor non-blocking before.
    ///
    /// # Errors
    /// If no event loop runs on this thread, or if the descriptor cannot be watched, as regular files.
    pub fn new(inner: T) -> io::Result<Self> {
        let (core, fd) = (running()?, inner.as_raw_fd());
        core.can_watch(fd)?;
        Ok(Self { inner, fd, core, readable: Cell::new(false), writable: Cell::new(false) })
    }
}

impl<T> AsyncFd<T> {
    fn belief(&self, direction: Direction) -> &Cell<bool> {
        match direction {
            Direction::Read => &self.readable,
            Direction::Write => &self.writable,
        }
    }

    async fn ready(&self, direction: Direction) -> io::Result<ReadyGuard<'_, T>> {
        if self.belief(direction).get() {
            poll_fn(|cx| {
                if let Err(cancelled) = ready!(check(cx)) {
                    return Err(cancelled.into()).into();
                }
                budget::spend(cx).map(io::Result::Ok)
            })
            .await?;
        } else {
            WaitReady::new(self.core.clone(), self.fd, direction).await?;
            self.belief(direction).set(true);
        }
        Ok(ReadyGuard { owner: self, direction })
    }

    async fn when<R>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            if let Ok(result) = self.ready(direction).await?.try_io(&mut operation) {
                return result;
            }
        }
    }

    /// Completes when the descriptor can be read, or is at its end, or has an error; at once, if nothing has said the
    /// contrary since the last time.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Busy`](crate::Busy) if another task waits for the same, and what the kernel says.
    pub fn readable(&self) -> impl Future<Output = io::Result<ReadyGuard<'_, T>>> {
        self.ready(Direction::Read)
    }

    /// As [`readable`](Self::readable), for a descriptor that can be written.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`readable`](Self::readable).
    pub fn writable(&self) -> impl Future<Output = io::Result<ReadyGuard<'_, T>>> {
        self.ready(Direction::Write)
    }

    /// Calls `operation` when the descriptor can be read, again and again as long as it answers
    /// [`WouldBlock`](io::ErrorKind::WouldBlock), and completes with what it answers then.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: an operation that did something is the last.
    ///
    /// # Errors
    /// Those of `operation`, and as [`readable`](Self::readable).
    #[doc(alias = "async_io")]
    pub fn when_readable<R>(
        &self,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> impl Future<Output = io::Result<R>> {
        self.when(Direction::Read, operation)
    }

    /// As [`when_readable`](Self::when_readable), for a descriptor that can be written.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: an operation that did something is the last.
    ///
    /// # Errors
    /// As [`when_readable`](Self::when_readable).
    pub fn when_writable<R>(
        &self,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> impl Future<Output = io::Result<R>> {
        self.when(Direction::Write, operation)
    }

    /// What was taken over.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Gives it back.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T> AsRawFd for AsyncFd<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl<T: AsFd> AsFd for AsyncFd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<T: fmt::Debug> fmt::Debug for AsyncFd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncFd").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Says that a descriptor was found ready. As a reference it is what the [`AsyncFd`] holds.
#[must_use = "a guard changes nothing; try an operation with it"]
pub struct ReadyGuard<'a, T> {
    owner: &'a AsyncFd<T>,
    direction: Direction,
}

impl<T> ReadyGuard<'_, T> {
    /// Tries `operation`.
    ///
    /// # Errors
    /// [`WouldBlock`] if the operation answers that: then the descriptor counts as not ready, and the next wait waits.
    pub fn try_io<R>(
        &self,
        operation: impl FnOnce(&T) -> io::Result<R>,
    ) -> Result<io::Result<R>, WouldBlock> {
        match operation(&self.owner.inner) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.clear_ready();
                Err(WouldBlock)
            }
            result => Ok(result),
        }
    }

    /// From now on the descriptor counts as not ready: the next wait asks the kernel. For what takes all there is without
    /// [`try_io`](Self::try_io).
    pub fn clear_ready(&self) {
        self.owner.belief(self.direction).set(false);
    }
}

impl<T> Deref for ReadyGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.owner.inner
    }
}

impl<T> fmt::Debug for ReadyGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyGuard").field("fd", &self.owner.fd).finish_non_exhaustive()
    }
}
