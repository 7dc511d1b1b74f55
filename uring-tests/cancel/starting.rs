//! `TaskGroup::start`: a child that has to be ready before the starter goes on.

use std::cell::Cell;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use proactor::cancel::{
    CancelScope, NotStarted, TaskStatus, checkpoint, move_on_after, shielded, sleep_forever, task_group,
};
use proactor::net::{TcpListener, TcpStream};
use proactor::{MayBeCancelled, sleep, yield_now};

use crate::cancel::{LONG, Log, ms, now, virtually, yields};
use crate::harness::{Cx, both_drivers, until};

both_drivers!(
    start_gives_the_value_that_the_child_started_with,
    start_waits_until_the_child_has_started,
    after_its_start_a_child_goes_on_beside_the_body,
    a_listener_is_ready_when_its_start_is_over,
    a_child_that_ends_without_having_started_is_an_error,
    a_status_that_is_dropped_is_waited_for_until_the_child_ends,
    a_child_that_fails_before_its_start_fails_the_start_and_not_the_group,
    a_child_that_fails_after_its_start_fails_the_group,
    a_child_that_panics_before_its_start_panics_in_the_starter,
    a_child_that_panics_after_its_start_panics_in_the_group,
    a_cancel_during_the_start_waits_for_the_child,
    a_cancel_reaches_a_start_that_others_poll,
    a_child_that_starts_although_cancelled_is_a_success,
    a_cancel_of_the_group_during_a_start_ends_it,
    a_start_that_is_dropped_cancels_the_child,
    a_failure_of_a_child_whose_start_was_dropped_reaches_the_group,
    a_failure_that_nobody_fetched_reaches_the_group,
    several_starts_at_once,
    a_started_value_need_not_be_copied,
);

/// AnyIO reference, `TaskGroup.start`: "the value passed to task_status.started()".
fn start_gives_the_value_that_the_child_started_with(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let value = group.start(async |status: TaskStatus<_, _>| Ok(status.started(42))).await?;
            Ok::<_, io::Error>(value)
        });
        assert_eq!(outcome.await?, Some(42));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Starting and initializing tasks".
fn start_waits_until_the_child_has_started(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        task_group(async |group| {
            group
                .start(async |status: TaskStatus<_, _>| {
                    sleep(ms(7)).await?;
                    status.started(());
                    Ok(sleep(ms(50)).await?)
                })
                .await?;
            assert_eq!(now() - begin, ms(7));
            Ok::<_, io::Error>(())
        })
        .await?;
        assert_eq!(now() - begin, ms(57));
        Ok::<_, io::Error>(())
    });
}

/// The same.
fn after_its_start_a_child_goes_on_beside_the_body(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let notes = log.clone();
        task_group(async |group| {
            group
                .start(async move |status: TaskStatus<_, _>| {
                    status.started(());
                    notes.note("started");
                    yields(5).await;
                    notes.note("done");
                    Ok(())
                })
                .await?;
            log.note("body");
            Ok::<_, io::Error>(())
        })
        .await?;
        log.expect(&["started", "body", "done"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Starting and initializing tasks": its example, a server and its client.
fn a_listener_is_ready_when_its_start_is_over(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let address = group
                .start(async |status: TaskStatus<_, _>| {
                    let listener = TcpListener::bind("127.0.0.1:0").await?;
                    status.started(listener.local_addr()?);
                    loop {
                        listener.accept().await?.send("hello").await?;
                    }
                })
                .await?;
            for _ in 0..3 {
                let stream = TcpStream::connect(address).await?;
                assert_eq!(&stream.receive().await?.expect("bytes")[..], b"hello");
            }
            group.cancel_scope().cancel();
            Ok::<_, io::Error>("served")
        });
        assert_eq!(outcome.await?, Some("served"));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `start`: `RuntimeError` "if the task finishes without calling task_status.started()".
fn a_child_that_ends_without_having_started_is_an_error(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let start = group.start(async |_: TaskStatus<(), io::Error>| Ok(()));
            let error = start.await.expect_err("it did not start");
            assert!(error.get_ref().is_some_and(|inner| inner.is::<NotStarted>()), "{error}");
            checkpoint().await?;
            Ok::<_, io::Error>("the group goes on")
        });
        assert_eq!(outcome.await?, Some("the group goes on"));
        Ok::<_, io::Error>(())
    });
}

