//! The ends of task groups: panics, drops, and who is waited for however it ends.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use futures_util::FutureExt;
use proactor::cancel::{CancelScope, TaskGroup, checkpoint, shielded, task_group};
use proactor::sync::Event;
use proactor::{metrics, sleep, spawn, yield_now};

use crate::cancel::{LONG, Log, OnDrop, cleans_up, ms, virtually, yields};
use crate::harness::{Cx, both_drivers, many, needs, until};

both_drivers!(
    starting_a_child_after_the_end_is_a_panic,
    starting_a_child_while_the_loop_ends_refuses_it,
    a_hundred_thousand_children,
    the_panic_of_the_body_comes_out_after_the_children,
    the_panic_of_a_child_comes_out_after_the_body,
    of_several_panics_the_first_comes_out,
    a_panic_wins_over_errors,
    a_group_that_is_dropped_cancels_its_children,
    a_group_that_waits_for_its_children_and_is_dropped_cancels_them,
    a_group_that_is_never_polled_does_nothing,
    a_task_outside_of_the_group_is_not_cancelled_by_it,
    groups_in_groups_end_from_the_inside,
    the_join_is_not_cut_short_by_a_second_cancel,
);

/// AnyIO: "This task group is not active; no new tasks can be started." Misuse is a panic.
fn starting_a_child_after_the_end_is_a_panic(cx: Cx) {
    cx.run(async {
        let mut kept = None;
        task_group(async |group| {
            kept = Some(group.clone());
            Ok::<_, io::Error>(())
        })
        .await?;
        let group = kept.expect("kept");
        let started = catch_unwind(AssertUnwindSafe(|| group.start_soon(async { Ok(()) })));
        let text = started.expect_err("a panic").downcast_ref::<&str>().copied().unwrap_or_default();
        assert!(text.contains("over"), "{text}");
        Ok::<_, io::Error>(())
    });
}

/// As `spawn`: what a destructor starts while the loop ends is refused, and harms nothing.
fn starting_a_child_while_the_loop_ends_refuses_it(cx: Cx) {
    struct Starts(TaskGroup<io::Error>, Rc<Cell<bool>>);
    impl Drop for Starts {
        fn drop(&mut self) {
            let guard = OnDrop(self.1.clone());
            let child = self.0.start_soon(async move {
                let _guard = guard;
                pending().await
            });
            assert!(child.is_finished() && !child.cancel("it never ran"));
        }
    }
    let dropped = Rc::new(Cell::new(false));
    let seen = dropped.clone();
    cx.run_and_keep(async move {
        let group = task_group(async move |group| {
            let starts = Starts(group.clone(), seen);
            group.start_soon(async move {
                let _starts = starts;
                pending().await
            });
            Ok::<_, io::Error>(())
        });
        drop(spawn(group));
        yields(3).await;
    });
    assert!(dropped.get(), "the future of the refused child is dropped");
}

