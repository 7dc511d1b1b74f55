//! Socket calls that never wait, as the epoll driver makes them; the results have the form of a completion.
#![allow(unsafe_code)]
//!
//! # Safety
//! The functions that take addresses are unsafe: the caller keeps what they point to valid for the call (contract
//! rule C3: the operation that owns it is in flight).

use std::os::fd::RawFd;

use crate::sys::{errno, raw};

/// Straight to the kernel: recv(3) of glibc is a cancellation point, which costs it four locked instructions a call.
///
/// # Safety
/// `address` points to `len` bytes that may be written.
pub(crate) unsafe fn receive(fd: RawFd, address: *mut u8, len: usize) -> i32 {
    let none = std::ptr::null::<libc::sockaddr>();
    // SAFETY: the caller's promise; the peer's address is not asked for.
    let result =
        unsafe { libc::syscall(libc::SYS_recvfrom, fd, address, len, libc::MSG_DONTWAIT, none, none) };
    raw(result as isize)
}

/// Straight to the kernel, as `receive`.
///
/// # Safety
/// `address` points to `len` initialised bytes.
pub(crate) unsafe fn send(fd: RawFd, address: *const u8, len: usize) -> i32 {
    let (flags, none) = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL, std::ptr::null::<libc::sockaddr>());
    // SAFETY: the caller's promise; no address is given.
    let result = unsafe { libc::syscall(libc::SYS_sendto, fd, address, len, flags, none, 0) };
    raw(result as isize)
}

/// # Safety
/// `message` points to a message header whose parts are all valid.
pub(crate) unsafe fn sendmsg(fd: RawFd, message: *const libc::msghdr) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::sendmsg(fd, message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Takes a connection from the queue of a non-blocking listener.
pub(crate) fn accept(fd: RawFd) -> i32 {
    // SAFETY: null pointers say that the peer's address is not asked for.
    raw(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) } as isize)
}

/// # Safety
/// `address` points to a socket address of `len` bytes.
pub(crate) unsafe fn connect(fd: RawFd, address: *const libc::sockaddr, len: u32) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::connect(fd, address, len) } as isize)
}

/// The pending error of a socket, as a negative errno or 0: the outcome of a connect that had to wait.
pub(crate) fn take_error(fd: RawFd) -> i32 {
    let mut error = 0_i32;
    let mut len = size_of::<i32>() as u32;
    // SAFETY: `error` has room for `len` bytes.
    let r = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut len)
    };
    if r < 0 { -errno() } else { -error }
}

/// Which of `events` are there now, as poll(2) says; 0 for none.
pub(crate) fn poll_now(fd: RawFd, events: i16) -> i32 {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry is passed.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        0 => 0,
        n if n < 0 => -errno(),
        _ if poll.revents & libc::POLLNVAL != 0 => -libc::EBADF,
        _ => i32::from(poll.revents),
    }
}
