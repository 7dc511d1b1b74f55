//! Shields: what a cancel from outside does not reach.

use std::cell::Cell;
use std::io;

use futures_util::FutureExt;
use futures_util::future::join;
use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded, task_group};
use proactor::{Cancelled, sleep, spawn, yield_now};

use crate::cancel::{LONG, Log, ms, now, virtually, yields};
use crate::harness::{Cx, both_drivers, tcp_pair};

both_drivers!(
    a_shield_keeps_the_cancel_of_the_scope_around_out,
    behind_the_shield_the_cancel_is_there_again,
    a_shielded_scope_can_be_cancelled_itself,
    a_deadline_inside_a_shield_works_in_a_cancelled_scope,
    a_deadline_of_the_shield_itself_works,
    a_shield_that_goes_up_while_cancelled_lets_the_body_wait,
    a_shield_that_goes_down_lets_the_cancel_in,
    a_shield_that_goes_down_wakes_who_waits,
    a_shield_around_a_cancelled_scope_is_no_help_to_it,
    of_two_shields_the_inner_one_holds_when_the_outer_one_falls,
    operations_work_behind_a_shield,
    a_shielded_group_lets_its_children_finish,
    clean_up_with_a_limit_moves_on,
    a_shield_gives_the_value_of_its_body,
    a_scope_catches_its_cancel_although_the_outer_one_is_cancelled_too,
    the_shield_can_be_read_back,
    a_dropped_shield_drops_its_body,
    after_a_long_clean_up_the_cancel_still_ends_at_its_scope,
);

