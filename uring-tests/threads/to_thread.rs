//! `to_thread::run_sync`: a function in a thread, for a task of a loop.
//!
//! Sources: AnyIO's reference of `to_thread.run_sync` and `current_default_thread_limiter`, asyncio's of `to_thread`.

use std::cell::Cell;
use std::io;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use proactor::sync::CapacityLimiter;
use proactor::thread::to_thread::current_default_thread_limiter;
use proactor::thread::{channel, to_thread};
use proactor::{JoinError, metrics, sleep, spawn, timeout, yield_now};

use crate::harness::{Cx, both_drivers, turns, until};
use crate::threads::poll_now;

both_drivers!(
    the_function_runs_in_another_thread_and_its_result_comes_back,
    the_loop_goes_on_while_the_function_blocks,
    a_panic_in_the_function_reaches_whoever_awaits_it_and_the_thread_goes_on,
    a_future_that_is_never_polled_runs_nothing,
    dropping_the_wait_lets_the_function_end_and_drops_its_result,
    a_function_that_borrows_nothing_may_own_anything_that_can_be_sent,
    many_functions_at_once_all_give_their_results_to_the_right_task,
    a_virtual_clock_waits_for_a_thread_before_it_jumps,
    a_time_limit_ends_the_wait_and_not_the_function,
    the_wait_counts_as_work_in_flight,
    the_default_limiter_has_forty_tokens_and_is_of_one_loop,
    the_default_limiter_bounds_the_threads_and_can_be_changed,
    a_limiter_of_ones_own_may_be_wider_than_the_default,
    several_kinds_of_work_may_share_a_limiter,
    who_gives_up_waiting_for_a_token_runs_nothing,
    an_abandoned_function_keeps_its_token_until_it_is_done,
);

/// AnyIO: "call the given function … in a worker thread".
fn the_function_runs_in_another_thread_and_its_result_comes_back(cx: Cx) {
    cx.run(async {
        let here = thread::current().id();
        let there = to_thread::run_sync(move || thread::current().id()).await?;
        assert_ne!(here, there);
        assert_eq!(to_thread::run_sync(|| "text".repeat(2)).await?, "texttext");
        Ok::<_, io::Error>(())
    });
}

/// asyncio: other tasks run while `to_thread` waits.
fn the_loop_goes_on_while_the_function_blocks(cx: Cx) {
    cx.run(async {
        let (release, released) = mpsc::channel::<()>();
        let blocked = spawn(to_thread::run_sync(move || released.recv().is_ok()));
        for _ in 0..100 {
            yield_now().await;
        }
        sleep(Duration::from_micros(10)).await?;
        assert!(!blocked.is_finished());
        release.send(()).expect("the thread waits");
        assert!(blocked.await??);
        Ok::<_, io::Error>(())
    });
}

fn a_panic_in_the_function_reaches_whoever_awaits_it_and_the_thread_goes_on(cx: Cx) {
    cx.run(async {
        let error = to_thread::run_sync(|| panic!("in the thread")).await.expect_err("it panics");
        assert_eq!(error.panic_message(), Some("in the thread"));
        let error = to_thread::run_sync(|| panic_any(7_u8)).await.expect_err("it panics");
        let JoinError::Panicked(payload) = error else { panic!("{error}") };
        assert_eq!(payload.downcast_ref(), Some(&7_u8));
        assert_eq!(to_thread::run_sync(|| 1).await?, 1);
        Ok::<_, io::Error>(())
    });
}

