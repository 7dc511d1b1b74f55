//! The scenarios: `size` says how many of the thing, `operations` how many are to be counted, about.

use super::runtime::{
    Cancel, CancelReceives, Channel, Event, FromThread, Lock, Oneshot, Runtime, Semaphore, Timeout, ToThread,
};
use crate::measure::{Clock, Cost, pin};
use std::cell::Cell;
use std::hint::black_box;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;

/// Spawns tasks that end at once and joins each: per task.
pub(crate) async fn spawn<R: Runtime>(size: usize, operations: u64) -> Cost {
    let batches = operations.div_ceil(size as u64);
    let mut tasks = Vec::with_capacity(size);
    let clock = Clock::start();
    for _ in 0..batches {
        tasks.extend((0..size).map(|i| R::spawn(async move { black_box(i) })));
        for task in tasks.drain(..) {
            black_box(task.await);
        }
    }
    clock.cost(batches * size as u64)
}

/// Tasks that only yield: per yield.
pub(crate) async fn yields<R: Runtime>(size: usize, operations: u64) -> Cost {
    let rounds = operations.div_ceil(size as u64);
    together::<R, _>(size, rounds, |_| async move {
        for _ in 0..rounds {
            R::yield_now().await;
        }
    })
    .await
}

/// `tasks` tasks that do `rounds` operations each.
async fn together<R: Runtime, F>(tasks: usize, rounds: u64, make: impl Fn(usize) -> F) -> Cost
where
    F: Future<Output = ()> + 'static,
{
    let clock = Clock::start();
    let tasks: Vec<_> = (0..tasks).map(|i| R::spawn(make(i))).collect();
    let operations = tasks.len() as u64 * rounds;
    for task in tasks {
        task.await;
    }
    clock.cost(operations)
}

/// A group of children that end at once: per child.
pub(crate) async fn group<R: Runtime>(size: usize, operations: u64) -> Cost {
    let batches = operations.div_ceil(size as u64);
    let clock = Clock::start();
    for _ in 0..batches {
        R::group(size).await;
    }
    clock.cost(batches * size as u64)
}

/// Tasks that wait for ever are cancelled: per task.
pub(crate) async fn cancel_tasks<R: Cancel>(size: usize, operations: u64) -> Cost {
    let mut cost = Cost::NOTHING;
    while cost.operations < operations {
        cost.add(R::cancel_tasks(size).await);
    }
    cost
}

/// Tasks that wait for bytes are cancelled: per task, until the other ends of all sockets have noticed. (Some peers leave
/// what the kernel answers to a cancel for later.)
pub(crate) async fn cancel_receives<R: CancelReceives>(size: usize, operations: u64) -> Cost {
    let mut cost = Cost::NOTHING;
    while cost.operations < operations {
        let pairs = (0..size).map(|_| UnixStream::pair().expect("descriptors are left"));
        let (sockets, others): (Vec<_>, Vec<_>) = pairs.unzip();
        cost.add(R::cancel_receives(sockets).await);
        others.iter().for_each(|other| other.set_nonblocking(true).expect("a socket can be non-blocking"));
        while others.iter().any(|mut other| other.read(&mut [0]).is_err()) {
            let clock = Clock::start();
            R::pause().await;
            cost.add(clock.cost(0));
        }
    }
    cost
}

/// Tasks take turns: per turn. One alone never waits; of several, each yields while it has the lock.
pub(crate) async fn lock<R: Lock>(size: usize, operations: u64) -> Cost {
    let rounds = operations.div_ceil(size as u64);
    let lock = R::lock();
    together::<R, _>(size, rounds, |_| {
        let lock = lock.clone();
        async move {
            for _ in 0..rounds {
                let mut guard = R::acquire(&lock).await;
                *guard = black_box(*guard + 1);
                if size > 1 {
                    R::yield_now().await;
                }
            }
        }
    })
    .await
}

/// The same with permits: one, or three among the tasks.
pub(crate) async fn semaphore<R: Semaphore>(size: usize, operations: u64) -> Cost {
    let rounds = operations.div_ceil(size as u64);
    let semaphore = R::semaphore(size.min(3));
    together::<R, _>(size, rounds, |_| {
        let semaphore = semaphore.clone();
        async move {
            for _ in 0..rounds {
                let _permit = black_box(R::acquire(&semaphore).await);
                if size > 1 {
                    R::yield_now().await;
                }
            }
        }
    })
    .await
}

