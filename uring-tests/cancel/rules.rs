//! The numbered rules of cancellation, each with a test that failed when the rule was broken on purpose.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded, sleep_forever, task_group};
use proactor::net::{TcpListener, UnixStream};
use proactor::{Cancelled, JoinError, MayBeCancelled, sleep, spawn, yield_now};

use crate::cancel::{ForeignFlag, OnDrop};
use crate::harness::{Cx, both_drivers, tcp_pair, turns, until};

both_drivers!(
    r01_a_wait_belongs_to_the_scope_it_was_polled_in_last,
    r01_what_outlives_a_scope_passes_to_its_parent,
    r02_the_scope_is_restored_after_each_poll,
    r03_success_wins_over_a_cancel,
    r03_a_body_that_returns_ok_in_a_cancelled_scope_is_a_success,
    r04_each_wait_in_a_cancelled_scope_answers,
    r04_nothing_is_submitted_in_a_cancelled_scope,
    r04_a_body_that_ignores_errors_does_not_keep_the_thread,
    r05_a_cancel_wakes_every_scope_inside,
    r06_a_foreign_future_is_dropped,
    r06_an_operation_that_nobody_polls_does_not_hold_the_scope,
    r06_shielded_clean_up_runs_to_its_end,
    r06_the_end_of_the_last_wait_is_noticed,
    r06_a_body_that_hands_over_through_a_foreign_future_is_not_dropped,
    r06_a_body_that_only_wakes_itself_is_dropped_in_the_end,
    r07_a_scope_catches_only_its_own_cancellation,
    r07_joining_a_cancelled_task_is_no_cancellation,
    r07_the_wait_for_a_task_is_cancelled_and_the_task_goes_on,
    r08_an_operation_that_is_awaited_in_a_cancelled_scope_is_asked_to_end,
    r08_an_operation_that_was_asked_to_end_answers_elsewhere_too,
    r09_a_task_that_was_cancelled_early_runs_to_its_first_wait,
    r10_a_group_that_was_cut_short_answers_cancelled,
    r10_a_panic_of_a_child_is_raised_in_the_parent_after_the_others_cleaned_up,
    r10_the_children_of_a_dropped_group_clean_up_alone,
    a_timeout_in_a_cancelled_scope_waits_for_the_answer_of_its_future,
    r12_a_future_that_outlives_its_loop_hits_nothing_of_the_next,
);

fn r01_a_wait_belongs_to_the_scope_it_was_polled_in_last(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let mut receive = Box::pin(a.receive_into(vec![0; 8]));
        // First polled outside of the scope, then inside.
        assert!(receive.as_mut().now_or_never().is_none());
        let outcome = move_on_after(Duration::from_millis(1), async {
            receive.as_mut().await.map(drop).map_err(io::Error::from)
        });
        assert_eq!(outcome.await?, None);
        Ok::<_, io::Error>(())
    });
}

