//! Bytes that go from descriptor to descriptor inside the kernel: pipes for splices, sendfile(2), what is cached.
#![allow(unsafe_code)]
//!
//! # Safety
//! Each call points to locals of its function only.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::sys::{check, raw};

/// How far the kernel reads ahead, as a rule (`read_ahead_kb`): what it brought together it mostly drops together.
const STRETCH: usize = 128 << 10;

/// A pipe that holds `size` bytes: its end to read from, and its end to write to. Neither blocks.
///
/// # Errors
/// EMFILE, ENFILE; and EPERM where the user has more in pipes than `fs.pipe-user-pages-soft` allows.
pub(crate) fn pipe(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: there is room for the two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    // SAFETY: they were just made, and are nobody else's.
    let ends = ends.map(|fd| (fd, unsafe { OwnedFd::from_raw_fd(fd) }));
    let [(_, reader), (number, writer)] = ends;
    // SAFETY: the argument is a number.
    check(unsafe { libc::fcntl(number, libc::F_SETPIPE_SZ, size as libc::c_int) })?;
    Ok((reader, writer))
}

/// Sends from a file to a non-blocking socket; the result has the form of a completion. It waits for the disk where
/// the bytes are not cached.
pub(crate) fn sendfile(to: RawFd, from: RawFd, offset: u64, len: usize) -> i32 {
    let Ok(mut offset) = i64::try_from(offset) else { return -libc::EINVAL };
    // SAFETY: the offset is a local.
    raw(unsafe { libc::sendfile64(to, from, &raw mut offset, len) })
}

/// Whether one byte can be read without the disk: 1, or 0 behind the end of the file; a negative errno if not.
fn probe(fd: RawFd, offset: u64) -> i32 {
    let Ok(offset) = i64::try_from(offset) else { return -libc::EINVAL };
    let mut byte = 0_u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: one part is passed, which is a local of one byte.
    raw(unsafe { libc::preadv2(fd, &raw const part, 1, offset, libc::RWF_NOWAIT) })
}

/// Whether the bytes of a file are in memory, as far as a look at one page in each stretch tells.
pub(crate) fn is_cached(fd: RawFd, offset: u64, len: usize) -> bool {
    let (mut at, end) = (offset, offset.saturating_add(len as u64));
    while at < end {
        let next = at.saturating_add(STRETCH as u64).min(end);
        match probe(fd, next - 1) {
            1.. => {}
            // The file ends in this stretch: its first byte, if there is one, speaks for it.
            0 => return probe(fd, at) >= 0,
            _ => return false,
        }
        at = next;
    }
    true
}

/// Whether a signal ends the process when sendfile(2) meets a connection that is gone: it knows no `MSG_NOSIGNAL`.
/// Programs of std ignore that signal, unless they were told otherwise; libraries in foreign programs cannot know.
pub(crate) fn sigpipe_kills() -> bool {
    // SAFETY: zeroes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks, and fills the local in.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) };
    asked != 0 || action.sa_sigaction == libc::SIG_DFL
}

/// Sets the position of a file; it does not matter where there is none.
pub(crate) fn seek(fd: RawFd, position: u64) {
    if let Ok(position) = i64::try_from(position) {
        // SAFETY: no pointers.
        unsafe { libc::lseek64(fd, position, libc::SEEK_SET) };
    }
}

/// Moves bytes between a pipe and a non-blocking socket, without waiting; the result has the form of a completion.
pub(crate) fn splice(from: RawFd, to: RawFd, len: usize) -> i32 {
    let none = std::ptr::null_mut();
    // SAFETY: the null pointers say that there are no offsets.
    raw(unsafe { libc::splice(from, none, to, none, len, libc::SPLICE_F_NONBLOCK) })
}

/// All that is in a pipe, which is not more than `most`.
pub(crate) fn drain(pipe: RawFd, most: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(most);
    while bytes.len() < most {
        let room = bytes.spare_capacity_mut();
        // SAFETY: the room is as long as it says.
        let count = raw(unsafe { libc::read(pipe, room.as_mut_ptr().cast(), room.len()) });
        match usize::try_from(count) {
            // SAFETY: so many bytes were written behind those that there were.
            Ok(count @ 1..) => unsafe { bytes.set_len(bytes.len() + count) },
            _ if -count == libc::EINTR => {}
            _ => break, // there is no more
        }
    }
    bytes
}
