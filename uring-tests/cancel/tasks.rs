//! Cancelling tasks, and looking at them.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::rc::Rc;

use futures_util::FutureExt;
use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded, sleep_forever, task_group};
use proactor::net::UnixStream;
use proactor::sync::Lock;
use proactor::{
    JoinError, Task, TaskState, all_tasks, current_task, event_loop, sleep, spawn, task_tree, yield_now,
};

use crate::cancel::{ForeignFlag, LONG, Log, cleans_up, ms, now, virtually, yields};
use crate::harness::{Cx, both_drivers, until};

both_drivers!(
    a_cancelled_task_ends_with_the_message,
    a_cancel_arrives_at_the_wait_that_the_task_is_in,
    a_task_may_refuse_to_be_cancelled,
    a_task_that_took_the_cancel_back_can_wait_again,
    a_task_that_did_not_take_it_back_is_cancelled_at_each_wait,
    uncancel_counts,
    requests_of_a_task_that_is_over_are_none,
    cancelling_a_task_that_is_over_is_false,
    a_task_that_was_cancelled_before_its_first_poll_runs_to_its_first_wait,
    a_task_that_never_waits_ends_well_although_cancelled,
    a_task_may_cancel_itself,
    clean_up_in_a_shield_runs_to_its_end,
    cancelled_tells_how_it_ended,
    a_dropped_handle_cancels_nothing,
    a_cancel_wins_over_a_wait_that_has_not_ended,
    a_result_that_is_there_wins_over_a_cancel,
    a_foreign_wait_is_dropped_by_a_cancel,
    cancelling_who_waits_for_a_task_leaves_that_task_alone,
    a_cancel_reaches_the_group_that_the_task_holds,
    a_scope_in_a_cancelled_task_does_not_catch_it,
    the_last_message_counts,
    tasks_have_names,
    the_current_task_is_the_one_that_asks,
    in_a_callback_there_is_no_current_task,
    all_tasks_are_listed_until_they_are_over,
    a_task_knows_its_parent,
    a_task_shows_its_state,
    a_task_shows_what_it_waits_for,
    a_task_shows_the_requests_to_cancel_it,
    the_tree_shows_who_spawned_whom,
    children_of_a_group_are_under_the_task_that_started_them,
);

