//! How a signal handler tells the rest of the program: by a byte in a pipe that never waits.
#![allow(unsafe_code)]
//!
//! # Safety
//! Each call gets either plain numbers or the address and true length of a buffer that is borrowed for the call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::{check, raw};

/// The two ends of a pipe, to read and to write, neither of which waits.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    // SAFETY: the call above made these descriptors for us.
    Ok(ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}

/// The number of this process. Async-signal-safe.
pub(crate) fn process() -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::getpid() }
}

/// Writes a byte, or loses it if the pipe is full. Async-signal-safe.
pub(crate) fn put(pipe: &OwnedFd, byte: u8) {
    // SAFETY: one byte is read.
    unsafe { libc::write(pipe.as_raw_fd(), (&raw const byte).cast(), 1) };
}

/// Reads what is there, if anything.
pub(crate) fn take<'a>(pipe: &OwnedFd, bytes: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: the buffer has room for so many bytes.
    let result = raw(unsafe { libc::read(pipe.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) });
    &bytes[..usize::try_from(result).unwrap_or(0)]
}
