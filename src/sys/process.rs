//! What a worker process does with itself.
#![allow(unsafe_code)]
//!
//! # Safety
//! Numbers only.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Gives standard input away, and makes it empty, for the program and what it starts.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    let empty = File::open("/dev/null")?;
    // SAFETY: numbers only; both are open.
    if unsafe { libc::dup2(empty.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(taken)
}

/// Ends the process as it stands, in the middle of whatever its other threads do.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: numbers only.
    unsafe { libc::_exit(code) }
}