/// asyncio docs, `Task.cancel(msg)`. PARITY X2.
fn a_cancelled_task_ends_with_the_message(cx: Cx) {
    cx.run(async {
        let task = spawn(sleep(LONG));
        yield_now().await;
        assert!(task.cancel("no longer needed"));
        let error = task.await?.expect_err("cancelled");
        assert_eq!(error.message(), Some("no longer needed"));
        assert_eq!(error.to_string(), "cancelled: no longer needed");
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, "Task cancellation": thrown in at the await.
fn a_cancel_arrives_at_the_wait_that_the_task_is_in(cx: Cx) {
    virtually(cx, async {
        let (begin, log) = (now(), Log::default());
        let notes = log.clone();
        let task = spawn(async move {
            notes.note("one");
            sleep(ms(5)).await?;
            notes.note("two");
            sleep(LONG).await?;
            notes.note("not reached");
            Ok::<_, io::Error>(())
        });
        sleep(ms(8)).await?;
        task.cancel("");
        assert!(task.await?.is_err());
        log.expect(&["one", "two"]);
        assert_eq!(now() - begin, ms(8));
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.cancel`: the coroutine may suppress it. PARITY T3.
fn a_task_may_refuse_to_be_cancelled(cx: Cx) {
    cx.run(async {
        let task = spawn(async {
            let _ = sleep(LONG).await;
            Ok::<_, io::Error>("refused")
        });
        yield_now().await;
        assert!(task.cancel("please"));
        until(|| task.is_finished()).await;
        assert!(!task.cancelled());
        assert_eq!(task.await??, "refused");
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.uncancel`: so the task can go on.
fn a_task_that_took_the_cancel_back_can_wait_again(cx: Cx) {
    virtually(cx, async {
        let handle: Rc<RefCell<Option<Task<_>>>> = Rc::default();
        let own = handle.clone();
        let task = spawn(async move {
            sleep(LONG).await.expect_err("cancelled");
            let left = own.borrow().as_ref().map(Task::uncancel);
            assert_eq!(left, Some(0));
            sleep(ms(5)).await.expect("it can wait again");
            "went on"
        });
        *handle.borrow_mut() = Some(task);
        yield_now().await;
        assert_eq!(handle.borrow().as_ref().map(|task| task.cancel("once")), Some(true));
        let task = async {
            sleep(ms(1)).await.expect("not cancelled");
            handle.take().expect("it is there")
        };
        assert_eq!(task.await.await?, "went on");
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4: level-triggered; asyncio's are edges, and this is said in the guide.
fn a_task_that_did_not_take_it_back_is_cancelled_at_each_wait(cx: Cx) {
    cx.run(async {
        let task = spawn(async {
            let mut refused = 0;
            for _ in 0..4 {
                refused += u32::from(sleep(LONG).await.is_err());
            }
            refused
        });
        yield_now().await;
        task.cancel("");
        assert_eq!(task.await?, 4);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.uncancel` and `cancelling`: a count.
fn uncancel_counts(cx: Cx) {
    cx.run(async {
        let event = proactor::sync::Event::new();
        let waits = event.clone();
        let task = spawn(async move { shielded(waits.wait()).await });
        yield_now().await;
        assert_eq!(task.cancel_requests(), 0);
        assert_eq!(task.uncancel(), 0);
        task.cancel("one");
        task.cancel("two");
        assert_eq!(task.cancel_requests(), 2);
        assert_eq!(task.uncancel(), 1);
        assert_eq!(task.uncancel(), 0);
        assert_eq!(task.uncancel(), 0);
        event.set();
        assert_eq!(task.await?, Ok(()));
        Ok::<_, io::Error>(())
    });
}

/// The same, after the end.
fn requests_of_a_task_that_is_over_are_none(cx: Cx) {
    cx.run(async {
        let task = spawn(sleep(LONG));
        task.cancel("");
        until(|| task.is_finished()).await;
        assert_eq!((task.cancel_requests(), task.uncancel()), (0, 0));
        assert!(task.await?.is_err());
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Future.cancel`: false if it is done.
fn cancelling_a_task_that_is_over_is_false(cx: Cx) {
    cx.run(async {
        let task = spawn(async { 1 });
        until(|| task.is_finished()).await;
        assert!(!task.cancel("too late"));
        assert_eq!(task.await?, 1);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 9; asyncio would not begin it.
fn a_task_that_was_cancelled_before_its_first_poll_runs_to_its_first_wait(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let notes = log.clone();
        let task = spawn(async move {
            notes.note("begun");
            checkpoint().await?;
            notes.note("not reached");
            Ok::<_, io::Error>(())
        });
        task.cancel("early");
        assert!(task.await?.is_err());
        log.expect(&["begun"]);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.cancel`: "does not guarantee that the Task will be cancelled".
fn a_task_that_never_waits_ends_well_although_cancelled(cx: Cx) {
    cx.run(async {
        let task = spawn(async { 3 });
        assert!(task.cancel("early"));
        assert_eq!(task.await?, 3);
        Ok::<_, io::Error>(())
    });
}

/// As `scope.cancel()` from inside.
fn a_task_may_cancel_itself(cx: Cx) {
    cx.run(async {
        let handle: Rc<RefCell<Option<Task<_>>>> = Rc::default();
        let own = handle.clone();
        let task = spawn(async move {
            own.borrow().as_ref().expect("it is there").cancel("by myself");
            checkpoint().await.expect_err("at once").message().map(str::to_owned)
        });
        *handle.borrow_mut() = Some(task);
        yields(3).await;
        let task = handle.take().expect("it is there");
        assert_eq!(task.await?.as_deref(), Some("by myself"));
        Ok::<_, io::Error>(())
    });
}

/// PARITY T3: "an async clean-up runs to its end".
fn clean_up_in_a_shield_runs_to_its_end(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let task = spawn(cleans_up(&log, "clean"));
        yield_now().await;
        task.cancel("");
        task.cancel("again");
        assert!(task.await?.is_err());
        log.expect(&["clean"]);
        Ok::<_, io::Error>(())
    });
}

/// PARITY T3: "cancelled() only true if it really ended so".
fn cancelled_tells_how_it_ended(cx: Cx) {
    cx.run(async {
        let cut = spawn(async { Ok::<_, io::Error>(sleep(LONG).await?) });
        let foreign = spawn(async { Ok::<_, io::Error>(pending::<()>().await) });
        let failed = spawn(async {
            let _ = sleep(LONG).await;
            Err::<(), _>(io::Error::other("its own"))
        });
        let well = spawn(async { Ok::<_, io::Error>(()) });
        yield_now().await;
        assert!(!cut.cancelled(), "it runs");
        for task in [&cut, &foreign, &failed] {
            task.cancel("");
        }
        until(|| [&cut, &foreign, &failed, &well].iter().all(|task| task.is_finished())).await;
        let ends = [cut.cancelled(), foreign.cancelled(), failed.cancelled(), well.cancelled()];
        assert_eq!(ends, [true, true, false, false]);
        for task in [cut, foreign, failed] {
            assert!(!matches!(task.await, Ok(Ok(()))));
        }
        well.await?
    });
}

/// DESIGN: dropping a handle detaches.
fn a_dropped_handle_cancels_nothing(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let notes = log.clone();
        drop(spawn(async move {
            for _ in 0..3 {
                checkpoint().await.expect("not cancelled");
            }
            notes.note("done");
        }));
        until(|| all_tasks().len() == 1).await;
        log.expect(&["done"]);
        Ok::<_, io::Error>(())
    });
}

/// asyncio's tests: what ends in the same turn as the cancel, after it, is cancelled.
fn a_cancel_wins_over_a_wait_that_has_not_ended(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire_nowait()?;
        let waits = lock.clone();
        let task = spawn(async move { waits.acquire().await.map(drop) });
        yield_now().await;
        task.cancel("first");
        drop(guard);
        yields(3).await;
        // Granted before it was polled again: success wins. Either way the lock is free again.
        let outcome = task.await?;
        assert!(outcome.is_ok() || outcome.is_err_and(|error| error.message() == Some("first")));
        assert!(!lock.is_locked());
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3, for a task's result.
fn a_result_that_is_there_wins_over_a_cancel(cx: Cx) {
    cx.run(async {
        let task = spawn(async { 8 });
        yields(2).await;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            Ok::<_, io::Error>(task.await?)
        });
        assert_eq!(outcome.await?, Some(8));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6, for a task.
fn a_foreign_wait_is_dropped_by_a_cancel(cx: Cx) {
    cx.run(async {
        let flag = Rc::new(ForeignFlag::default());
        let (waits, after) = (flag.clone(), Rc::new(Cell::new(false)));
        let reached = after.clone();
        let task = spawn(async move {
            waits.wait().await;
            reached.set(true);
        });
        yield_now().await;
        task.cancel("stop");
        let error = task.await.expect_err("dropped");
        assert!(matches!(error, JoinError::Cancelled(cancelled) if cancelled.message() == Some("stop")));
        flag.set();
        yields(3).await;
        assert!(!after.get() && Rc::strong_count(&flag) == 1);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 7; asyncio would cancel the inner task too: here that is what `shield` of asyncio does, always.
fn cancelling_who_waits_for_a_task_leaves_that_task_alone(cx: Cx) {
    cx.run(async {
        let event = proactor::sync::Event::new();
        let waits = event.clone();
        let inner = Rc::new(RefCell::new(Some(spawn(async move { waits.wait().await }))));
        let shared = inner.clone();
        let outer = spawn(async move {
            let mut task = shared.take().expect("it is there");
            let outcome = (&mut task).await;
            *shared.borrow_mut() = Some(task);
            outcome.map(drop)
        });
        yields(2).await;
        outer.cancel("only this one");
        let error = outer.await?.expect_err("the wait was cancelled");
        assert!(matches!(error, JoinError::WaitCancelled(_)));
        event.set();
        let inner = inner.take().expect("it was put back");
        assert_eq!(inner.await?, Ok(()));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 10: down the tree.
fn a_cancel_reaches_the_group_that_the_task_holds(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let notes = log.clone();
        let task = spawn(async move {
            let group = task_group(async |group| {
                group.start_soon(cleans_up(&notes, "child"));
                Ok::<_, io::Error>(sleep(LONG).await?)
            });
            group.await.map(drop).map_err(io::Error::from)
        });
        yields(3).await;
        task.cancel("all of it");
        assert_eq!(task.await?.expect_err("cancelled").to_string(), "cancelled: all of it");
        log.expect(&["child"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 7: the task's root is the outermost scope.
fn a_scope_in_a_cancelled_task_does_not_catch_it(cx: Cx) {
    cx.run(async {
        let task = spawn(async { move_on_after(LONG, sleep(LONG)).await });
        yields(2).await;
        task.cancel("the task");
        assert_eq!(task.await?.expect_err("cancelled").message(), Some("the task"));
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.cancel(msg)`: each call has one.
fn the_last_message_counts(cx: Cx) {
    cx.run(async {
        let task = spawn(sleep(LONG));
        task.cancel("one");
        task.cancel("two");
        assert_eq!(task.await?.expect_err("cancelled").message(), Some("two"));
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.get_name` and `set_name`. PARITY T2.
fn tasks_have_names(cx: Cx) {
    cx.run(async {
        assert_eq!(&*current_task().expect("main").name, "main");
        let task = spawn(async { current_task().expect("a task").name }).set_name("worker 1");
        assert_eq!(&*task.name(), "worker 1");
        assert_eq!(&*task.await?, "worker 1");
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `current_task`; AnyIO docs, `get_current_task`. PARITY T4.
fn the_current_task_is_the_one_that_asks(cx: Cx) {
    cx.run(async {
        let task = spawn(async {
            let before = current_task().expect("a task").id;
            sleep(ms(1)).await?;
            assert_eq!(current_task().expect("a task").id, before);
            Ok::<_, io::Error>(before)
        });
        let id = task.id();
        assert_ne!(current_task().expect("main").id, id);
        assert_eq!(task.await??, id);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `current_task`: none, if no task is running.
fn in_a_callback_there_is_no_current_task(cx: Cx) {
    let seen = Rc::new(Cell::new(None));
    let flag = seen.clone();
    cx.run(async move {
        event_loop::call_soon(move || flag.set(Some(current_task().is_none())))?;
        checkpoint().await.map_err(io::Error::from)
    });
    assert_eq!(seen.get(), Some(true));
    assert!(current_task().is_none(), "nor outside of a loop");
}

/// asyncio docs, `all_tasks`: not done yet. AnyIO docs, `get_running_tasks`.
fn all_tasks_are_listed_until_they_are_over(cx: Cx) {
    cx.run(async {
        assert_eq!(all_tasks().len(), 1, "the main one");
        let tasks: Vec<_> = (0..3).map(|_| spawn(sleep(LONG))).collect();
        let ids: Vec<_> = all_tasks().iter().skip(1).map(|task| task.id).collect();
        assert_eq!(ids, tasks.iter().map(Task::id).collect::<Vec<_>>());
        assert!(tasks.iter().all(|task| task.cancel("")));
        until(|| all_tasks().len() == 1).await;
        assert!(tasks.iter().all(Task::is_finished));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `TaskInfo.parent_id`.
fn a_task_knows_its_parent(cx: Cx) {
    cx.run(async {
        let main = current_task().expect("main");
        assert_eq!(main.parent, None);
        let outer = spawn(async {
            let inner = spawn(async { current_task().expect("a task").parent });
            (current_task().expect("a task").id, current_task().expect("a task").parent, inner.await)
        });
        let (id, parent, of_inner) = outer.await?;
        assert_eq!(parent, Some(main.id));
        assert_eq!(of_inner?, Some(id));
        Ok::<_, io::Error>(())
    });
}

#[track_caller]
fn state<T>(task: &Task<T>) -> TaskState {
    all_tasks().iter().find(|other| other.id == task.id()).expect("it is alive").state
}

/// PARITY T2: what a person sees of a task.
fn a_task_shows_its_state(cx: Cx) {
    cx.run(async {
        let task = spawn(async {
            let own = current_task().expect("a task").state;
            sleep(LONG).await.map(|()| own).map_err(|_| own)
        });
        assert_eq!(state(&task), TaskState::Ready);
        yield_now().await;
        assert_eq!(state(&task), TaskState::Waiting);
        task.cancel("");
        assert_eq!(state(&task), TaskState::Ready, "it has to be told");
        assert_eq!(task.await?, Err(TaskState::Running));
        Ok::<_, io::Error>(())
    });
}

/// PARITY T2: "where it waits".
fn a_task_shows_what_it_waits_for(cx: Cx) {
    cx.run(async {
        let (a, _b) = UnixStream::pair()?;
        let lock = Lock::new(());
        let guard = lock.acquire_nowait()?;
        let wants = lock.clone();
        let event = proactor::sync::Event::new();
        let waits = event.clone();
        let other = spawn(async move { waits.wait().await });
        let tasks = [
            ("time to pass", spawn(async { sleep(LONG).await.is_err() })),
            ("bytes from a peer", spawn(async move { a.receive().await.is_err() })),
            ("the end of a task", spawn(async { other.await.is_err() })),
            ("a cancel", spawn(async { sleep_forever().await.is_err() })),
            ("a lock", spawn(async move { wants.acquire().await.is_err() })),
        ];
        let foreign = spawn(pending::<()>());
        yields(3).await;
        for (what, task) in &tasks {
            let info = all_tasks().into_iter().find(|other| other.id == task.id()).expect("it is alive");
            assert_eq!(info.waits_for, [*what]);
            assert!(info.to_string().contains(&format!("waits for {what}, spawned at ")), "{info}");
        }
        let info = all_tasks().into_iter().find(|other| other.id == foreign.id()).expect("it is alive");
        assert!(info.waits_for.is_empty() && info.to_string().contains("something foreign"), "{info}");
        foreign.cancel("");
        for (_, task) in tasks {
            task.cancel("");
            assert!(task.await?);
        }
        event.set();
        drop(guard);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.cancelling`, for people.
fn a_task_shows_the_requests_to_cancel_it(cx: Cx) {
    cx.run(async {
        let event = proactor::sync::Event::new();
        let waits = event.clone();
        let task = spawn(async move { shielded(waits.wait()).await });
        yield_now().await;
        task.cancel("one");
        task.cancel("two");
        let info = all_tasks().pop().expect("the task");
        assert_eq!(info.cancel_requests, 2);
        assert!(info.to_string().contains("cancelled"), "{info}");
        event.set();
        assert_eq!(task.await?, Ok(()));
        Ok::<_, io::Error>(())
    });
}

/// PARITY T2 and T4.
fn the_tree_shows_who_spawned_whom(cx: Cx) {
    cx.run(async {
        let outer = spawn(async {
            let mut inner = spawn(sleep(LONG)).set_name("inner");
            (&mut inner).await.is_err() && inner.cancel("")
        })
        .set_name("outer");
        yields(3).await;
        let tree = task_tree().to_string();
        let lines: Vec<_> = tree.lines().collect();
        assert_eq!(lines.len(), 3, "{tree}");
        assert!(lines[0].starts_with("main runs"), "{tree}");
        assert!(lines[1].starts_with("└ outer waits for the end of a task"), "{tree}");
        assert!(lines[2].starts_with("  └ inner waits for time to pass"), "{tree}");
        assert!(lines.iter().skip(1).all(|line| line.contains("tasks.rs:")), "{tree}");
        outer.cancel("");
        assert!(outer.await?);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `TaskInfo.parent_id`: of the task that called `start_soon`.
fn children_of_a_group_are_under_the_task_that_started_them(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            group.start_soon(async { Ok(sleep(LONG).await?) }).set_name("child");
            checkpoint().await?;
            let tree = task_tree().to_string();
            assert!(tree.contains("\n└ child waits for time to pass"), "{tree}");
            group.cancel_scope().cancel();
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, Some(()));
        assert!(checkpoint().now_or_never().is_none());
        Ok::<_, io::Error>(())
    });
}
