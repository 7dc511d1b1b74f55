//! The kernel as Rust functions: the only folder, with `driver`, that makes a system call.

pub(crate) mod affinity;
pub(crate) mod clock;
pub(crate) mod epoll;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod kernel_tls;
pub(crate) mod message;
pub(crate) mod names;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod transfer;

use std::io;

/// The usual convention of libc: -1 means that `errno` says why.
pub(crate) fn check(result: libc::c_int) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// [`check`] for calls that return a count; gives a result in the form of a completion: negative is an errno.
pub(crate) fn raw(result: libc::ssize_t) -> i32 {
    if result < 0 { -errno() } else { i32::try_from(result).unwrap_or(i32::MAX) }
}

/// The errno of the last failed call of this thread.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
