//! What does structured concurrency cost?
//!
//! - `cancel::spawn`: spawn n tasks that end at once, await each; time per task. Beside tokio's `spawn`.
//! - `cancel::group`: a task group of n children that end at once; time per child. Beside tokio's `JoinSet`.
//! - `cancel::tasks`: n children that wait for ever, their group cancelled; time per child, spawning included. Beside
//!   `JoinSet::abort_all`, which drops the tasks where ours answer and unwind.
//! - `cancel::operations`: n children that each wait in the kernel for bytes of a socket, cancelled; time per operation,
//!   from the cancel to the end of the group.
//! - `cancel::scopes`: a wait inside of n nested scopes; time per wait. Beside the same wait without a scope.
mod common;

use common::{Group, loops, share};
use criterion::Criterion;
use proactor::cancel::{CancelScope, checkpoint, sleep_forever, task_group};
use proactor::net::UnixStream;
use proactor::{Cancelled, EventLoop, spawn};
use std::future::{Future, pending};
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const TOKIO: &str = "tokio";

fn main() {
    let mut criterion = common::start("cancel: what does structured concurrency cost?");
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    spawning(&mut criterion, &tokio);
    groups(&mut criterion, &tokio);
    tasks(&mut criterion, &tokio);
    operations(&mut criterion);
    scopes(&mut criterion);
    criterion.final_summary();
}

/// Repeats `batch`, which performs `size` operations and says how long they took.
fn repeat<F>(event_loop: &EventLoop, count: u64, size: usize, batch: impl Fn() -> F) -> Duration
where
    F: Future<Output = Duration>,
{
    let batches = count.div_ceil(size as u64);
    let body = async {
        let mut elapsed = Duration::ZERO;
        for _ in 0..batches {
            elapsed += batch().await;
        }
        elapsed
    };
    share(count, batches, size, event_loop.run_until_complete(body).expect("the loop runs"))
}

fn repeat_tokio<F>(tokio: &Runtime, count: u64, size: usize, batch: impl Fn() -> F) -> Duration
where
    F: Future<Output = Duration>,
{
    let batches = count.div_ceil(size as u64);
    let elapsed = tokio.block_on(async {
        let mut elapsed = Duration::ZERO;
        for _ in 0..batches {
            elapsed += batch().await;
        }
        elapsed
    });
    share(count, batches, size, elapsed)
}

fn spawning(criterion: &mut Criterion, tokio: &Runtime) {
    let mut group = Group::beside(criterion, "cancel::spawn", TOKIO);
    for size in [1, 1000] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                repeat(&event_loop, count, size, || async {
                    let start = Instant::now();
                    let tasks: Vec<_> = (0..size).map(|i| spawn(async move { i })).collect();
                    for task in tasks {
                        black_box(task.await.expect("a task ends"));
                    }
                    start.elapsed()
                })
            });
        }
        group.case(TOKIO, size, |count| {
            repeat_tokio(tokio, count, size, || async {
                let start = Instant::now();
                let tasks: Vec<_> = (0..size).map(|i| tokio::spawn(async move { i })).collect();
                for task in tasks {
                    black_box(task.await.expect("a task ends"));
                }
                start.elapsed()
            })
        });
    }
    group.finish();
}

fn groups(criterion: &mut Criterion, tokio: &Runtime) {
    let mut group = Group::beside(criterion, "cancel::group", TOKIO);
    for size in [1, 100, 10_000] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                repeat(&event_loop, count, size, || async {
                    let start = Instant::now();
                    let children = task_group(async |group| {
                        (0..size).for_each(|_| drop(group.start_soon(async { Ok(()) })));
                        Ok::<_, io::Error>(())
                    });
                    children.await.expect("no child fails");
                    start.elapsed()
                })
            });
        }
        group.case(TOKIO, size, |count| {
            repeat_tokio(tokio, count, size, || async {
                let start = Instant::now();
                let mut children = JoinSet::new();
                (0..size).for_each(|_| drop(children.spawn(async { Ok::<_, io::Error>(()) })));
                while let Some(child) = children.join_next().await {
                    child.expect("no child panics").expect("no child fails");
                }
                start.elapsed()
            })
        });
    }
    group.finish();
}

fn tasks(criterion: &mut Criterion, tokio: &Runtime) {
    let mut group = Group::beside(criterion, "cancel::tasks", TOKIO);
    for size in [1, 100, 10_000] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                repeat(&event_loop, count, size, || async {
                    let start = Instant::now();
                    let children = task_group(async |group| {
                        for _ in 0..size {
                            group.start_soon(async { sleep_forever().await.map(|_| ()) });
                        }
                        proactor::yield_now().await;
                        group.cancel_scope().cancel();
                        Ok::<_, Cancelled>(())
                    });
                    children.await.expect("its own cancel ends there");
                    start.elapsed()
                })
            });
        }
        group.case(TOKIO, size, |count| {
            repeat_tokio(tokio, count, size, || async {
                let start = Instant::now();
                let mut children = JoinSet::new();
                (0..size).for_each(|_| drop(children.spawn(pending::<()>())));
                tokio::task::yield_now().await;
                children.abort_all();
                while let Some(child) = children.join_next().await {
                    assert!(child.is_err());
                }
                start.elapsed()
            })
        });
    }
    group.finish();
}

fn operations(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "cancel::operations", TOKIO);
    for size in [1, 100, 1000] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                repeat(&event_loop, count, size, || async move {
                    let mut start = None;
                    let children = task_group(async |group| {
                        let mut others = Vec::with_capacity(size);
                        for _ in 0..size {
                            let (ours, theirs) = UnixStream::pair()?;
                            others.push(theirs);
                            group.start_soon(async move {
                                ours.receive_into(Vec::with_capacity(64)).await?;
                                Ok(())
                            });
                        }
                        // Until all of them are in the kernel.
                        proactor::yield_now().await;
                        proactor::nop().await?;
                        start = Some(Instant::now());
                        group.cancel_scope().cancel();
                        Ok::<_, io::Error>(others)
                    });
                    let others = children.await.expect("its own cancel ends there");
                    let elapsed = start.expect("it was cancelled").elapsed();
                    drop(others);
                    elapsed
                })
            });
        }
    }
    group.finish();
}

fn scopes(criterion: &mut Criterion) {
    const NOTHING: &str = "no scope";
    let mut group = Group::beside(criterion, "cancel::scopes", NOTHING);
    fn nested(depth: usize) -> Pin<Box<dyn Future<Output = Result<(), Cancelled>>>> {
        Box::pin(async move {
            if depth == 0 {
                for _ in 0..1000 {
                    checkpoint().await?;
                }
                return Ok(());
            }
            CancelScope::new().run(nested(depth - 1)).await.map(|_| ())
        })
    }
    for depth in [1, 4] {
        for (name, event_loop) in loops() {
            let measure = |depth| {
                move || async move {
                    let start = Instant::now();
                    nested(depth).await.expect("nobody cancels");
                    start.elapsed()
                }
            };
            group.case(name, depth, |count| repeat(&event_loop, count, 1000, measure(depth)));
            if name == "io_uring" {
                group.case(NOTHING, depth, |count| repeat(&event_loop, count, 1000, measure(0)));
            }
        }
    }
    group.finish();
}