fn a_future_that_is_never_polled_runs_nothing(cx: Cx) {
    cx.run(async {
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        drop(to_thread::run_sync(move || flag.store(true, Ordering::SeqCst)));
        assert_eq!(Arc::strong_count(&ran), 1, "the function is dropped with the future");
        to_thread::run_sync(|| ()).await?;
        assert!(!ran.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO, of an abandoned thread: it "will still run its course but its return value … will be ignored".
fn dropping_the_wait_lets_the_function_end_and_drops_its_result(cx: Cx) {
    struct Told(mpsc::Sender<&'static str>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send("the result was dropped");
        }
    }
    cx.run(async {
        let (begin, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let mut wait = to_thread::run_sync(move || {
            begin.send(()).expect("somebody waits");
            released.recv().expect("it is released");
            tell.send("the function ended").expect("somebody waits");
            Told(tell)
        });
        assert!(poll_now(&mut wait).is_pending());
        begins.recv().expect("it begins");
        drop(wait);
        release.send(()).expect("the thread waits");
        assert_eq!(told.recv(), Ok("the function ended"));
        assert_eq!(told.recv(), Ok("the result was dropped"));
        Ok::<_, io::Error>(())
    });
}

fn a_function_that_borrows_nothing_may_own_anything_that_can_be_sent(cx: Cx) {
    cx.run(async {
        let mut numbers: Vec<u64> = (0..1000).collect();
        // There and back, without a copy.
        let address = numbers.as_ptr().addr();
        numbers = to_thread::run_sync(move || {
            numbers.reverse();
            numbers
        })
        .await?;
        assert_eq!((numbers[0], numbers.as_ptr().addr()), (999, address));
        Ok::<_, io::Error>(())
    });
}

fn many_functions_at_once_all_give_their_results_to_the_right_task(cx: Cx) {
    cx.run(async {
        let done = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..1000_u64)
            .map(|n| {
                let done = done.clone();
                spawn(async move {
                    let result = to_thread::run_sync(move || n * n).await;
                    done.set(done.get() + 1);
                    result
                })
            })
            .collect();
        for (n, task) in (0..).zip(tasks) {
            assert_eq!(task.await??, n * n);
        }
        assert_eq!(done.get(), 1000);
        Ok::<_, io::Error>(())
    });
}

fn a_virtual_clock_waits_for_a_thread_before_it_jumps(cx: Cx) {
    cx.run_with(cx.builder().virtual_clock(true), async {
        // It has 20 ms of real time: on a busy machine not each time enough.
        for _ in 0..50 {
            if let Ok(result) = timeout(Duration::from_secs(1), to_thread::run_sync(|| 5)).await {
                assert_eq!(result?, 5);
                return Ok::<_, io::Error>(());
            }
        }
        panic!("the clock jumps over threads");
    });
}

fn a_time_limit_ends_the_wait_and_not_the_function(cx: Cx) {
    cx.run(async {
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let work = to_thread::run_sync(move || {
            tell.send("began").expect("somebody waits");
            let _ = released.recv();
            tell.send("ended").expect("somebody waits");
        });
        let begin = Instant::now();
        // Long enough for the thread to begin, on any machine that can run these tests at all.
        assert!(timeout(Duration::from_millis(200), work).await.is_err());
        assert!(begin.elapsed() >= Duration::from_millis(200));
        assert_eq!(told.recv(), Ok("began"));
        release.send(()).expect("the thread still waits");
        assert_eq!(told.recv(), Ok("ended"));
        Ok::<_, io::Error>(())
    });
}

fn the_wait_counts_as_work_in_flight(cx: Cx) {
    cx.run(async {
        let before = metrics().in_flight;
        let (release, released) = mpsc::channel::<()>();
        let log = Arc::new((AtomicUsize::new(0), Mutex::new(released)));
        let waits: Vec<_> = (0..3)
            .map(|_| {
                let log = log.clone();
                let mut wait = to_thread::run_sync(move || {
                    log.0.fetch_add(1, Ordering::SeqCst);
                    log.1.lock().expect("no panic").recv().is_ok()
                });
                assert!(poll_now(&mut wait).is_pending());
                wait
            })
            .collect();
        assert_eq!(metrics().in_flight, before + 3);
        until(|| log.0.load(Ordering::SeqCst) == 3).await;
        (0..3).for_each(|_| release.send(()).expect("the threads wait"));
        for wait in waits {
            assert!(wait.await?);
        }
        assert_eq!(metrics().in_flight, before);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO: `current_default_thread_limiter`, 40 tokens.
fn the_default_limiter_has_forty_tokens_and_is_of_one_loop(cx: Cx) {
    cx.run(async {
        let limiter = current_default_thread_limiter();
        assert_eq!((limiter.total_tokens(), limiter.borrowed_tokens()), (40, 0));
        limiter.set_total_tokens(7);
        assert_eq!(current_default_thread_limiter().total_tokens(), 7);
        let elsewhere = thread::spawn(move || {
            cx.run(async { Ok::<_, io::Error>(current_default_thread_limiter().total_tokens()) })
        });
        assert_eq!(elsewhere.join().expect("no panic"), 40);
        Ok::<_, io::Error>(())
    });
}

/// Runs `count` functions that all wait until they are released; gives back how many were begun at once, at most.
async fn crowd(count: usize, limiter: Option<CapacityLimiter>, expected: usize) -> io::Result<usize> {
    let begun = Arc::new(AtomicUsize::new(0));
    let (release, released) = channel::<()>(0);
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let (begun, released) = (begun.clone(), released.clone());
            let work = to_thread::run_sync(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                released.receive_blocking(None)
            });
            spawn(match &limiter {
                Some(limiter) => work.limiter(limiter),
                None => work,
            })
        })
        .collect();
    until(|| begun.load(Ordering::SeqCst) >= expected).await;
    turns(20).await;
    let at_once = begun.load(Ordering::SeqCst);
    drop(release);
    for task in tasks {
        task.await???;
    }
    assert_eq!(begun.load(Ordering::SeqCst), count);
    Ok(at_once)
}

fn the_default_limiter_bounds_the_threads_and_can_be_changed(cx: Cx) {
    cx.run(async {
        assert_eq!(crowd(60, None, 40).await?, 40);
        current_default_thread_limiter().set_total_tokens(3);
        assert_eq!(crowd(10, None, 3).await?, 3);
        assert_eq!(current_default_thread_limiter().borrowed_tokens(), 0);
        Ok::<_, io::Error>(())
    });
}

fn a_limiter_of_ones_own_may_be_wider_than_the_default(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(100);
        assert_eq!(crowd(110, Some(limiter.clone()), 100).await?, 100);
        assert_eq!(limiter.borrowed_tokens(), 0);
        Ok::<_, io::Error>(())
    });
}

fn several_kinds_of_work_may_share_a_limiter(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(2);
        let token = limiter.acquire().await?;
        assert_eq!(crowd(5, Some(limiter.clone()), 1).await?, 1, "one token is elsewhere");
        drop(token);
        assert_eq!(crowd(5, Some(limiter), 2).await?, 2);
        Ok::<_, io::Error>(())
    });
}

