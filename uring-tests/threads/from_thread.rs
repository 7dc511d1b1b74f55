//! `from_thread`: what a function in a thread can ask of the loop that waits for it.
//!
//! Source: AnyIO's reference of `from_thread.run`, `run_sync` and `check_cancelled`.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proactor::thread::{Executor, from_thread, to_thread};
use proactor::{event_loop, sleep, yield_now};

use crate::harness::{Cx, both_drivers};
use crate::threads::{LIMIT, poll_now};

both_drivers!(
    a_coroutine_runs_on_the_loops_thread_and_its_result_comes_back,
    a_function_is_called_on_the_loops_thread,
    a_panic_over_there_is_an_error_here,
    outside_of_a_worker_thread_all_three_are_errors,
    a_thread_of_an_executor_is_no_worker_thread,
    a_thread_that_a_worker_starts_is_no_worker_thread,
    after_its_function_the_thread_is_no_worker_thread_any_more,
    a_worker_may_go_back_and_forth_many_times,
    a_task_that_waits_for_a_thread_may_be_waited_for_by_a_thread,
    each_worker_comes_back_to_its_own_loop,
    a_loop_that_ends_meanwhile_is_an_error_and_no_hang,
    a_function_whose_wait_was_dropped_is_told,
    a_function_that_is_waited_for_is_not_cancelled,
);

/// "Call a coroutine function from a worker thread."
fn a_coroutine_runs_on_the_loops_thread_and_its_result_comes_back(cx: Cx) {
    cx.run(async {
        let home = thread::current().id();
        let in_thread = move || {
            from_thread::run(async move || {
                // What is made in there need not be `Send`.
                let local = Rc::new(Cell::new(1));
                sleep(Duration::from_micros(50)).await.expect("nobody cancels");
                local.set(local.get() + 1);
                (thread::current().id() == home, local.get())
            })
        };
        assert_eq!(to_thread::run_sync(in_thread).await??, (true, 2));
        Ok::<_, io::Error>(())
    });
}

/// "Call a function in the event loop thread from a worker thread."
fn a_function_is_called_on_the_loops_thread(cx: Cx) {
    cx.run(async {
        let home = thread::current().id();
        let in_thread = || from_thread::run_sync(|| (thread::current().id(), proactor::current().is_ok()));
        assert_eq!(to_thread::run_sync(in_thread).await??, (home, true));
        Ok::<_, io::Error>(())
    });
}

fn a_panic_over_there_is_an_error_here(cx: Cx) {
    cx.run(async {
        let in_thread = || {
            let error = from_thread::run(async || panic!("in the task")).expect_err("it panics");
            let other = from_thread::run_sync(|| panic!("in the loop")).expect_err("it panics");
            (error.to_string(), other.to_string(), from_thread::run_sync(|| 1).expect("all goes on"))
        };
        let (task, function, after) = to_thread::run_sync(in_thread).await?;
        assert!(task.contains("in the task"), "{task}");
        assert!(function.contains("in the loop"), "{function}");
        assert_eq!(after, 1);
        Ok::<_, io::Error>(())
    });
}

#[track_caller]
fn assert_all_refused() {
    let refused = [
        from_thread::run(async || ()).expect_err("no worker thread"),
        from_thread::run_sync(|| ()).expect_err("no worker thread"),
        from_thread::check_cancelled().expect_err("no worker thread"),
    ];
    for error in refused {
        assert!(error.to_string().contains("to_thread"), "{error}");
    }
}

/// "RuntimeError – if the current thread was not spawned by to_thread.run_sync()"
fn outside_of_a_worker_thread_all_three_are_errors(cx: Cx) {
    assert_all_refused();
    cx.run(async {
        assert_all_refused();
        Ok::<_, io::Error>(())
    });
}

fn a_thread_of_an_executor_is_no_worker_thread(cx: Cx) {
    cx.run(async {
        event_loop::run_in_executor(None, assert_all_refused)?.await?;
        let executor = Executor::new();
        event_loop::run_in_executor(Some(&executor), assert_all_refused)?.await?;
        executor.shutdown(LIMIT).await?;
        event_loop::shutdown_default_executor(LIMIT).await
    });
}

fn a_thread_that_a_worker_starts_is_no_worker_thread(cx: Cx) {
    cx.run(async {
        let ended = to_thread::run_sync(|| thread::spawn(assert_all_refused).join().is_ok());
        assert!(ended.await?);
        Ok::<_, io::Error>(())
    });
}

