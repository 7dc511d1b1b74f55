//! The monotonic clock in the kernel's terms.
#![allow(unsafe_code)]
//!
//! # Safety
//! The only call writes a `timespec` that is on the stack.

use std::time::{Duration, Instant};

/// Converts instants of std, which are opaque, into absolute times of `CLOCK_MONOTONIC`, on which they stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonic {
    instant: Instant,
    kernel: Duration,
}

impl Monotonic {
    pub(crate) fn new() -> Self {
        // Read first, so that an absolute time made from this pair is never early.
        let instant = Instant::now();
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid place for a timespec; this clock always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        Self { instant, kernel: Duration::new(now.tv_sec as u64, now.tv_nsec as u32) }
    }

    /// Seconds and nanoseconds of `at` on the kernel's clock.
    pub(crate) fn absolute(&self, at: Instant) -> (u64, u32) {
        let at = self.kernel + at.saturating_duration_since(self.instant);
        (at.as_secs(), at.subsec_nanos())
    }
}
