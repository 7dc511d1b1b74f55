//! Futures that are set, and waiting for several tasks: asyncio's `Future`, `gather`, `wait`, `as_completed`, `shield`;
//! variables of tasks and loops; what happens to tasks when the main future is done.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded};
use proactor::context::{ContextVar, RunVar};
use proactor::future::{Future, FutureError, ReturnWhen, as_completed, gather, gather_results, wait};
use proactor::{Cancelled, JoinError, MayBeCancelled, current_task, sleep, spawn, yield_now};

use crate::cancel::OnDrop;
use crate::harness::{Cx, both_drivers, turns};

both_drivers!(
    a_result_is_set_once,
    a_result_that_is_not_there_is_an_error,
    an_error_reaches_every_waiter,
    an_error_that_nobody_fetches_is_told_when_the_future_goes,
    a_cancelled_future_is_no_cancellation_of_its_waiter,
    a_cancelled_wait_leaves_the_future_as_it_is,
    callbacks_run_soon_and_in_order,
    a_callback_of_a_done_future_runs_soon_too,
    a_removed_callback_does_not_run,
    gather_keeps_the_order_of_its_futures,
    gather_gives_the_first_error_and_lets_the_others_go_on,
    gather_cancelled_cancels_its_tasks,
    gather_dropped_cancels_its_tasks,
    a_cancelled_child_of_gather_cancels_no_other,
    gather_results_gives_errors_among_the_values,
    gather_of_nothing_is_done_at_once,
    wait_for_the_first_leaves_the_others,
    wait_for_the_first_exception_ends_with_it,
    wait_for_all_ends_with_the_last,
    wait_gives_what_is_done_when_its_time_is_over,
    wait_cancelled_loses_no_task,
    as_completed_gives_results_as_they_come,
    as_completed_times_out_and_goes_on,
    awaiting_a_task_shields_it,
    a_task_factory_sees_each_spawn,
    children_inherit_context_and_keep_theirs_apart,
    a_context_variable_is_reset_by_its_token,
    a_run_variable_belongs_to_its_loop,
    run_cancels_what_is_left_and_waits_for_it,
);

const HOUR: Duration = Duration::from_secs(3600);

fn virtually<T>(cx: Cx, main: impl std::future::Future<Output = io::Result<T>>) -> T {
    cx.run_with(cx.builder().virtual_clock(true), main)
}

// asyncio: "Future exception was never retrieved".
fn an_error_that_nobody_fetches_is_told_when_the_future_goes(cx: Cx) {
    cx.run(async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = heard.clone();
        let event_loop = proactor::EventLoop::running()?;
        event_loop
            .set_exception_handler(Some(Rc::new(move |context| log.borrow_mut().push(context.to_string()))));
        let failed = |error: io::Error| {
            let future = Future::<u8>::new();
            future.set_error(error).expect("the first");
            future
        };
        let unseen = failed(io::Error::other("lost"));
        let other = unseen.clone();
        drop(unseen);
        assert!(heard.borrow().is_empty(), "somebody may fetch it still");
        drop(other);
        assert_eq!(heard.take(), ["a future failed, and nobody has fetched its error: lost"]);
        // Asked for, awaited, looked at, cancelled: nothing is lost.
        assert!(failed(io::Error::other("seen")).error().is_ok_and(|error| error.is_some()));
        assert!(failed(io::Error::other("awaited")).await.is_err());
        assert!(failed(io::Error::other("looked at")).with(|result| result.is_err()));
        drop(failed(Cancelled::default().into()));
        Future::<u8>::new().cancel("enough");
        assert!(heard.borrow().is_empty(), "{heard:?}");
        Ok::<_, io::Error>(())
    });
}

// asyncio, Future.set_result: InvalidStateError if it is done already.
fn a_result_is_set_once(cx: Cx) {
    cx.run(async {
        let future = Future::new();
        future.set_result(1).expect("the first");
        assert_eq!(future.set_result(2).expect_err("the second").0, 2);
        assert!(future.set_error(io::Error::other("late")).is_err());
        assert!(!future.cancel("late"));
        assert_eq!(future.result().expect("a value"), 1);
        assert!(future.is_done() && !future.cancelled());
        Ok::<_, io::Error>(())
    });
}

