//! What do timers cost?
//!
//! - `timer::cancel`: register n sleeps, then drop them in another order; time per sleep. `raw` is a
//!   TIMEOUT and a TIMEOUT_REMOVE per timer: what a runtime pays that hands each one to the kernel.
//!   The kernel searches a list there, so `raw` stops at 1000.
//! - `timer::fire`: n sleeps that are due together; CPU time per sleep, from registering to waking.
mod common;
mod raw;

use common::{Group, RAW, loops, share};
use criterion::{Criterion, SamplingMode};
use io_uring::{cqueue, opcode, types};
use proactor::sleep_until;
use raw::{Ring, os, tag};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

fn main() {
    let mut criterion = common::start("timer: what do timers cost?");
    cancel(&mut criterion);
    fire(&mut criterion);
    criterion.final_summary();
}

/// Deadlines spread over an hour, none of them near, in no order.
fn deadline(now: Instant, i: usize) -> Instant {
    now + Duration::from_millis(60_000 + i as u64 * 7919 % 3_600_000)
}

/// Visits 0..size once each, in an order far from that of insertion.
fn shuffled(size: usize) -> impl Iterator<Item = usize> {
    (0..size).map(move |i| if size > 1 { i * 7919 % size } else { i })
}

fn cancel(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "timer::cancel");
    for size in [1, 1000, 1_000_000] {
        if size == 1_000_000 {
            group.sampling(SamplingMode::Flat);
        }
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let batches = count.div_ceil(size as u64);
                let body = async {
                    let mut sleeps = Vec::with_capacity(size);
                    let mut context = Context::from_waker(Waker::noop());
                    let start = Instant::now();
                    for _ in 0..batches {
                        let now = Instant::now();
                        for i in 0..size {
                            let mut sleep = sleep_until(deadline(now, i));
                            assert!(Pin::new(&mut sleep).poll(&mut context).is_pending());
                            sleeps.push(Some(sleep));
                        }
                        shuffled(size).for_each(|i| sleeps[i] = None);
                        sleeps.clear();
                    }
                    start.elapsed()
                };
                let elapsed = event_loop.run_until_complete(body).expect("the loop runs");
                share(count, batches, size, elapsed)
            });
        }
        if size <= 1000 {
            raw_cancel(&mut group, size);
        }
    }
    group.finish();
}

fn raw_cancel(group: &mut Group<'_>, size: usize) {
    let Ok(mut ring) = Ring::new(4096) else { return };
    let hour: &'static types::Timespec = Box::leak(Box::new(types::Timespec::new().sec(3600)));
    let mut done: Vec<cqueue::Entry> = Vec::new();
    group.case(RAW, size, |count| {
        let batches = count.div_ceil(size as u64);
        let start = Instant::now();
        for _ in 0..batches {
            (0..size).for_each(|i| ring.push(opcode::Timeout::new(hour).build().user_data(tag(0, i))));
            for i in shuffled(size) {
                ring.push(opcode::TimeoutRemove::new(tag(0, i)).build().user_data(tag(1, i)));
            }
            while done.len() < 2 * size {
                ring.turn(&mut done).expect("the ring turns");
            }
            done.clear();
        }
        share(count, batches, size, start.elapsed())
    });
}

fn fire(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "timer::fire");
    for size in [1, 1000] {
        for (name, event_loop) in loops() {
            group.case(name, size, |count| {
                let batches = count.div_ceil(size as u64);
                let body = async {
                    let mut sleeps = Vec::with_capacity(size);
                    let start = os::thread_cpu();
                    for _ in 0..batches {
                        let due = Instant::now() + ahead(size);
                        sleeps.extend((0..size).map(|_| sleep_until(due)));
                        // The first poll registers: all are in the queue before one is waited for.
                        poll_fn(|context| {
                            sleeps.retain_mut(|sleep| Pin::new(sleep).poll(context).is_pending());
                            Poll::Ready(())
                        })
                        .await;
                        for sleep in sleeps.drain(..) {
                            sleep.await?;
                        }
                    }
                    Ok::<_, proactor::Cancelled>(os::thread_cpu() - start)
                };
                let elapsed =
                    event_loop.run_until_complete(body).expect("the loop runs").expect("nothing cancels");
                share(count, batches, size, elapsed)
            });
        }
        raw_fire(&mut group, size);
    }
    group.finish();
}

/// Late enough that all are registered before the first is due.
fn ahead(size: usize) -> Duration {
    Duration::from_micros(50 + size as u64)
}

fn raw_fire(group: &mut Group<'_>, size: usize) {
    let Ok(mut ring) = Ring::new(4096) else { return };
    let after = types::Timespec::from(ahead(size));
    let after: &'static types::Timespec = Box::leak(Box::new(after));
    let mut done: Vec<cqueue::Entry> = Vec::new();
    group.case(RAW, size, |count| {
        let batches = count.div_ceil(size as u64);
        let start = os::thread_cpu();
        for _ in 0..batches {
            (0..size).for_each(|i| ring.push(opcode::Timeout::new(after).build().user_data(tag(0, i))));
            while done.len() < size {
                ring.turn(&mut done).expect("the ring turns");
            }
            done.clear();
        }
        share(count, batches, size, os::thread_cpu() - start)
    });
}
