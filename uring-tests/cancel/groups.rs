//! Task groups: who is waited for, who is cancelled, and what comes out.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use proactor::cancel::{
    CancelScope, TaskGroup, checkpoint, move_on_after, shielded, sleep_forever, task_group,
};
use proactor::sync::Event;
use proactor::{MayBeCancelled, sleep, spawn, yield_now};

use crate::cancel::{LONG, Log, cleans_up, ms, now, virtually, yields};
use crate::harness::{Cx, both_drivers, until};

both_drivers!(
    a_group_waits_for_all_of_its_children,
    a_group_without_children_is_its_body,
    children_run_beside_the_body_from_the_next_turn_on,
    the_body_may_borrow,
    children_start_siblings,
    a_child_may_hold_the_group_open_and_close_it,
    the_first_failure_cancels_the_others,
    a_failure_cancels_the_body,
    a_failure_of_the_body_cancels_the_children,
    the_children_clean_up_before_the_error_comes_out,
    the_groups_own_cancel_gives_none,
    the_groups_own_cancel_after_the_body_keeps_its_value,
    an_outer_cancel_reaches_the_children_and_passes_on,
    a_group_inside_a_time_limit_moves_on,
    a_child_that_was_cancelled_is_no_failure,
    a_cancelled_child_can_be_told_from_the_others,
    a_child_that_returns_the_cancellation_of_something_else_is_no_failure,
    a_body_that_fails_with_the_cancellation_of_something_else_cancels_the_children,
    a_child_that_ignores_the_cancel_is_waited_for,
    a_cancelled_group_lets_new_children_run_to_their_first_wait,
    live_children_are_counted,
    a_child_has_a_name_and_a_number,
    a_groups_scope_can_have_a_deadline,
);

