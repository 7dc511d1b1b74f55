//! Tasks of one loop that wait for each other: flags, locks, permits, queues.
//!
//! Three things hold for all of them. They are fair: what becomes free goes to whoever waits for it the longest, and a
//! newcomer cannot take it in passing. A wait may be dropped or cancelled at any time, and nothing is lost: what it was
//! granted goes to the next in the queue. And they belong to one thread: a handle is cheap to clone, every clone is the same
//! object, and no operation needs an atomic instruction.
//!
//! | asyncio | AnyIO | here |
//! |---|---|---|
//! | `Event` | `Event` | [`Event`] |
//! | `Lock` | `Lock` | [`Lock`], which can protect a value; `async with` is [`acquire`](Lock::acquire), `release` is the end of the [`LockGuard`] |
//! | `Condition` | `Condition` | [`Condition`]; [`wait`](Condition::wait) and [`notify`](Condition::notify) take the guard |
//! | `Semaphore` | `Semaphore` | [`Semaphore::new`] |
//! | `BoundedSemaphore` | `Semaphore(max_value=…)` | [`Semaphore::bounded`] |
//! | | `CapacityLimiter` | [`CapacityLimiter`] |
//! | | `ResourceGuard` | [`ResourceGuard`] |
//! | `Queue` | | [`Queue`] |
//! | `LifoQueue` | | [`LifoQueue`] |
//! | `PriorityQueue` | | [`PriorityQueue`] |
//! | | `create_memory_object_stream` | [`memory_object_stream`](crate::stream::memory_object_stream) |
//! | `QueueEmpty`, `QueueFull` | `WouldBlock` | [`WouldBlock`](crate::WouldBlock) |
//! | `ValueError` or `RuntimeError` of a release too many | `RuntimeError` | [`Unbalanced`](crate::Unbalanced), or no way to write it |

mod capacity_limiter;
pub(crate) mod channel;
mod condition;
mod event;
mod lock;
pub(crate) mod order;
mod queue;
mod resource_guard;
mod semaphore;
pub(crate) mod wait;
pub(crate) mod waiters;

pub use capacity_limiter::{
    AcquireOnBehalfOf, AcquireToken, BorrowError, Borrower, CapacityLimiter, CapacityLimiterStatistics,
    CapacityToken,
};
pub use condition::{Condition, ConditionStatistics, ConditionWait};
pub use event::{Event, EventStatistics, EventWait};
pub use lock::{Acquire, Lock, LockGuard, LockStatistics};
pub use order::{Fifo, Lifo, Order, Priority};
pub use queue::{Get, LifoQueue, OrderedQueue, PriorityQueue, Put, Queue, QueueJoin};
pub use resource_guard::{InUse, ResourceGuard};
pub use semaphore::{AcquirePermit, Semaphore, SemaphorePermit, SemaphoreStatistics};
