//! Threads for what cannot be made non-blocking (C7): they make one call each and hand the result back as a completion.
#![allow(unsafe_code)]
//!
//! # Safety
//! A [`Call`] carries addresses to another thread. They stay valid because the operation that owns what they point to
//! is in flight until the call's result was delivered (C3), and the operation does not touch it meanwhile.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::driver::alarm::Alarm;
use crate::driver::table::Key;
use crate::sys::{file, fork};

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

#[derive(Default)]
struct Shared {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// In which process the threads are.
    forks: u32,
}

/// The threads are shared by all loops of the process and end when they had nothing to do for a while.
static SHARED: Mutex<Shared> = Mutex::new(Shared { jobs: VecDeque::new(), threads: 0, idle: 0, forks: 0 });
static NEWS: Condvar = Condvar::new();

/// The most threads at a time; further calls wait their turn.
const THREADS_MAX: usize = 64;
const IDLE_MAX: Duration = Duration::from_secs(5);

fn lock() -> MutexGuard<'static, Shared> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let forks = fork::generation();
    if shared.forks != forks {
        // A forked child has none of the parent's threads, and must not do the parent's work.
        #[allow(clippy::mem_forget, reason = "they belong to the parent")]
        std::mem::forget(std::mem::take(&mut shared.jobs));
        *shared = Shared { forks, ..Shared::default() };
    }
    shared
}

/// Hands `call` to a thread; its result arrives in `inbox` under `key`.
pub(crate) fn submit(key: Key, call: Call, inbox: &Arc<Inbox>) {
    let mut shared = lock();
    shared.jobs.push_back(Job { key, call, inbox: inbox.clone() });
    if shared.idle >= shared.jobs.len() {
        NEWS.notify_one();
        return;
    }
    if shared.threads < THREADS_MAX {
        match std::thread::Builder::new().name("proactor-blocking".into()).spawn(work) {
            Ok(_) => shared.threads += 1,
            // Out of threads: the ones there are will come to it. Without any, it fails instead of waiting for ever.
            Err(_) if shared.threads > 0 => {}
            Err(_) => {
                let job = shared.jobs.pop_back();
                drop(shared);
                if let Some(job) = job {
                    // The thread's EAGAIN never gets out (C6).
                    let result = match job.call {
                        // Better late than never, and better here than not at all.
                        call @ Call::Close { .. } => call.make(),
                        _ => -libc::ENOMEM,
                    };
                    job.inbox.deliver(job.key, result);
                }
            }
        }
    }
}

/// Takes back a call that no thread has begun; false if it is too late.
pub(crate) fn cancel(key: Key, inbox: &Arc<Inbox>) -> bool {
    let mut shared = lock();
    let found = shared.jobs.iter().position(|job| job.key == key && Arc::ptr_eq(&job.inbox, inbox));
    let job = found.and_then(|at| shared.jobs.remove(at));
    drop(shared);
    let taken_back = job.is_some();
    if let Some(job) = job {
        drop(job.call);
        inbox.deliver(key, -libc::ECANCELED);
    }
    taken_back
}

fn work() {
    let mut shared = lock();
    loop {
        while let Some(Job { key, call, inbox }) = shared.jobs.pop_front() {
            drop(shared);
            // A job that panics has sent its panic to whoever waits; the thread goes on.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call.make()));
            inbox.deliver(key, result.unwrap_or(-libc::EIO));
            shared = lock();
        }
        shared.idle += 1;
        let (guard, waited) = NEWS.wait_timeout(shared, IDLE_MAX).unwrap_or_else(PoisonError::into_inner);
        shared = guard;
        shared.idle -= 1;
        if waited.timed_out() && shared.jobs.is_empty() {
            shared.threads -= 1;
            return;
        }
    }
}
