//! monoio on io_uring, with local-sync, its own locks and channels. Its tasks cannot be cancelled, its operations can.

use super::runtime::{
    A_WHILE, CancelReceives, Channel, Oneshot, Runtime, Semaphore, Timeout, ToThread, threads_by_flume,
};
use crate::measure::{Clock, Cost};
use local_sync::{mpsc::bounded, oneshot, semaphore};
use monoio::blocking::DefaultThreadPool;
use monoio::io::{CancelableAsyncReadRent, Canceller};
use monoio::net::UnixStream;
use monoio::{IoUringDriver, RuntimeBuilder};
use std::rc::Rc;
use std::time::Duration;

pub(crate) struct Monoio;

/// The ring as its users would have it set up on a recent kernel.
pub(crate) fn ring() -> io_uring_06::Builder {
    let mut ring = io_uring_06::IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
    ring
}

impl Runtime for Monoio {
    const NAME: &'static str = "monoio";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(4096)
            .uring_builder(ring())
            .attach_thread_pool(Box::new(DefaultThreadPool::new(4)))
            .enable_timer()
            .build()
            .expect("a runtime");
        runtime.block_on(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        monoio::spawn(future)
    }

    fn pause() -> impl Future<Output = ()> {
        monoio::time::sleep(A_WHILE)
    }
}

impl CancelReceives for Monoio {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let canceller = Canceller::new();
        let tasks: Vec<_> = sockets
            .into_iter()
            .map(|socket| {
                let handle = canceller.handle();
                monoio::spawn(async move {
                    let mut socket = UnixStream::from_std(socket).expect("the driver takes it");
                    assert!(socket.cancelable_read(Vec::with_capacity(64), handle).await.0.is_err());
                })
            })
            .collect();
        Self::pause().await;
        let children = tasks.len() as u64;
        let clock = Clock::start();
        canceller.cancel();
        for task in tasks {
            task.await;
        }
        clock.cost(children)
    }
}

impl Semaphore for Monoio {
    type Semaphore = Rc<semaphore::Semaphore>;

    fn semaphore(permits: usize) -> Self::Semaphore {
        Rc::new(semaphore::Semaphore::new(permits))
    }

    async fn acquire(semaphore: &Self::Semaphore) -> impl Sized {
        semaphore.acquire().await.expect("a permit")
    }
}

impl Channel for Monoio {
    type Sender = bounded::Tx<u64>;
    type Receiver = bounded::Rx<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        bounded::channel(places)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        assert!(sender.send(item).await.is_ok(), "somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.recv().await.expect("somebody sends")
    }
}

impl Oneshot for Monoio {
    type Setter = oneshot::Sender<u64>;

    fn oneshot() -> (Self::Setter, impl Future<Output = u64> + 'static) {
        let (setter, result) = oneshot::channel();
        (setter, async move { result.await.expect("it is set") })
    }

    fn set(setter: Self::Setter, value: u64) {
        setter.send(value).expect("somebody waits");
    }
}

impl Timeout for Monoio {
    async fn timeout() {
        monoio::time::timeout(Duration::from_secs(60), Self::yield_now()).await.expect("in time");
    }
}

threads_by_flume!(Monoio);

impl ToThread for Monoio {
    async fn to_thread() {
        monoio::spawn_blocking(|| ()).await.expect("it runs");
    }
}
