//! compio on io_uring. It has no locks and channels of its own; between threads its users take flume.

use super::runtime::{A_WHILE, Cancel, CancelReceives, FromThread, Runtime, Timeout, ToThread};
use crate::measure::{Clock, Cost};
use compio::driver::ProactorBuilder;
use compio::io::AsyncRead;
use compio::net::UnixStream;
use compio::runtime::{JoinHandle, RuntimeBuilder, spawn, spawn_blocking};
use futures_util::future::join_all;
use std::num::NonZero;
use std::time::Duration;

pub(crate) struct Compio;

/// The ring as its users would have it set up on a recent kernel.
pub(crate) fn driver() -> ProactorBuilder {
    let mut driver = ProactorBuilder::new();
    driver.capacity(4096).single_issuer(true).coop_taskrun(true).taskrun_flag(true);
    // Its multishot receives fail where the pool is empty.
    driver.buffer_pool_size(NonZero::new(2048).expect("it is not 0")).buffer_pool_buffer_len(16 << 10);
    driver
}

impl Runtime for Compio {
    const NAME: &'static str = "compio";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        RuntimeBuilder::new().with_proactor(driver()).build().expect("a runtime").block_on(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        let task = spawn(future);
        async move { task.await.expect("a task ends") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        futures_lite::future::yield_now()
    }

    fn pause() -> impl Future<Output = ()> {
        compio::time::sleep(A_WHILE)
    }
}

async fn cancel_tasks(tasks: Vec<JoinHandle<()>>, waiting: impl Future<Output = ()>) -> Cost {
    waiting.await;
    let children = tasks.len() as u64;
    let clock = Clock::start();
    join_all(tasks.into_iter().map(JoinHandle::cancel)).await;
    clock.cost(children)
}

impl Cancel for Compio {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        cancel_tasks((0..children).map(|_| spawn(std::future::pending())).collect(), Self::settle())
    }
}

impl CancelReceives for Compio {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let receive = |socket| async move {
            let mut socket = UnixStream::from_std(socket).expect("the driver takes it");
            drop(socket.read(Vec::with_capacity(64)).await);
        };
        cancel_tasks(sockets.into_iter().map(|socket| spawn(receive(socket))).collect(), Self::pause()).await
    }
}

impl Timeout for Compio {
    async fn timeout() {
        compio::time::timeout(Duration::from_secs(60), Self::yield_now()).await.expect("in time");
    }
}

impl FromThread for Compio {
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

impl ToThread for Compio {
    async fn to_thread() {
        spawn_blocking(|| ()).await.expect("it runs");
    }
}
