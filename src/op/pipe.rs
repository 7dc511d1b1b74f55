//! Making pipes.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: the operation owns the place that its submission points to. The descriptors there were made for it.

use std::os::fd::OwnedFd;

use io_uring::opcode;
use io_uring::squeue::Entry;

use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::sys::{file, pipe};

/// Makes a pipe: `IORING_OP_PIPE` (6.16).
pub(crate) struct MakePipe {
    numbers: [i32; 2],
    made: Option<(OwnedFd, OwnedFd)>,
}

impl MakePipe {
    pub(crate) fn new() -> Self {
        Self { numbers: [-1; 2], made: None }
    }

    /// The reading and the writing end, after success.
    pub(crate) fn into_made(self) -> Option<(OwnedFd, OwnedFd)> {
        self.made
    }
}

impl Op for MakePipe {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        Some(opcode::Pipe::new(self.numbers.as_mut_ptr()).flags(libc::O_CLOEXEC as u32).build())
    }

    fn route(&self) -> Route {
        Route::Now
    }

    fn attempt(&mut self) -> Attempt {
        let made = pipe::pipe(true);
        let result = made.as_ref().map_or_else(|e| -e.raw_os_error().unwrap_or(libc::EIO), |_| 0);
        self.made = made.ok();
        Attempt::Complete(Answer::once(result))
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        if answer.result == 0 && self.made.is_none() {
            // Owned from here on (C8): if nobody fetches the operation, dropping it closes both.
            self.made = Some((file::own(self.numbers[0]), file::own(self.numbers[1])));
        }
        Step::Done(answer.result)
    }
}
