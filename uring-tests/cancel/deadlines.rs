//! Scopes that cancel themselves: deadlines, and what is known of them.

use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join;
use proactor::cancel::{
    CancelScope, EffectiveDeadline, checkpoint, current_effective_deadline, fail_after, fail_at,
    move_on_after, move_on_at, shielded, sleep_forever, task_group,
};
use proactor::{Cancelled, TimedOut, event_loop, metrics, sleep, spawn};

use crate::cancel::{LONG, ms, now, virtually};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    move_on_after_gives_none_when_the_time_is_over,
    move_on_after_gives_the_value_in_time,
    move_on_at_ends_at_that_moment,
    fail_after_fails_with_timed_out,
    fail_after_gives_the_value_in_time,
    fail_at_fails_at_that_moment,
    fail_after_passes_a_cancel_from_outside_on,
    a_time_limit_counts_from_the_call,
    no_time_at_all_still_runs_to_the_first_wait,
    a_deadline_that_passed_before_the_body_began_cancels_at_the_first_wait,
    an_infinite_time_limit_never_cancels,
    a_deadline_of_none_never_cancels,
    a_deadline_that_comes_nearer_while_the_body_waits_cancels_then,
    a_deadline_that_moves_out_while_the_body_waits_cancels_later,
    a_deadline_that_is_removed_cancels_no_more,
    a_deadline_that_is_set_to_the_past_cancels_at_once,
    what_the_deadline_cancelled_stays_so,
    the_deadline_can_be_read_back,
    the_outer_deadline_cuts_the_inner_one_short,
    equal_deadlines_end_at_the_outer_scope,
    a_deadline_sets_cancel_called,
    a_scope_that_is_over_leaves_no_timer,
    a_deadline_reaches_the_children_of_a_group,
    the_effective_deadline_is_the_nearest_around,
    without_deadlines_the_effective_one_is_never,
    a_shield_hides_the_deadlines_around_it,
    a_deadline_on_a_shield_counts,
    in_a_cancelled_scope_the_effective_deadline_is_past,
    a_shield_in_a_cancelled_scope_hides_that,
    a_child_task_has_the_deadlines_of_its_group,
    a_spawned_task_has_no_deadline_of_its_spawner,
    effective_deadlines_have_an_order,
    a_deadline_wakes_a_body_that_computes_between_checkpoints,
);

