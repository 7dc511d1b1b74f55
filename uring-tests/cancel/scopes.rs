//! Cancel scopes: who is cancelled, how often, and where that ends.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;

use futures_util::FutureExt;
use futures_util::future::join;
use proactor::cancel::{CancelScope, checkpoint, checkpoint_if_cancelled, move_on_after, sleep_forever};
use proactor::{Cancelled, event_loop, sleep, spawn, yield_now};

use crate::cancel::{LONG, Log, OnDrop, ms, now, virtually, yields};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    a_scope_that_nobody_cancels_gives_the_value_of_its_body,
    an_error_of_the_body_passes_through,
    each_later_wait_in_a_cancelled_scope_is_cancelled_too,
    a_cancel_before_the_body_began_lets_it_run_to_its_first_wait,
    a_scope_that_is_cancelled_in_its_last_step_has_caught_nothing,
    cancelled_caught_is_told_apart_from_cancel_called,
    cancelling_twice_is_as_good_as_once,
    the_message_of_the_first_cancel_is_in_the_error,
    only_the_inner_scope_is_cancelled,
    an_outer_cancel_passes_through_the_inner_scope,
    of_both_cancelled_the_outer_one_catches,
    an_inner_cancel_before_the_outer_one_ends_at_the_outer_one,
    after_the_inner_scope_was_cut_short_the_outer_one_goes_on,
    a_hundred_scopes_deep_the_one_that_was_cancelled_catches,
    siblings_are_cancelled_one_by_one,
    a_child_task_cancels_the_scope,
    a_callback_cancels_the_scope,
    another_thread_cancels_the_scope,
    a_scope_cancels_itself_from_its_body,
    a_cancel_after_the_scope_is_over_does_nothing,
    a_scope_that_is_dropped_half_way_leaves_nothing,
    a_scope_is_for_one_body,
    a_scope_that_moves_out_of_a_cancelled_one_is_free_again,
    a_checkpoint_lets_others_run,
    a_checkpoint_in_a_cancelled_scope_is_cancelled,
    checkpoint_if_cancelled_does_not_let_others_run,
    checkpoint_if_cancelled_is_cancelled_in_a_cancelled_scope,
    a_shielded_checkpoint_lets_others_run_and_is_not_cancelled,
    sleep_forever_ends_by_a_cancel_only,
    a_panic_leaves_its_scope,
);

