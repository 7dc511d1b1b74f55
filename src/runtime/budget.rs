//! How many answers that are ready at once a task gets in one poll, so that one hot connection starves nobody.

use std::cell::Cell;
use std::task::{Context, Poll};

use crate::runtime::here::{self, PutOff};

/// Ready answers per poll of a task.
const PER_POLL: u32 = 128;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(PER_POLL) };
}

/// A task is about to be polled.
#[inline]
pub(crate) fn refill() {
    LEFT.with(|left| left.set(PER_POLL));
}

/// Call it before giving an answer that was ready without waiting. `Pending`: the task has had its share of this poll;
/// it is ready again already, after everybody else.
#[inline]
pub(crate) fn spend(cx: &Context<'_>) -> Poll<()> {
    let has_some = LEFT.with(|left| {
        let before = left.get();
        left.set(before.saturating_sub(1));
        before > 0
    });
    if has_some {
        return Poll::Ready(());
    }
    here::put_off(PutOff::Wait);
    cx.waker().wake_by_ref();
    Poll::Pending
}
