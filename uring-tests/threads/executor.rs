//! Executors: pools of threads of a program's own, and the default one of each loop.
//!
//! Sources: asyncio's reference of `run_in_executor`, `set_default_executor`, `shutdown_default_executor` and `close`;
//! `concurrent.futures` for what an executor and its futures do.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use proactor::event_loop::{run_in_executor, set_default_executor, shutdown_default_executor};
use proactor::thread::Executor;
use proactor::{JoinError, spawn};

use crate::harness::{Cx, both_drivers, turns, until};
use crate::threads::{LIMIT, poll_now};

both_drivers!(
    a_function_in_the_default_executor_gives_its_result_to_the_loop,
    a_function_is_given_away_at_the_call_and_not_at_the_first_poll,
    at_most_as_many_functions_as_there_are_workers_run_at_once,
    threads_are_called_by_the_prefix,
    functions_begin_in_the_order_in_which_they_were_given,
    the_default_executor_can_be_set,
    after_its_shutdown_the_default_executor_takes_nothing,
    a_shutdown_waits_for_what_is_queued,
    a_shutdown_that_takes_too_long_is_an_error_and_the_functions_go_on,
    a_shutdown_without_any_thread_is_over_at_once,
    a_closed_executor_refuses,
    a_wait_that_is_dropped_takes_the_function_back,
    a_loop_that_closes_closes_its_default_executor_and_does_not_wait,
    a_job_can_be_waited_for_awaited_cancelled_and_watched,
    a_job_that_panics_says_so,
    an_executor_that_is_dropped_does_what_it_was_given,
    a_job_whose_handle_is_dropped_runs,
    no_thread_of_a_loop_may_block_on_a_job_or_a_shutdown,
    an_executor_serves_several_loops,
);

/// An executor of one thread that is busy until the sender is dropped.
fn busy_executor() -> (Executor, mpsc::Sender<()>) {
    let executor = Executor::builder().max_workers(1).build();
    let (release, released) = mpsc::channel::<()>();
    let (begin, begins) = mpsc::channel();
    let block = move || {
        begin.send(()).expect("somebody waits");
        let _ = released.recv();
    };
    drop(executor.submit(block).expect("it is open"));
    begins.recv().expect("it begins");
    (executor, release)
}

fn a_function_in_the_default_executor_gives_its_result_to_the_loop(cx: Cx) {
    cx.run(async {
        let here = thread::current().id();
        let there = run_in_executor(None, || thread::current().id())?.await?;
        assert_ne!(here, there);
        shutdown_default_executor(LIMIT).await
    });
}

/// asyncio: `run_in_executor` is no coroutine; it submits and returns a future.
fn a_function_is_given_away_at_the_call_and_not_at_the_first_poll(cx: Cx) {
    cx.run(async {
        let (tell, told) = mpsc::channel();
        let future = run_in_executor(None, move || tell.send(1).expect("somebody waits"))?;
        assert_eq!(told.recv(), Ok(1));
        future.await?;
        shutdown_default_executor(LIMIT).await
    });
}

