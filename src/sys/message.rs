//! Messages as recvmsg(2) and sendmsg(2) have them: headers, addresses, control messages.
#![allow(unsafe_code)]
//!
//! # Safety
//! The functions that take addresses are unsafe: the caller keeps what they point to valid for the call (contract
//! rule C3: the operation that owns it is in flight). Descriptors in a control message were made by the kernel for
//! whoever received it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use socket2::SockAddr;

use crate::sys::raw;

/// What the kernel is told about a message: where its bytes, its address and its control messages are.
pub(crate) struct Header {
    message: libc::msghdr,
    part: libc::iovec,
}

impl Header {
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: zeroes are a valid message header.
            message: unsafe { std::mem::zeroed() },
            part: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
        }
    }

    /// For a message that comes to `bytes`.
    pub(crate) fn set_bytes(&mut self, bytes: *mut u8, len: usize) {
        self.part = libc::iovec { iov_base: bytes.cast(), iov_len: len };
    }

    /// Where the address is, or shall go.
    pub(crate) fn set_name(&mut self, name: *mut u8, len: usize) {
        self.message.msg_name = name.cast();
        self.message.msg_namelen = len as _;
    }

    /// Where the control messages are, or shall go.
    pub(crate) fn set_control(&mut self, control: *mut u8, len: usize) {
        self.message.msg_control = if len == 0 { ptr::null_mut() } else { control.cast() };
        self.message.msg_controllen = len as _;
    }

    /// The header, complete; it must not move from now on.
    pub(crate) fn complete(&mut self) -> *mut libc::msghdr {
        (self.message.msg_iov, self.message.msg_iovlen) = (&raw mut self.part, 1);
        &raw mut self.message
    }

    /// Room for an address and control messages, and no place: the kernel takes a buffer from a ring.
    pub(crate) fn complete_without_place(&mut self, layout: Layout) -> *mut libc::msghdr {
        self.set_name(ptr::null_mut(), layout.name);
        self.message.msg_control = ptr::null_mut();
        self.message.msg_controllen = layout.control as _;
        (self.message.msg_iov, self.message.msg_iovlen) = (ptr::null_mut(), 0);
        &raw mut self.message
    }

    /// What the kernel wrote into the header: lengths of the address and the control messages, and flags.
    pub(crate) fn outcome(&self) -> (u32, u32, u32) {
        (self.message.msg_namelen, self.message.msg_controllen as u32, self.message.msg_flags as u32)
    }
}

/// The rooms in front of the bytes of a received message, in one buffer: 16 bytes that say how long each part is (as the
/// kernel's `io_uring_recvmsg_out`), the sender's address, control messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) name: usize,
    pub(crate) control: usize,
}

/// The lengths in front of all.
const LENGTHS: usize = 16;

impl Layout {
    /// Where the bytes begin.
    pub(crate) fn bytes_at(self) -> usize {
        LENGTHS + self.name + self.control
    }

    /// Points `header` to the rooms in a buffer of `len` bytes at `place`.
    ///
    /// # Safety
    /// `place` points to `len` bytes, more than `bytes_at`.
    pub(crate) unsafe fn point(self, header: &mut Header, place: *mut u8, len: usize) {
        // SAFETY: inside the buffer, as the caller promises; so are the other two.
        header.set_name(unsafe { place.add(LENGTHS) }, self.name);
        // SAFETY: as above.
        header.set_control(unsafe { place.add(LENGTHS + self.name) }, self.control);
        // SAFETY: as above.
        header.set_bytes(unsafe { place.add(self.bytes_at()) }, len - self.bytes_at());
    }

    /// Writes the lengths that the kernel gave in `header` where it writes them itself for a buffer of a ring. Returns how
    /// much of the buffer is used: `received` bytes came, of which `len - bytes_at` found room at most.
    ///
    /// # Safety
    /// As for `point`, and the kernel has written there what `header` and `received` say.
    pub(crate) unsafe fn finish(self, header: &Header, place: *mut u8, len: usize, received: usize) -> usize {
        let (name, control, flags) = header.outcome();
        let lengths = [name, control, received as u32, flags];
        for (number, value) in lengths.iter().enumerate() {
            // SAFETY: the first sixteen bytes of the buffer.
            let to = unsafe { place.add(4 * number) };
            // SAFETY: as above; the place need not be aligned.
            unsafe { to.cast::<u32>().write_unaligned(*value) };
        }
        self.bytes_at() + received.min(len - self.bytes_at())
    }
}

