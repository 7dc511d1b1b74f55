//! Our own runtime, on each of its drivers.

use super::runtime::{
    A_WHILE, Cancel, CancelReceives, Channel, Event, FromThread, Lock, Oneshot, Runtime, Semaphore, Timeout,
    ToThread,
};
use crate::measure::{Clock, Cost};
use proactor::cancel::{sleep_forever, task_group};
use proactor::net::UnixStream;
use proactor::stream::{ObjectReceiver, ObjectSender, memory_object_stream};
use proactor::thread::{Receiver, Sender, channel, to_thread};
use proactor::{DriverChoice, EventLoop, future, sync};
use std::io;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::time::Duration;

pub(crate) trait Driver: 'static {
    const NAME: &'static str;
    const CHOICE: DriverChoice;
    const INLINE: bool = false;
}

pub(crate) struct Ring;

impl Driver for Ring {
    const NAME: &'static str = "ours";
    const CHOICE: DriverChoice = DriverChoice::IoUring;
}

pub(crate) struct Epoll;

impl Driver for Epoll {
    const NAME: &'static str = "ours-epoll";
    const CHOICE: DriverChoice = DriverChoice::Epoll;
}

/// The ring, but files are sent by the loop's thread.
pub(crate) struct Inline;

impl Driver for Inline {
    const NAME: &'static str = "ours-inline";
    const CHOICE: DriverChoice = DriverChoice::IoUring;
    const INLINE: bool = true;
}

impl<D: Driver> Runtime for D {
    const NAME: &'static str = D::NAME;

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        let event_loop = EventLoop::builder().driver(D::CHOICE).build().expect("the driver runs here");
        event_loop.run_until_complete(main).expect("the loop runs")
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        let task = proactor::spawn(future);
        async move { task.await.expect("a task ends") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        proactor::yield_now()
    }

    async fn pause() {
        proactor::sleep(A_WHILE).await.expect("nobody cancels");
    }

    async fn group(children: usize) {
        let group = task_group(async |group| {
            (0..children).for_each(|_| drop(group.start_soon(async { Ok(()) })));
            Ok::<_, io::Error>(())
        });
        group.await.expect("no child fails");
    }
}

/// From the cancel of a group of children until its end; they all wait when `waiting` is over.
async fn cancel_group<C>(children: impl Iterator<Item = C>, waiting: impl Future<Output = ()>) -> Cost
where
    C: Future<Output = io::Result<()>> + 'static,
{
    let mut clock = None;
    let mut count = 0;
    let group = task_group(async |group| {
        for child in children {
            group.start_soon(child);
            count += 1;
        }
        waiting.await;
        clock = Some(Clock::start());
        group.cancel_scope().cancel();
        Ok::<_, io::Error>(())
    });
    group.await.expect("its own cancel ends there");
    clock.expect("it was cancelled").cost(count)
}

impl<D: Driver> Cancel for D {
    fn cancel_tasks(children: usize) -> impl Future<Output = Cost> {
        cancel_group((0..children).map(|_| async { Ok(sleep_forever().await.map(drop)?) }), Self::settle())
    }
}

impl<D: Driver> CancelReceives for D {
    async fn cancel_receives(sockets: Vec<std::os::unix::net::UnixStream>) -> Cost {
        let children = sockets.into_iter().map(|socket| async {
            let socket = UnixStream::from_std(socket)?;
            socket.receive_into(Vec::with_capacity(64)).await?;
            Ok(())
        });
        cancel_group(children, Self::pause()).await
    }
}

impl<D: Driver> Lock for D {
    type Lock = sync::Lock<u64>;

    fn lock() -> Self::Lock {
        sync::Lock::new(0)
    }

    async fn acquire(lock: &Self::Lock) -> impl DerefMut<Target = u64> {
        lock.acquire().await.expect("a turn")
    }
}

impl<D: Driver> Semaphore for D {
    type Semaphore = sync::Semaphore;

    fn semaphore(permits: usize) -> Self::Semaphore {
        sync::Semaphore::new(permits)
    }

    async fn acquire(semaphore: &Self::Semaphore) -> impl Sized {
        semaphore.acquire().await.expect("a permit")
    }
}

impl<D: Driver> Channel for D {
    type Sender = ObjectSender<u64>;
    type Receiver = ObjectReceiver<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        memory_object_stream(places)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.send(item).await.expect("somebody receives");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.receive().await.expect("somebody sends")
    }
}

/// The same runtime, with a queue as the channel.
pub(crate) struct ByQueue<D>(PhantomData<D>);

impl<D: Driver> Runtime for ByQueue<D> {
    const NAME: &'static str = D::NAME;

    fn block_on<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        D::block_on(main)
    }

    fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        D::spawn(future)
    }

    fn yield_now() -> impl Future<Output = ()> {
        D::yield_now()
    }

    fn pause() -> impl Future<Output = ()> {
        D::pause()
    }
}

impl<D: Driver> Channel for ByQueue<D> {
    type Sender = sync::Queue<u64>;
    type Receiver = sync::Queue<u64>;

    fn channel(places: usize) -> (Self::Sender, Self::Receiver) {
        let queue = sync::Queue::new(places);
        (queue.clone(), queue)
    }

    async fn send(sender: &mut Self::Sender, item: u64) {
        sender.put(item).await.expect("there is room");
    }

    async fn receive(receiver: &mut Self::Receiver) -> u64 {
        receiver.get().await.expect("there is an item")
    }
}

impl<D: Driver> Event for D {
    type Event = sync::Event;

    fn event() -> Self::Event {
        sync::Event::new()
    }

    async fn wait(event: &Self::Event) {
        event.wait().await.expect("it is set");
    }

    fn wake_all(event: &Self::Event) {
        event.set();
        event.clear();
    }
}

impl<D: Driver> Oneshot for D {
    type Setter = future::Future<u64>;

    fn oneshot() -> (Self::Setter, impl Future<Output = u64> + 'static) {
        let future = future::Future::new();
        (future.clone(), async move { future.await.expect("it is set") })
    }

    fn set(setter: Self::Setter, value: u64) {
        setter.set_result(value).expect("nobody else sets it");
    }
}

impl<D: Driver> Timeout for D {
    async fn timeout() {
        let limit = Duration::from_secs(60);
        proactor::timeout(limit, Self::yield_now()).await.expect("in time");
    }
}

impl<D: Driver> FromThread for D {
    type FromThread = Sender<u64>;
    type IntoLoop = Receiver<u64>;

    fn thread_channel(places: usize) -> (Self::FromThread, Self::IntoLoop) {
        channel(places)
    }

    fn send_blocking(sender: &Self::FromThread, item: u64) {
        sender.send_blocking(item, None).expect("the loop receives");
    }

    async fn take(receiver: &mut Self::IntoLoop) -> u64 {
        receiver.receive().await.expect("nobody cancels").expect("the thread sends")
    }
}

impl<D: Driver> ToThread for D {
    async fn to_thread() {
        to_thread::run_sync(|| ()).await.expect("it runs");
    }
}