// asyncio, Future.result and Future.exception before it is done.
fn a_result_that_is_not_there_is_an_error(cx: Cx) {
    cx.run(async {
        let future = Future::<u8>::new();
        assert!(matches!(future.result(), Err(FutureError::NotDone)));
        assert!(matches!(future.error(), Err(FutureError::NotDone)));
        future.cancel("no");
        assert!(matches!(future.result(), Err(FutureError::Cancelled(c)) if c.message() == Some("no")));
        Ok::<_, io::Error>(())
    });
}

// asyncio, Future.set_exception.
fn an_error_reaches_every_waiter(cx: Cx) {
    cx.run(async {
        let future = Future::<u8>::new();
        let waiters: Vec<_> = (0..3).map(|_| spawn(future.clone().into_future_boxed())).collect();
        yield_now().await;
        future.set_error(io::Error::other("broken")).expect("the first");
        for waiter in waiters {
            assert_eq!(waiter.await?.expect_err("an error").to_string(), "broken");
        }
        assert_eq!(future.error().expect("done").expect("an error").to_string(), "broken");
        Ok::<_, io::Error>(())
    });
}

trait Boxed<T> {
    fn into_future_boxed(
        self,
    ) -> std::pin::Pin<Box<dyn std::future::Future<Output = Result<T, FutureError>>>>;
}

impl<T: Clone + 'static> Boxed<T> for Future<T> {
    fn into_future_boxed(
        self,
    ) -> std::pin::Pin<Box<dyn std::future::Future<Output = Result<T, FutureError>>>> {
        Box::pin(async move { self.await })
    }
}

