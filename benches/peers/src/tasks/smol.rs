//! smol: async-executor's local executor that is never freed, async-io, async-lock, async-channel, event-listener, blocking.

use super::runtime::{
    A_WHILE, Cancel, CancelReceives, Channel, Event, FromThread, Lock, Oneshot, Runtime, Semaphore, Timeout,
    ToThread, cancel_each,
};
use crate::measure::Cost;
use async_executor::{StaticLocalExecutor, Task};
use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, FutureExt};
use std::ops::DerefMut;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

pub(crate) struct Smol;

thread_local! {
    static EXECUTOR: &'static StaticLocalExecutor = Box::leak(Box::new(StaticLocalExecutor::new()));
}

pub(crate) fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    EXECUTOR.with(|executor| executor.spawn(future))
}

impl Runtime for Smol {
    const NAME: &'static str = "smol";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        EXECUTOR.with(|executor| async_io::block_on(executor.run(main)))
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        spawn(future)
    }

    async fn pause() {
        Timer::after(A_WHILE).await;
    }
}

impl Cancel for Smol {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        cancel_each(
            (0..children).map(|_| spawn(std::future::pending::<()>())).collect(),
            Self::settle(),
            Task::cancel,
        )
    }
}

impl CancelReceives for Smol {
    async fn cancel_receives(sockets: Vec<UnixStream>) -> Cost {
        let receive = |socket| async move {
            let mut socket = Async::<UnixStream>::new(socket).expect("the reactor takes it");
            drop(socket.read(&mut [0; 64]).await);
        };
        cancel_each(
            sockets.into_iter().map(|socket| spawn(receive(socket))).collect(),
            Self::pause(),
            Task::cancel,
        )
        .await
    }
}

impl Lock for Smol {
    type Lock = Rc<async_lock::Mutex<u64>>;

    fn lock() -> Self::Lock {
        Rc::default()
    }

    async fn acquire(lock: &Self::Lock) -> impl DerefMut<Target = u64> {
        lock.lock().await
    }
}

impl Semaphore for Smol {
    type Semaphore = Rc<async_lock::Semaphore>;

    fn semaphore(permits: usize) -> Self::Semaphore {
        Rc::new(async_lock::Semaphore::new(permits))
    }

    async fn acquire(semaphore: &Self::Semaphore) -> impl Sized {
        semaphore.acquire().await
    }
}

impl Channel for Smol {
    type Sender = async_channel::Sender<u64>;
    type Receiver = async_channel::Receiver<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        async_channel::bounded(places)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.send(item).await.expect("somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.recv().await.expect("somebody sends")
    }
}

/// The same runtime with flume's channels, which can be without a buffer.
pub(crate) struct WithFlume;

impl Runtime for WithFlume {
    const NAME: &'static str = "smol";

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        Smol::block_on(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        spawn(future)
    }

    fn pause() -> impl Future<Output = ()> {
        Smol::pause()
    }
}

impl Channel for WithFlume {
    type Sender = flume::Sender<u64>;
    type Receiver = flume::Receiver<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        flume::bounded(places)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.send_async(item).await.expect("somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.recv_async().await.expect("somebody sends")
    }
}

impl Event for Smol {
    type Event = Rc<event_listener::Event>;

    fn event() -> Self::Event {
        Rc::new(event_listener::Event::new())
    }

    fn wait(event: &Self::Event) -> impl Future<Output = ()> {
        event.listen()
    }

    fn wake_all(event: &Self::Event) {
        event.notify(usize::MAX);
    }
}

impl Oneshot for Smol {
    type Setter = async_channel::Sender<u64>;

    fn oneshot() -> (Self::Setter, impl Future<Output = u64> + 'static) {
        let (setter, result) = async_channel::bounded(1);
        (setter, async move { result.recv().await.expect("it is set") })
    }

    fn set(setter: Self::Setter, value: u64) {
        setter.try_send(value).expect("somebody waits");
    }
}

impl Timeout for Smol {
    async fn timeout() {
        let limit = async {
            Timer::after(Duration::from_secs(60)).await;
            panic!("in time");
        };
        Self::yield_now().or(limit).await;
    }
}

impl FromThread for Smol {
    type FromThread = async_channel::Sender<u64>;
    type IntoLoop = async_channel::Receiver<u64>;

    fn thread_channel(places: usize) -> (Self::FromThread, Self::IntoLoop) {
        async_channel::bounded(places)
    }

    fn send_blocking(sender: &Self::FromThread, item: u64) {
        sender.send_blocking(item).expect("the loop receives");
    }

    async fn take(receiver: &mut Self::IntoLoop) -> u64 {
        receiver.recv().await.expect("the thread sends")
    }
}

impl ToThread for Smol {
    fn to_thread() -> impl Future<Output = ()> {
        blocking::unblock(|| ())
    }
}