fn who_gives_up_waiting_for_a_token_runs_nothing(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let token = limiter.acquire().await?;
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let mut wait = to_thread::run_sync(move || flag.store(true, Ordering::SeqCst)).limiter(&limiter);
        assert!(poll_now(&mut wait).is_pending());
        drop(wait);
        assert_eq!(Arc::strong_count(&ran), 1, "the function is dropped with the future");
        drop(token);
        to_thread::run_sync(|| ()).limiter(&limiter).await?;
        assert!(!ran.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

/// Trio: a thread that was abandoned "counts against the limiter" until it ends.
fn an_abandoned_function_keeps_its_token_until_it_is_done(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let (begin, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let mut wait = to_thread::run_sync(move || {
            begin.send(()).expect("somebody waits");
            let _ = released.recv();
        })
        .limiter(&limiter);
        assert!(poll_now(&mut wait).is_pending());
        begins.recv().expect("it begins");
        drop(wait);
        turns(5).await;
        assert_eq!(limiter.borrowed_tokens(), 1);
        let next = spawn(to_thread::run_sync(|| 1).limiter(&limiter));
        turns(5).await;
        assert!(!next.is_finished());
        drop(release);
        assert_eq!(next.await??, 1);
        assert_eq!(limiter.borrowed_tokens(), 0);
        Ok::<_, io::Error>(())
    });
}
