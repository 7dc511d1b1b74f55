//! Structured concurrency: cancel scopes, deadlines, task groups.
//!
//! A *scope* is a part of a program that can be cancelled as a whole. Whatever waits in it answers
//! [`Cancelled`](crate::Cancelled), `?` carries that up to where the scope began, and there it ends. A *task group* is a
//! scope whose body starts other tasks, and which is left when all of them are over.
//!
//! # Rules
//! - A cancel is asked of a scope, and reaches every wait in it and in the scopes inside, except behind a shield. It is
//!   level-triggered: as long as the scope lasts, each further wait in it answers [`Cancelled`](crate::Cancelled) too,
//!   without asking the kernel for anything. Clean-up that has to wait goes into [`shielded`].
//! - Success wins: an operation that was done before the cancel reached it gives its result, and the next wait answers.
//! - An error that is a cancellation ([`MayBeCancelled`](crate::MayBeCancelled)) ends at the outermost scope that was
//!   cancelled; other errors pass.
//! - Closing and releasing always happen; only the waiting for them is cut short.
//! - A body that waits for something foreign (a channel of another crate, `std::future::pending`) cannot be told; it is
//!   dropped where it stands.

mod checkpoint;
mod group;
mod group_error;
mod scope;

pub use checkpoint::{
    Checkpoint, CheckpointIfCancelled, EffectiveDeadline, checkpoint, checkpoint_if_cancelled,
    current_effective_deadline, sleep_forever,
};
pub use group::{Child, TaskGroup, TaskStatus, task_group};
pub use group_error::{ErrorGroup, NotStarted};
pub use scope::{
    CancelScope, FailAfter, Scoped, Shielded, fail_after, fail_at, move_on_after, move_on_at, shielded,
};
