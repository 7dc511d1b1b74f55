//! What the bytes of a stream go through, and by which calls.
#![allow(unsafe_code)]
//!
//! # Safety
//! The functions that make a call are unsafe: the caller keeps what the addresses point to valid (C3).

use std::os::fd::RawFd;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;

use crate::driver::blocking::Call;
use crate::driver::{BUFFER_GROUP, Features, Route};
use crate::op::net::send_flags;
use crate::sys::file::{self, CURRENT};
use crate::sys::{pipe, socket};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Socket,
    /// A TCP socket of which the kernel makes TLS records of what is sent: there `MSG_WAITALL` is refused.
    Records,
    /// A pipe, a terminal or another device; on the epoll driver it does not block.
    Pipe,
    /// As `Pipe`, but it may block, since it is shared with other processes: it is asked before each call.
    Shared,
    /// A regular file, read and written where it stands. It is always ready, and may take its time.
    File,
}

/// What it says that a receive brought less than fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// Nothing: a UNIX socket stops behind a message that carries descriptors or credentials, a pipe behind a packet.
    Unknown,
    /// That it has taken all there was. So it is for TCP.
    All,
}

impl Medium {
    fn is_socket(self) -> bool {
        matches!(self, Self::Socket | Self::Records)
    }

    /// How the ring sends.
    fn flags(self, features: &Features) -> i32 {
        if self == Self::Records { libc::MSG_NOSIGNAL } else { send_flags(features) }
    }

    #[inline]
    pub(super) fn readable(self, fd: RawFd, short: Short) -> Route {
        match (self, short) {
            (Self::File, _) => Route::Pool,
            (_, Short::All) => Route::Readable(fd),
            (_, Short::Unknown) => Route::ReadableStream(fd),
        }
    }

    #[inline]
    pub(super) fn writable(self, fd: RawFd) -> Route {
        if self == Self::File { Route::Pool } else { Route::Writable(fd) }
    }

    /// Receives into a buffer that the kernel chooses: as long as there are bytes, or once.
    #[inline]
    pub(super) fn receive_pooled(self, fd: RawFd, buffer_size: usize) -> Entry {
        if self.is_socket() {
            return opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build();
        }
        let read = opcode::Read::new(Fd(fd), std::ptr::null_mut(), buffer_size as u32).offset(CURRENT);
        read.buf_group(BUFFER_GROUP).build().flags(Flags::BUFFER_SELECT)
    }

    pub(super) fn receive(self, fd: RawFd, address: *mut u8, len: usize) -> Entry {
        match self {
            Self::Socket | Self::Records => opcode::Recv::new(Fd(fd), address, len as u32).build(),
            _ => opcode::Read::new(Fd(fd), address, len as u32).offset(CURRENT).build(),
        }
    }

    /// # Safety
    /// `address` points to `len` bytes that may be written.
    #[inline]
    pub(super) unsafe fn receive_now(self, fd: RawFd, address: *mut u8, len: usize) -> i32 {
        match self {
            // SAFETY: the caller's promise.
            Self::Socket | Self::Records => unsafe { socket::receive(fd, address, len) },
            Self::Shared if socket::poll_now(fd, libc::POLLIN) == 0 => -libc::EAGAIN,
            // SAFETY: the caller's promise.
            _ => unsafe { file::read(fd, address, len) },
        }
    }

    pub(super) fn receive_in_pool(fd: RawFd, address: *mut u8, len: usize) -> Call {
        Call::Read { fd, address, len, offset: CURRENT }
    }

    #[inline]
    pub(super) fn send(self, fd: RawFd, address: *const u8, len: usize, features: &Features) -> Entry {
        match self {
            Self::Socket | Self::Records => {
                opcode::Send::new(Fd(fd), address, len as u32).flags(self.flags(features)).build()
            }
            _ => opcode::Write::new(Fd(fd), address, len as u32).offset(CURRENT).build(),
        }
    }

    /// # Safety
    /// `address` points to `len` initialised bytes.
    #[inline]
    pub(super) unsafe fn send_now(self, fd: RawFd, address: *const u8, len: usize) -> i32 {
        match self {
            // SAFETY: the caller's promise.
            Self::Socket | Self::Records => unsafe { socket::send(fd, address, len) },
            Self::Shared if socket::poll_now(fd, libc::POLLOUT) == 0 => -libc::EAGAIN,
            // SAFETY: the caller's promise.
            Self::Shared => unsafe { file::write(fd, address, len.min(pipe::ATOMIC)) },
            // SAFETY: the caller's promise.
            Self::Pipe | Self::File => unsafe { file::write(fd, address, len) },
        }
    }

    pub(super) fn send_in_pool(fd: RawFd, address: *const u8, len: usize) -> Call {
        Call::Write { fd, address, len, offset: CURRENT }
    }

    /// Sends the parts of a message.
    ///
    /// # Safety
    /// The header and its parts are valid.
    pub(super) unsafe fn send_parts(
        self,
        fd: RawFd,
        header: *const libc::msghdr,
        features: &Features,
    ) -> Entry {
        if self.is_socket() {
            return opcode::SendMsg::new(Fd(fd), header).flags(self.flags(features) as u32).build();
        }
        // SAFETY: the caller's promise.
        let parts = unsafe { &*header };
        opcode::Writev::new(Fd(fd), parts.msg_iov, parts.msg_iovlen as u32).offset(CURRENT).build()
    }

    /// # Safety
    /// The header and its parts are valid.
    pub(super) unsafe fn send_parts_now(self, fd: RawFd, header: *const libc::msghdr) -> i32 {
        if self.is_socket() {
            // SAFETY: the caller's promise.
            return unsafe { socket::sendmsg(fd, header) };
        }
        // SAFETY: the caller's promise.
        let parts = unsafe { &*header };
        if self == Self::Shared {
            // Only empty buffers: then the parts may be nowhere.
            if parts.msg_iovlen == 0 {
                return 0;
            }
            // SAFETY: the caller's promise, and there is one part at least.
            let first = unsafe { &*parts.msg_iov };
            // SAFETY: the caller's promise.
            return unsafe { self.send_now(fd, first.iov_base.cast(), first.iov_len) };
        }
        // SAFETY: the caller's promise.
        unsafe { file::write_parts(fd, parts.msg_iov, parts.msg_iovlen as i32) }
    }

    /// The first part only: the others follow when it is written.
    ///
    /// # Safety
    /// The header and its parts are valid, and there is one.
    pub(super) unsafe fn send_parts_in_pool(fd: RawFd, header: *const libc::msghdr) -> Call {
        // SAFETY: the caller's promise.
        let parts = unsafe { &*header };
        // SAFETY: the caller's promise.
        let first = unsafe { &*parts.msg_iov };
        Self::send_in_pool(fd, first.iov_base.cast(), first.iov_len)
    }
}