/// PARITY S3, by the number.
fn a_hundred_thousand_children(cx: Cx) {
    let children = many(100_000) as u32;
    if !needs(0, children as usize / 250) {
        return;
    }
    cx.run(async {
        let (count, cut) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let outcome = task_group(async |group| {
            for number in 0..children {
                let (count, cut) = (count.clone(), cut.clone());
                group.start_soon(async move {
                    count.set(count.get() + 1);
                    if number % 2 == 0 {
                        return Ok(yield_now().await);
                    }
                    let slept = sleep(LONG).await;
                    cut.set(cut.get() + 1);
                    Ok(slept?)
                });
            }
            yields(200).await;
            assert_eq!(group.live_children() as u32, children / 2);
            group.cancel_scope().cancel();
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, Some(()));
        assert_eq!((count.get(), cut.get()), (children, children / 2));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 10.
fn the_panic_of_the_body_comes_out_after_the_children(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let group = task_group(async |group| {
            group.start_soon(cleans_up(&log, "child"));
            yield_now().await;
            panic!("the body");
            #[allow(unreachable_code)]
            Ok::<(), io::Error>(())
        });
        let panic = AssertUnwindSafe(group).catch_unwind().await.expect_err("a panic");
        assert_eq!(panic.downcast_ref(), Some(&"the body"));
        log.expect(&["child"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 10: also out of the task that holds the group.
fn the_panic_of_a_child_comes_out_after_the_body(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let group = task_group(async |group| {
            group.start_soon(async { panic!("the child") });
            let slept = sleep(LONG).await;
            shielded(yields(3)).await;
            log.note("body cleaned up");
            Ok::<_, io::Error>(slept?)
        });
        let panic = AssertUnwindSafe(group).catch_unwind().await.expect_err("a panic");
        assert_eq!(panic.downcast_ref(), Some(&"the child"));
        log.expect(&["body cleaned up"]);
        Ok::<_, io::Error>(())
    });
}

/// Only one can be raised; the panic hook has told of the others.
fn of_several_panics_the_first_comes_out(cx: Cx) {
    cx.run(async {
        let group = task_group(async |group| {
            for text in ["first", "second", "third"] {
                group.start_soon(async move { std::panic::panic_any(text) });
            }
            checkpoint().await?;
            panic!("the body, last");
            #[allow(unreachable_code)]
            Ok::<(), io::Error>(())
        });
        let panic = AssertUnwindSafe(group).catch_unwind().await.expect_err("a panic");
        assert_eq!(panic.downcast_ref(), Some(&"first"));
        Ok::<_, io::Error>(())
    });
}

/// A bug is not hidden behind a failure.
fn a_panic_wins_over_errors(cx: Cx) {
    cx.run(async {
        let group = task_group(async |group| {
            group.start_soon(async { Err(io::Error::other("an error")) });
            group.start_soon(async { panic!("a panic") });
            Ok::<_, io::Error>(())
        });
        let panic = AssertUnwindSafe(group).catch_unwind().await.expect_err("a panic");
        assert_eq!(panic.downcast_ref(), Some(&"a panic"));
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4: "if the group's own future is dropped, its scope is cancelled and the loop adopts the children".
fn a_group_that_is_dropped_cancels_its_children(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let mut group = Box::pin(task_group(async |group| {
            group.start_soon(cleans_up(&log, "child"));
            sleep(LONG).await?;
            Ok::<_, io::Error>(())
        }));
        assert!(group.as_mut().now_or_never().is_none());
        yields(2).await;
        drop(group);
        until(|| metrics().tasks == 0).await;
        log.expect(&["child"]);
        checkpoint().await.map_err(io::Error::from)
    });
}

/// The same, in the other state.
fn a_group_that_waits_for_its_children_and_is_dropped_cancels_them(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let mut group = Box::pin(task_group(async |group| {
            group.start_soon(cleans_up(&log, "child"));
            Ok::<_, io::Error>(())
        }));
        assert!(group.as_mut().now_or_never().is_none());
        yields(2).await;
        drop(group);
        until(|| metrics().tasks == 0).await;
        log.expect(&["child"]);
        Ok::<_, io::Error>(())
    });
}

/// A future does nothing unless it is polled.
fn a_group_that_is_never_polled_does_nothing(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        drop(task_group(async |_| Ok::<_, io::Error>(log.note("body"))));
        log.expect(&[]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: only the tasks of the group are in its scope.
fn a_task_outside_of_the_group_is_not_cancelled_by_it(cx: Cx) {
    cx.run(async {
        let free = Event::new();
        let mut outside = None;
        let outcome = task_group(async |group| {
            let event = free.clone();
            outside = Some(spawn(async move { event.wait().await }));
            group.cancel_scope().cancel();
            Ok::<_, io::Error>(checkpoint().await?)
        });
        assert_eq!(outcome.await?, None);
        yields(5).await;
        let outside = outside.expect("spawned");
        assert!(!outside.is_finished());
        free.set();
        assert_eq!(outside.await?, Ok(()));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Nested nurseries".
fn groups_in_groups_end_from_the_inside(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let outcome = task_group(async |outer| {
            let notes = log.clone();
            outer.start_soon(async move {
                let inner = task_group(async |inner| {
                    inner.start_soon(cleans_up(&notes, "innermost"));
                    Ok::<_, io::Error>(())
                });
                let ended = inner.await;
                notes.note("inner group");
                ended?;
                Ok(())
            });
            yields(3).await;
            outer.cancel_scope().cancel();
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, Some(()));
        log.expect(&["innermost", "inner group"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 10: "the join is not cancellable".
fn the_join_is_not_cut_short_by_a_second_cancel(cx: Cx) {
    virtually(cx, async {
        let (log, scope) = (Log::default(), CancelScope::new());
        let notes = log.clone();
        let outcome = scope.run(async {
            let group = task_group(async |group| {
                group.start_soon(async move {
                    let slept = sleep(LONG).await;
                    shielded(sleep(ms(20))).await?;
                    notes.note("child");
                    Ok(slept?)
                });
                Ok::<_, io::Error>(())
            });
            scope.cancel();
            scope.cancel();
            let ended = group.await;
            log.note("group");
            ended.map_err(io::Error::from)
        });
        assert!(outcome.await?.is_none());
        log.expect(&["child", "group"]);
        Ok::<_, io::Error>(())
    });
}
