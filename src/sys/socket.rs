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
#[inline]
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
#[inline]
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

/// Whether a TCP connection is gone though the peer had not ended it: it was reset, or timed out. The kernel tells that
/// once, to whoever asks first; this can be asked after it. To be asked when everything that came was received: with
/// bytes left it says no, as for other sockets.
pub(crate) fn was_cut_off(fd: RawFd) -> bool {
    /// Of `include/net/tcp_states.h`.
    const TCP_CLOSE: u8 = 7;
    /// The socket option, and the control message: how many bytes are left, where an end that came counts as one (4.18).
    const TCP_INQ: libc::c_int = 36;
    let (mut state, mut len) = (0_u8, 1_u32);
    // SAFETY: `state`, the first field of `tcp_info`, has room for `len` bytes.
    let asked = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &raw mut len)
    };
    let on: libc::c_int = 1;
    // SAFETY: the option is one number, of which address and size are given.
    let set = || unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, TCP_INQ, (&raw const on).cast(), 4) };
    if asked != 0 || state != TCP_CLOSE || set() != 0 {
        return false;
    }
    let (mut byte, mut control) = (0_u8, [0_u64; 8]);
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: zeroes are a valid message header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control) as _);
    // SAFETY: the header points to one part of one byte, and to aligned room for control messages.
    let received = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT | libc::MSG_PEEK) };
    if received != 0 {
        return received < 0; // an error that nobody was told of
    }
    // SAFETY: the kernel filled the header in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: it points to a whole control message in `control`, or is null.
    let Some(header) = (unsafe { first.as_ref() }) else { return false };
    if (header.cmsg_level, header.cmsg_type) != (libc::IPPROTO_TCP, TCP_INQ) {
        return false;
    }
    // SAFETY: as above.
    let data = unsafe { libc::CMSG_DATA(first) }.cast::<libc::c_int>();
    // SAFETY: the data of this message is one number.
    let left = unsafe { data.read_unaligned() };
    left == 0
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

/// Whether the peer of a connection has ended it, and nothing but empty messages is left to receive.
pub(crate) fn is_at_end(fd: RawFd) -> bool {
    let mut left: libc::c_int = 0;
    // SAFETY: SIOCINQ, which is called FIONREAD too, writes one number.
    let asked = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut left) };
    let ended = poll_now(fd, libc::POLLRDHUP) & i32::from(libc::POLLRDHUP | libc::POLLHUP) != 0;
    ended && (asked < 0 || left == 0)
}

/// Sets an option that is one number.
pub(crate) fn set_number(fd: RawFd, level: i32, name: i32, value: i32) -> i32 {
    let size = size_of::<i32>() as u32;
    // SAFETY: the option is one number, of which address and size are given.
    let r = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    if r < 0 { -errno() } else { 0 }
}

/// By which interface multicast of IPv4 leaves.
pub(crate) fn set_multicast_interface(fd: RawFd, number: u32) -> i32 {
    let none = libc::in_addr { s_addr: 0 };
    let request = libc::ip_mreqn { imr_multiaddr: none, imr_address: none, imr_ifindex: number as i32 };
    let size = size_of_val(&request) as u32;
    // SAFETY: the option is this structure, of which address and size are given.
    let r = unsafe {
        libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, (&raw const request).cast(), size)
    };
    if r < 0 { -errno() } else { 0 }
}
