//! What does it cost tasks to wait for each other?
//!
//! - `sync::lock`: one task takes a free lock and releases it (size 1), or 10 tasks take turns, each yielding while it has
//!   it; time per turn.
//! - `sync::semaphore`: the same with permits: one task and one permit, or 10 tasks and 3 permits.
//! - `sync::queue`: a task puts and another gets, through a queue of so many places; time per item.
//! - `sync::stream`: a task sends and another receives, through a buffer of so many places; time per item. `tokio` has no
//!   channel without a buffer: beside 0 stands its smallest.
//! - `sync::event`: a task wakes so many who wait, and waits until the last has gone on; time per waiter.
//!
//! `tokio` is its current_thread runtime with the primitive that comes nearest.
mod common;

use common::{Group, loops, share};
use criterion::Criterion;
use proactor::stream::memory_object_stream;
use proactor::sync::{Event, Lock, Queue, Semaphore};
use proactor::{spawn, yield_now};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const TOKIO: &str = "tokio";

fn main() {
    let mut criterion = common::start("sync: what does it cost tasks to wait for each other?");
    lock(&mut criterion);
    semaphore(&mut criterion);
    queue(&mut criterion);
    stream(&mut criterion);
    event(&mut criterion);
    criterion.final_summary();
}

fn tokio_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// The time in which as many tasks as there are futures come to their end.
async fn all<F: Future<Output = ()> + 'static>(futures: impl Iterator<Item = F>) -> Duration {
    let start = Instant::now();
    let tasks: Vec<_> = futures.map(spawn).collect();
    for task in tasks {
        task.await.expect("a task ends");
    }
    start.elapsed()
}

async fn all_tokio<F: Future<Output = ()> + Send + 'static>(futures: impl Iterator<Item = F>) -> Duration {
    let start = Instant::now();
    let tasks: Vec<_> = futures.map(tokio::spawn).collect();
    for task in tasks {
        task.await.expect("a task ends");
    }
    start.elapsed()
}

fn lock(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "sync::lock", TOKIO);
    for size in [1, 10] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let rounds = count.div_ceil(size as u64);
                let lock = Lock::new(0_u64);
                let turns = |_| {
                    let lock = lock.clone();
                    async move {
                        for _ in 0..rounds {
                            let mut guard = lock.acquire().await.expect("a turn");
                            *guard = black_box(*guard + 1);
                            if size > 1 {
                                yield_now().await;
                            }
                        }
                    }
                };
                let elapsed =
                    event_loop.run_until_complete(all((0..size).map(turns))).expect("the loop runs");
                share(count, rounds, size, elapsed)
            });
        }
        let runtime = tokio_runtime();
        group.case(TOKIO, size, |count| {
            let rounds = count.div_ceil(size as u64);
            let lock = Arc::new(tokio::sync::Mutex::new(0_u64));
            let turns = |_| {
                let lock = lock.clone();
                async move {
                    for _ in 0..rounds {
                        let mut guard = lock.lock().await;
                        *guard = black_box(*guard + 1);
                        if size > 1 {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            };
            share(count, rounds, size, runtime.block_on(all_tokio((0..size).map(turns))))
        });
    }
    group.finish();
}

fn semaphore(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "sync::semaphore", TOKIO);
    for (size, permits) in [(1, 1), (10, 3)] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let rounds = count.div_ceil(size as u64);
                let semaphore = Semaphore::new(permits);
                let turns = |_| {
                    let semaphore = semaphore.clone();
                    async move {
                        for _ in 0..rounds {
                            let _permit = black_box(semaphore.acquire().await.expect("a permit"));
                            if size > 1 {
                                yield_now().await;
                            }
                        }
                    }
                };
                let elapsed =
                    event_loop.run_until_complete(all((0..size).map(turns))).expect("the loop runs");
                share(count, rounds, size, elapsed)
            });
        }
        let runtime = tokio_runtime();
        group.case(TOKIO, size, |count| {
            let rounds = count.div_ceil(size as u64);
            let semaphore = Arc::new(tokio::sync::Semaphore::new(permits));
            let turns = |_| {
                let semaphore = semaphore.clone();
                async move {
                    for _ in 0..rounds {
                        let _permit = black_box(semaphore.acquire().await.expect("a permit"));
                        if size > 1 {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            };
            share(count, rounds, size, runtime.block_on(all_tokio((0..size).map(turns))))
        });
    }
    group.finish();
}

/// The time in which a task takes `count` numbers that another sends it through a channel of `places`.
fn tokio_channel(runtime: &Runtime, places: usize, count: u64) -> Duration {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(places);
    runtime.block_on(async move {
        let start = Instant::now();
        let producer = tokio::spawn(async move {
            for number in 0..count {
                sender.send(number).await.expect("somebody receives");
            }
        });
        let consumer = tokio::spawn(async move { while receiver.recv().await.map(black_box).is_some() {} });
        producer.await.expect("the producer ends");
        consumer.await.expect("the consumer ends");
        start.elapsed()
    })
}

fn queue(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "sync::queue", TOKIO);
    for size in [1, 64] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let body = async {
                    let queue = Queue::new(size);
                    let start = Instant::now();
                    let producer = queue.clone();
                    let producer = spawn(async move {
                        for number in 0..count {
                            producer.put(number).await.expect("there is room");
                        }
                    });
                    let consumer = spawn(async move {
                        for _ in 0..count {
                            black_box(queue.get().await.expect("there is an item"));
                        }
                    });
                    producer.await.expect("the producer ends");
                    consumer.await.expect("the consumer ends");
                    start.elapsed()
                };
                event_loop.run_until_complete(body).expect("the loop runs")
            });
        }
        let runtime = tokio_runtime();
        group.case(TOKIO, size, |count| tokio_channel(&runtime, size, count));
    }
    group.finish();
}