/// The same: what counts is the end of the task.
fn a_status_that_is_dropped_is_waited_for_until_the_child_ends(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        task_group(async |group| {
            let start = group.start(async |status: TaskStatus<(), io::Error>| {
                drop(status);
                Ok(sleep(ms(5)).await?)
            });
            start.await.expect_err("it did not start");
            assert_eq!(now() - begin, ms(5));
            Ok::<_, io::Error>(())
        })
        .await?;
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `nursery.start`: the exception comes out of `start`.
fn a_child_that_fails_before_its_start_fails_the_start_and_not_the_group(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let start = group.start(async |_: TaskStatus<(), io::Error>| {
                yield_now().await;
                Err(io::Error::other("no port"))
            });
            assert_eq!(start.await.expect_err("failed").to_string(), "no port");
            checkpoint().await?;
            Ok::<_, io::Error>("the group goes on")
        });
        assert_eq!(outcome.await?, Some("the group goes on"));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `nursery.start`: from then on it is a child as any other.
fn a_child_that_fails_after_its_start_fails_the_group(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            group
                .start(async |status: TaskStatus<_, _>| {
                    status.started(());
                    checkpoint().await?;
                    Err(io::Error::other("later"))
                })
                .await?;
            sleep(LONG).await?;
            Ok::<_, io::Error>(())
        });
        assert_eq!(failed.await.expect_err("failed").to_string(), "later");
        Ok::<_, io::Error>(())
    });
}

/// As for errors.
fn a_child_that_panics_before_its_start_panics_in_the_starter(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let start = group.start(async |_: TaskStatus<(), io::Error>| panic!("not ready"));
            let panic = AssertUnwindSafe(start).catch_unwind().await.expect_err("a panic");
            assert_eq!(panic.downcast_ref(), Some(&"not ready"));
            checkpoint().await?;
            Ok::<_, io::Error>("the group goes on")
        });
        assert_eq!(outcome.await?, Some("the group goes on"));
        Ok::<_, io::Error>(())
    });
}

