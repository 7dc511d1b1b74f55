//! What an operation is to the drivers.

use io_uring::squeue::Entry;

use crate::driver::blocking::Call;
use crate::driver::{Aftermath, Answer, Attempt, Features};

/// Where an operation waits on the epoll driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Until the descriptor can be read.
    Readable(i32),
    /// The same, for a receive that may bring less than fits though there is more: see the top of `epoll.rs`.
    ReadableStream(i32),
    /// Until the descriptor can be written.
    Writable(i32),
    /// Nowhere: the first attempt ends it.
    Now,
    /// In a thread of the pool.
    Pool,
}

/// What an operation makes of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It goes on by itself.
    More,
    /// It goes on by itself, and shall be cancelled: its resource has enough for now.
    Stop,
    /// It has to be submitted again: it has not done all yet.
    Again,
    /// It is over, with this result.
    Done(i32),
}

/// One request to the kernel, described once, with both faces side by side.
///
/// It lives in the in-flight table from submission to final completion and does not move there, so it may hand out
/// addresses of its own fields. None of its functions may use its own [`Key`].
pub(crate) trait Op: 'static {
    /// For the ring: the submission; `None` if the kernel has no such operation, then `call` is used.
    fn prepare(&mut self, features: &Features) -> Option<Entry>;

    /// For epoll: where to wait.
    fn route(&self) -> Route;

    /// For epoll: one try that does not block.
    fn attempt(&mut self) -> Attempt {
        Attempt::Complete(Answer::once(-libc::ENOSYS))
    }

    /// For epoll, after an attempt that asked for it: tells the resource that there is something. `until_empty`: an attempt
    /// that brings less than fits may leave some, of which nobody would tell. The driver is borrowed: only wakers may come
    /// of it, for later.
    fn tell(&mut self, until_empty: bool, after: &mut Aftermath) {
        let _ = (until_empty, after);
    }

    /// For epoll: no event will ever make it tell anything, so what there is has to be brought by its attempts.
    fn cannot_be_told(&mut self) {}

    /// For the pool: the call.
    fn call(&mut self) -> Call {
        Call::Run(Box::new(|| ()))
    }

    /// A completion came.
    fn complete(&mut self, answer: Answer, after: &mut Aftermath) -> Step {
        let _ = after;
        Step::Done(answer.result)
    }

    /// It ended with `result`, which a future waits for, that may come to fetch it much later: who waits for the end only
    /// goes on now. True if nothing is left for `settle` to do, should nobody fetch the result.
    fn ended(&mut self, result: i32, after: &mut Aftermath) -> bool {
        let _ = (result, after);
        false
    }

    /// It ended with `result`, and no future will fetch that: its resource takes what it brought.
    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        let _ = (result, after);
    }

    /// Whether it has done nothing if it was interrupted, so that it is submitted again.
    fn may_repeat(&self) -> bool {
        true
    }

    /// It was interrupted, or was not ready though it should be, and is submitted again. `answer` may name a buffer that
    /// the kernel chose for it.
    fn interrupted(&mut self, answer: Answer) {
        let _ = answer;
    }

    /// Whether the loop's thread tries it before it goes to the ring, as it does on epoll.
    fn is_tried_first(&self) -> bool {
        false
    }

    /// Whether a thread that is at it may be left alone: it uses nothing of the operation.
    fn may_abandon(&self) -> bool {
        false
    }

    /// Whether dropping the future that waits for it asks to cancel it. If not, it goes on unwatched.
    fn is_cancelled_by_drop(&self) -> bool {
        true
    }
}