/// One task sends, another receives: per item.
pub(crate) async fn channel<R: Channel>(size: usize, operations: u64) -> Cost {
    let (mut sender, mut receiver) = R::channel(size);
    let clock = Clock::start();
    let producer = R::spawn(async move {
        for item in 0..operations {
            R::send(&mut sender, item).await;
        }
    });
    let consumer = R::spawn(async move {
        for item in 0..operations {
            assert_eq!(R::receive(&mut receiver).await, item);
        }
    });
    producer.await;
    consumer.await;
    clock.cost(operations)
}

/// A task wakes so many who wait, and waits until the last of them waits again: per waiter.
pub(crate) async fn event<R: Event>(size: usize, operations: u64) -> Cost {
    let rounds = operations.div_ceil(size as u64);
    let (go, back, left) = (R::event(), R::event(), Rc::new(Cell::new(0)));
    let waiters: Vec<_> = (0..size)
        .map(|_| {
            let (go, back, left) = (go.clone(), back.clone(), left.clone());
            R::spawn(async move {
                for _ in 0..rounds {
                    left.set(left.get() + 1);
                    if left.get() == size {
                        R::wake_all(&back);
                    }
                    R::wait(&go).await;
                }
            })
        })
        .collect();
    let clock = Clock::start();
    for _ in 0..rounds {
        // Not missed: the waiters run only while this waits.
        R::wait(&back).await;
        left.set(0);
        R::wake_all(&go);
    }
    for waiter in waiters {
        waiter.await;
    }
    clock.cost(rounds * size as u64)
}

/// A task waits for a result that another sets: per result.
pub(crate) async fn oneshot<R: Oneshot>(_: usize, operations: u64) -> Cost {
    let (mut setters, mut results) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let clock = Clock::start();
    for _ in 0..operations.div_ceil(64) {
        for _ in 0..64 {
            let (setter, result) = R::oneshot();
            setters.push(setter);
            results.push(result);
        }
        let setting = std::mem::take(&mut setters);
        let task = R::spawn(async move {
            setting.into_iter().for_each(|setter| R::set(setter, 1));
        });
        for result in results.drain(..) {
            black_box(result.await);
        }
        task.await;
    }
    clock.cost(operations.div_ceil(64) * 64)
}

/// A wait with a limit that is not reached: per wait.
pub(crate) async fn timeout<R: Timeout>(_: usize, operations: u64) -> Cost {
    let clock = Clock::start();
    for _ in 0..operations {
        R::timeout().await;
    }
    clock.cost(operations)
}

/// A thread sends as fast as it can through a channel of so many places: per item, on both sides.
pub(crate) async fn from_thread<R: FromThread>(size: usize, operations: u64) -> Cost {
    let (sender, mut receiver) = R::thread_channel(size);
    let clock = Clock::start();
    let thread = std::thread::spawn(move || {
        pin(1);
        for item in 0..operations {
            R::send_blocking(&sender, item);
        }
        sender
    });
    for item in 0..operations {
        assert_eq!(R::take(&mut receiver).await, item);
    }
    let cost = clock.cost(operations);
    drop(thread.join().expect("it sent all"));
    cost
}

/// A thread sends one item and waits for the answer, so that the loop falls asleep in between: per item, on both sides.
pub(crate) async fn from_thread_and_back<R: FromThread>(size: usize, operations: u64) -> Cost {
    let (sender, mut receiver) = R::thread_channel(size);
    let (answer, answers) = mpsc::channel();
    let clock = Clock::start();
    let thread = std::thread::spawn(move || {
        pin(1);
        for item in 0..operations {
            R::send_blocking(&sender, item);
            answers.recv().expect("the loop answers");
        }
        sender
    });
    for item in 0..operations {
        assert_eq!(R::take(&mut receiver).await, item);
        answer.send(()).expect("the thread waits");
    }
    let cost = clock.cost(operations);
    drop(thread.join().expect("it sent all"));
    cost
}

/// An empty function in a thread of the pool: per call.
pub(crate) async fn to_thread<R: ToThread>(_: usize, operations: u64) -> Cost {
    let clock = Clock::start();
    for _ in 0..operations {
        R::to_thread().await;
    }
    clock.cost(operations)
}
