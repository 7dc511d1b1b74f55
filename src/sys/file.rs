//! Calls on files, made by the threads of the blocking pool.
#![allow(unsafe_code)]
//!
//! # Safety
//! The functions that take addresses are unsafe: the caller keeps what they point to valid for the call (contract
//! rule C3: the operation that owns it is in flight).

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::sys::raw;

/// The most bytes of one transfer, as read(2) has it.
pub(crate) const LEN_MAX: usize = 0x7fff_f000;

/// Instead of an offset: where the file stands, which moves on.
pub(crate) const CURRENT: u64 = u64::MAX;

/// Takes over a descriptor that an operation obtained.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    debug_assert!(fd >= 0);
    // SAFETY: called once with each descriptor that the kernel made for an operation, at its completion (C8).
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes a descriptor; the result in the form of a completion.
pub(crate) fn close(fd: RawFd) -> i32 {
    // SAFETY: the caller hands over its descriptor (contract rule C13).
    raw(unsafe { libc::close(fd) } as isize)
}

/// Lends a descriptor that was passed to the process, if it is open.
pub(crate) fn borrow(fd: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: no pointers.
    let is_open = unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 };
    // SAFETY: it is open, and whoever passed it gave it to this process, which does not close it meanwhile.
    is_open.then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// # Safety
/// `path` points to a string that ends with a zero byte.
pub(crate) unsafe fn openat(path: *const libc::c_char, flags: i32, mode: u32) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::openat(libc::AT_FDCWD, path, flags | libc::O_CLOEXEC, mode) } as isize)
}

/// Reads at an offset; from a pipe or a terminal, which have none, it just reads, as the ring does.
///
/// # Safety
/// `address` points to `len` bytes that may be written.
pub(crate) unsafe fn read_at(fd: RawFd, address: *mut u8, len: usize, offset: u64) -> i32 {
    if offset == CURRENT {
        // SAFETY: the caller's promise.
        return unsafe { read(fd, address, len) };
    }
    // SAFETY: the caller's promise.
    match raw(unsafe { libc::pread64(fd, address.cast(), len, offset as i64) }) {
        // SAFETY: the caller's promise.
        error if -error == libc::ESPIPE => unsafe { read(fd, address, len) },
        result => result,
    }
}

/// Writes at an offset, or just writes where there are none.
///
/// # Safety
/// `address` points to `len` initialised bytes.
pub(crate) unsafe fn write_at(fd: RawFd, address: *const u8, len: usize, offset: u64) -> i32 {
    if offset == CURRENT {
        // SAFETY: the caller's promise.
        return unsafe { write(fd, address, len) };
    }
    // SAFETY: the caller's promise.
    match raw(unsafe { libc::pwrite64(fd, address.cast(), len, offset as i64) }) {
        // SAFETY: the caller's promise.
        error if -error == libc::ESPIPE => unsafe { write(fd, address, len) },
        result => result,
    }
}

/// # Safety
/// `path` points to a string that ends with a zero byte, `to` to a place for the result.
pub(crate) unsafe fn statx(dir: RawFd, path: *const libc::c_char, flags: i32, to: *mut libc::statx) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::statx(dir, path, flags, libc::STATX_BASIC_STATS | libc::STATX_BTIME, to) } as isize)
}

/// A result of an operation as `io::Result`.
pub(crate) fn result(result: i32) -> io::Result<u32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u32) }
}

/// # Safety
/// `address` points to `len` bytes that may be written.
pub(crate) unsafe fn read(fd: RawFd, address: *mut u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::read(fd, address.cast(), len) })
}

/// # Safety
/// `address` points to `len` initialised bytes.
pub(crate) unsafe fn write(fd: RawFd, address: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::write(fd, address.cast(), len) })
}

/// # Safety
/// `parts` points to `count` parts, each of which points to initialised bytes.
pub(crate) unsafe fn write_parts(fd: RawFd, parts: *const libc::iovec, count: i32) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::writev(fd, parts, count) })
}