fn r01_what_outlives_a_scope_passes_to_its_parent(cx: Cx) {
    cx.run(async {
        let mut nap = Box::pin(sleep_forever());
        let outer = CancelScope::new();
        let outcome = outer.run(async {
            move_on_after(Duration::from_secs(3600), async {
                assert!(nap.as_mut().now_or_never().is_none());
                Ok::<_, Cancelled>(())
            })
            .await?;
            outer.cancel();
            // It was woken, and answers here.
            nap.as_mut().await?;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

fn r02_the_scope_is_restored_after_each_poll(cx: Cx) {
    cx.run(async {
        let cancelled = CancelScope::new();
        cancelled.cancel();
        let inside = cancelled.run(async {
            yield_now().await;
            yield_now().await;
            checkpoint().await
        });
        let outside = async {
            for _ in 0..10 {
                checkpoint().await.expect("this branch is not in the scope");
            }
        };
        let (inside, ()) = join(inside, outside).await;
        assert_eq!(inside, Ok(None));
        Ok::<_, io::Error>(())
    });
}

fn r03_success_wins_over_a_cancel(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let scope = CancelScope::new();
        let got = RefCell::new(None);
        let outcome = scope.run(async {
            let mut receive = Box::pin(a.receive_into(vec![0; 8]));
            assert!(receive.as_mut().now_or_never().is_none());
            b.send("bytes").await?;
            turns(3).await;
            // The operation is over, its result not fetched yet.
            scope.cancel();
            let (count, buf) = receive.await?;
            *got.borrow_mut() = Some(buf[..count].to_vec());
            checkpoint().await?;
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await?, None, "the next wait answers");
        assert_eq!(got.take().as_deref(), Some(&b"bytes"[..]));
        Ok::<_, io::Error>(())
    });
}

fn r03_a_body_that_returns_ok_in_a_cancelled_scope_is_a_success(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            Ok::<_, Cancelled>(7)
        });
        assert_eq!(outcome.await, Ok(Some(7)));
        assert!(scope.cancel_called() && !scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

fn r04_each_wait_in_a_cancelled_scope_answers(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        b.send("there").await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel_with("enough");
            let is_cancelled = |error: io::Error| assert_eq!(error.to_string(), "cancelled: enough");
            is_cancelled(sleep(Duration::ZERO).await.expect_err("cancelled").into());
            is_cancelled(a.receive().await.expect_err("cancelled"));
            is_cancelled(a.send("x").await.expect_err("cancelled").error);
            is_cancelled(listener.accept().await.expect_err("cancelled"));
            is_cancelled(proactor::nop().await.expect_err("cancelled"));
            is_cancelled(proactor::fs::metadata("/").await.expect_err("cancelled"));
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(&a.receive().await?.expect("bytes")[..], b"there", "nothing was lost");
        Ok::<_, io::Error>(())
    });
}

fn r04_nothing_is_submitted_in_a_cancelled_scope(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let scope = CancelScope::new();
        turns(5).await;
        let before = proactor::metrics().in_flight;
        let outcome = scope.run(async {
            scope.cancel();
            assert!(a.receive_into(vec![0; 8]).await.is_err());
            assert!(a.receive().await.is_err());
            assert_eq!(proactor::metrics().in_flight, before);
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

fn r04_a_body_that_ignores_errors_does_not_keep_the_thread(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let rounds = Rc::new(Cell::new(0_u32));
        let (counter, handle) = (rounds.clone(), scope.clone());
        let stubborn = spawn(async move {
            handle
                .run(async {
                    handle.cancel();
                    while counter.get() < 1000 {
                        let _ = sleep(Duration::from_secs(3600)).await;
                        counter.set(counter.get() + 1);
                    }
                    Ok::<_, Cancelled>(())
                })
                .await
        });
        let mut seen = Vec::new();
        while !stubborn.is_finished() {
            yield_now().await;
            seen.push(rounds.get());
        }
        assert_eq!(rounds.get(), 1000);
        assert!(seen.len() > 900, "others ran in between: {}", seen.len());
        Ok::<_, io::Error>(())
    });
}

fn r05_a_cancel_wakes_every_scope_inside(cx: Cx) {
    cx.run(async {
        let outer = CancelScope::new();
        let handle = outer.clone();
        let task = spawn(async move {
            outer
                .run(async {
                    // Both wait for something foreign; each is polled by its own waker only.
                    let inner = |_| async {
                        CancelScope::new().run(async { Ok::<_, Cancelled>(pending::<()>().await) }).await
                    };
                    let mut both: FuturesUnordered<_> = (0..2).map(inner).collect();
                    let mut ended = 0;
                    while let Some(outcome) = both.next().await {
                        assert!(outcome.is_err());
                        ended += 1;
                    }
                    assert_eq!(ended, 2);
                    checkpoint().await
                })
                .await
        });
        turns(3).await;
        handle.cancel();
        assert_eq!(task.await?, Ok(None));
        Ok::<_, io::Error>(())
    });
}

fn r06_a_foreign_future_is_dropped(cx: Cx) {
    cx.run(async {
        let dropped = Rc::new(Cell::new(false));
        let guard = OnDrop(dropped.clone());
        let outcome = move_on_after(Duration::from_millis(1), async move {
            let _guard = guard;
            pending::<()>().await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(dropped.get());
        // A task that waits for something foreign, too.
        let task = spawn(pending::<()>());
        yield_now().await;
        assert!(task.cancel("no more"));
        let error = task.await.expect_err("cancelled");
        assert!(matches!(&error, JoinError::Cancelled(c) if c.message() == Some("no more")), "{error}");
        Ok::<_, io::Error>(())
    });
}

fn r06_an_operation_that_nobody_polls_does_not_hold_the_scope(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let mut held: FuturesUnordered<_> = [a.receive_into(vec![0; 8])].into_iter().collect();
            assert!(held.next().now_or_never().is_none());
            // Only now: a slow machine would be here after a deadline.
            scope.set_deadline(Some(Instant::now() + Duration::from_millis(1)));
            // Nobody polls it any more.
            pending::<()>().await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

fn r06_shielded_clean_up_runs_to_its_end(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            let failed = checkpoint().await;
            shielded(async {
                for _ in 0..3 {
                    yield_now().await;
                    sleep(Duration::from_millis(1)).await?;
                }
                a.send("goodbye").await.map(drop).map_err(io::Error::from)
            })
            .await?;
            Ok::<_, io::Error>(failed?)
        });
        assert_eq!(outcome.await?, None);
        assert_eq!(&b.receive().await?.expect("bytes")[..], b"goodbye");
        Ok::<_, io::Error>(())
    });
}

fn r06_the_end_of_the_last_wait_is_noticed(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            // The waker of the operation leads nowhere.
            let mut receive = Box::pin(a.receive_into(vec![0; 8]));
            assert!(receive.as_mut().now_or_never().is_none());
            scope.set_deadline(Some(Instant::now() + Duration::from_millis(1)));
            pending::<()>().await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

fn r06_a_body_that_hands_over_through_a_foreign_future_is_not_dropped(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let steps = Cell::new(0);
        let outcome = scope.run(async {
            scope.cancel();
            let failed = checkpoint().await;
            // One foreign yield in the clean-up.
            let mut first = true;
            poll_fn(|cx| {
                if !std::mem::take(&mut first) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            steps.set(steps.get() + 1);
            // Two branches that hand over to each other.
            let flag = ForeignFlag::default();
            join(flag.wait(), async {
                yield_now().await;
                flag.set();
            })
            .await;
            steps.set(steps.get() + 1);
            failed
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(steps.get(), 2);
        Ok::<_, io::Error>(())
    });
}

fn r06_a_body_that_only_wakes_itself_is_dropped_in_the_end(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let polls = Cell::new(0);
        let outcome = scope.run(async {
            scope.cancel();
            poll_fn(|cx| {
                polls.set(polls.get() + 1);
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            })
            .await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert!((60..=70).contains(&polls.get()), "{}", polls.get());
        Ok::<_, io::Error>(())
    });
}

fn r07_a_scope_catches_only_its_own_cancellation(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let outcome = outer.run(async {
            outer.cancel();
            let inside = inner.run(sleep(Duration::from_secs(1))).await;
            assert!(inside.is_err(), "the outer one's passes through the inner one");
            inside
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(outer.cancelled_caught() && !inner.cancelled_caught());
        let failed = move_on_after(Duration::ZERO, async {
            let _ = checkpoint().await;
            Err::<(), _>(io::Error::other("no cancellation"))
        });
        assert_eq!(failed.await.expect_err("other errors get out").to_string(), "no cancellation");
        Ok::<_, io::Error>(())
    });
}

fn r07_joining_a_cancelled_task_is_no_cancellation(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let task = spawn(pending::<()>());
            yield_now().await;
            task.cancel("");
            scope.cancel();
            let joined = shielded(task).await;
            joined.map_err(io::Error::from)
        });
        let error = outcome.await.expect_err("the error of another task is none of this scope");
        assert_eq!(error.to_string(), "task cancelled: ");
        Ok::<_, io::Error>(())
    });
}

fn r07_the_wait_for_a_task_is_cancelled_and_the_task_goes_on(cx: Cx) {
    cx.run(async {
        let mut task = spawn(async {
            turns(20).await;
            5
        });
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            let error = (&mut task).await.expect_err("the wait is cancelled");
            assert!(matches!(error, JoinError::WaitCancelled(_)), "{error}");
            Err::<(), io::Error>(error.into())
        });
        assert_eq!(outcome.await?, None);
        assert_eq!(task.await?, 5);
        Ok::<_, io::Error>(())
    });
}