fn after_its_function_the_thread_is_no_worker_thread_any_more(cx: Cx) {
    /// Its destructor looks where it is.
    struct Looks(mpsc::Sender<bool>);
    impl Drop for Looks {
        fn drop(&mut self) {
            let refused = from_thread::check_cancelled().expect_err("no worker thread");
            let _ = self.0.send(refused.to_string().contains("to_thread"));
        }
    }
    cx.run(async {
        // The result is dropped by the thread, after the function, since nobody waits.
        let (begin, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let mut wait = to_thread::run_sync(move || {
            begin.send(()).expect("somebody waits");
            let _ = released.recv();
            Looks(tell)
        });
        assert!(poll_now(&mut wait).is_pending());
        begins.recv().expect("it begins");
        drop(wait);
        drop(release);
        assert_eq!(told.recv(), Ok(true));
        Ok::<_, io::Error>(())
    });
}

fn a_worker_may_go_back_and_forth_many_times(cx: Cx) {
    cx.run(async {
        let in_thread = || {
            let mut sum = 0;
            for n in 0..500_u32 {
                sum += from_thread::run(async move || {
                    yield_now().await;
                    n
                })?;
                sum += from_thread::run_sync(move || n)?;
            }
            Ok::<_, io::Error>(sum)
        };
        assert_eq!(to_thread::run_sync(in_thread).await??, 249_500);
        Ok::<_, io::Error>(())
    });
}

fn a_task_that_waits_for_a_thread_may_be_waited_for_by_a_thread(cx: Cx) {
    fn nested(depth: u32) -> io::Result<u32> {
        match depth {
            0 => Ok(0),
            _ => {
                let inner =
                    from_thread::run(async move || to_thread::run_sync(move || nested(depth - 1)).await);
                Ok(inner??? + 1)
            }
        }
    }
    cx.run(async {
        assert_eq!(to_thread::run_sync(|| nested(20)).await??, 20);
        Ok::<_, io::Error>(())
    });
}

fn each_worker_comes_back_to_its_own_loop(cx: Cx) {
    let loops: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn(move || {
                cx.run(async {
                    let home = thread::current().id();
                    for _ in 0..50 {
                        let there = to_thread::run_sync(|| from_thread::run_sync(|| thread::current().id()));
                        assert_eq!(there.await??, home);
                    }
                    Ok::<_, io::Error>(())
                });
            })
        })
        .collect();
    loops.into_iter().for_each(|thread| thread.join().expect("each of them works"));
}

fn a_loop_that_ends_meanwhile_is_an_error_and_no_hang(cx: Cx) {
    let (tell, told) = mpsc::channel();
    let event_loop = cx.builder().build().expect("a loop");
    let run = event_loop.run_until_complete(async {
        let (begin, begins) = mpsc::channel();
        let mut wait = to_thread::run_sync(move || {
            let waited = from_thread::run(async move || {
                begin.send(()).expect("somebody waits");
                pending::<()>().await;
            });
            let later = from_thread::run_sync(|| ());
            tell.send((waited.is_err(), later.is_err())).expect("somebody waits");
        });
        assert!(poll_now(&mut wait).is_pending());
        while begins.try_recv().is_err() {
            yield_now().await;
        }
    });
    run.expect("the loop runs");
    drop(event_loop);
    assert_eq!(told.recv_timeout(LIMIT.expect("a limit")), Ok((true, true)));
}

/// "Check if the cancel scope of the host task's running the current worker thread has been cancelled."
fn a_function_whose_wait_was_dropped_is_told(cx: Cx) {
    cx.run(async {
        let (begin, begins) = mpsc::channel();
        let (dropped, is_dropped) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let mut wait = to_thread::run_sync(move || {
            begin.send(from_thread::check_cancelled().is_ok()).expect("somebody waits");
            let _ = is_dropped.recv();
            tell.send(from_thread::check_cancelled().map_err(|error| error.to_string()))
                .expect("somebody waits");
        });
        assert!(poll_now(&mut wait).is_pending());
        assert_eq!(begins.recv(), Ok(true));
        drop(wait);
        drop(dropped);
        assert_eq!(told.recv(), Ok(Err("cancelled".to_owned())));
        Ok::<_, io::Error>(())
    });
}

fn a_function_that_is_waited_for_is_not_cancelled(cx: Cx) {
    cx.run(async {
        let in_thread = || {
            from_thread::run(async || yield_now().await)?;
            from_thread::check_cancelled()
        };
        to_thread::run_sync(in_thread).await??;
        Ok::<_, io::Error>(())
    });
}
