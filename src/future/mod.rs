//! Futures as asyncio has them: results that somebody sets, and ways to wait for several tasks.
//!
//! | asyncio | here |
//! |---|---|
//! | `Future`, `create_future` | [`Future`] |
//! | `gather` | [`gather`], [`gather_results`] |
//! | `wait` | [`wait`] |
//! | `as_completed` | [`as_completed`] |
//! | `wait_for` | [`fail_after`](crate::cancel::fail_after); [`timeout`](crate::timeout) drops instead |
//! | `shield` | await a [`Task`](crate::Task): cancelling the wait leaves the task alone; or [`shielded`](crate::cancel::shielded), which keeps the cancel out of the wait too |
//! | `sleep(delay, result)` | `sleep(delay).await.map(\|()\| result)` |
//!
//! For code of your own a [task group](crate::cancel::task_group) is nearly always the better way: nothing of it is left
//! when it ends.

mod as_completed;
mod gather;
mod settable;
mod wait;

pub use as_completed::{AsCompleted, as_completed};
pub use gather::{gather, gather_results};
pub use settable::{CallbackKey, Future, FutureError, InvalidState, Waiting};
pub use wait::{ReturnWhen, Wait, wait};