fn r08_an_operation_that_is_awaited_in_a_cancelled_scope_is_asked_to_end(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let mut receive = Box::pin(a.receive_into(vec![0; 8]));
        assert!(receive.as_mut().now_or_never().is_none());
        turns(2).await;
        let scope = CancelScope::new();
        scope.cancel_with("its new home");
        let outcome = scope.run(async {
            let failed = receive.as_mut().await.expect_err("cancelled");
            assert_eq!(failed.error.to_string(), "cancelled: its new home");
            Err::<(), io::Error>(failed.into())
        });
        assert_eq!(outcome.await?, None);
        Ok::<_, io::Error>(())
    });
}

fn r08_an_operation_that_was_asked_to_end_answers_elsewhere_too(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let mut receive = Box::pin(a.receive_into(vec![0; 8]));
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            assert!(receive.as_mut().now_or_never().is_none());
            scope.cancel();
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(Some(())));
        assert!(receive.await.expect_err("it was asked").error.is_cancelled());
        Ok::<_, io::Error>(())
    });
}

fn r09_a_task_that_was_cancelled_early_runs_to_its_first_wait(cx: Cx) {
    cx.run(async {
        let begun = Rc::new(Cell::new(false));
        let inside = begun.clone();
        let task = spawn(async move {
            inside.set(true);
            sleep(Duration::from_secs(3600)).await
        });
        task.cancel("early");
        let outcome = task.await?;
        assert_eq!(outcome.expect_err("cancelled").message(), Some("early"));
        assert!(begun.get());
        Ok::<_, io::Error>(())
    });
}

