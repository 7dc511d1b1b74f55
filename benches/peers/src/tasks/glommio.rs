//! glommio, which has io_uring only; between threads flume, since its own channels join executors of glommio.

use super::runtime::{
    A_WHILE, Cancel, CancelReceives, Channel, FromThread, Lock, Runtime, Semaphore, Timeout, ToThread,
};
use crate::measure::{Clock, Cost};
use futures_lite::AsyncReadExt;
use futures_util::future::join_all;
use glommio::channels::local_channel::{LocalReceiver, LocalSender, new_bounded};
use glommio::net::UnixStream;
use glommio::timer::{Timer, timeout};
use glommio::{LocalExecutorBuilder, Placement, Task, executor, spawn_local, sync};
use std::hint::black_box;
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

    fn yield_now() -> impl Future<Output = ()> {
        futures_lite::future::yield_now()
    }

    async fn pause() {
        Timer::new(A_WHILE).await;
    }
}

async fn cancel_tasks(tasks: Vec<Task<()>>, waiting: impl Future<Output = ()>) -> Cost {
    waiting.await;
    let children = tasks.len() as u64;
    let clock = Clock::start();
    join_all(tasks.into_iter().map(Task::cancel)).await;
    clock.cost(children)
}

impl Cancel for Glommio {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        cancel_tasks((0..children).map(|_| spawn_local(std::future::pending())).collect(), Self::settle())
    }
}

impl CancelReceives for Glommio {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let receive = |socket: std::os::unix::net::UnixStream| async move {
            // SAFETY: the descriptor was just given up by its owner.
            let mut socket = unsafe { UnixStream::from_raw_fd(socket.into_raw_fd()) };
            drop(socket.read(&mut [0; 64]).await);
        };
        cancel_tasks(sockets.into_iter().map(|socket| spawn_local(receive(socket))).collect(), Self::pause())
            .await
    }
}

impl Lock for Glommio {
    type Lock = Rc<sync::RwLock<u64>>;

    fn lock() -> Self::Lock {
        Rc::new(sync::RwLock::new(0))
    }

    async fn turn(lock: &Self::Lock, yields: bool) {
        let mut guard = lock.write().await.expect("it is open");
        *guard = black_box(*guard + 1);
        if yields {
            Self::yield_now().await;
        }
    }
}

impl Semaphore for Glommio {
    type Semaphore = Rc<sync::Semaphore>;

    fn semaphore(permits: usize) -> Self::Semaphore {
        Rc::new(sync::Semaphore::new(permits as u64))
    }

    async fn turn(semaphore: &Self::Semaphore, yields: bool) {
        let _permit = black_box(semaphore.acquire_permit(1).await.expect("a permit"));
        if yields {
            Self::yield_now().await;
        }
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

impl FromThread for Glommio {
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

impl ToThread for Glommio {
    fn to_thread() -> impl Future<Output = ()> {
        executor().spawn_blocking(|| ())
    }
}
