//! What a peer has to be able to do, in traits: one for the runtime, one for each further thing.

use crate::measure::{Clock, Cost};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::ops::DerefMut;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) trait Runtime: 'static {
    const NAME: &'static str;

    /// Makes a runtime, on this thread, with timers and I/O, and runs `main` in it.
    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T;

    /// A task that need not be `Send`, and what joins it.
    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static;

    /// As most peers' users would, who have none of their own.
    fn yield_now() -> impl Future<Output = ()> {
        futures_lite::future::yield_now()
    }

    /// Lets every task that is ready run, however the peer orders them.
    fn settle() -> impl Future<Output = ()> {
        async {
            for _ in 0..3 {
                Self::yield_now().await;
            }
        }
    }

    /// Lets the loop wait for the kernel.
    fn pause() -> impl Future<Output = ()>;

    /// Runs so many children and waits for all of them, with what the peer has for that.
    fn group(children: usize) -> impl Future<Output = ()> {
        async move {
            let mut tasks: FuturesUnordered<_> = (0..children).map(|_| Self::spawn(async {})).collect();
            while tasks.next().await.is_some() {}
        }
    }
}

pub(crate) const A_WHILE: Duration = Duration::from_millis(1);

/// Tasks can be cancelled.
pub(crate) trait Cancel: Runtime {
    /// Spawns `children` tasks that wait for ever. The cost: from the cancel until all of them have ended.
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost>;
}

/// For peers whose tasks are cancelled each by itself: what that costs, once all of them wait.
pub(super) async fn cancel_each<T, F: Future>(
    tasks: Vec<T>,
    waiting: impl Future<Output = ()>,
    cancel: impl Fn(T) -> F,
) -> Cost {
    waiting.await;
    let children = tasks.len() as u64;
    let clock = Clock::start();
    join_all(tasks.into_iter().map(cancel)).await;
    clock.cost(children)
}

/// A receive that waits in the kernel can be cancelled.
pub(crate) trait CancelReceives: Runtime {
    /// A task on each socket, which waits for bytes. The cost: from the cancel until all of them have ended.
    fn cancel_receives(sockets: Vec<UnixStream>) -> impl Future<Output = Cost>;
}

pub(crate) trait Lock: Runtime {
    type Lock: Clone + 'static;

    fn lock() -> Self::Lock;

    fn acquire(lock: &Self::Lock) -> impl Future<Output = impl DerefMut<Target = u64>>;
}

pub(crate) trait Semaphore: Runtime {
    type Semaphore: Clone + 'static;

    fn semaphore(permits: usize) -> Self::Semaphore;

    /// Something that gives the permit back when it is dropped.
    fn acquire(semaphore: &Self::Semaphore) -> impl Future<Output = impl Sized>;
}

pub(crate) trait Channel: Runtime {
    type Sender: 'static;
    type Receiver: 'static;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver);

    fn send(sender: &mut Self::Sender, item: u64) -> impl Future<Output = ()>;

    fn receive(receiver: &mut Self::Receiver) -> impl Future<Output = u64>;
}

/// Any number of tasks wait, and all of them are woken at once.
pub(crate) trait Event: Runtime {
    type Event: Clone + 'static;

    fn event() -> Self::Event;

    fn wait(event: &Self::Event) -> impl Future<Output = ()>;

    /// Wakes those who wait now, and nobody who comes later.
    fn wake_all(event: &Self::Event);
}

/// A result that is set once.
pub(crate) trait Oneshot: Runtime {
    type Setter: 'static;

    fn oneshot() -> (Self::Setter, impl Future<Output = u64> + 'static);

    fn set(setter: Self::Setter, value: u64);
}

pub(crate) trait Timeout: Runtime {
    /// Waits for a yield, at most a minute.
    fn timeout() -> impl Future<Output = ()>;
}

/// A channel from a thread into the loop.
pub(crate) trait FromThread: Runtime {
    type FromThread: Send + 'static;
    type IntoLoop: 'static;

    fn thread_channel(places: usize) -> (Self::FromThread, Self::IntoLoop);

    fn send_blocking(sender: &Self::FromThread, item: u64);

    fn take(receiver: &mut Self::IntoLoop) -> impl Future<Output = u64>;
}

pub(crate) trait ToThread: Runtime {
    /// Has an empty function called by a thread of the pool, and waits for that.
    fn to_thread() -> impl Future<Output = ()>;
}

/// For peers without a channel between threads and a loop: flume's.
macro_rules! threads_by_flume {
    ($peer:ty) => {
        impl crate::tasks::runtime::FromThread for $peer {
            type FromThread = flume::Sender<u64>;
            type IntoLoop = flume::Receiver<u64>;

            fn thread_channel(places: usize) -> (Self::FromThread, Self::IntoLoop) {
                flume::bounded(places)
            }

            fn send_blocking(sender: &Self::FromThread, item: u64) {
                sender.send(item).expect("the loop receives");
            }

            async fn take(receiver: &mut Self::IntoLoop) -> u64 {
                receiver.recv_async().await.expect("the thread sends")
            }
        }
    };
}

pub(super) use threads_by_flume;
