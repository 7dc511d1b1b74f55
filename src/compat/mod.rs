//! Readiness, for code that wants to do its I/O itself: callbacks, waits, and [`AsyncFd`].
//!
//! The rest of this crate is about operations that complete. Much that exists is about descriptors that become ready:
//! C libraries that hand out descriptors and ask to be called, event loops inside of other event loops, devices. For
//! these there are asyncio's `add_reader` and its kin, AnyIO's `wait_readable`, and a wrapper in the manner of tokio's.
//!
//! It is the same on both drivers: an epoll set for each loop, level-triggered. What is left unread is told again, once
//! in each turn of the loop, beside everything else. Whatever epoll takes can be watched: sockets, pipes, eventfds,
//! timerfds, pidfds, inotify, terminals, other epoll sets. Regular files are always ready, and an error here.
//!
//! # When a descriptor is closed
//! Nothing here holds a file open: a socket that is closed while it is watched is closed, and its peer sees the end. The
//! callback is not called any more, and what waits for it goes on waiting: call [`notify_closing`] before the close. If
//! the number is used again, the new file has no callbacks but those that were added for it.
//!
//! A file that has another descriptor (by `dup` or `fork`) is not closed, so its callbacks are called still, until they
//! are removed, or until the number of the closed descriptor is watched again for another file.

mod async_fd;
#[cfg(any(feature = "futures-io", feature = "tokio-io"))]
mod foreign_io;
#[cfg(any(feature = "futures-io", feature = "tokio-io"))]
mod foreign_stream;

pub use async_fd::{AsyncFd, ReadyGuard};
#[cfg(any(feature = "futures-io", feature = "tokio-io"))]
pub use foreign_io::ForeignIo;
#[cfg(any(feature = "futures-io", feature = "tokio-io"))]
pub use foreign_stream::ForeignStream;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::runtime::EventLoop;
use crate::runtime::core::{self, Core};
use crate::runtime::readiness::{Direction, WaitReady};

fn no_loop() -> io::Error {
    io::Error::other("no event loop is running on this thread")
}

fn running() -> io::Result<Rc<Core>> {
    core::try_current().ok_or_else(no_loop)
}

#[track_caller]
fn add(
    core: &Core,
    fd: &impl AsRawFd,
    direction: Direction,
    callback: impl FnMut() + 'static,
) -> io::Result<()> {
    core.add_watch(fd.as_raw_fd(), direction, Rc::new(RefCell::new(callback)), Location::caller())
}

impl EventLoop {
    /// As [`add_reader`], of this loop.
    ///
    /// # Errors
    /// As [`add_reader`], and if this loop is closed.
    #[track_caller]
    pub fn add_reader(&self, fd: &impl AsRawFd, callback: impl FnMut() + 'static) -> io::Result<()> {
        add(&self.core, fd, Direction::Read, callback)
    }

    /// As [`add_writer`], of this loop.
    ///
    /// # Errors
    /// As [`add_writer`], and if this loop is closed.
    #[track_caller]
    pub fn add_writer(&self, fd: &impl AsRawFd, callback: impl FnMut() + 'static) -> io::Result<()> {
        add(&self.core, fd, Direction::Write, callback)
    }

    /// As [`remove_reader`], of this loop. False for a closed loop.
    pub fn remove_reader(&self, fd: &impl AsRawFd) -> bool {
        self.core.remove_watch(fd.as_raw_fd(), Direction::Read)
    }

    /// As [`remove_writer`], of this loop. False for a closed loop.
    pub fn remove_writer(&self, fd: &impl AsRawFd) -> bool {
        self.core.remove_watch(fd.as_raw_fd(), Direction::Write)
    }
}

