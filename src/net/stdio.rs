//! The standard streams of the process.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::driver::{Driver, control};
use crate::net::{PipeReader, PipeWriter};
use crate::op::net::Medium;
use crate::runtime::core;

/// The standard input, whatever it is: a terminal, a pipe, a socket, a regular file.
///
/// It is opened once more for this loop, so what other processes notice of it (whether it blocks) is left alone, and
/// closing this does not close it. What was received and is dropped with this is gone; and what std has read into its own
/// buffer is not here.
///
/// # Errors
/// If it is closed, a directory, or descriptors are short.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn stdin() -> io::Result<PipeReader> {
    let driver = core::current().driver.clone();
    let (fd, medium) = own(&driver, io::stdin(), false)?;
    Ok(PipeReader::of(&driver, fd, medium, false))
}

/// The standard output; as [`stdin`]. What std has not flushed yet comes later.
///
/// # Errors
/// If it is closed, a directory, or descriptors are short.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn stdout() -> io::Result<PipeWriter> {
    let driver = core::current().driver.clone();
    let (fd, medium) = own(&driver, io::stdout(), true)?;
    Ok(PipeWriter::of(&driver, fd, medium))
}

/// The standard error; as [`stdout`].
///
/// # Errors
/// If it is closed, a directory, or descriptors are short.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn stderr() -> io::Result<PipeWriter> {
    let driver = core::current().driver.clone();
    let (fd, medium) = own(&driver, io::stderr(), true)?;
    Ok(PipeWriter::of(&driver, fd, medium))
}

/// A descriptor of this loop for a file that others use too.
fn own(driver: &Rc<Driver>, stream: impl AsFd, writes: bool) -> io::Result<(std::os::fd::OwnedFd, Medium)> {
    let fd = stream.as_fd();
    control::ignore_broken_pipes();
    let copy = || fd.try_clone_to_owned();
    Ok(match control::file_kind(fd)? {
        libc::S_IFSOCK => (copy()?, Medium::Socket),
        // A second opening would begin at the start.
        libc::S_IFREG | libc::S_IFBLK => (copy()?, Medium::File),
        libc::S_IFDIR => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
        _ => match control::reopen(fd, writes) {
            Ok(own) => {
                control::set_nonblocking(&own, driver.wants_nonblocking())?;
                (own, Medium::Pipe)
            }
            // Another user's terminal, a named pipe that nobody reads.
            Err(_) => (copy()?, Medium::Shared),
        },
    })
}