fn r10_a_group_that_was_cut_short_answers_cancelled(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let group = task_group(async |group| {
                group.start_soon(async { Ok(sleep(Duration::from_secs(3600)).await?) });
                Ok::<_, io::Error>("body")
            });
            scope.cancel();
            let error = group.await.expect_err("a child was cut short");
            assert!(error.errors().is_empty());
            Err::<(), io::Error>(error.into())
        });
        assert_eq!(outcome.await?, None);
        Ok::<_, io::Error>(())
    });
}

fn r10_a_panic_of_a_child_is_raised_in_the_parent_after_the_others_cleaned_up(cx: Cx) {
    cx.run(async {
        let cleaned = Rc::new(Cell::new(false));
        let flag = cleaned.clone();
        let group = spawn(async move {
            task_group(async |group| {
                group.start_soon(async move {
                    let failed = sleep(Duration::from_secs(3600)).await;
                    shielded(sleep(Duration::from_millis(1))).await?;
                    flag.set(true);
                    Ok(failed?)
                });
                group.start_soon(async { panic!("on purpose") });
                Ok::<_, io::Error>(())
            })
            .await
        });
        let error = group.await.expect_err("a panic");
        assert_eq!(error.panic_message(), Some("on purpose"));
        assert!(cleaned.get());
        Ok::<_, io::Error>(())
    });
}

fn r10_the_children_of_a_dropped_group_clean_up_alone(cx: Cx) {
    cx.run(async {
        let cleaned = Rc::new(Cell::new(false));
        let flag = cleaned.clone();
        let mut group = Box::pin(task_group(async move |group| {
            group.start_soon(async move {
                let failed = sleep(Duration::from_secs(3600)).await;
                shielded(sleep(Duration::from_millis(1))).await?;
                flag.set(true);
                Ok(failed?)
            });
            Ok::<_, io::Error>(pending::<()>().await)
        }));
        assert!(group.as_mut().now_or_never().is_none());
        yield_now().await;
        drop(group);
        until(|| cleaned.get()).await;
        Ok::<_, io::Error>(())
    });
}

// It answered that its time was over, at once, while the operation was still being cancelled.
fn a_timeout_in_a_cancelled_scope_waits_for_the_answer_of_its_future(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let handle = scope.clone();
            let receiving = proactor::timeout(Duration::from_secs(3600), a.receive_into(vec![0; 8]));
            let (received, ()) = join(receiving, async move {
                turns(2).await;
                handle.cancel();
            })
            .await;
            let failed = received.expect("no time has passed").expect_err("it was cancelled");
            assert_eq!(failed.buf.len(), 8, "the buffer came back");
            Err::<(), _>(failed.error)
        });
        assert_eq!(outcome.await?, None);
        Ok::<_, io::Error>(())
    });
}

fn r12_a_future_that_outlives_its_loop_hits_nothing_of_the_next(cx: Cx) {
    let stray = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let kept = stray.clone();
        cx.run_and_keep(async move {
            let mut nap = Box::pin(sleep(Duration::from_secs(3600)));
            assert!(nap.as_mut().now_or_never().is_none());
            let scope = CancelScope::new();
            kept.borrow_mut().push((nap, scope));
        });
    }
    let event_loop = cx.builder().build().expect("a loop");
    let ran = event_loop.run_until_complete(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let mut nap = Box::pin(sleep(Duration::from_millis(5)));
            assert!(nap.as_mut().now_or_never().is_none());
            for (old, scope) in stray.take() {
                scope.cancel();
                drop((old, scope));
            }
            nap.await
        });
        outcome.await
    });
    assert_eq!(ran.expect("the loop runs"), Ok(Some(())));
}