/// AnyIO reference, `CancelScope`: "wraps a unit of work".
fn a_scope_that_nobody_cancels_gives_the_value_of_its_body(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            sleep(ms(1)).await?;
            Ok::<_, Cancelled>("value")
        });
        assert_eq!(outcome.await, Ok(Some("value")));
        assert!(!scope.cancel_called() && !scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Cancellation and timeouts": only `Cancelled` is caught.
fn an_error_of_the_body_passes_through(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            Err::<(), _>(io::Error::other("its own"))
        });
        assert_eq!(outcome.await.expect_err("an error").to_string(), "its own");
        assert!(!scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Cancellation semantics": level-triggered; AnyIO docs, "Cancellation": the same.
fn each_later_wait_in_a_cancelled_scope_is_cancelled_too(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let refused = Cell::new(0);
        let outcome = scope.run(async {
            scope.cancel();
            for _ in 0..5 {
                refused.set(refused.get() + u32::from(sleep(LONG).await.is_err()));
                refused.set(refused.get() + u32::from(checkpoint().await.is_err()));
            }
            sleep(LONG).await
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(refused.get(), 10);
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Cancellation and timeouts": a cancelled scope is cancelled when it is entered, and delivers at the first
/// checkpoint.
fn a_cancel_before_the_body_began_lets_it_run_to_its_first_wait(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        scope.cancel();
        let log = Log::default();
        let outcome = scope.run(async {
            log.note("begun");
            checkpoint().await?;
            log.note("not reached");
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["begun"]);
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `cancelled_caught`: not if the body ended before a cancellation was delivered.
fn a_scope_that_is_cancelled_in_its_last_step_has_caught_nothing(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            yield_now().await;
            scope.cancel();
            Ok::<_, Cancelled>(1)
        });
        assert_eq!(outcome.await, Ok(Some(1)));
        assert!(scope.cancel_called() && !scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `CancelScope.cancel_called` and `cancelled_caught`.
fn cancelled_caught_is_told_apart_from_cancel_called(cx: Cx) {
    cx.run(async {
        let (caught, swallowed) = (CancelScope::new(), CancelScope::new());
        let outcome = caught.run(async {
            caught.cancel();
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        let outcome = swallowed.run(async {
            swallowed.cancel();
            let _ = checkpoint().await;
            Ok::<_, Cancelled>(2)
        });
        assert_eq!(outcome.await, Ok(Some(2)));
        assert!(caught.cancel_called() && caught.cancelled_caught());
        assert!(swallowed.cancel_called() && !swallowed.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `CancelScope.cancel`: idempotent.
fn cancelling_twice_is_as_good_as_once(cx: Cx) {
    cx.run(async {
        let outer = CancelScope::new();
        let outcome = outer.run(async {
            let inner = CancelScope::new();
            let inside = inner.run(async {
                inner.cancel();
                inner.cancel();
                checkpoint().await
            });
            assert_eq!(inside.await, Ok(None));
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(Some(())));
        Ok::<_, io::Error>(())
    });
}

/// PARITY X2: the error carries the message.
fn the_message_of_the_first_cancel_is_in_the_error(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let seen = RefCell::new(Vec::new());
        let outcome = scope.run(async {
            scope.cancel_with("first");
            scope.cancel_with("second");
            let inner = CancelScope::new();
            let deep = inner.run(sleep(LONG)).await.expect_err("cancelled");
            seen.borrow_mut().push(deep);
            checkpoint().await.inspect_err(|error| seen.borrow_mut().push(error.clone()))
        });
        assert_eq!(outcome.await, Ok(None));
        let texts: Vec<_> = seen.take().iter().map(|error| error.message().map(str::to_owned)).collect();
        assert_eq!(texts, [Some("first".to_owned()), Some("first".to_owned())]);
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Cancellation and timeouts": nested scopes.
fn only_the_inner_scope_is_cancelled(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let outcome = outer.run(async {
            let inside = inner.run(async {
                inner.cancel();
                sleep(LONG).await
            });
            assert_eq!(inside.await, Ok(None));
            checkpoint().await?;
            Ok::<_, Cancelled>("went on")
        });
        assert_eq!(outcome.await, Ok(Some("went on")));
        assert!(inner.cancelled_caught() && !outer.cancel_called());
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, "Cancellation and timeouts": the exception travels to the scope that it belongs to.
fn an_outer_cancel_passes_through_the_inner_scope(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let outcome = outer.run(async {
            outer.cancel();
            inner.run(sleep(LONG)).await?;
            unreachable!("the inner scope did not catch it");
            #[allow(unreachable_code)]
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(outer.cancelled_caught());
        assert!(!inner.cancel_called() && !inner.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO's tests of nested scopes: with both cancelled, the outermost catches.
fn of_both_cancelled_the_outer_one_catches(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let outcome = outer.run(async {
            outer.cancel();
            inner.cancel();
            inner.run(sleep(LONG)).await?;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(outer.cancelled_caught() && inner.cancel_called() && !inner.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// The same, in the other order in time.
fn an_inner_cancel_before_the_outer_one_ends_at_the_outer_one(cx: Cx) {
    cx.run(async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let outcome = outer.run(async {
            let inside = inner.run(async {
                inner.cancel();
                let failed = sleep(LONG).await;
                outer.cancel();
                failed
            });
            inside.await?;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert!(outer.cancelled_caught() && !inner.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// Trio docs: the code behind the `with` block goes on.
fn after_the_inner_scope_was_cut_short_the_outer_one_goes_on(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(100), async {
            for _ in 0..3 {
                assert_eq!(move_on_after(ms(10), sleep(LONG)).await, Ok(None));
            }
            sleep(ms(5)).await
        });
        assert_eq!(outcome.await, Ok(Some(())));
        assert_eq!(now() - begin, ms(35));
        Ok::<_, io::Error>(())
    });
}

/// However deep.
fn a_hundred_scopes_deep_the_one_that_was_cancelled_catches(cx: Cx) {
    fn nest(scopes: &[CancelScope]) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Cancelled>> + '_>> {
        Box::pin(async move {
            match scopes {
                [] => sleep(LONG).await,
                [first, rest @ ..] => first.run(nest(rest)).await.map(drop),
            }
        })
    }
    cx.run(async {
        let scopes: Vec<_> = (0..100).map(|_| CancelScope::new()).collect();
        let middle = scopes[40].clone();
        spawn(async move { middle.cancel() });
        nest(&scopes).await?;
        let caught: Vec<_> = (0..100).filter(|&at| scopes[at].cancelled_caught()).collect();
        assert_eq!(caught, [40]);
        Ok::<_, io::Error>(())
    });
}

/// A scope is one branch of a task, not the task.
fn siblings_are_cancelled_one_by_one(cx: Cx) {
    virtually(cx, async {
        let (left, right) = (CancelScope::new(), CancelScope::new());
        let handle = left.clone();
        spawn(async move { handle.cancel() });
        let outcome = join(left.run(sleep(LONG)), right.run(sleep(ms(5)))).await;
        assert_eq!(outcome, (Ok(None), Ok(Some(()))));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Cancellation": another task calls `scope.cancel()`.
fn a_child_task_cancels_the_scope(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let handle = scope.clone();
        let outcome = scope.run(async move {
            let child = spawn(async move { handle.cancel_with("from a child") });
            let error = sleep(LONG).await.expect_err("cancelled");
            assert_eq!(error.message(), Some("from a child"));
            child.await.expect("it is over already, and success wins");
            Err::<(), _>(error)
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// Not only tasks may cancel.
fn a_callback_cancels_the_scope(cx: Cx) {
    virtually(cx, async {
        let (soon, later) = (CancelScope::new(), CancelScope::new());
        let handle = soon.clone();
        event_loop::call_soon(move || handle.cancel())?;
        assert_eq!(soon.run(sleep(LONG)).await, Ok(None));
        let (handle, begin) = (later.clone(), now());
        event_loop::call_later(ms(7), move || handle.cancel())?;
        assert_eq!(later.run(sleep(LONG)).await, Ok(None));
        assert_eq!(now() - begin, ms(7));
        Ok::<_, io::Error>(())
    });
}

thread_local! {
    static SCOPE: RefCell<Option<CancelScope>> = const { RefCell::new(None) };
}

/// asyncio docs, `loop.call_soon_threadsafe`: the way for another thread to cancel anything.
fn another_thread_cancels_the_scope(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        SCOPE.set(Some(scope.clone()));
        let handle = proactor::current()?;
        let other = thread::spawn(move || {
            handle.call_soon_threadsafe(|| {
                SCOPE.take().expect("it is there").cancel_with("from a thread");
            })
        });
        let error = RefCell::new(None);
        let outcome = scope.run(async {
            sleep_forever().await.inspect_err(|cancelled| *error.borrow_mut() = Some(cancelled.clone()))
        });
        assert!(outcome.await?.is_none());
        assert_eq!(error.take().expect("an error").message(), Some("from a thread"));
        other.join().expect("no panic")?;
        Ok::<_, io::Error>(())
    });
}

/// Trio docs, `CancelScope.cancel`: also from inside.
fn a_scope_cancels_itself_from_its_body(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            checkpoint().await?;
            scope.cancel();
            let error = checkpoint().await.expect_err("at once");
            Err::<(), _>(error)
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// A handle may outlive the scope.
fn a_cancel_after_the_scope_is_over_does_nothing(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        assert_eq!(scope.run(checkpoint()).await, Ok(Some(())));
        scope.cancel();
        checkpoint().await?;
        assert!(scope.cancel_called() && !scope.cancelled_caught());
        Ok::<_, Cancelled>(())
    });
}

/// Rust's way to cancel anything: the harness counts scopes and waits.
fn a_scope_that_is_dropped_half_way_leaves_nothing(cx: Cx) {
    cx.run(async {
        let dropped = Rc::new(Cell::new(false));
        let guard = OnDrop(dropped.clone());
        let scope = CancelScope::new().with_timeout(LONG);
        let mut outcome = Box::pin(scope.run(async move {
            let _guard = guard;
            CancelScope::new().with_timeout(LONG).run(sleep(LONG)).await
        }));
        assert!(outcome.as_mut().now_or_never().is_none());
        drop(outcome);
        assert!(dropped.get());
        // It is out of the tree: this reaches nobody.
        scope.cancel();
        checkpoint().await
    });
}

/// Trio docs, "Cancellation API": each scope object is for one `with` block.
fn a_scope_is_for_one_body(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        assert_eq!(scope.run(checkpoint()).await, Ok(Some(())));
        let again = catch_unwind(AssertUnwindSafe(|| scope.run(checkpoint()).now_or_never()));
        let panic = again.expect_err("a panic");
        let text = panic.downcast_ref::<&str>().copied().unwrap_or_default();
        assert!(text.contains("one body"), "{text}");
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 1: a scope belongs where it is polled.
fn a_scope_that_moves_out_of_a_cancelled_one_is_free_again(cx: Cx) {
    virtually(cx, async {
        let (outer, inner) = (CancelScope::new(), CancelScope::new());
        let mut inside = Box::pin(inner.run(async {
            yields(3).await;
            sleep(ms(1)).await
        }));
        let outcome = outer.run(async {
            assert!(inside.as_mut().now_or_never().is_none());
            outer.cancel();
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(inside.await, Ok(Some(())));
        assert!(!inner.cancel_called(), "what happens to other scopes does not count");
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `checkpoint`: "allow the scheduler to switch to another task".
fn a_checkpoint_lets_others_run(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let other = log.clone();
        let task = spawn(async move { other.note("other") });
        log.note("before");
        checkpoint().await?;
        log.note("after");
        log.expect(&["before", "other", "after"]);
        task.await.map_err(io::Error::from)
    });
}

/// AnyIO reference, `checkpoint`: "check for cancellation".
fn a_checkpoint_in_a_cancelled_scope_is_cancelled(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `checkpoint_if_cancelled`: "does not allow the scheduler to switch".
fn checkpoint_if_cancelled_does_not_let_others_run(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let other = log.clone();
        let task = spawn(async move { other.note("other") });
        checkpoint_if_cancelled().await?;
        log.note("still here");
        task.await?;
        log.expect(&["still here", "other"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `checkpoint_if_cancelled`.
fn checkpoint_if_cancelled_is_cancelled_in_a_cancelled_scope(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            checkpoint_if_cancelled().await?;
            scope.cancel();
            checkpoint_if_cancelled().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `cancel_shielded_checkpoint`: here it is `yield_now`.
fn a_shielded_checkpoint_lets_others_run_and_is_not_cancelled(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let other = log.clone();
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            drop(spawn(async move { other.note("other") }));
            yield_now().await;
            log.note("went on");
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(Some(())));
        log.expect(&["other", "went on"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `sleep_forever`: "pause the current task until it's cancelled".
fn sleep_forever_ends_by_a_cancel_only(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(60_000), sleep_forever()).await?;
        assert!(outcome.is_none());
        assert_eq!(now() - begin, ms(60_000));
        Ok::<_, Cancelled>(())
    });
}

/// A panic is no way to leave a scope entered.
fn a_panic_leaves_its_scope(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let handle = scope.clone();
        let task = spawn(async move {
            let inside = scope.run(async {
                scope.cancel();
                yield_now().await;
                panic!("on purpose");
                #[allow(unreachable_code)]
                Ok::<(), Cancelled>(pending().await)
            });
            let caught = AssertUnwindSafe(inside).catch_unwind().await;
            assert!(caught.is_err());
            // Nothing here is cancelled.
            checkpoint().await
        });
        assert_eq!(task.await?, Ok(()));
        assert!(handle.cancel_called() && !handle.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}
