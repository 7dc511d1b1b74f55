//! Pipes: making them, and descriptors of other files that can be read or written like them.
#![allow(unsafe_code)]
//!
//! # Safety
//! No call here is given an address but of what the caller lends, or of locals.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;

use crate::sys::{check, file};

/// So much is written at once or not at all, and finds room when the pipe says that there is some (`PIPE_BUF`).
pub(crate) const ATOMIC: usize = libc::PIPE_BUF;

/// Both ends of a new pipe.
pub(crate) fn pipe(nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    let flags = libc::O_CLOEXEC | if nonblocking { libc::O_NONBLOCK } else { 0 };
    // SAFETY: there is room for two numbers.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), flags) })?;
    Ok((file::own(fds[0]), file::own(fds[1])))
}

/// What kind of file it is, of the bits `S_IFMT`.
pub(crate) fn kind(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: zeroes are a valid `stat`.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for the answer.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut found) })?;
    Ok(found.st_mode & libc::S_IFMT)
}

/// Changes the mode that all descriptors of the same opening share.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) }).map(drop)
}

/// Opens what is open here once more, not blocking: with a mode of its own, whoever else uses the other opening. Fails for
/// sockets, and where permissions do not allow it.
pub(crate) fn reopen(fd: BorrowedFd<'_>, writes: bool) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let access = if writes { libc::O_WRONLY } else { libc::O_RDONLY };
    // SAFETY: the path ends with a zero byte.
    let opened = unsafe { file::openat(path.as_ptr(), access | libc::O_NONBLOCK | libc::O_NOCTTY, 0) };
    file::result(opened).map(|_| file::own(opened))
}

/// Writing to a pipe that nobody reads raises a signal, which ends a process that has not said otherwise. Programs in Rust
/// have; this is for others that this library is part of. Who handles the signal goes on to do so.
pub(crate) fn ignore_broken_pipes() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // SAFETY: zeroes are a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: there is room for the answer.
        let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) };
        if asked == 0 && action.sa_sigaction == libc::SIG_DFL {
            action.sa_sigaction = libc::SIG_IGN;
            // SAFETY: ignoring needs no handler.
            unsafe { libc::sigaction(libc::SIGPIPE, &raw const action, std::ptr::null_mut()) };
        }
    });
}
