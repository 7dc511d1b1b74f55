//! compio on io_uring. It has no locks and channels of its own; between threads its users take flume.

use super::runtime::{
    A_WHILE, Cancel, CancelReceives, Runtime, Timeout, ToThread, cancel_each, threads_by_flume,
};
use crate::measure::Cost;
use compio::driver::ProactorBuilder;
use compio::io::AsyncRead;
use compio::net::UnixStream;
use compio::runtime::{JoinHandle, RuntimeBuilder, spawn, spawn_blocking};
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

    fn pause() -> impl Future<Output = ()> {
        compio::time::sleep(A_WHILE)
    }
}

impl Cancel for Compio {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        cancel_each(
            (0..children).map(|_| spawn(std::future::pending::<()>())).collect(),
            Self::settle(),
            JoinHandle::cancel,
        )
    }
}

impl CancelReceives for Compio {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let receive = |socket| async move {
            let mut socket = UnixStream::from_std(socket).expect("the driver takes it");
            drop(socket.read(Vec::with_capacity(64)).await);
        };
        cancel_each(
            sockets.into_iter().map(|socket| spawn(receive(socket))).collect(),
            Self::pause(),
            JoinHandle::cancel,
        )
        .await
    }
}

impl Timeout for Compio {
    async fn timeout() {
        compio::time::timeout(Duration::from_secs(60), Self::yield_now()).await.expect("in time");
    }
}

threads_by_flume!(Compio);

impl ToThread for Compio {
    async fn to_thread() {
        spawn_blocking(|| ()).await.expect("it runs");
    }
}
