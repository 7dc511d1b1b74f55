//! Notices a bare `fork(2)`: a child shares the parent's rings and must never touch them.
#![allow(unsafe_code)]
//!
//! # Safety
//! The handler that runs in the child only adds to an atomic, which is async-signal-safe.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static FORKS: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the one that called this first. Cheap: one relaxed load.
#[inline]
pub(crate) fn generation() -> u32 {
    static WATCH: Once = Once::new();
    extern "C" fn in_child() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    WATCH.call_once(|| {
        // SAFETY: `in_child` is a function that lives for ever and does what POSIX allows there.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    FORKS.load(Ordering::Relaxed)
}
