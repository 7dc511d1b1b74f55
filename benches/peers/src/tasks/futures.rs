//! The futures crate: its local pool, its lock, its channels. It has neither timers nor I/O.

use super::runtime::{Channel, Lock, Oneshot, Runtime};
use futures_channel::{mpsc, oneshot};
use futures_executor::{LocalPool, LocalSpawner};
use futures_util::task::LocalSpawnExt;
use futures_util::{SinkExt, StreamExt, lock};
use std::cell::RefCell;
use std::ops::DerefMut;
use std::rc::Rc;

pub(crate) struct Futures;

thread_local! {
    static SPAWNER: RefCell<Option<LocalSpawner>> = const { RefCell::new(None) };
}

impl Runtime for Futures {
    const NAME: &'static str = "futures";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        let mut pool = LocalPool::new();
        SPAWNER.set(Some(pool.spawner()));
        pool.run_until(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        SPAWNER.with_borrow(|spawner| {
            let spawner = spawner.as_ref().expect("a pool runs");
            spawner.spawn_local_with_handle(future).expect("a pool runs")
        })
    }

    fn pause() -> impl Future<Output = ()> {
        Self::yield_now()
    }
}

impl Lock for Futures {
    type Lock = Rc<lock::Mutex<u64>>;

    fn lock() -> Self::Lock {
        Rc::default()
    }

    async fn acquire(lock: &Self::Lock) -> impl DerefMut<Target = u64> {
        lock.lock().await
    }
}

impl Channel for Futures {
    type Sender = mpsc::Sender<u64>;
    type Receiver = mpsc::Receiver<u64>;

    /// One place is the sender's own.
    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::channel(places.saturating_sub(1))
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.feed(item).await.expect("somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.next().await.expect("somebody sends")
    }
}

impl Oneshot for Futures {
    type Setter = oneshot::Sender<u64>;

    fn oneshot() -> (Self::Setter, impl Future<Output = u64> + 'static) {
        let (setter, result) = oneshot::channel();
        (setter, async move { result.await.expect("it is set") })
    }

    fn set(setter: Self::Setter, value: u64) {
        setter.send(value).expect("somebody waits");
    }
}