/// The lengths in front of a received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) name: usize,
    pub(crate) control: usize,
    /// Of the message as it was sent, where the kernel tells (`MSG_TRUNC`).
    pub(crate) sent: usize,
    pub(crate) flags: i32,
}

impl Lengths {
    /// Reads them from the beginning of a buffer.
    pub(crate) fn read(buffer: &[u8], layout: Layout) -> Self {
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| buffer[4 * at + byte]));
        Self {
            name: (number(0) as usize).min(layout.name),
            control: (number(1) as usize).min(layout.control),
            sent: number(2) as usize,
            flags: number(3) as i32,
        }
    }
}

/// # Safety
/// `message` points to a message header whose parts may all be written to.
pub(crate) unsafe fn receive(fd: RawFd, message: *mut libc::msghdr, flags: i32) -> i32 {
    // SAFETY: the caller's promise.
    raw(unsafe { libc::recvmsg(fd, message, libc::MSG_DONTWAIT | flags) })
}

/// # Safety
/// `bytes` points to `len` initialised bytes.
pub(crate) unsafe fn send_to(fd: RawFd, bytes: *const u8, len: usize, address: Option<&SockAddr>) -> i32 {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (name, name_len) = address.map_or((ptr::null(), 0), |address| (address.as_ptr(), address.len()));
    // SAFETY: the caller's promise, and the address is borrowed. (As a plain system call: see `socket::send`.)
    raw(unsafe { libc::syscall(libc::SYS_sendto, fd, bytes, len, flags, name, name_len) } as isize)
}

/// Of a control message: length, level, type. The data follows.
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// The length of a control message with `len` bytes of data.
pub(crate) const fn control_len(len: usize) -> usize {
    CONTROL_HEADER + len
}

/// The control messages in a buffer: level, type and data of each.
pub(crate) struct Controls<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Controls<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_at_checked(size_of::<usize>())?;
        let (level, rest) = rest.split_at_checked(4)?;
        let (kind, _) = rest.split_at_checked(4)?;
        let length = usize::from_ne_bytes(length.try_into().ok()?);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_ne_bytes);
        let data = self.0.get(CONTROL_HEADER..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((number(level), number(kind), data))
    }
}

/// Appends a control message. (Words, since it has to be aligned.)
pub(crate) fn push_control(controls: &mut Vec<usize>, level: i32, kind: i32, data: impl Iterator<Item = u8>) {
    const WORD: usize = size_of::<usize>();
    let start = controls.len();
    let header = 0_usize.to_ne_bytes().into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
    let mut len = 0;
    for byte in header.chain(data) {
        if len % WORD == 0 {
            controls.push(0);
        }
        let mut word = controls[start + len / WORD].to_ne_bytes();
        word[len % WORD] = byte;
        controls[start + len / WORD] = usize::from_ne_bytes(word);
        len += 1;
    }
    controls[start] = len;
}

/// Takes over the descriptors that came with a message (C8). To be called once for each message.
pub(crate) fn descriptors(controls: &[u8]) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    for (level, kind, data) in Controls(controls) {
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for number in data.chunks_exact(4) {
                let number = RawFd::from_ne_bytes(number.try_into().expect("four bytes"));
                // SAFETY: the kernel made this descriptor for the receiver of the message, and nobody else takes it.
                found.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    found
}

/// The bytes of an address.
pub(crate) fn name(address: &SockAddr) -> &[u8] {
    // SAFETY: an address has so many bytes, all of which are initialised.
    unsafe { std::slice::from_raw_parts(address.as_ptr().cast(), address.len() as usize) }
}

/// An address as the kernel gave it.
pub(crate) fn address(name: &[u8]) -> SockAddr {
    let copy = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
        let count = name.len().min(size_of::<socket2::SockAddrStorage>());
        // SAFETY: both have room for so many bytes, and do not overlap.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), storage.cast(), count) };
        // SAFETY: the place is given for this.
        unsafe { len.write(count as _) };
        Ok(())
    };
    // SAFETY: the storage is filled with an address of the kernel, of the length that is given.
    let ((), address) = unsafe { SockAddr::try_init(copy) }.expect("copying never fails");
    address
}
