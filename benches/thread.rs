//! What does it cost a loop to have something done by a thread, and to take what threads send it?
//!
//! - `thread::run_sync`: a task has an empty function run in a thread and waits for it; time per round trip.
//! - `thread::channel`: a thread sends into a channel of so many places and the loop receives; time per item.
//!
//! `tokio` is its current_thread runtime: `spawn_blocking`, and its `mpsc` with `blocking_send`.
mod common;

use common::{Group, loops};
use criterion::Criterion;
use proactor::thread::{channel, to_thread};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const TOKIO: &str = "tokio";

fn main() {
    let mut criterion = common::start("thread: what does it cost a loop to work with threads?");
    run_sync(&mut criterion);
    from_thread_to_loop(&mut criterion);
    criterion.final_summary();
}

fn tokio_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn run_sync(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "thread::run_sync", TOKIO);
    for (name, event_loop) in loops() {
        group.case(name, 1, |count| {
            let rounds = event_loop.run_until_complete(async {
                let start = Instant::now();
                for _ in 0..count {
                    to_thread::run_sync(|| ()).await.expect("it runs");
                }
                start.elapsed()
            });
            rounds.expect("the loop runs")
        });
    }
    let runtime = tokio_runtime();
    group.case(TOKIO, 1, |count| {
        runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..count {
                tokio::task::spawn_blocking(|| ()).await.expect("it runs");
            }
            start.elapsed()
        })
    });
    group.finish();
}

fn from_thread_to_loop(criterion: &mut Criterion) {
    let mut group = Group::beside(criterion, "thread::channel", TOKIO);
    for size in [1, 64, 1024] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let items = event_loop.run_until_complete(async {
                    let (sender, receiver) = channel(size);
                    let start = Instant::now();
                    let thread = std::thread::spawn(move || {
                        (0..count).for_each(|n| sender.send_blocking(n, None).expect("the loop receives"));
                    });
                    while receiver.receive().await.expect("nobody cancels").is_some() {}
                    ended(start, thread)
                });
                items.expect("the loop runs")
            });
        }
        let runtime = tokio_runtime();
        group.case(TOKIO, size, |count| {
            runtime.block_on(async {
                let (sender, mut receiver) = mpsc::channel(size);
                let start = Instant::now();
                let thread = std::thread::spawn(move || {
                    (0..count).for_each(|n| sender.blocking_send(n).expect("the loop receives"));
                });
                while receiver.recv().await.is_some() {}
                ended(start, thread)
            })
        });
    }
    group.finish();
}

fn ended(start: Instant, thread: std::thread::JoinHandle<()>) -> Duration {
    let took = start.elapsed();
    thread.join().expect("it sent all");
    took
}