/// As for errors.
fn a_child_that_panics_after_its_start_panics_in_the_group(cx: Cx) {
    cx.run(async {
        let group = task_group(async |group| {
            group
                .start(async |status: TaskStatus<_, _>| {
                    status.started(());
                    yield_now().await;
                    panic!("later")
                })
                .await?;
            sleep(LONG).await?;
            Ok::<_, io::Error>(())
        });
        let panic = AssertUnwindSafe(group).catch_unwind().await.expect_err("a panic");
        assert_eq!(panic.downcast_ref(), Some(&"later"));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO's rule: a cancelled `start` cancels the child and waits for it.
fn a_cancel_during_the_start_waits_for_the_child(cx: Cx) {
    virtually(cx, async {
        let (begin, log) = (now(), Log::default());
        let outcome = task_group(async |group| {
            let notes = log.clone();
            let start = group.start(async move |_: TaskStatus<(), io::Error>| {
                let slept = sleep(LONG).await;
                shielded(sleep(ms(20))).await?;
                notes.note("child cleaned up");
                Ok(slept?)
            });
            let cut = move_on_after(ms(5), start).await;
            assert!(cut?.is_none());
            log.note("start over");
            assert_eq!(now() - begin, ms(25));
            checkpoint().await?;
            Ok::<_, io::Error>("the group goes on")
        });
        assert_eq!(outcome.await?, Some("the group goes on"));
        log.expect(&["child cleaned up", "start over"]);
        Ok::<_, io::Error>(())
    });
}

/// The same, where the start is polled through a set of futures: its own waker is woken too.
fn a_cancel_reaches_a_start_that_others_poll(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = task_group(async |group| {
            let cut = move_on_after(ms(5), async {
                let starts = (0..2).map(|_| {
                    group.start(async |_: TaskStatus<(), io::Error>| Ok(sleep_forever().await.map(drop)?))
                });
                let mut starts: FuturesUnordered<_> = starts.collect();
                while let Some(started) = starts.next().await {
                    started?;
                }
                Ok::<_, io::Error>(())
            });
            assert!(cut.await?.is_none());
            assert_eq!(now() - begin, ms(5));
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, Some(()));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3: success wins.
fn a_child_that_starts_although_cancelled_is_a_success(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let scope = CancelScope::new();
            let handle = scope.clone();
            let value = scope.run(group.start(async move |status: TaskStatus<_, _>| {
                handle.cancel();
                let _ = sleep(LONG).await;
                status.started("started all the same");
                Ok(())
            }));
            let value = value.await?;
            Ok::<_, io::Error>(value)
        });
        assert_eq!(outcome.await?, Some(Some("started all the same")));
        Ok::<_, io::Error>(())
    });
}

/// A cancel of the group reaches both sides.
fn a_cancel_of_the_group_during_a_start_ends_it(cx: Cx) {
    cx.run(async {
        let outcome = task_group(async |group| {
            let handle = group.clone();
            group.start_soon(async move {
                yields(3).await;
                Ok(handle.cancel_scope().cancel())
            });
            let start = group.start(async |_: TaskStatus<(), io::Error>| Ok(sleep(LONG).await?));
            let error = start.await.expect_err("cancelled");
            assert!(error.is_cancelled());
            Err::<(), _>(error)
        });
        assert_eq!(outcome.await?, None);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `start`: "a child that has not started is cancelled, and the group waits for its end".
fn a_start_that_is_dropped_cancels_the_child(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        task_group(async |group| {
            let notes = log.clone();
            let mut start = Box::pin(group.start(async move |_: TaskStatus<(), io::Error>| {
                let slept = sleep(LONG).await;
                notes.note("cut");
                Ok(slept?)
            }));
            assert!(start.as_mut().now_or_never().is_none());
            yields(3).await;
            drop(start);
            Ok::<_, io::Error>(())
        })
        .await?;
        log.expect(&["cut"]);
        Ok::<_, io::Error>(())
    });
}

/// No error gets lost: nobody waits for the start, so it is the group's.
fn a_failure_of_a_child_whose_start_was_dropped_reaches_the_group(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            let mut start = Box::pin(group.start(async |_: TaskStatus<(), io::Error>| {
                let _ = sleep(LONG).await;
                Err(io::Error::other("clean-up failed"))
            }));
            assert!(start.as_mut().now_or_never().is_none());
            yields(3).await;
            drop(start);
            Ok::<_, io::Error>(())
        });
        assert_eq!(failed.await.expect_err("a failure").to_string(), "clean-up failed");
        Ok::<_, io::Error>(())
    });
}

/// The same, where the failure was there before the start was dropped.
fn a_failure_that_nobody_fetched_reaches_the_group(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            let over = Rc::new(Cell::new(false));
            let flag = over.clone();
            let mut start = Box::pin(group.start(async move |_: TaskStatus<(), io::Error>| {
                yield_now().await;
                flag.set(true);
                Err(io::Error::other("unheard"))
            }));
            assert!(start.as_mut().now_or_never().is_none());
            until(|| over.get()).await;
            drop(start);
            sleep(LONG).await?;
            Ok::<_, io::Error>(())
        });
        assert_eq!(failed.await.expect_err("a failure").to_string(), "unheard");
        Ok::<_, io::Error>(())
    });
}

/// Each start has its own child.
fn several_starts_at_once(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = task_group(async |group| {
            let starts = (1..=5_u64).map(|number| {
                group.start(async move |status: TaskStatus<_, _>| {
                    sleep(ms(10 - number)).await?;
                    status.started(number);
                    Ok(())
                })
            });
            let started = futures_util::future::join_all(starts).await;
            started.into_iter().collect::<io::Result<Vec<_>>>()
        });
        assert_eq!(outcome.await?, Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(now() - begin, ms(9));
        Ok::<_, io::Error>(())
    });
}

/// The value moves, whatever it is.
fn a_started_value_need_not_be_copied(cx: Cx) {
    cx.run(async {
        struct Unique(Vec<u8>);
        let outcome = task_group(async |group| {
            let unique = group.start(async |status: TaskStatus<_, _>| Ok(status.started(Unique(vec![1, 2]))));
            Ok::<_, io::Error>(unique.await?.0)
        });
        assert_eq!(outcome.await?, Some(vec![1, 2]));
        Ok::<_, io::Error>(())
    });
}
