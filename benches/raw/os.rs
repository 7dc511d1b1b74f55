//! What a measurement needs from the operating system: CPU clocks, pinning, the descriptor limit.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// CPU time, user and system together, of the calling thread.
///
/// The clock counts what `getrusage` counts, in nanoseconds instead of microseconds.
pub(crate) fn thread_cpu() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that `load` costs every thread of this process but the calling one: the server, with any
/// helpers it has (a pool, the kernel's ring workers), but without the client that `load` is.
pub(crate) fn others_cpu(load: impl FnOnce()) -> Duration {
    let read = || {
        // The process clock counts a thread on another CPU only up to its last switch or tick: let
        // the server go to sleep first.
        std::thread::sleep(Duration::from_micros(300));
        clock(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(thread_cpu())
    };
    let before = read();
    load();
    read().saturating_sub(before)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut at = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is valid for one timespec.
    let failed = unsafe { libc::clock_gettime(id, at.as_mut_ptr()) };
    assert_eq!(failed, 0, "clock {id}");
    // SAFETY: the call succeeded, so it wrote the value.
    let at = unsafe { at.assume_init() };
    Duration::new(at.tv_sec as u64, at.tv_nsec as u32)
}

/// Pins the calling thread to the first (`false`) or last (`true`) CPU that this process may use, so
/// that a server and its client do not share one; with a single CPU they do.
pub(crate) fn pin(last: bool) {
    // Asked once, before the first pinning: threads inherit what their parent was pinned to.
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    let cpus = CPUS.get_or_init(allowed_cpus);
    let Some(&cpu) = (if last { cpus.last() } else { cpus.first() }) else { return };
    // SAFETY: all zeroes is the empty set.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` came from a set of the same size.
    unsafe { libc::CPU_SET(cpu, &mut one) };
    // SAFETY: the pointer is valid for the size given; a refusal leaves the thread where it was.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one) };
}

fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all zeroes is the empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the size given; on failure the set stays empty.
    unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed) };
    // SAFETY: only reads the set; each index is below its size.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) }).collect()
}

/// Raises the soft limit of open descriptors to the hard one; returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid for one rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is valid for one rlimit; a refusal changes nothing.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    limit.rlim_cur
}

/// A counter that another thread can write and a ring can read.
pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so it belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
