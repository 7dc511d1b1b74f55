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

use proactor::thread::to_thread;
use proactor::{JoinError, metrics, sleep, spawn, timeout, yield_now};

use crate::harness::{Cx, both_drivers, until};
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
        for _ in 0..20 {
            let result = timeout(Duration::from_secs(3600), to_thread::run_sync(|| 5));
            assert_eq!(result.await.expect("the thread is faster than the jump")?, 5);
        }
        Ok::<_, io::Error>(())
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
