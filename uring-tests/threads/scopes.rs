//! Cancel scopes and threads: what a cancel reaches there, and what it leaves alone.
//!
//! Sources: AnyIO's reference of `to_thread.run_sync` (`abandon_on_cancel`), `from_thread.check_cancelled` and
//! `to_process.run_sync` (`cancellable`); asyncio's of futures of executors and `run_coroutine_threadsafe`.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;

use futures_util::stream::{FuturesUnordered, StreamExt};
use proactor::cancel::{CancelScope, sleep_forever};
use proactor::event_loop::run_in_executor;
use proactor::sync::CapacityLimiter;
use proactor::thread::{Executor, channel, from_thread, to_thread};
use proactor::{JoinError, Task, metrics, sleep, spawn};

use crate::harness::{Cx, both_drivers, turns, until};
use crate::threads::LIMIT;

both_drivers!(
    a_cancelled_wait_goes_on_until_the_thread_is_done_and_is_a_success,
    the_function_of_a_cancelled_wait_is_told_and_may_return_early,
    an_abandoning_wait_answers_at_once_and_the_function_goes_on,
    in_a_cancelled_scope_no_function_is_given_to_a_thread,
    a_wait_for_a_token_is_cancelled_and_nothing_runs,
    a_deadline_reaches_an_abandoning_wait,
    a_cancelled_wait_takes_a_queued_function_of_an_executor_back,
    a_cancelled_receive_loses_no_item,
    an_item_that_came_before_the_cancel_is_received,
    a_cancelled_send_gives_its_item_back,
    in_a_cancelled_scope_a_channel_is_left_alone,
    a_cancelled_wait_for_a_remote_task_lets_it_go_on,
    a_remote_task_is_cancelled_with_a_message,
    a_remote_task_that_refuses_its_cancel_gives_its_result,
    a_remote_task_is_told_of_a_cancel_before_it_began,
    a_cancelled_wait_for_a_shutdown_is_answered,
    a_task_of_a_function_that_is_given_up_is_cancelled,
    a_task_of_a_function_that_is_waited_for_goes_on,
    a_remote_task_in_a_set_of_futures_answers_a_cancel,
    a_function_of_an_executor_in_a_set_of_futures_answers_a_cancel,
    a_remote_task_that_leaves_its_thread_takes_its_wait_along,
);

/// A task that runs `body` in the scope.
fn within<T: 'static>(
    scope: &CancelScope,
    body: impl Future<Output = io::Result<T>> + 'static,
) -> Task<io::Result<Option<T>>> {
    spawn(scope.run(body))
}

/// "False to ignore cancellations in the host task until the operation has completed in the worker thread"
fn a_cancelled_wait_goes_on_until_the_thread_is_done_and_is_a_success(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let (release, released) = mpsc::channel::<()>();
        let task =
            within(&scope, async move { Ok(to_thread::run_sync(move || released.recv().is_ok()).await?) });
        turns(3).await;
        scope.cancel();
        turns(10).await;
        assert!(!task.is_finished());
        release.send(()).expect("the thread waits");
        assert_eq!(task.await??, Some(true));
        assert!(!scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// "Check if the cancel scope of the host task's running the current worker thread has been cancelled."
fn the_function_of_a_cancelled_wait_is_told_and_may_return_early(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let (begin, begins) = mpsc::channel();
        let work = move || {
            begin.send(()).expect("somebody waits");
            loop {
                from_thread::check_cancelled()?;
                thread::yield_now();
            }
        };
        let task = within(&scope, async move { to_thread::run_sync(work).await.map_err(io::Error::from)? });
        until(|| begins.try_recv().is_ok()).await;
        scope.cancel();
        let outcome: Option<()> = task.await??;
        assert!(
            outcome.is_none() && scope.cancelled_caught(),
            "its error is a cancellation, and the scope's own"
        );
        Ok::<_, io::Error>(())
    });
}

