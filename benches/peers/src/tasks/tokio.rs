//! tokio: its local runtime on one thread, whose tasks need not be `Send`.

use super::runtime::{
    A_WHILE, Cancel, CancelReceives, Channel, Event, FromThread, Lock, Oneshot, Runtime, Semaphore, Timeout,
    ToThread,
};
use crate::measure::{Clock, Cost};
use std::ops::DerefMut;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{self, mpsc, oneshot};
use tokio::task::{self, JoinSet};

pub(crate) struct Tokio;

impl Runtime for Tokio {
    const NAME: &'static str = "tokio";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        let task = task::spawn_local(future);
        async move { task.await.expect("a task ends") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        task::yield_now()
    }

    fn pause() -> impl Future<Output = ()> {
        tokio::time::sleep(A_WHILE)
    }

    async fn group(children: usize) {
        let mut set = JoinSet::new();
        (0..children).for_each(|_| drop(set.spawn_local(async {})));
        while let Some(child) = set.join_next().await {
            child.expect("no child panics");
        }
    }
}

async fn cancel_set(mut set: JoinSet<()>, waiting: impl Future<Output = ()>) -> Cost {
    waiting.await;
    let children = set.len() as u64;
    let clock = Clock::start();
    set.abort_all();
    while let Some(child) = set.join_next().await {
        assert!(child.is_err());
    }
    clock.cost(children)
}

impl Cancel for Tokio {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        let mut set = JoinSet::new();
        (0..children).for_each(|_| drop(set.spawn_local(std::future::pending())));
        cancel_set(set, Self::settle())
    }
}

impl CancelReceives for Tokio {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let mut set = JoinSet::new();
        for socket in sockets {
            socket.set_nonblocking(true).expect("a socket can be non-blocking");
            set.spawn_local(async move {
                let mut socket = UnixStream::from_std(socket).expect("the reactor takes it");
                drop(socket.read(&mut [0; 64]).await);
            });
        }
        cancel_set(set, Self::pause()).await
    }
}

impl Lock for Tokio {
    type Lock = Rc<sync::Mutex<u64>>;

    fn lock() -> Self::Lock {
        Rc::default()
    }

    async fn acquire(lock: &Self::Lock) -> impl DerefMut<Target = u64> {
        lock.lock().await
    }
}

impl Semaphore for Tokio {
    type Semaphore = Rc<sync::Semaphore>;

    fn semaphore(permits: usize) -> Self::Semaphore {
        Rc::new(sync::Semaphore::new(permits))
    }

    async fn acquire(semaphore: &Self::Semaphore) -> impl Sized {
        semaphore.acquire().await.expect("a permit")
    }
}

impl Channel for Tokio {
    type Sender = mpsc::Sender<u64>;
    type Receiver = mpsc::Receiver<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::channel(places)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.send(item).await.expect("somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.recv().await.expect("somebody sends")
    }
}

impl Event for Tokio {
    type Event = Rc<sync::Notify>;

    fn event() -> Self::Event {
        Rc::default()
    }

    fn wait(event: &Self::Event) -> impl Future<Output = ()> {
        event.notified()
    }

    fn wake_all(event: &Self::Event) {
        event.notify_waiters();
    }
}

impl Oneshot for Tokio {
    type Setter = oneshot::Sender<u64>;

    fn oneshot() -> (Self::Setter, impl Future<Output = u64> + 'static) {
        let (setter, result) = oneshot::channel();
        (setter, async move { result.await.expect("it is set") })
    }

    fn set(setter: Self::Setter, value: u64) {
        setter.send(value).expect("somebody waits");
    }
}

impl Timeout for Tokio {
    async fn timeout() {
        tokio::time::timeout(Duration::from_secs(60), Self::yield_now()).await.expect("in time");
    }
}

impl FromThread for Tokio {
    type FromThread = mpsc::Sender<u64>;
    type IntoLoop = mpsc::Receiver<u64>;

    fn thread_channel(places: usize) -> (Self::FromThread, Self::IntoLoop) {
        mpsc::channel(places)
    }

    fn send_blocking(sender: &Self::FromThread, item: u64) {
        sender.blocking_send(item).expect("the loop receives");
    }

    async fn take(receiver: &mut Self::IntoLoop) -> u64 {
        receiver.recv().await.expect("the thread sends")
    }
}

impl ToThread for Tokio {
    async fn to_thread() {
        task::spawn_blocking(|| ()).await.expect("it runs");
    }
}