/// AnyIO docs, "Creating and managing tasks": the group waits for all of its tasks.
fn a_group_waits_for_all_of_its_children(cx: Cx) {
    virtually(cx, async {
        let (begin, log) = (now(), Log::default());
        let outcome = task_group(async |group| {
            for (name, time) in [("slow", 30), ("fast", 10)] {
                let log = log.clone();
                group.start_soon(async move {
                    sleep(ms(time)).await?;
                    log.note(name);
                    Ok(())
                });
            }
            log.note("body");
            Ok::<_, io::Error>(7)
        });
        assert_eq!(outcome.await?, Some(7));
        log.expect(&["body", "fast", "slow"]);
        assert_eq!(now() - begin, ms(30));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: an empty group is no error.
fn a_group_without_children_is_its_body(cx: Cx) {
    cx.run(async {
        assert_eq!(task_group(async |_| Ok::<_, io::Error>(1)).await?, Some(1));
        let failed = task_group(async |_| Err::<(), _>(io::Error::other("body")));
        assert_eq!(failed.await.expect_err("failed").to_string(), "body");
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `start_soon`: "start a new task in this task group", without waiting for it.
fn children_run_beside_the_body_from_the_next_turn_on(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        task_group(async |group| {
            for name in ["one", "two"] {
                let log = log.clone();
                group.start_soon(async move { Ok(log.note(name)) });
            }
            log.note("body");
            checkpoint().await?;
            log.note("body again");
            Ok::<_, io::Error>(())
        })
        .await?;
        log.expect(&["body", "one", "two", "body again"]);
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4: "children are 'static; the body may borrow".
fn the_body_may_borrow(cx: Cx) {
    cx.run(async {
        let mut text = String::from("a");
        task_group(async |group| {
            group.start_soon(async { Ok(()) });
            text.push('b');
            Ok::<_, io::Error>(())
        })
        .await?;
        assert_eq!(text, "ab");
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: the group can be handed to its tasks.
fn children_start_siblings(cx: Cx) {
    fn tree(group: &TaskGroup<io::Error>, count: &Rc<Cell<u32>>, depth: u32) {
        count.set(count.get() + 1);
        if depth == 0 {
            return;
        }
        for _ in 0..2 {
            let (inner, count) = (group.clone(), count.clone());
            group.start_soon(async move {
                yield_now().await;
                tree(&inner, &count, depth - 1);
                Ok(())
            });
        }
    }
    cx.run(async {
        let count = Rc::new(Cell::new(0));
        task_group(async |group| Ok::<_, io::Error>(tree(group, &count, 6))).await?;
        assert_eq!(count.get(), 127);
        Ok::<_, io::Error>(())
    });
}

/// The group goes on as long as a child does, although its body ended long ago.
fn a_child_may_hold_the_group_open_and_close_it(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let outcome = task_group(async |group| {
            let (handle, notes) = (group.clone(), log.clone());
            group.start_soon(cleans_up(&log, "cut"));
            group.start_soon(async move {
                yields(5).await;
                notes.note("closes");
                handle.cancel_scope().cancel();
                Ok(())
            });
            Ok::<_, io::Error>("value")
        });
        assert_eq!(outcome.await?, Some("value"));
        log.expect(&["closes", "cut"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Creating and managing tasks": an exception in one task cancels the others.
fn the_first_failure_cancels_the_others(cx: Cx) {
    virtually(cx, async {
        let (begin, log) = (now(), Log::default());
        let failed = task_group(async |group| {
            group.start_soon(cleans_up(&log, "sibling"));
            group.start_soon(cleans_up(&log, "sibling"));
            group.start_soon(async {
                sleep(ms(5)).await?;
                Err(io::Error::other("broken"))
            });
            Ok::<_, io::Error>(())
        });
        let error = failed.await.expect_err("a failure");
        assert_eq!((error.errors().len(), error.to_string().as_str()), (1, "broken"));
        log.expect(&["sibling", "sibling"]);
        assert_eq!(now() - begin, ms(5));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: the host task is cancelled too.
fn a_failure_cancels_the_body(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let failed = task_group(async |group| {
            group.start_soon(async { Err(io::Error::other("broken")) });
            let slept = sleep(LONG).await;
            log.note("body cancelled");
            Ok::<_, io::Error>(slept?)
        });
        assert_eq!(failed.await.expect_err("a failure").errors().len(), 1);
        log.expect(&["body cancelled"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: so does an exception of the host task.
fn a_failure_of_the_body_cancels_the_children(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let failed = task_group(async |group| {
            group.start_soon(cleans_up(&log, "child"));
            yield_now().await;
            Err::<(), _>(io::Error::other("body"))
        });
        assert_eq!(failed.await.expect_err("a failure").to_string(), "body");
        log.expect(&["child"]);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, "Task groups": the remaining tasks are cancelled and waited for.
fn the_children_clean_up_before_the_error_comes_out(cx: Cx) {
    virtually(cx, async {
        let log = Log::default();
        let failed = task_group(async |group| {
            let notes = log.clone();
            group.start_soon(async move {
                let slept = sleep(LONG).await;
                shielded(sleep(ms(20))).await?;
                notes.note("cleaned up");
                Ok(slept?)
            });
            group.start_soon(async {
                checkpoint().await?;
                Err(io::Error::other("broken"))
            });
            Ok::<_, io::Error>(())
        });
        failed.await.expect_err("a failure");
        log.note("came out");
        log.expect(&["cleaned up", "came out"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `TaskGroup.cancel_scope`: cancelling it ends the group without an error.
fn the_groups_own_cancel_gives_none(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let mut scope = None;
        let outcome = task_group(async |group| {
            scope = Some(group.cancel_scope().clone());
            group.start_soon(cleans_up(&log, "child"));
            checkpoint().await?;
            group.cancel_scope().cancel();
            sleep(LONG).await?;
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, None);
        assert!(scope.expect("set").cancelled_caught());
        log.expect(&["child"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3: a body that returns a value is a success.
fn the_groups_own_cancel_after_the_body_keeps_its_value(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            group.start_soon(async { Ok(sleep(LONG).await?) });
            group.cancel_scope().cancel();
            Ok::<_, io::Error>(5)
        });
        assert_eq!(outcome.await?, Some(5));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Cancellation": scopes around groups.
fn an_outer_cancel_reaches_the_children_and_passes_on(cx: Cx) {
    cx.run(async {
        let (scope, log) = (CancelScope::new(), Log::default());
        let outcome = scope.run(async {
            let group = task_group(async |group| {
                group.start_soon(cleans_up(&log, "child"));
                checkpoint().await?;
                scope.cancel_with("from outside");
                sleep(LONG).await?;
                Ok::<_, io::Error>(())
            });
            let error = group.await.expect_err("cancelled");
            assert!(error.is_cancelled() && error.errors().is_empty());
            assert_eq!(error.to_string(), "task group cancelled: from outside");
            log.note("passes on");
            Err::<(), _>(io::Error::from(error))
        });
        assert!(outcome.await?.is_none());
        log.expect(&["child", "passes on"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Timeouts".
fn a_group_inside_a_time_limit_moves_on(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(5), async {
            let group = task_group(async |group| {
                group.start_soon(async { Ok(sleep_forever().await.map(drop)?) });
                Ok::<_, io::Error>("the body was done")
            });
            Ok::<_, io::Error>(group.await?)
        });
        assert!(outcome.await?.is_none());
        assert_eq!(now() - begin, ms(5));
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, "Task groups": a cancelled task is no failure of the group.
fn a_child_that_was_cancelled_is_no_failure(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let outcome = task_group(async |group| {
            let child = group.start_soon(cleans_up(&log, "cut"));
            let other = log.clone();
            group.start_soon(async move {
                yields(10).await;
                checkpoint().await?;
                other.note("other");
                Ok(())
            });
            checkpoint().await?;
            assert!(child.cancel("just this one"));
            Ok::<_, io::Error>("fine")
        });
        assert_eq!(outcome.await?, Some("fine"));
        log.expect(&["cut", "other"]);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Task.cancel` and `done`, for a child.
fn a_cancelled_child_can_be_told_from_the_others(cx: Cx) {
    cx.run(async {
        let message = Rc::new(RefCell::new(None));
        task_group(async |group| {
            let seen = message.clone();
            let child = group.start_soon(async move {
                let error = sleep(LONG).await.expect_err("cancelled");
                *seen.borrow_mut() = error.message().map(str::to_owned);
                Err(error.into())
            });
            assert!(!child.is_finished());
            child.cancel("its own reason");
            until(|| child.is_finished()).await;
            assert!(!child.cancel("too late"));
            Ok::<_, io::Error>(())
        })
        .await?;
        assert_eq!(message.take().as_deref(), Some("its own reason"));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO's rule: a `CancelledError` out of a child is never one of the group's exceptions.
fn a_child_that_returns_the_cancellation_of_something_else_is_no_failure(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            group.start_soon(async {
                let victim = spawn(sleep(LONG));
                victim.cancel("somebody else");
                Ok(victim.await??)
            });
            group.start_soon(async {
                yields(10).await;
                Ok(checkpoint().await?)
            });
            Ok::<_, io::Error>(1)
        });
        assert_eq!(outcome.await?, Some(1));
        Ok::<_, io::Error>(())
    });
}

/// asyncio's `TaskGroup.__aexit__`: any exception of the body, `CancelledError` among them, aborts the rest.
fn a_body_that_fails_with_the_cancellation_of_something_else_cancels_the_children(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let outcome = task_group(async |group| {
            group.start_soon(cleans_up(&log, "child"));
            let victim = spawn(sleep(LONG));
            victim.cancel("somebody else");
            Ok::<_, io::Error>(victim.await??)
        });
        let error = outcome.await.expect_err("it is not the group that was cancelled");
        assert!(error.is_cancelled() && error.errors().is_empty(), "{error}");
        log.expect(&["child"]);
        Ok::<_, io::Error>(())
    });
}

/// Structured concurrency: nobody is left behind.
fn a_child_that_ignores_the_cancel_is_waited_for(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let failed = task_group(async |group| {
            let notes = log.clone();
            group.start_soon(async move {
                for _ in 0..20 {
                    let _ = checkpoint().await;
                }
                notes.note("done nevertheless");
                Ok(())
            });
            Err::<(), _>(io::Error::other("body"))
        });
        failed.await.expect_err("a failure");
        log.expect(&["done nevertheless"]);
        Ok::<_, io::Error>(())
    });
}

/// Trio docs: tasks can be started in a cancelled nursery, and are cancelled at their first checkpoint.
fn a_cancelled_group_lets_new_children_run_to_their_first_wait(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let outcome = task_group(async |group| {
            group.cancel_scope().cancel();
            let notes = log.clone();
            group.start_soon(async move {
                notes.note("begun");
                checkpoint().await?;
                notes.note("not reached");
                Ok(())
            });
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, Some(()));
        log.expect(&["begun"]);
        Ok::<_, io::Error>(())
    });
}

/// What a program can ask a group.
fn live_children_are_counted(cx: Cx) {
    cx.run(async {
        task_group(async |group| {
            assert_eq!(group.live_children(), 0);
            let event = Event::new();
            for _ in 0..3 {
                let event = event.clone();
                group.start_soon(async move { Ok(event.wait().await?) });
            }
            assert_eq!(group.live_children(), 3);
            event.set();
            until(|| group.live_children() == 0).await;
            Ok::<_, io::Error>(())
        })
        .await?;
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `start_soon(name=…)`.
fn a_child_has_a_name_and_a_number(cx: Cx) {
    cx.run(async {
        task_group(async |group| {
            let child = group.start_soon(async { Ok(checkpoint().await?) });
            assert_eq!(&*child.name(), format!("Task-{}", child.id()));
            child.set_name("worker");
            assert_eq!(&*child.name(), "worker");
            let tasks = proactor::all_tasks();
            assert!(tasks.iter().any(|task| task.id == child.id() && &*task.name == "worker"));
            Ok::<_, io::Error>(())
        })
        .await?;
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: `tg.cancel_scope.deadline`.
fn a_groups_scope_can_have_a_deadline(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = task_group(async |group| {
            group.cancel_scope().set_deadline(Some(begin + ms(5)));
            group.start_soon(async { Ok(sleep(LONG).await?) });
            sleep(LONG).await?;
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, None);
        assert_eq!(now() - begin, ms(5));
        Ok::<_, io::Error>(())
    });
}