fn at_most_as_many_functions_as_there_are_workers_run_at_once(cx: Cx) {
    cx.run(async {
        let executor = Executor::builder().max_workers(3).build();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Three meet here, so three do run at once.
        let meet = Arc::new(Barrier::new(3));
        let tasks: Vec<_> = (0..60)
            .map(|_| {
                let (running, most, meet) = (running.clone(), most.clone(), meet.clone());
                let job = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    meet.wait();
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                run_in_executor(Some(&executor), job).expect("it is open")
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
        executor.shutdown(LIMIT).await
    });
}

fn threads_are_called_by_the_prefix(cx: Cx) {
    cx.run(async {
        let executor = Executor::builder().thread_name_prefix("disk\0bell").build();
        let name = || thread::current().name().map(str::to_owned);
        let name = run_in_executor(Some(&executor), name)?.await?;
        assert_eq!(name.as_deref(), Some("disk-0"));
        executor.shutdown(LIMIT).await
    });
}

fn functions_begin_in_the_order_in_which_they_were_given(cx: Cx) {
    cx.run(async {
        let (executor, release) = busy_executor();
        let log = Arc::new(Mutex::new(Vec::new()));
        for n in 0..100 {
            let log = log.clone();
            drop(executor.submit(move || log.lock().expect("no panic").push(n))?);
        }
        drop(release);
        executor.shutdown(LIMIT).await?;
        assert!(log.lock().expect("no panic").iter().copied().eq(0..100));
        Ok::<_, io::Error>(())
    });
}

fn the_default_executor_can_be_set(cx: Cx) {
    cx.run(async {
        let name = || thread::current().name().map(str::to_owned).unwrap_or_default();
        set_default_executor(Executor::builder().thread_name_prefix("mine").build())?;
        assert_eq!(run_in_executor(None, name)?.await?, "mine-0");
        set_default_executor(Executor::builder().thread_name_prefix("other").build())?;
        assert_eq!(run_in_executor(None, name)?.await?, "other-0");
        shutdown_default_executor(LIMIT).await
    });
    // By the loop as a value, also while it does not run.
    let event_loop = cx.builder().build().expect("a loop");
    let executor = Executor::builder().thread_name_prefix("third").build();
    event_loop.set_default_executor(executor).expect("it is open");
    let name = || thread::current().name().map(str::to_owned).unwrap_or_default();
    let future = event_loop.run_in_executor(None, name).expect("it is open");
    assert_eq!(event_loop.run_until_complete(future).expect("the loop runs").expect("a name"), "third-0");
    let ended = event_loop.shutdown_default_executor(LIMIT);
    event_loop.run_until_complete(ended).expect("the loop runs").expect("in time");
    event_loop.close().expect("the loop closes");
    assert!(event_loop.set_default_executor(Executor::new()).is_err());
    assert!(event_loop.run_in_executor(None, || ()).is_err());
}

fn after_its_shutdown_the_default_executor_takes_nothing(cx: Cx) {
    cx.run(async {
        shutdown_default_executor(LIMIT).await?;
        let refused = run_in_executor(None, || ()).expect_err("it was shut down");
        assert_eq!(refused.to_string(), "the default executor is closed");
        // Others are another matter; and twice is no error.
        let executor = Executor::new();
        run_in_executor(Some(&executor), || ())?.await?;
        shutdown_default_executor(LIMIT).await?;
        executor.shutdown(LIMIT).await
    });
}

fn a_shutdown_waits_for_what_is_queued(cx: Cx) {
    cx.run(async {
        let (executor, release) = busy_executor();
        let count = Arc::new(AtomicUsize::new(0));
        for _ in 0..50 {
            let count = count.clone();
            drop(executor.submit(move || count.fetch_add(1, Ordering::SeqCst))?);
        }
        let shutdown = spawn(executor.shutdown(None));
        turns(5).await;
        assert!(!shutdown.is_finished());
        drop(release);
        shutdown.await??;
        assert_eq!(count.load(Ordering::SeqCst), 50);
        Ok::<_, io::Error>(())
    });
}

fn a_shutdown_that_takes_too_long_is_an_error_and_the_functions_go_on(cx: Cx) {
    cx.run(async {
        let (executor, release) = busy_executor();
        let (tell, told) = mpsc::channel();
        drop(executor.submit(move || tell.send("ran"))?);
        let error = executor.shutdown(Some(Duration::from_millis(5))).await.expect_err("it is busy");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let theirs = executor.clone();
        let blocking = thread::spawn(move || theirs.shutdown_blocking(Some(Duration::from_millis(5))));
        let error = blocking.join().expect("no panic").expect_err("it is busy");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(release);
        assert_eq!(told.recv(), Ok("ran"));
        executor.shutdown(LIMIT).await
    });
}

fn a_shutdown_without_any_thread_is_over_at_once(cx: Cx) {
    cx.run(async {
        Executor::new().shutdown(Some(Duration::ZERO)).await?;
        shutdown_default_executor(Some(Duration::ZERO)).await
    });
    Executor::new().shutdown_blocking(Some(Duration::ZERO)).expect("it never had a thread");
}

/// `concurrent.futures`: "cannot schedule new futures after shutdown".
fn a_closed_executor_refuses(cx: Cx) {
    cx.run(async {
        let executor = Executor::new();
        let clone = executor.clone();
        executor.close();
        let refused = clone.submit(|| ()).map(drop).expect_err("it is closed");
        assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
        assert!(run_in_executor(Some(&clone), || ()).is_err());
        Ok::<_, io::Error>(())
    });
}

fn a_wait_that_is_dropped_takes_the_function_back(cx: Cx) {
    cx.run(async {
        let (executor, release) = busy_executor();
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let mut future = run_in_executor(Some(&executor), move || flag.store(true, Ordering::SeqCst))?;
        assert!(poll_now(&mut future).is_pending());
        drop(future);
        assert_eq!(Arc::strong_count(&ran), 1, "the function is dropped");
        drop(release);
        executor.shutdown(LIMIT).await?;
        assert!(!ran.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

/// asyncio, of `close`: it "shuts down the executor, but does not wait for the executor to finish".
fn a_loop_that_closes_closes_its_default_executor_and_does_not_wait(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let (executor, release) = busy_executor();
    event_loop.set_default_executor(executor.clone()).expect("it is open");
    let (tell, told) = mpsc::channel();
    drop(executor.submit(move || tell.send("ran")).expect("it is open"));
    event_loop.close().expect("the loop closes");
    assert!(executor.submit(|| ()).is_err());
    drop(release);
    assert_eq!(told.recv(), Ok("ran"));
    executor.shutdown_blocking(LIMIT).expect("in time");
}

fn a_job_can_be_waited_for_awaited_cancelled_and_watched(cx: Cx) {
    let executor = Executor::new();
    assert_eq!(executor.submit(|| 1).expect("it is open").wait(LIMIT).expect("a result"), 1);
    cx.run(async {
        assert_eq!(executor.submit(|| 2)?.await?, 2);
        Ok::<_, io::Error>(())
    });
    let (busy, release) = busy_executor();
    let mut job = busy.submit(|| 3).expect("it is open");
    assert_eq!(job.wait(Some(Duration::ZERO)).expect_err("too early").kind(), io::ErrorKind::TimedOut);
    assert!(!job.is_finished());
    let (tell, told) = mpsc::channel();
    let again = tell.clone();
    job.add_done_callback(move || tell.send(thread::current().id()).expect("somebody waits"));
    assert!(job.cancel());
    assert!(!job.cancel(), "once");
    assert!(job.is_finished());
    assert_eq!(told.try_recv(), Ok(thread::current().id()), "on the thread that settles it");
    job.add_done_callback(move || again.send(thread::current().id()).expect("somebody waits"));
    assert_eq!(told.try_recv(), Ok(thread::current().id()), "at once when it is over");
    assert!(job.wait(LIMIT).expect_err("it was taken back").to_string().contains("taken back"));
    drop(release);
    let (begin, begins) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let mut job = executor
        .submit(move || {
            begin.send(()).expect("somebody waits");
            ends.recv().is_ok()
        })
        .expect("it is open");
    begins.recv().expect("it begins");
    assert!(!job.cancel(), "too late");
    end.send(()).expect("it waits");
    assert!(job.wait(LIMIT).expect("a result"));
    executor.shutdown_blocking(LIMIT).expect("in time");
    busy.shutdown_blocking(LIMIT).expect("in time");
}

fn a_job_that_panics_says_so(cx: Cx) {
    cx.run(async {
        let executor = Executor::builder().max_workers(1).build();
        let error = executor.submit(|| panic!("in the pool"))?.await.expect_err("it panics");
        assert_eq!(error.panic_message(), Some("in the pool"));
        let error = run_in_executor(Some(&executor), || panic!("again"))?.await.expect_err("so does it");
        assert!(matches!(error, JoinError::Panicked(_)));
        assert_eq!(executor.submit(|| 1)?.await?, 1, "the only thread goes on");
        executor.shutdown(LIMIT).await
    });
}

fn an_executor_that_is_dropped_does_what_it_was_given(cx: Cx) {
    cx.run(async {
        let (executor, release) = busy_executor();
        let job = executor.submit(|| 7)?;
        drop(executor);
        drop(release);
        assert_eq!(job.await?, 7);
        Ok::<_, io::Error>(())
    });
}

fn a_job_whose_handle_is_dropped_runs(cx: Cx) {
    cx.run(async {
        let executor = Executor::new();
        let count = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let count = count.clone();
            drop(executor.submit(move || count.fetch_add(1, Ordering::SeqCst))?);
        }
        until(|| count.load(Ordering::SeqCst) == 100).await;
        executor.shutdown(LIMIT).await
    });
}

fn no_thread_of_a_loop_may_block_on_a_job_or_a_shutdown(cx: Cx) {
    cx.run(async {
        let executor = Executor::new();
        let error = executor.submit(|| ())?.wait(Some(Duration::ZERO)).expect_err("on the loop's thread");
        assert!(error.to_string().contains("await it"), "{error}");
        let error = executor.shutdown_blocking(Some(Duration::ZERO)).expect_err("on the loop's thread");
        assert!(error.to_string().contains("await it"), "{error}");
        executor.submit(|| ())?.await.expect("a refused shutdown changes nothing");
        executor.shutdown(LIMIT).await
    });
}

fn an_executor_serves_several_loops(cx: Cx) {
    let executor = Executor::builder().max_workers(2).build();
    let loops: Vec<_> = (0..3_u64)
        .map(|id| {
            let executor = executor.clone();
            thread::spawn(move || {
                cx.run(async {
                    for n in 0..200 {
                        assert_eq!(run_in_executor(Some(&executor), move || n * id)?.await?, n * id);
                    }
                    Ok::<_, io::Error>(())
                });
            })
        })
        .collect();
    loops.into_iter().for_each(|thread| thread.join().expect("each of them works"));
    executor.shutdown_blocking(LIMIT).expect("in time");
}
