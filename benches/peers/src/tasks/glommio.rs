//! glommio, which has io_uring only; between threads flume, since its own channels join executors of glommio.

use super::runtime::{
    A_WHILE, Cancel, CancelReceives, Channel, Lock, Runtime, Semaphore, Timeout, ToThread, cancel_each,
    threads_by_flume,
};
use crate::measure::Cost;
use futures_lite::AsyncReadExt;
use glommio::channels::local_channel::{LocalReceiver, LocalSender, new_bounded};
use glommio::net::UnixStream;
use glommio::timer::{Timer, timeout};
use glommio::{LocalExecutorBuilder, Placement, Task, executor, spawn_local, sync};
use std::ops::DerefMut;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

pub(crate) struct Glommio;

impl Runtime for Glommio {
    const NAME: &'static str = "glommio";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        LocalExecutorBuilder::new(Placement::Unbound).ring_depth(4096).make().expect("an executor").run(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        spawn_local(future)
    }

    async fn pause() {
        Timer::new(A_WHILE).await;
    }
}

impl Cancel for Glommio {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        cancel_each(
            (0..children).map(|_| spawn_local(std::future::pending::<()>())).collect(),
            Self::settle(),
            Task::cancel,
        )
    }
}

impl CancelReceives for Glommio {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let receive = |socket: std::os::unix::net::UnixStream| async move {
            // SAFETY: the descriptor was just given up by its owner.
            let mut socket = unsafe { UnixStream::from_raw_fd(socket.into_raw_fd()) };
            drop(socket.read(&mut [0; 64]).await);
        };
        cancel_each(
            sockets.into_iter().map(|socket| spawn_local(receive(socket))).collect(),
            Self::pause(),
            Task::cancel,
        )
        .await
    }
}

impl Lock for Glommio {
    type Lock = Rc<sync::RwLock<u64>>;

    fn lock() -> Self::Lock {
        Rc::new(sync::RwLock::new(0))
    }

    async fn acquire(lock: &Self::Lock) -> impl DerefMut<Target = u64> {
        lock.write().await.expect("it is open")
    }
}

impl Semaphore for Glommio {
    type Semaphore = Rc<sync::Semaphore>;

    fn semaphore(permits: usize) -> Self::Semaphore {
        Rc::new(sync::Semaphore::new(permits as u64))
    }

    async fn acquire(semaphore: &Self::Semaphore) -> impl Sized {
        semaphore.acquire_permit(1).await.expect("a permit")
    }
}

impl Channel for Glommio {
    type Sender = LocalSender<u64>;
    type Receiver = LocalReceiver<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        new_bounded(places)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.send(item).await.expect("somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.recv().await.expect("somebody sends")
    }
}

impl Timeout for Glommio {
    async fn timeout() {
        let yielding = async {
            Self::yield_now().await;
            Ok(())
        };
        timeout(Duration::from_secs(60), yielding).await.expect("in time");
    }
}

threads_by_flume!(Glommio);

impl ToThread for Glommio {
    fn to_thread() -> impl Future<Output = ()> {
        executor().spawn_blocking(|| ())
    }
}