/// Calls `callback` once in each turn of the loop in which `fd` can be read, or is at its end, or has an error. It takes
/// the place of the reader that was there.
///
/// A callback may add and remove any, itself too. What it replaces or removes is not called any more, in this turn either.
/// Of a descriptor that is ready both ways the reader is called first.
///
/// # Errors
/// If no event loop runs on this thread; `EBADF` for a number that is not open; of kind
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for what cannot be watched (`EPERM`: regular files);
/// [`Busy`](crate::Busy) if a task waits for the same.
///
/// # Kernel
/// One `epoll_ctl`. The ring watches the epoll set by `IORING_OP_POLL_ADD` (5.1), once for all descriptors.
///
/// # Examples
/// ```
/// use std::cell::Cell;
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use std::rc::Rc;
///
/// use proactor::compat;
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (mut ours, mut theirs) = UnixStream::pair()?;
///     ours.set_nonblocking(true)?;
///     let done = proactor::sync::Event::new();
///     let (socket, event) = (ours.try_clone()?, done.clone());
///     compat::add_reader(&socket, move || {
///         let mut byte = [0];
///         if ours.read(&mut byte).is_ok() {
///             event.set();
///         }
///     })?;
///     theirs.write_all(b"!")?;
///     done.wait().await?;
///     assert!(compat::remove_reader(&socket)?);
///     assert!(!compat::remove_reader(&socket)?, "there is none any more");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn add_reader(fd: &impl AsRawFd, callback: impl FnMut() + 'static) -> io::Result<()> {
    add(&*running()?, fd, Direction::Read, callback)
}

/// As [`add_reader`], for a descriptor that can be written.
///
/// # Errors
/// As [`add_reader`].
#[track_caller]
pub fn add_writer(fd: &impl AsRawFd, callback: impl FnMut() + 'static) -> io::Result<()> {
    add(&*running()?, fd, Direction::Write, callback)
}

/// Takes a reader back. Returns whether there was one. It never fails for `fd`, be it closed already.
///
/// # Errors
/// If no event loop runs on this thread.
pub fn remove_reader(fd: &impl AsRawFd) -> io::Result<bool> {
    Ok(running()?.remove_watch(fd.as_raw_fd(), Direction::Read))
}

/// As [`remove_reader`], for a writer.
///
/// # Errors
/// If no event loop runs on this thread.
pub fn remove_writer(fd: &impl AsRawFd) -> io::Result<bool> {
    Ok(running()?.remove_watch(fd.as_raw_fd(), Direction::Write))
}

/// The future of [`wait_readable`] and [`wait_writable`].
#[must_use = "futures do nothing unless awaited"]
pub struct WaitFd {
    /// Nothing where no loop ran.
    wait: Option<WaitReady>,
}

impl WaitFd {
    fn new(fd: &impl AsRawFd, direction: Direction) -> Self {
        Self { wait: running().ok().map(|core| WaitReady::new(core, fd.as_raw_fd(), direction)) }
    }
}

impl Future for WaitFd {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.wait {
            Some(wait) => Pin::new(wait).poll(cx),
            None => Poll::Ready(Err(no_loop())),
        }
    }
}

impl fmt::Debug for WaitFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitFd").finish_non_exhaustive()
    }
}

/// Completes when `fd` can be read, or is at its end, or has an error. Not for the sockets of this crate, which read ahead.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// [`Busy`](crate::Busy) if another task waits for the same already, or there is a [reader](add_reader);
/// [`Closed`](crate::Closed) if [`notify_closing`] was called meanwhile; else as [`add_reader`].
///
/// # Kernel
/// As [`add_reader`], and an `epoll_ctl` after it.
#[doc(alias = "wait_socket_readable")]
pub fn wait_readable(fd: &impl AsRawFd) -> WaitFd {
    WaitFd::new(fd, Direction::Read)
}

/// Completes when `fd` can be written, or is at its end, or has an error.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// As [`wait_readable`].
#[doc(alias = "wait_socket_writable")]
pub fn wait_writable(fd: &impl AsRawFd) -> WaitFd {
    WaitFd::new(fd, Direction::Write)
}

/// Says that `fd` will be closed: what waits for it answers [`Closed`](crate::Closed), and its callbacks are removed.
///
/// # Errors
/// If no event loop runs on this thread.
pub fn notify_closing(fd: &impl AsRawFd) -> io::Result<()> {
    running()?.close_watches(fd.as_raw_fd());
    Ok(())
}