fn stream(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "sync::stream", TOKIO);
    for size in [0, 1, 64] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let body = async {
                    let (sender, receiver) = memory_object_stream(size);
                    let start = Instant::now();
                    let producer = spawn(async move {
                        for number in 0..count {
                            sender.send(number).await.expect("somebody receives");
                        }
                    });
                    let consumer = spawn(async move {
                        while receiver.next().await.expect("no error").map(black_box).is_some() {}
                    });
                    producer.await.expect("the producer ends");
                    consumer.await.expect("the consumer ends");
                    start.elapsed()
                };
                event_loop.run_until_complete(body).expect("the loop runs")
            });
        }
        let runtime = tokio_runtime();
        group.case(TOKIO, size, |count| tokio_channel(&runtime, size.max(1), count));
    }
    group.finish();
}

fn event(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "sync::event", TOKIO);
    for size in [1, 100] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let rounds = count.div_ceil(size as u64);
                let body = async {
                    let (go, back, left) = (Event::new(), Event::new(), Rc::new(Cell::new(0)));
                    let waiters: Vec<_> = (0..size)
                        .map(|_| {
                            let (go, back, left) = (go.clone(), back.clone(), left.clone());
                            spawn(async move {
                                for _ in 0..=rounds {
                                    left.set(left.get() + 1);
                                    if left.get() == size {
                                        back.set();
                                    }
                                    go.wait().await.expect("it is set");
                                }
                            })
                        })
                        .collect();
                    let start = Instant::now();
                    for _ in 0..=rounds {
                        back.wait().await.expect("it is set");
                        left.set(0);
                        back.clear();
                        go.set();
                        go.clear();
                    }
                    for waiter in waiters {
                        waiter.await.expect("a waiter ends");
                    }
                    start.elapsed()
                };
                let elapsed = event_loop.run_until_complete(body).expect("the loop runs");
                share(count, rounds, size, elapsed)
            });
        }
        let runtime = tokio_runtime();
        group.case(TOKIO, size, |count| {
            let rounds = count.div_ceil(size as u64);
            share(count, rounds, size, runtime.block_on(tokio_broadcast(size, rounds)))
        });
    }
    group.finish();
}

async fn tokio_broadcast(size: usize, rounds: u64) -> Duration {
    let shared = Arc::new((tokio::sync::Notify::new(), tokio::sync::Notify::new(), AtomicUsize::new(0)));
    let waiters: Vec<_> = (0..size)
        .map(|_| {
            let shared = shared.clone();
            tokio::spawn(async move {
                let (go, back, left) = &*shared;
                for _ in 0..=rounds {
                    if left.fetch_add(1, Ordering::Relaxed) + 1 == size {
                        back.notify_one();
                    }
                    go.notified().await;
                }
            })
        })
        .collect();
    let (go, back, left) = &*shared;
    let start = Instant::now();
    for _ in 0..=rounds {
        back.notified().await;
        left.store(0, Ordering::Relaxed);
        go.notify_waiters();
    }
    for waiter in waiters {
        waiter.await.expect("a waiter ends");
    }
    start.elapsed()
}
