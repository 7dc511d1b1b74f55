//! What do tasks cost?
//!
//! - `spawn::join`: spawn n tasks that end at once, await each; time per task. `raw` boxes and polls
//!   n futures, without a scheduler: the allocation and the virtual call.
//! - `spawn::yield`: n tasks that only yield; time per yield. `raw` polls n boxed futures in turn.
mod common;
mod raw;

use common::{Group, RAW, loops, share};
use criterion::Criterion;
use proactor::{spawn, yield_now};
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

const SIZES: [usize; 2] = [1, 1000];

fn main() {
    let mut criterion = common::start("spawn: what do tasks cost?");
    join(&mut criterion);
    yields(&mut criterion);
    criterion.final_summary();
}

fn join(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "spawn::join");
    for size in SIZES {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let batches = count.div_ceil(size as u64);
                let body = async {
                    let mut tasks = Vec::with_capacity(size);
                    let start = Instant::now();
                    for _ in 0..batches {
                        tasks.extend((0..size).map(|i| spawn(async move { i })));
                        for task in tasks.drain(..) {
                            black_box(task.await.expect("a task ends"));
                        }
                    }
                    start.elapsed()
                };
                let elapsed = event_loop.run_until_complete(body).expect("the loop runs");
                share(count, batches, size, elapsed)
            });
        }
        group.case(RAW, size, |count| {
            let batches = count.div_ceil(size as u64);
            let mut futures: Vec<Pin<Box<dyn Future<Output = usize>>>> = Vec::with_capacity(size);
            let start = Instant::now();
            for _ in 0..batches {
                futures.extend((0..size).map(|i| -> Pin<Box<dyn Future<Output = usize>>> {
                    Box::pin(async move { black_box(i) })
                }));
                for mut future in futures.drain(..) {
                    assert!(poll(&mut future).is_ready());
                }
            }
            share(count, batches, size, start.elapsed())
        });
    }
    group.finish();
}

fn yields(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "spawn::yield");
    for size in SIZES {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let rounds = count.div_ceil(size as u64);
                let body = async {
                    let start = Instant::now();
                    let tasks: Vec<_> = (0..size)
                        .map(|_| {
                            spawn(async move {
                                for _ in 0..rounds {
                                    yield_now().await;
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("a task ends");
                    }
                    start.elapsed()
                };
                let elapsed = event_loop.run_until_complete(body).expect("the loop runs");
                share(count, rounds, size, elapsed)
            });
        }
        group.case(RAW, size, |count| {
            let rounds = count.div_ceil(size as u64);
            let mut futures: Vec<Pin<Box<dyn Future<Output = ()>>>> = (0..size)
                .map(|_| -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(std::future::pending()) })
                .collect();
            let start = Instant::now();
            for _ in 0..rounds {
                for future in &mut futures {
                    assert!(poll(black_box(future)).is_pending());
                }
            }
            share(count, rounds, size, start.elapsed())
        });
    }
    group.finish();
}

fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
