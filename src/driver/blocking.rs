//! Threads for what cannot be made non-blocking (C7): they make one call each and hand the result back as a completion.
#![allow(unsafe_code)]
//!
//! # Safety
//! A [`Call`] carries addresses to another thread. They stay valid because the operation that owns what they point to
//! is in flight until the call's result was delivered (C3), and the operation does not touch it meanwhile.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::driver::alarm::Alarm;
use crate::driver::table::Key;
use crate::driver::workers::{self, Job as _, Workers};
use crate::sys::file;

/// One call for a thread of the pool; its numbers and addresses are those of an operation in flight.
pub(crate) enum Call {
    Open { path: *const libc::c_char, flags: i32, mode: u32 },
    Read { fd: RawFd, address: *mut u8, len: usize, offset: u64 },
    Write { fd: RawFd, address: *const u8, len: usize, offset: u64 },
    Stat { fd: RawFd, path: *const libc::c_char, flags: i32, to: *mut libc::statx },
    Close { fd: RawFd },
    Run(Box<dyn FnOnce() + Send>),
}

// SAFETY: see the top of this file.
unsafe impl Send for Call {}

impl Call {
    fn make(self) -> i32 {
        loop {
            let result = match self {
                // SAFETY: C3, the operation that owns the path is in flight.
                Self::Open { path, flags, mode } => unsafe { file::openat(path, flags, mode) },
                // SAFETY: C3, the operation that owns the buffer is in flight.
                Self::Read { fd, address, len, offset } => unsafe { file::read_at(fd, address, len, offset) },
                // SAFETY: C3, the operation that owns the buffer is in flight.
                Self::Write { fd, address, len, offset } => unsafe {
                    file::write_at(fd, address, len, offset)
                },
                // SAFETY: C3, the operation that owns the path and the result is in flight.
                Self::Stat { fd, path, flags, to } => unsafe { file::statx(fd, path, flags, to) },
                // close(2) is never repeated: Linux has closed the descriptor even when it says EINTR.
                Self::Close { fd } => return file::close(fd),
                Self::Run(job) => {
                    job();
                    return 0;
                }
            };
            if result != -libc::EINTR {
                return result;
            }
        }
    }
}

/// Where the results for one driver arrive.
pub(crate) struct Inbox {
    results: Mutex<Vec<(Key, i32)>>,
    filled: AtomicBool,
    alarm: &'static Alarm,
}

impl Inbox {
    pub(crate) fn new(alarm: &'static Alarm) -> Arc<Self> {
        Arc::new(Self { results: Mutex::default(), filled: AtomicBool::new(false), alarm })
    }

    pub(crate) fn deliver(&self, key: Key, result: i32) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push((key, result));
        self.filled.store(true, Ordering::SeqCst);
        self.alarm.ring();
    }

    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::SeqCst)
    }

    /// The results that arrived since the last call.
    pub(crate) fn take(&self) -> Vec<(Key, i32)> {
        if !self.is_filled() || !self.filled.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        std::mem::take(&mut self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Job {
    key: Key,
    call: Call,
    inbox: Arc<Inbox>,
}

impl workers::Job for Job {
    fn run(self) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.call.make()));
        self.inbox.deliver(self.key, result.unwrap_or(-libc::EIO));
    }
}

/// The threads are shared by all loops of the process.
static WORKERS: Workers<Job> = Workers::new("proactor-blocking", 64);

/// Hands `call` to a thread; its result arrives in `inbox` under `key`.
pub(crate) fn submit(key: Key, call: Call, inbox: &Arc<Inbox>) {
    let job = Job { key, call, inbox: inbox.clone() };
    if let Err(refused) = Workers::submit(&&WORKERS, job) {
        let job = refused.into_job();
        match job.call {
            // Better late than never, and better here than not at all.
            Call::Close { .. } => job.run(),
            // The thread's EAGAIN never gets out (C6).
            _ => job.inbox.deliver(job.key, -libc::ENOMEM),
        }
    }
}

/// Takes back a call that no thread has begun; false if it is too late.
pub(crate) fn cancel(key: Key, inbox: &Arc<Inbox>) -> bool {
    let job = WORKERS.take_back(|job| job.key == key && Arc::ptr_eq(&job.inbox, inbox));
    let taken_back = job.is_some();
    if let Some(job) = job {
        drop(job.call);
        inbox.deliver(key, -libc::ECANCELED);
    }
    taken_back
}