/// AnyIO docs, "Cancellation": shielding.
fn a_shield_keeps_the_cancel_of_the_scope_around_out(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new();
        let log = Log::default();
        let outcome = scope.run(async {
            scope.cancel();
            shielded(async {
                sleep(ms(5)).await.expect("shielded");
                checkpoint().await.expect("shielded");
                CancelScope::new().run(sleep(ms(5))).await.expect("a scope in a shield");
                log.note("inside");
            })
            .await;
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["inside"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Cancellation": shielding ends with the scope.
fn behind_the_shield_the_cancel_is_there_again(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            let before = checkpoint().await.is_err();
            let inside = shielded(checkpoint()).await.is_ok();
            let after = checkpoint().await.is_err();
            assert!(before && inside && after);
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(Some(())));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: a shield does not protect from the scope's own cancel.
fn a_shielded_scope_can_be_cancelled_itself(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new().with_shield();
        let outcome = scope.run(async {
            scope.cancel();
            sleep(LONG).await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Finalization": `move_on_after` with a shield.
fn a_deadline_inside_a_shield_works_in_a_cancelled_scope(cx: Cx) {
    virtually(cx, async {
        let (scope, begin) = (CancelScope::new(), now());
        let outcome = scope.run(async {
            scope.cancel();
            let inside = shielded(move_on_after(ms(5), sleep(LONG))).await;
            assert_eq!(inside, Ok(None));
            assert_eq!(now() - begin, ms(5));
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `move_on_after(shield=True)`.
fn a_deadline_of_the_shield_itself_works(cx: Cx) {
    virtually(cx, async {
        let (scope, begin) = (CancelScope::new(), now());
        let outcome = scope.run(async {
            scope.cancel();
            let shield = CancelScope::new().with_shield().with_timeout(ms(5));
            assert_eq!(shield.run(sleep(LONG)).await, Ok(None), "it catches its own");
            assert!(shield.cancelled_caught());
            assert_eq!(now() - begin, ms(5));
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `CancelScope.shield`: can be set at any time.
fn a_shield_that_goes_up_while_cancelled_lets_the_body_wait(cx: Cx) {
    virtually(cx, async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let outcome = outer.run(async {
            let inside = inner.run(async {
                outer.cancel();
                sleep(LONG).await.expect_err("cancelled");
                inner.set_shield(true);
                sleep(ms(5)).await?;
                Ok::<_, Cancelled>("cleaned up")
            });
            assert_eq!(inside.await, Ok(Some("cleaned up")));
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// The same, the other way.
fn a_shield_that_goes_down_lets_the_cancel_in(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new().with_shield());
        let outcome = outer.run(async {
            outer.cancel();
            let inside = inner.run(async {
                checkpoint().await.expect("shielded");
                inner.set_shield(false);
                checkpoint().await
            });
            inside.await.expect_err("the outer one's cancel passes").message();
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(!inner.cancel_called());
        Ok::<_, io::Error>(())
    });
}

/// Trio's tests of `shield = False` with a waiting body.
fn a_shield_that_goes_down_wakes_who_waits(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let (outer, inner) = (CancelScope::new(), CancelScope::new().with_shield());
        let handle = inner.clone();
        let lowers = spawn(async move {
            sleep(ms(5)).await?;
            handle.set_shield(false);
            Ok::<_, Cancelled>(())
        });
        let outcome = outer.run(async {
            outer.cancel();
            inner.run(sleep(LONG)).await
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(now() - begin, ms(5));
        assert_eq!(lowers.await?, Ok(()));
        Ok::<_, io::Error>(())
    });
}

/// A shield keeps out what comes from further out, not what was asked inside.
fn a_shield_around_a_cancelled_scope_is_no_help_to_it(cx: Cx) {
    cx.run(async {
        let inner = CancelScope::new();
        let outcome = shielded(inner.run(async {
            inner.cancel();
            sleep(LONG).await
        }));
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// Nested shields.
fn of_two_shields_the_inner_one_holds_when_the_outer_one_falls(cx: Cx) {
    virtually(cx, async {
        let (scope, outer) = (CancelScope::new(), CancelScope::new().with_shield());
        let outcome = scope.run(async {
            scope.cancel();
            let inside = outer.run(async {
                shielded(async {
                    outer.set_shield(false);
                    sleep(ms(1)).await.expect("the inner shield holds");
                })
                .await;
                checkpoint().await
            });
            inside.await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Finalization": closing a connection with a farewell.
fn operations_work_behind_a_shield(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            let failed = a.receive().await;
            shielded(async {
                a.send("ping").await?;
                assert_eq!(&b.receive().await?.expect("bytes")[..], b"ping");
                let (count, _) = join(b.receive_into(vec![0; 4]), a.send("pong")).await.0?;
                assert_eq!(count, 4);
                Ok::<_, io::Error>(())
            })
            .await?;
            failed.map(drop)
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: a task group in a shielded scope.
fn a_shielded_group_lets_its_children_finish(cx: Cx) {
    virtually(cx, async {
        let (scope, done) = (CancelScope::new(), std::rc::Rc::new(Cell::new(0)));
        let outcome = scope.run(async {
            scope.cancel();
            let group = task_group(async |group| {
                for _ in 0..3 {
                    let done = done.clone();
                    group.start_soon(async move {
                        sleep(ms(5)).await?;
                        done.set(done.get() + 1);
                        Ok(())
                    });
                }
                Ok::<_, io::Error>(())
            });
            shielded(group).await?;
            Ok::<_, io::Error>(checkpoint().await?)
        });
        assert!(outcome.await?.is_none());
        assert_eq!(done.get(), 3);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Finalization": clean-up that must not hang.
fn clean_up_with_a_limit_moves_on(cx: Cx) {
    virtually(cx, async {
        let (begin, log) = (now(), Log::default());
        let outcome = move_on_after(ms(10), async {
            let slept = sleep(LONG).await;
            let shield = CancelScope::new().with_shield().with_timeout(ms(3));
            if shield.run(sleep(LONG)).await?.is_none() {
                log.note("gave up");
            }
            slept
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["gave up"]);
        assert_eq!(now() - begin, ms(13));
        Ok::<_, io::Error>(())
    });
}

/// The face of `shielded`: no result around the result.
fn a_shield_gives_the_value_of_its_body(cx: Cx) {
    cx.run(async {
        assert_eq!(shielded(async { 5 }).await, 5);
        assert_eq!(shielded(async { Err::<(), _>("its error") }).await, Err("its error"));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 7: "and no unshielded outer one was".
fn a_scope_catches_its_cancel_although_the_outer_one_is_cancelled_too(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new().with_shield());
        let outcome = outer.run(async {
            outer.cancel();
            inner.cancel();
            assert_eq!(inner.run(checkpoint()).await, Ok(None), "its shield makes it the outermost");
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(inner.cancelled_caught() && outer.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `CancelScope.shield`.
fn the_shield_can_be_read_back(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        assert!(!scope.is_shielded());
        scope.set_shield(true);
        assert!(scope.is_shielded() && scope.clone().is_shielded());
        scope.set_shield(false);
        assert!(!scope.is_shielded());
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `shielded`: "a shield is no help against being dropped".
fn a_dropped_shield_drops_its_body(cx: Cx) {
    cx.run(async {
        let dropped = std::rc::Rc::new(Cell::new(false));
        let guard = crate::cancel::OnDrop(dropped.clone());
        let mut future = Box::pin(shielded(async move {
            let _guard = guard;
            sleep(LONG).await
        }));
        assert!(future.as_mut().now_or_never().is_none());
        drop(future);
        assert!(dropped.get());
        Ok::<_, io::Error>(())
    });
}

/// However many turns the clean-up takes, foreign ones among them.
fn after_a_long_clean_up_the_cancel_still_ends_at_its_scope(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            let failed = checkpoint().await;
            shielded(yields(500)).await;
            yield_now().await;
            failed
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}