/// AnyIO docs, "Cancellation": `move_on_after` exits the scope silently.
fn move_on_after_gives_none_when_the_time_is_over(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        assert_eq!(move_on_after(ms(10), sleep(LONG)).await, Ok(None));
        assert_eq!(now() - begin, ms(10));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Cancellation".
fn move_on_after_gives_the_value_in_time(cx: Cx) {
    virtually(cx, async {
        let outcome = move_on_after(ms(10), async {
            sleep(ms(9)).await?;
            Ok::<_, Cancelled>('v')
        });
        assert_eq!(outcome.await, Ok(Some('v')));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `move_on_at`: an absolute time.
fn move_on_at_ends_at_that_moment(cx: Cx) {
    virtually(cx, async {
        let end = now() + ms(10);
        sleep(ms(4)).await?;
        assert_eq!(move_on_at(end, sleep(LONG)).await, Ok(None));
        assert_eq!(now(), end);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `fail_after`: raises `TimeoutError`. PARITY X1.
fn fail_after_fails_with_timed_out(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = fail_after(ms(10), async { Ok::<(), io::Error>(sleep(LONG).await?) }).await;
        let error = outcome.expect_err("timed out");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<TimedOut>()));
        assert_eq!(now() - begin, ms(10));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `fail_after`.
fn fail_after_gives_the_value_in_time(cx: Cx) {
    virtually(cx, async {
        let value = fail_after(ms(10), async {
            sleep(ms(5)).await?;
            Ok::<_, io::Error>(3)
        });
        assert_eq!(value.await?, 3);
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `fail_at`.
fn fail_at_fails_at_that_moment(cx: Cx) {
    virtually(cx, async {
        let end = now() + ms(10);
        let outcome = fail_at(end, async { Ok::<(), io::Error>(sleep(LONG).await?) });
        assert_eq!(outcome.await.expect_err("timed out").kind(), io::ErrorKind::TimedOut);
        assert_eq!(now(), end);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO: only its own deadline makes a `TimeoutError` of a cancellation.
fn fail_after_passes_a_cancel_from_outside_on(cx: Cx) {
    virtually(cx, async {
        let outer = CancelScope::new();
        let outcome = outer.run(async {
            outer.cancel();
            let failed = fail_after(ms(10), async { Ok::<(), io::Error>(sleep(LONG).await?) }).await;
            let error = failed.expect_err("cancelled");
            assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
            Err::<(), _>(error)
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// DESIGN: limits are measured from the call, as `sleep` does.
fn a_time_limit_counts_from_the_call(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let later = move_on_after(ms(10), sleep(LONG));
        sleep(ms(8)).await?;
        assert_eq!(later.await, Ok(None));
        assert_eq!(now() - begin, ms(10));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `move_on_after(0)`: a way to run to the first checkpoint.
fn no_time_at_all_still_runs_to_the_first_wait(cx: Cx) {
    virtually(cx, async {
        let mut steps = 0;
        let outcome = move_on_after(Duration::ZERO, async {
            steps += 1;
            checkpoint().await?;
            steps += 1;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(steps, 1);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `timeout_at`: a moment in the past cancels at the next opportunity.
fn a_deadline_that_passed_before_the_body_began_cancels_at_the_first_wait(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new().with_timeout(ms(1));
        sleep(ms(5)).await?;
        assert!(!scope.cancel_called(), "nobody was in it");
        assert_eq!(scope.run(checkpoint()).await, Ok(None));
        assert!(scope.cancel_called());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference: a deadline of `math.inf`.
fn an_infinite_time_limit_never_cancels(cx: Cx) {
    virtually(cx, async {
        assert_eq!(move_on_after(Duration::MAX, sleep(ms(60_000))).await, Ok(Some(())));
        let outcome = fail_after(Duration::MAX, async { Ok::<_, io::Error>(sleep(ms(1000)).await?) });
        outcome.await
    });
}

/// AnyIO reference, `CancelScope.deadline`: infinite by default.
fn a_deadline_of_none_never_cancels(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new();
        assert_eq!(scope.deadline(), None);
        scope.set_deadline(None);
        assert_eq!(scope.run(sleep(ms(60_000))).await, Ok(Some(())));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Cancellation": the deadline can be changed while the scope is active.
fn a_deadline_that_comes_nearer_while_the_body_waits_cancels_then(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let scope = CancelScope::new().with_timeout(ms(50));
        let handle = scope.clone();
        let change = async {
            sleep(ms(5)).await?;
            handle.set_deadline(Some(begin + ms(8)));
            Ok::<_, Cancelled>(())
        };
        let (outcome, changed) = join(scope.run(sleep(LONG)), change).await;
        assert_eq!((outcome, changed), (Ok(None), Ok(())));
        assert_eq!(now() - begin, ms(8));
        Ok::<_, io::Error>(())
    });
}

/// The same, and asyncio docs, `Timeout.reschedule`.
fn a_deadline_that_moves_out_while_the_body_waits_cancels_later(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let scope = CancelScope::new().with_timeout(ms(10));
        let handle = scope.clone();
        let change = async {
            sleep(ms(5)).await?;
            handle.set_deadline(Some(begin + ms(80)));
            sleep(ms(6)).await?;
            assert!(!handle.cancel_called());
            Ok::<_, Cancelled>(())
        };
        let (outcome, changed) = join(scope.run(sleep(LONG)), change).await;
        assert_eq!((outcome, changed), (Ok(None), Ok(())));
        assert_eq!(now() - begin, ms(80));
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `Timeout.reschedule(None)`.
fn a_deadline_that_is_removed_cancels_no_more(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new().with_timeout(ms(10));
        let outcome = scope.run(async {
            sleep(ms(5)).await?;
            scope.set_deadline(None);
            sleep(ms(50)).await
        });
        assert_eq!(outcome.await, Ok(Some(())));
        assert!(!scope.cancel_called());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `CancelScope.deadline`; Trio: `deadline = -inf`.
fn a_deadline_that_is_set_to_the_past_cancels_at_once(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        sleep(ms(1)).await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            checkpoint().await?;
            scope.set_deadline(Some(begin));
            assert!(scope.cancel_called());
            sleep(LONG).await
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(now() - begin, ms(1));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `CancelScope.deadline`: a scope cannot be un-cancelled.
fn what_the_deadline_cancelled_stays_so(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new().with_timeout(ms(1));
        let outcome = scope.run(async {
            let _ = sleep(LONG).await;
            scope.set_deadline(None);
            checkpoint().await.expect_err("it is cancelled still");
            scope.set_deadline(Some(now() + LONG));
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `CancelScope.deadline`.
fn the_deadline_can_be_read_back(cx: Cx) {
    virtually(cx, async {
        let at = now() + ms(20);
        let scope = CancelScope::new().with_deadline(at);
        assert_eq!(scope.deadline(), Some(at));
        scope.set_deadline(Some(at + ms(1)));
        assert_eq!(scope.deadline(), Some(at + ms(1)));
        assert_eq!(CancelScope::new().with_timeout(ms(20)).deadline(), Some(at));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Cancellation and timeouts": nested time limits.
fn the_outer_deadline_cuts_the_inner_one_short(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(5), async {
            move_on_after(ms(50), sleep(LONG)).await?;
            Ok::<_, Cancelled>("not reached")
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(now() - begin, ms(5));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 7: with both cancelled the outer one catches.
fn equal_deadlines_end_at_the_outer_scope(cx: Cx) {
    virtually(cx, async {
        let end = now() + ms(5);
        let outcome = move_on_at(end, async {
            let inner = move_on_at(end, sleep(LONG)).await;
            assert!(inner.is_err());
            inner
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `cancel_called`.
fn a_deadline_sets_cancel_called(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new().with_timeout(ms(5));
        assert!(!scope.cancel_called());
        assert_eq!(scope.run(sleep_forever()).await.map(|outcome| outcome.is_none()), Ok(true));
        assert!(scope.cancel_called() && scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// A scope that ended early costs nothing more.
fn a_scope_that_is_over_leaves_no_timer(cx: Cx) {
    cx.run(async {
        checkpoint().await?;
        let before = metrics().timers;
        assert_eq!(move_on_after(LONG, checkpoint()).await, Ok(Some(())));
        assert_eq!(metrics().timers, before);
        let mut half = Box::pin(move_on_after(LONG, checkpoint()));
        assert!(half.as_mut().now_or_never().is_none());
        assert_eq!(metrics().timers, before + 1);
        drop(half);
        assert_eq!(metrics().timers, before);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Cancellation": timeouts around task groups.
fn a_deadline_reaches_the_children_of_a_group(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(5), async {
            task_group(async |group| {
                for _ in 0..3 {
                    group.start_soon(async { Ok(sleep(LONG).await?) });
                }
                Ok::<_, io::Error>(())
            })
            .await?;
            Ok::<_, io::Error>(())
        });
        assert!(outcome.await?.is_none());
        assert_eq!(now() - begin, ms(5));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `current_effective_deadline`: "the nearest deadline among all the cancel scopes".
fn the_effective_deadline_is_the_nearest_around(cx: Cx) {
    virtually(cx, async {
        let (near, far) = (now() + ms(10), now() + ms(20));
        let outcome = move_on_at(near, async {
            assert_eq!(current_effective_deadline(), EffectiveDeadline::At(near));
            let inner = move_on_at(far, async {
                assert_eq!(current_effective_deadline(), EffectiveDeadline::At(near));
                checkpoint().await?;
                Ok::<_, Cancelled>(())
            });
            inner.await
        });
        assert_eq!(outcome.await, Ok(Some(Some(()))));
        let outcome = move_on_at(
            far,
            move_on_at(near, async {
                assert_eq!(current_effective_deadline(), EffectiveDeadline::At(near));
                Ok::<_, Cancelled>(())
            }),
        );
        assert_eq!(outcome.await, Ok(Some(Some(()))));
        Ok::<_, io::Error>(())
    });
}

/// The same: infinite, if there is none. Also in a callback, where no task is.
fn without_deadlines_the_effective_one_is_never(cx: Cx) {
    cx.run(async {
        assert_eq!(current_effective_deadline(), EffectiveDeadline::Never);
        assert_eq!(
            CancelScope::new().run(async { Ok::<_, Cancelled>(current_effective_deadline()) }).await,
            Ok(Some(EffectiveDeadline::Never))
        );
        event_loop::call_soon(|| assert_eq!(current_effective_deadline(), EffectiveDeadline::Never))?;
        checkpoint().await?;
        Ok::<_, io::Error>(())
    });
}

/// AnyIO's rule: the search ends at a shield.
fn a_shield_hides_the_deadlines_around_it(cx: Cx) {
    virtually(cx, async {
        let outcome = move_on_after(ms(10), async {
            Ok::<_, Cancelled>(shielded(async { current_effective_deadline() }).await)
        });
        assert_eq!(outcome.await, Ok(Some(EffectiveDeadline::Never)));
        Ok::<_, io::Error>(())
    });
}

/// The same: that of the shielded scope itself counts.
fn a_deadline_on_a_shield_counts(cx: Cx) {
    virtually(cx, async {
        let (near, far) = (now() + ms(10), now() + ms(20));
        let outcome = move_on_at(near, async {
            let shield = CancelScope::new().with_shield().with_deadline(far);
            shield.run(async { Ok::<_, Cancelled>(current_effective_deadline()) }).await
        });
        assert_eq!(outcome.await, Ok(Some(Some(EffectiveDeadline::At(far)))));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference: minus infinity "if the current scope has been cancelled".
fn in_a_cancelled_scope_the_effective_deadline_is_past(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new().with_timeout(ms(10));
        let outcome = scope.run(async {
            scope.cancel();
            assert_eq!(current_effective_deadline(), EffectiveDeadline::Cancelled);
            CancelScope::new()
                .run(async {
                    assert_eq!(current_effective_deadline(), EffectiveDeadline::Cancelled);
                    checkpoint().await
                })
                .await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// Both rules together.
fn a_shield_in_a_cancelled_scope_hides_that(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            Ok::<_, Cancelled>(shielded(async { current_effective_deadline() }).await)
        });
        assert_eq!(outcome.await, Ok(Some(EffectiveDeadline::Never)));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `TaskGroup.cancel_scope`: "the cancel scope inherited by all child tasks".
fn a_child_task_has_the_deadlines_of_its_group(cx: Cx) {
    virtually(cx, async {
        let near = now() + ms(10);
        let outcome = move_on_at(near, async {
            task_group(async |group| {
                group.start_soon(async move {
                    assert_eq!(current_effective_deadline(), EffectiveDeadline::At(near));
                    Ok(())
                });
                Ok::<_, io::Error>(())
            })
            .await?;
            Ok::<_, io::Error>(())
        });
        assert!(outcome.await?.is_some());
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md: only a group's children are in its scope.
fn a_spawned_task_has_no_deadline_of_its_spawner(cx: Cx) {
    virtually(cx, async {
        let outcome = move_on_after(ms(10), async {
            let seen = spawn(async { current_effective_deadline() }).await;
            Ok::<_, Cancelled>(seen.expect("no panic"))
        });
        assert_eq!(outcome.await, Ok(Some(EffectiveDeadline::Never)));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO gives a number, to be compared: minus infinity first, infinity last.
fn effective_deadlines_have_an_order(cx: Cx) {
    cx.run(async {
        let at = EffectiveDeadline::At(now());
        assert!(EffectiveDeadline::Cancelled < at && at < EffectiveDeadline::Never);
        assert!(at < EffectiveDeadline::At(now() + ms(1)));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, `checkpoint`: for code that does not wait for anything.
fn a_deadline_wakes_a_body_that_computes_between_checkpoints(cx: Cx) {
    cx.run(async {
        let mut rounds = 0_u64;
        let outcome = move_on_after(ms(5), async {
            loop {
                rounds += 1;
                checkpoint().await?;
            }
            #[allow(unreachable_code)]
            Ok::<(), Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(rounds >= 1);
        Ok::<_, io::Error>(())
    });
}
