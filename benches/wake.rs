//! What does it cost another thread to reach a loop?
//!
//! - `wake::waker`: a thread wakes one task over and over; time per wake. Wakes coalesce.
//! - `wake::call`: a thread sends one call after the other into the loop, which runs each.
//! - `wake::round_trip`: a thread wakes a sleeping loop and sleeps until it answers.
//!
//! `raw` is a ring that reads an eventfd.
mod common;
mod raw;

use common::{DRIVERS, Group, RAW, event_loop};
use criterion::Criterion;
use io_uring::{cqueue, opcode, types};
use proactor::{DriverChoice, LoopHandle};
use raw::{Ring, os};
use std::fs::File;
use std::future::poll_fn;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

fn main() {
    let mut criterion = common::start("wake: what does it cost another thread to reach a loop?");
    os::pin(true);
    waker(&mut criterion);
    call(&mut criterion);
    round_trip(&mut criterion);
    criterion.final_summary();
}

fn waker(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "wake::waker");
    for (name, choice) in DRIVERS {
        let Some(sleeper) = Sleeper::of_driver(choice) else { continue };
        group.case(name, 1, |count| sleeper.ring_often(count));
    }
    if let Some(sleeper) = RawSleeper::new() {
        group.case(RAW, 1, |count| sleeper.ring_often(count));
    }
    group.finish();
}

fn call(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "wake::call");
    for (name, choice) in DRIVERS {
        let Some(sleeper) = Sleeper::of_driver(choice) else { continue };
        group.case(name, 1, |count| sleeper.call_often(count));
    }
    if let Some(sleeper) = RawSleeper::new() {
        group.case(RAW, 1, |count| sleeper.ring_often(count));
    }
    group.finish();
}

fn round_trip(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "wake::round_trip");
    for (name, choice) in DRIVERS {
        let Some(sleeper) = Sleeper::of_driver(choice) else { continue };
        group.case(name, 1, |count| timed(|| (0..count).for_each(|_| sleeper.ring_and_wait())));
    }
    if let Some(sleeper) = RawSleeper::new() {
        group.case(RAW, 1, |count| timed(|| (0..count).for_each(|_| sleeper.ring_and_wait())));
    }
    group.finish();
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

const STOP: u64 = u64::MAX;

/// A loop on a thread of its own, with one task that waits for `asked` and answers each value once.
struct Sleeper {
    asked: Arc<AtomicU64>,
    waker: Waker,
    handle: LoopHandle,
    answers: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Sleeper {
    fn of_driver(choice: DriverChoice) -> Option<Sleeper> {
        let asked = Arc::new(AtomicU64::new(0));
        let (ready, is_ready) = channel();
        let (answer, answers) = channel();
        let asks = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            os::pin(false);
            let Ok(event_loop) = event_loop(choice) else { return };
            let handle = event_loop.handle();
            let mut first = Some((ready, handle));
            let body = poll_fn(move |context| {
                // A task's waker stays good, so it is handed out once.
                if let Some((ready, handle)) = first.take() {
                    let _ = ready.send((context.waker().clone(), handle));
                }
                match asks.swap(0, Ordering::Acquire) {
                    STOP => return Poll::Ready(()),
                    0 => {}
                    _ => drop(answer.send(())),
                }
                Poll::Pending
            });
            event_loop.run_until_complete(body).expect("the loop runs");
        });
        let (waker, handle) = is_ready.recv().ok()?;
        Some(Sleeper { asked, waker, handle, answers, thread: Some(thread) })
    }

    fn ring_and_wait(&self) {
        self.asked.store(1, Ordering::Release);
        self.waker.wake_by_ref();
        self.answers.recv().expect("the loop answers");
    }

    fn ring_often(&self, count: u64) -> Duration {
        timed(|| {
            (1..count).for_each(|_| self.waker.wake_by_ref());
            self.ring_and_wait();
        })
    }

    fn call_often(&self, count: u64) -> Duration {
        let called = Arc::new(AtomicU64::new(0));
        let (answer, answers) = channel();
        timed(|| {
            for _ in 0..count {
                let (called, answer) = (Arc::clone(&called), answer.clone());
                let call = move || {
                    if called.fetch_add(1, Ordering::Relaxed) + 1 == count {
                        let _ = answer.send(());
                    }
                };
                self.handle.call_soon_threadsafe(call).expect("the loop takes calls");
            }
            answers.recv().expect("the last call answers");
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.asked.store(STOP, Ordering::Release);
        self.waker.wake_by_ref();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A bare ring on a thread of its own that reads an eventfd; `asked` as above.
struct RawSleeper {
    asked: Arc<AtomicU64>,
    bell: File,
    answers: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl RawSleeper {
    fn new() -> Option<RawSleeper> {
        drop(Ring::new(8).ok()?);
        let asked = Arc::new(AtomicU64::new(0));
        let bell = os::event_fd().ok()?;
        let ear = bell.try_clone().ok()?;
        let (answer, answers) = channel();
        let asks = Arc::clone(&asked);
        let thread = std::thread::spawn(move || listen(&ear, &asks, &answer));
        Some(RawSleeper { asked, bell: bell.into(), answers, thread: Some(thread) })
    }

    fn ring(&self) {
        (&self.bell).write_all(&1u64.to_ne_bytes()).expect("an eventfd takes a count");
    }

    fn ring_and_wait(&self) {
        self.asked.store(1, Ordering::Release);
        self.ring();
        self.answers.recv().expect("the ring answers");
    }

    fn ring_often(&self, count: u64) -> Duration {
        timed(|| {
            (1..count).for_each(|_| self.ring());
            self.ring_and_wait();
        })
    }
}

fn listen(ear: &OwnedFd, asks: &AtomicU64, answer: &Sender<()>) {
    os::pin(false);
    let mut ring = Ring::new(8).expect("a ring was possible before");
    let count: &'static mut [u8; 8] = Box::leak(Box::new([0; 8]));
    let mut done: Vec<cqueue::Entry> = Vec::new();
    loop {
        ring.push(opcode::Read::new(types::Fd(ear.as_raw_fd()), count.as_mut_ptr(), 8).build());
        ring.turn(&mut done).expect("the ring turns");
        done.clear();
        match asks.swap(0, Ordering::Acquire) {
            STOP => return,
            0 => {}
            _ => drop(answer.send(())),
        }
    }
}

impl Drop for RawSleeper {
    fn drop(&mut self) {
        self.asked.store(STOP, Ordering::Release);
        self.ring();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