fn a_cancelled_future_is_no_cancellation_of_its_waiter(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let future = Future::<u8>::new();
            future.cancel("gone");
            scope.cancel();
            // What is there is had, and its error is none of this scope.
            shielded(async { future.await }).await.map_err(io::Error::from)
        });
        assert_eq!(outcome.await.expect_err("an error").to_string(), "the future was cancelled: gone");
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_wait_leaves_the_future_as_it_is(cx: Cx) {
    cx.run(async {
        let future = Future::new();
        let waiting = move_on_after(Duration::from_millis(1), async { Ok::<_, io::Error>((&future).await?) });
        assert_eq!(waiting.await?, None);
        future.set_result(3).expect("nobody cancelled it");
        assert_eq!(future.await.expect("a value"), 3);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Future.add_done_callback: through call_soon.
fn callbacks_run_soon_and_in_order(cx: Cx) {
    cx.run(async {
        let (future, order) = (Future::new(), Rc::new(RefCell::new(Vec::new())));
        for n in 0..3 {
            let order = order.clone();
            future.add_done_callback(move |future| {
                order.borrow_mut().push((n, future.result().expect("done")))
            });
        }
        future.set_result('x').expect("the first");
        assert!(order.borrow().is_empty(), "not inside of set_result");
        turns(2).await;
        assert_eq!(*order.borrow(), [(0, 'x'), (1, 'x'), (2, 'x')]);
        Ok::<_, io::Error>(())
    });
}

fn a_callback_of_a_done_future_runs_soon_too(cx: Cx) {
    cx.run(async {
        let (future, called) = (Future::new(), Rc::new(Cell::new(false)));
        future.set_result(()).expect("the first");
        let flag = called.clone();
        future.add_done_callback(move |_| flag.set(true));
        assert!(!called.get());
        turns(2).await;
        assert!(called.get());
        Ok::<_, io::Error>(())
    });
}

// asyncio, Future.remove_done_callback: returns the number of callbacks removed.
fn a_removed_callback_does_not_run(cx: Cx) {
    cx.run(async {
        let future = Future::new();
        let key = future.add_done_callback(|_| panic!("it was removed"));
        assert_eq!(future.remove_done_callback(key), 1);
        assert_eq!(future.remove_done_callback(key), 0);
        future.set_result(()).expect("the first");
        turns(2).await;
        Ok::<_, io::Error>(())
    });
}

// asyncio, gather: the order of the sequence, not of the arrival.
fn gather_keeps_the_order_of_its_futures(cx: Cx) {
    virtually(cx, async {
        let work = (0..100_u64).map(|n| async move {
            sleep(Duration::from_millis(100 - n)).await?;
            Ok::<_, io::Error>(n)
        });
        assert_eq!(gather(work).await?, (0..100).collect::<Vec<_>>());
        Ok(())
    });
}

// asyncio, gather: the first exception is propagated at once, the others are not cancelled.
fn gather_gives_the_first_error_and_lets_the_others_go_on(cx: Cx) {
    virtually(cx, async {
        let ended = Rc::new(Cell::new(0));
        let work = (1..=3_u64).map(|n| {
            let ended = ended.clone();
            async move {
                sleep(Duration::from_secs(n)).await?;
                ended.set(ended.get() + 1);
                if n == 2 { Err(io::Error::other("two")) } else { Ok(n) }
            }
        });
        assert_eq!(gather(work).await.expect_err("two fails").to_string(), "two");
        assert_eq!(ended.get(), 2);
        sleep(Duration::from_secs(2)).await?;
        assert_eq!(ended.get(), 3);
        Ok(())
    });
}

// asyncio, gather: if the outer one is cancelled, all children are.
fn gather_cancelled_cancels_its_tasks(cx: Cx) {
    virtually(cx, async {
        let messages = Rc::new(RefCell::new(Vec::new()));
        let work = (0..3).map(|_| {
            let messages = messages.clone();
            async move {
                let cancelled = sleep(HOUR).await.expect_err("cancelled");
                messages.borrow_mut().push(cancelled.to_string());
                Err::<(), io::Error>(cancelled.into())
            }
        });
        let outcome = move_on_after(Duration::from_secs(1), gather(work)).await?;
        assert!(outcome.is_none());
        turns(3).await;
        assert_eq!(messages.borrow().len(), 3);
        Ok(())
    });
}

fn gather_dropped_cancels_its_tasks(cx: Cx) {
    cx.run(async {
        let ended = Rc::new(Cell::new(false));
        let guard = OnDrop(ended.clone());
        drop(gather([async move {
            let _guard = guard;
            sleep(HOUR).await?;
            Ok::<_, io::Error>(())
        }]));
        turns(3).await;
        assert!(ended.get());
        Ok::<_, io::Error>(())
    });
}

// asyncio, gather: a cancelled child counts as one that raised CancelledError, others are not cancelled.
fn a_cancelled_child_of_gather_cancels_no_other(cx: Cx) {
    virtually(cx, async {
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        let cancelled = move |n| {
            let flag = flag.clone();
            async move {
                if n == 0 {
                    return Err(io::Error::from(Cancelled::default()));
                }
                sleep(Duration::from_secs(1)).await?;
                flag.set(true);
                Ok(())
            }
        };
        let error = gather((0..2).map(cancelled)).await.expect_err("one was cancelled");
        assert!(error.is_cancelled());
        sleep(Duration::from_secs(2)).await?;
        assert!(done.get());
        Ok(())
    });
}

// asyncio, gather with return_exceptions.
fn gather_results_gives_errors_among_the_values(cx: Cx) {
    cx.run(async {
        let results = gather_results((0..3).map(|n| async move {
            yield_now().await;
            assert!(n != 1, "one panics");
            n
        }));
        let results = results.await?;
        assert!(matches!(results[0], Ok(0)) && matches!(results[2], Ok(2)));
        assert_eq!(results[1].as_ref().expect_err("a panic").panic_message(), Some("one panics"));
        Ok::<_, io::Error>(())
    });
}

fn gather_of_nothing_is_done_at_once(cx: Cx) {
    cx.run(async {
        let nothing: Vec<std::future::Ready<io::Result<u8>>> = Vec::new();
        assert_eq!(gather(nothing).await?, []);
        Ok::<_, io::Error>(())
    });
}

fn naps(seconds: &[u64]) -> Vec<proactor::Task<io::Result<u64>>> {
    let nap = |n| async move {
        sleep(Duration::from_secs(n)).await?;
        if n == 13 { Err(io::Error::other("unlucky")) } else { Ok(n) }
    };
    seconds.iter().map(|&n| spawn(nap(n))).collect()
}

// asyncio, wait with FIRST_COMPLETED.
fn wait_for_the_first_leaves_the_others(cx: Cx) {
    virtually(cx, async {
        let mut tasks = naps(&[30, 10, 20]);
        let done = wait(&mut tasks, ReturnWhen::FirstCompleted).await?;
        assert_eq!((done.len(), tasks.len()), (1, 2));
        let rest = wait(&mut tasks, ReturnWhen::AllCompleted).await?;
        assert_eq!((rest.len(), tasks.len()), (2, 0));
        let mut values = Vec::new();
        for task in done.into_iter().chain(rest) {
            values.push(task.await??);
        }
        assert_eq!(values, [10, 30, 20]);
        Ok(())
    });
}

// asyncio, wait with FIRST_EXCEPTION.
fn wait_for_the_first_exception_ends_with_it(cx: Cx) {
    virtually(cx, async {
        let mut tasks = naps(&[30, 10, 13, 12]);
        let done = wait(&mut tasks, ReturnWhen::FirstException).await?;
        assert_eq!((done.len(), tasks.len()), (3, 1));
        assert_eq!(tasks.pop().expect("one").await??, 30);
        let mut tasks = naps(&[1, 2]);
        let done = wait(&mut tasks, ReturnWhen::FirstException).await?;
        assert_eq!((done.len(), tasks.len()), (2, 0), "without one it waits for all");
        Ok(())
    });
}

fn wait_for_all_ends_with_the_last(cx: Cx) {
    virtually(cx, async {
        let mut tasks = naps(&[3, 1, 13]);
        let done = wait(&mut tasks, ReturnWhen::AllCompleted).await?;
        assert_eq!((done.len(), tasks.len()), (3, 0));
        assert!(done[2].peek(|result| matches!(result, Ok(Err(_)))).expect("it is over"));
        assert!(wait(&mut tasks, ReturnWhen::AllCompleted).await?.is_empty(), "nothing to wait for");
        Ok(())
    });
}

// asyncio, wait: a time-out is no error.
fn wait_gives_what_is_done_when_its_time_is_over(cx: Cx) {
    virtually(cx, async {
        let mut tasks = naps(&[1, 5, 2]);
        let done = wait(&mut tasks, ReturnWhen::AllCompleted).timeout(Duration::from_secs(3)).await?;
        assert_eq!((done.len(), tasks.len()), (2, 1));
        assert_eq!(tasks.pop().expect("one").await??, 5);
        Ok(())
    });
}

fn wait_cancelled_loses_no_task(cx: Cx) {
    virtually(cx, async {
        let mut tasks = naps(&[5]);
        let outcome =
            move_on_after(Duration::from_secs(1), wait(&mut tasks, ReturnWhen::AllCompleted)).await?;
        assert!(outcome.is_none());
        assert_eq!(tasks.pop().expect("it is still there").await??, 5);
        Ok(())
    });
}

fn as_completed_gives_results_as_they_come(cx: Cx) {
    virtually(cx, async {
        let mut results = as_completed([3, 1, 2].map(|n| async move {
            sleep(Duration::from_secs(n)).await.expect("nobody cancels");
            n
        }));
        let mut order = Vec::new();
        while let Some(result) = results.next().await? {
            order.push(result?);
        }
        assert_eq!(order, [1, 2, 3]);
        Ok(())
    });
}

// asyncio, as_completed: the wait raises TimeoutError.
fn as_completed_times_out_and_goes_on(cx: Cx) {
    virtually(cx, async {
        let work = [1, 10].map(|n| async move { sleep(Duration::from_secs(n)).await.map(|()| n) });
        let mut results = as_completed(work).timeout(Duration::from_secs(5));
        assert_eq!(results.next().await?.expect("the first")??, 1);
        let late = results.next().await.expect_err("the second takes too long");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        sleep(Duration::from_secs(6)).await?;
        assert_eq!(results.next().await?.expect("the second")??, 10);
        assert!(results.next().await?.is_none());
        Ok(())
    });
}

// asyncio, shield: the caller is cancelled, the work goes on.
fn awaiting_a_task_shields_it(cx: Cx) {
    virtually(cx, async {
        let mut work = spawn(async {
            sleep(Duration::from_secs(2)).await?;
            Ok::<_, io::Error>("done")
        });
        let cut = move_on_after(Duration::from_secs(1), async { Ok::<_, io::Error>((&mut work).await?) });
        assert!(cut.await?.is_none());
        assert_eq!(work.await??, "done");
        Ok(())
    });
}

// asyncio, set_task_factory.
fn a_task_factory_sees_each_spawn(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let inside = seen.clone();
    event_loop.set_task_factory(Some(Rc::new(move |task| inside.borrow_mut().push((task.id, task.parent)))));
    let (first, second) = event_loop
        .run_until_complete(async {
            let first = spawn(async { spawn(async {}).id() });
            (first.id(), first.await.expect("a result"))
        })
        .expect("the loop runs");
    let ids: Vec<_> = seen.borrow().iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [first, second]);
    assert_eq!(seen.borrow()[1].1, Some(first), "its parent");
    assert!(event_loop.task_factory().is_some());
    event_loop.set_task_factory(None);
    assert!(event_loop.task_factory().is_none());
}

static LEVEL: ContextVar<u32> = ContextVar::new("level");

// contextvars: a task runs in a copy of the context of whoever made it.
fn children_inherit_context_and_keep_theirs_apart(cx: Cx) {
    cx.run(async {
        assert_eq!(LEVEL.get(), None);
        drop(LEVEL.set(1));
        let child = spawn(async {
            let inherited = LEVEL.get();
            drop(LEVEL.set(2));
            let grandchild = spawn(async { LEVEL.get() }).await;
            (inherited, grandchild.expect("a result"), LEVEL.get())
        });
        drop(LEVEL.set(10));
        assert_eq!(child.await?, (Some(1), Some(2), Some(2)));
        assert_eq!(LEVEL.get(), Some(10));
        assert!(current_task().is_some_and(|task| &*task.name == "main"));
        Ok::<_, io::Error>(())
    });
}

fn a_context_variable_is_reset_by_its_token(cx: Cx) {
    cx.run(async {
        spawn(async {
            let first = LEVEL.set(1);
            let second = LEVEL.set(2);
            LEVEL.reset(second);
            assert_eq!(LEVEL.get(), Some(1));
            LEVEL.reset(first);
            assert_eq!(LEVEL.get(), None);
        })
        .await?;
        Ok::<_, io::Error>(())
    });
}

// AnyIO, RunVar: as a ContextVar, but scoped to the running event loop.
fn a_run_variable_belongs_to_its_loop(cx: Cx) {
    static COUNT: RunVar<Rc<Cell<u32>>> = RunVar::new("count");
    for _ in 0..2 {
        cx.run(async {
            assert!(COUNT.get().is_none());
            let token = COUNT.set(Rc::new(Cell::new(5)));
            let count = spawn(async { COUNT.get() }).await?.expect("every task of the loop sees it");
            assert_eq!(count.get(), 5);
            COUNT.reset(token);
            assert!(COUNT.get().is_none());
            drop(COUNT.set(Rc::new(Cell::new(6))));
            Ok::<_, io::Error>(())
        });
    }
}

// asyncio, run: tasks that are left are cancelled, and waited for.
fn run_cancels_what_is_left_and_waits_for_it(cx: Cx) {
    proactor::EventLoop::set_policy(Some(cx.builder()));
    let log = Rc::new(RefCell::new(Vec::new()));
    let inside = log.clone();
    let outcome = proactor::run(async move {
        for n in 0..2 {
            let log = inside.clone();
            drop(spawn(async move {
                let cancelled = sleep(HOUR).await.expect_err("cancelled");
                shielded(async {
                    for _ in 0..3 {
                        checkpoint().await.expect("a shield");
                    }
                    sleep(Duration::from_millis(1)).await.expect("a shield");
                })
                .await;
                log.borrow_mut().push((n, cancelled.to_string()));
            }));
        }
        drop(spawn(pending::<()>()));
        yield_now().await;
        Ok::<_, io::Error>(5)
    });
    proactor::EventLoop::set_policy(None);
    assert_eq!(outcome.expect("its value"), 5);
    let message = || "cancelled: the main future is done".to_string();
    assert_eq!(*log.borrow(), [(0, message()), (1, message())]);
    let _: fn(JoinError) -> io::Error = io::Error::from;
}
