//! Operations on files: through the ring where it does not just hand them to its own threads, else in the pool.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns the path, the buffer or the result that its call points to.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::buf::{IoBuf, IoBufMut};
use crate::driver::blocking::Call;
use crate::driver::{Aftermath, Answer, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::sys::file::{self, LEN_MAX};

/// Opens a file: `IORING_OP_OPENAT` (5.6).
pub(crate) struct Open {
    path: CString,
    flags: i32,
    mode: u32,
    opened: Option<OwnedFd>,
}

impl Open {
    pub(crate) fn new(path: CString, flags: i32, mode: u32) -> Self {
        Self { path, flags: flags | libc::O_CLOEXEC, mode, opened: None }
    }

    /// The descriptor, after success.
    pub(crate) fn into_opened(self) -> Option<OwnedFd> {
        self.opened
    }
}

impl Op for Open {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let entry = opcode::OpenAt::new(Fd(libc::AT_FDCWD), self.path.as_ptr());
        Some(entry.flags(self.flags).mode(self.mode).build())
    }

    fn route(&self) -> Route {
        Route::Pool
    }

    fn call(&mut self) -> Call {
        Call::Open { path: self.path.as_ptr(), flags: self.flags, mode: self.mode }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        if answer.result >= 0 {
            // Owned from here on (C8): if nobody fetches the operation, dropping it closes the file.
            self.opened = Some(file::own(answer.result));
        }
        Step::Done(answer.result)
    }
}

/// Reads at an offset: `IORING_OP_READ` (5.6).
pub(crate) struct ReadAt<B> {
    file: Rc<Descriptor>,
    buf: B,
    offset: u64,
}

impl<B: IoBufMut> ReadAt<B> {
    pub(crate) fn new(file: Rc<Descriptor>, buf: B, offset: u64) -> Self {
        Self { file, buf, offset }
    }

    pub(crate) fn into_buf(self) -> B {
        self.buf
    }

    fn parts(&mut self) -> (RawFd, *mut u8, usize) {
        (self.file.number(), self.buf.as_mut_ptr(), self.buf.capacity().min(LEN_MAX))
    }
}

impl<B: IoBufMut> Op for ReadAt<B> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let (fd, address, len) = self.parts();
        Some(opcode::Read::new(Fd(fd), address, len as u32).offset(self.offset).build())
    }

    fn route(&self) -> Route {
        Route::Pool
    }

    fn call(&mut self) -> Call {
        let (fd, address, len) = self.parts();
        Call::Read { fd, address, len, offset: self.offset }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        if let Ok(count) = usize::try_from(answer.result) {
            // SAFETY: the kernel initialised `count` bytes, at most the capacity.
            unsafe { self.buf.set_len(count) };
        }
        Step::Done(answer.result)
    }
}

/// Writes at an offset: `IORING_OP_WRITE` (5.6).
pub(crate) struct WriteAt<B> {
    file: Rc<Descriptor>,
    buf: B,
    offset: u64,
}

impl<B: IoBuf> WriteAt<B> {
    pub(crate) fn new(file: Rc<Descriptor>, buf: B, offset: u64) -> Self {
        Self { file, buf, offset }
    }

    pub(crate) fn into_buf(self) -> B {
        self.buf
    }
}

impl<B: IoBuf> Op for WriteAt<B> {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        let len = self.buf.len().min(LEN_MAX) as u32;
        Some(opcode::Write::new(Fd(self.file.number()), self.buf.as_ptr(), len).offset(self.offset).build())
    }

    fn route(&self) -> Route {
        Route::Pool
    }

    fn call(&mut self) -> Call {
        let len = self.buf.len().min(LEN_MAX);
        Call::Write { fd: self.file.number(), address: self.buf.as_ptr(), len, offset: self.offset }
    }
}

/// Asks for the metadata of an open file or of a path. In the pool on every driver: the ring would hand it to a thread
/// of its own (always io-wq, 5.6 to 7.3), which is no faster and harder to bound.
pub(crate) struct Stat {
    file: Option<Rc<Descriptor>>,
    path: CString,
    flags: i32,
    found: Box<MaybeUninit<libc::statx>>,
    succeeded: bool,
}

impl Stat {
    pub(crate) fn of_file(file: Rc<Descriptor>) -> Self {
        Self {
            file: Some(file),
            path: CString::default(),
            flags: libc::AT_EMPTY_PATH,
            found: Box::new_uninit(),
            succeeded: false,
        }
    }

    pub(crate) fn of_path(path: CString, follow: bool) -> Self {
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        Self { file: None, path, flags, found: Box::new_uninit(), succeeded: false }
    }

    /// What was found, after success.
    pub(crate) fn into_found(self) -> Option<libc::statx> {
        // SAFETY: statx(2) succeeded, so it filled the structure, which is of plain numbers.
        self.succeeded.then(|| unsafe { self.found.assume_init_read() })
    }
}

impl Op for Stat {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        None
    }

    fn route(&self) -> Route {
        Route::Pool
    }

    fn call(&mut self) -> Call {
        let fd = self.file.as_ref().map_or(libc::AT_FDCWD, |file| file.number());
        Call::Stat { fd, path: self.path.as_ptr(), flags: self.flags, to: self.found.as_mut_ptr() }
    }
    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        self.succeeded = answer.result >= 0;
        Step::Done(answer.result)
    }
}