/// "True to abandon the thread (leaving it to run unchecked on own) if the host task is cancelled"
fn an_abandoning_wait_answers_at_once_and_the_function_goes_on(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let (begin, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let work = move || {
            begin.send(()).expect("somebody waits");
            let _ = released.recv();
            tell.send(from_thread::check_cancelled().is_err()).expect("somebody waits");
        };
        let task =
            within(&scope, async move { Ok(to_thread::run_sync(work).abandon_on_cancel(true).await?) });
        until(|| begins.try_recv().is_ok()).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        release.send(()).expect("the thread still waits");
        assert_eq!(told.recv(), Ok(true), "it goes on, and could have known");
        Ok::<_, io::Error>(())
    });
}

fn in_a_cancelled_scope_no_function_is_given_to_a_thread(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        scope.cancel();
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let outcome = scope.run(async {
            let error =
                to_thread::run_sync(move || flag.store(true, Ordering::SeqCst)).await.expect_err("cancelled");
            assert!(matches!(error, JoinError::WaitCancelled(_)), "{error}");
            Err::<(), _>(io::Error::from(error))
        });
        assert_eq!(outcome.await?, None);
        assert!(!ran.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

fn a_wait_for_a_token_is_cancelled_and_nothing_runs(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let limiter = CapacityLimiter::new(1);
        let token = limiter.acquire().await?;
        let ran = Arc::new(AtomicBool::new(false));
        let (flag, theirs) = (ran.clone(), limiter.clone());
        let task = within(&scope, async move {
            Ok(to_thread::run_sync(move || flag.store(true, Ordering::SeqCst)).limiter(&theirs).await?)
        });
        turns(3).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        drop(token);
        assert_eq!(limiter.borrowed_tokens(), 0);
        assert!(!ran.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

fn a_deadline_reaches_an_abandoning_wait(cx: Cx) {
    cx.run(async {
        let (release, released) = mpsc::channel::<()>();
        let work = to_thread::run_sync(move || released.recv().is_ok()).abandon_on_cancel(true);
        let limit = std::time::Duration::from_millis(2);
        let outcome =
            proactor::cancel::move_on_after(limit, async { Ok::<_, io::Error>(work.await?) }).await?;
        assert_eq!(outcome, None);
        drop(release);
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_wait_takes_a_queued_function_of_an_executor_back(cx: Cx) {
    cx.run(async {
        let executor = Executor::builder().max_workers(1).build();
        let (release, released) = mpsc::channel::<()>();
        drop(executor.submit(move || released.recv().is_ok())?);
        let scope = CancelScope::new();
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let queued = run_in_executor(Some(&executor), move || flag.store(true, Ordering::SeqCst))?;
        let task = within(&scope, async move { Ok(queued.await?) });
        turns(3).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        drop(release);
        executor.shutdown(LIMIT).await?;
        assert!(!ran.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_receive_loses_no_item(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        for n in 0..100 {
            let scope = CancelScope::new();
            let theirs = receiver.clone();
            let task = within(&scope, async move { theirs.receive().await });
            turns(1).await;
            scope.cancel();
            assert_eq!(task.await??, None);
            sender.send(n).await?;
            assert_eq!(receiver.receive().await?, Some(n));
        }
        Ok::<_, io::Error>(())
    });
}

/// Rule 3 of cancelling: what was granted already is a success.
fn an_item_that_came_before_the_cancel_is_received(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let scope = CancelScope::new();
        let task = within(&scope, async move { receiver.receive().await });
        turns(3).await;
        sender.try_send(7)?;
        scope.cancel();
        assert_eq!(task.await??, Some(Some(7)));
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_send_gives_its_item_back(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        sender.send(1).await?;
        let scope = CancelScope::new();
        let back = Rc::new(Cell::new(None));
        let kept = back.clone();
        let task = within(&scope, async move {
            sender.send(2).await.map_err(|unsent| {
                kept.set(Some(unsent.item));
                unsent.error
            })
        });
        turns(3).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        assert_eq!(back.get(), Some(2));
        assert_eq!((receiver.receive().await?, receiver.receive().await?), (Some(1), None));
        Ok::<_, io::Error>(())
    });
}

fn in_a_cancelled_scope_a_channel_is_left_alone(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(2);
        sender.send(1).await?;
        let scope = CancelScope::new();
        scope.cancel();
        let outcome = scope.run(async {
            assert!(receiver.receive().await.is_err());
            assert_eq!(sender.send(2).await.expect_err("cancelled").item, 2);
            receiver.receive().await
        });
        assert_eq!(outcome.await?, None);
        assert_eq!(receiver.len(), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_wait_for_a_remote_task_lets_it_go_on(cx: Cx) {
    cx.run(async {
        let (release, released) = channel::<()>(0);
        let (tell, told) = channel(1);
        let remote = proactor::current()?.spawn(async move || {
            let end = released.receive().await;
            tell.send(1).await.expect("somebody waits");
            end.is_ok()
        })?;
        let scope = CancelScope::new();
        let task = within(&scope, async move { Ok(remote.await?) });
        turns(3).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        drop(release);
        assert_eq!(told.receive().await?, Some(1));
        Ok::<_, io::Error>(())
    });
}

fn a_remote_task_is_cancelled_with_a_message(cx: Cx) {
    cx.run(async {
        let mut remote =
            proactor::current()?.spawn(async || sleep(std::time::Duration::from_secs(3600)).await)?;
        let (tell, told) = mpsc::channel();
        remote.add_done_callback(move || tell.send(()).expect("somebody waits"));
        turns(3).await;
        assert!(!remote.is_finished());
        let remote = to_thread::run_sync(move || {
            assert!(remote.cancel("enough"));
            let outcome = remote.wait(LIMIT);
            (remote, outcome.map(|slept| slept.expect_err("cancelled").message().map(str::to_owned)))
        });
        let (remote, outcome) = remote.await?;
        assert_eq!(outcome?.as_deref(), Some("enough"));
        assert!(remote.is_finished() && !remote.cancel("too late"));
        assert_eq!(told.try_recv(), Ok(()));
        Ok::<_, io::Error>(())
    });
}

fn a_remote_task_that_refuses_its_cancel_gives_its_result(cx: Cx) {
    cx.run(async {
        let remote = proactor::current()?.spawn(async || {
            let cut = sleep(std::time::Duration::from_secs(3600)).await.is_err();
            (cut, 7)
        })?;
        turns(3).await;
        remote.cancel("please");
        assert_eq!(remote.await?, (true, 7));
        Ok::<_, io::Error>(())
    });
}

fn a_remote_task_is_told_of_a_cancel_before_it_began(cx: Cx) {
    cx.run(async {
        let remote = proactor::current()?.spawn(async || pending::<()>().await)?;
        remote.cancel("at once");
        assert!(remote.await.is_err());
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_wait_for_a_shutdown_is_answered(cx: Cx) {
    cx.run(async {
        let executor = Executor::new();
        let (release, released) = mpsc::channel::<()>();
        drop(executor.submit(move || released.recv().is_ok())?);
        let scope = CancelScope::new();
        let task = within(&scope, executor.shutdown(None));
        turns(3).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        drop(release);
        executor.shutdown(LIMIT).await
    });
}

/// What a thread asks of the loop runs in the scope of its host: AnyIO's `from_thread.run`.
fn a_task_of_a_function_that_is_given_up_is_cancelled(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let (tell, told) = mpsc::channel();
        let (begin, begins) = mpsc::channel();
        let work = move || {
            let ended = from_thread::run(async move || {
                begin.send(()).expect("somebody waits");
                sleep_forever().await
            });
            // The task itself tells that it was cancelled; another is not begun.
            let next = from_thread::run(async || ()).map_err(|error| error.to_string());
            tell.send((ended.map(|ended| ended.is_err()).ok(), next)).expect("somebody waits");
        };
        let task =
            within(&scope, async move { Ok(to_thread::run_sync(work).abandon_on_cancel(true).await?) });
        until(|| begins.try_recv().is_ok()).await;
        scope.cancel();
        assert_eq!(task.await??, None);
        let mut end = None;
        until(|| {
            end = told.try_recv().ok();
            end.is_some()
        })
        .await;
        let (ended, next) = end.expect("the function goes on");
        assert_eq!(ended, Some(true));
        let error = next.expect_err("given up");
        assert!(error.contains("nobody waits for the function"), "{error}");
        Ok::<_, io::Error>(())
    });
}

fn a_task_of_a_function_that_is_waited_for_goes_on(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let (begin, begins) = mpsc::channel();
        let (release, released) = channel::<()>(0);
        let work = move || {
            from_thread::run(async move || {
                begin.send(()).expect("somebody waits");
                released.receive().await.is_ok()
            })
        };
        let task = within(&scope, async move { Ok(to_thread::run_sync(work).await?) });
        until(|| begins.try_recv().is_ok()).await;
        scope.cancel();
        turns(5).await;
        assert!(!task.is_finished());
        drop(release);
        assert_eq!(task.await??.transpose()?, Some(true));
        Ok::<_, io::Error>(())
    });
}

/// Runs a set of futures that polls `waiting` only when it is woken, cancels their scope, and expects `waiting`, not the
/// scope, to have answered.
async fn in_a_set_of_futures<T>(
    waiting: impl Future<Output = Result<T, JoinError>> + 'static,
) -> io::Result<()> {
    let (scope, answered) = (CancelScope::new(), Rc::new(Cell::new(false)));
    let answer = answered.clone();
    let task = within(&scope, async move {
        let mut set: FuturesUnordered<_> = std::iter::once(waiting).collect();
        let ended = set.next().await.expect("one future");
        answer.set(matches!(ended, Err(JoinError::WaitCancelled(_))));
        Ok(ended.map(drop)?)
    });
    turns(3).await;
    scope.cancel();
    assert_eq!(task.await??, None);
    assert!(answered.get());
    Ok(())
}

fn a_remote_task_in_a_set_of_futures_answers_a_cancel(cx: Cx) {
    cx.run(async {
        let mut remote = proactor::current()?.spawn(async || pending::<()>().await)?;
        let waiting = async move {
            let ended = (&mut remote).await;
            remote.cancel("enough");
            ended
        };
        in_a_set_of_futures(waiting).await
    });
}

fn a_function_of_an_executor_in_a_set_of_futures_answers_a_cancel(cx: Cx) {
    cx.run(async {
        let executor = Executor::new();
        let (release, released) = mpsc::channel::<()>();
        let job = executor.submit(move || released.recv().is_err())?;
        in_a_set_of_futures(job).await?;
        drop(release);
        Ok::<_, io::Error>(())
    });
}

fn a_remote_task_that_leaves_its_thread_takes_its_wait_along(cx: Cx) {
    cx.run(async {
        let (release, released) = channel::<()>(0);
        let remote = proactor::current()?.spawn(async move || released.receive().await.is_ok())?;
        let mut set: FuturesUnordered<_> = std::iter::once(remote).collect();
        turns(3).await;
        let without = metrics().waits;
        assert!(poll_fn(|cx| Poll::Ready(set.poll_next_unpin(cx).is_pending())).await);
        assert_eq!(metrics().waits, without + 1);
        let remote = std::mem::take(&mut set).into_iter().next().expect("one future");
        thread::spawn(move || drop(remote)).join().expect("the thread ends");
        until(|| metrics().waits == without).await;
        drop(release);
        Ok::<_, io::Error>(())
    });
}
