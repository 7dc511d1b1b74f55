//! `timeout`, which drops, inside of scopes, which ask.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::rc::Rc;

use futures_util::FutureExt;
use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded};
use proactor::{Cancelled, TimedOut, sleep, spawn, timeout};

use crate::cancel::{LONG, OnDrop, ms, now, virtually};
use crate::harness::{Cx, both_drivers, tcp_pair, turns};

both_drivers!(
    a_timeout_inside_of_a_scope_ends_first,
    a_timeout_around_a_scope_drops_it,
    in_a_cancelled_scope_a_timeout_is_no_timeout,
    in_a_cancelled_scope_a_timeout_around_something_foreign_is_a_cancellation,
    an_operation_in_a_timeout_in_a_cancelled_scope_has_its_answer,
    a_timeout_of_the_clean_up_works_behind_a_shield,
);

/// asyncio docs, `wait_for` inside of `timeout`.
fn a_timeout_inside_of_a_scope_ends_first(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(10), async {
            assert_eq!(timeout(ms(3), sleep(LONG)).await, Err(TimedOut::default()));
            Ok::<_, Cancelled>(now() - begin)
        });
        assert_eq!(outcome.await, Ok(Some(ms(3))));
        Ok::<_, io::Error>(())
    });
}

/// `timeout` drops.
fn a_timeout_around_a_scope_drops_it(cx: Cx) {
    virtually(cx, async {
        let dropped = Rc::new(Cell::new(false));
        let guard = OnDrop(dropped.clone());
        let scope = CancelScope::new();
        let limited = timeout(
            ms(3),
            scope.run(async move {
                let _guard = guard;
                sleep(LONG).await
            }),
        );
        assert_eq!(limited.await, Err(TimedOut::default()));
        assert!(dropped.get() && !scope.cancel_called());
        Ok::<_, io::Error>(())
    });
}

/// Two outcomes: what the scope was cancelled for is not that the time was over.
fn in_a_cancelled_scope_a_timeout_is_no_timeout(cx: Cx) {
    virtually(cx, async {
        let scope = CancelScope::new();
        let handle = scope.clone();
        drop(spawn(async move { handle.cancel() }));
        let outcome = scope.run(async {
            let limited = timeout(ms(60_000), sleep(LONG)).await;
            let slept: Result<(), Cancelled> = limited.expect("the time is not over");
            slept.map_err(io::Error::from)
        });
        assert!(outcome.await?.is_none());
        // And where it begins in a cancelled scope.
        let scope = CancelScope::new();
        scope.cancel();
        let outcome = scope.run(async { Ok::<_, io::Error>(timeout(ms(60_000), sleep(LONG)).await??) });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// The same, by the foreign rule.
fn in_a_cancelled_scope_a_timeout_around_something_foreign_is_a_cancellation(cx: Cx) {
    virtually(cx, async {
        let (begin, scope) = (now(), CancelScope::new());
        let handle = scope.clone();
        drop(spawn(async move { handle.cancel() }));
        let outcome = scope.run(async { Ok::<_, io::Error>(timeout(ms(60_000), pending::<()>()).await?) });
        assert!(outcome.await?.is_none());
        assert_eq!(now(), begin);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3: it is answered at its completion, and success wins.
fn an_operation_in_a_timeout_in_a_cancelled_scope_has_its_answer(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        b.send("there").await?;
        let (scope, got) = (CancelScope::new(), RefCell::new(Vec::new()));
        let outcome = scope.run(async {
            let mut receive = Box::pin(timeout(LONG, a.receive_into(vec![0; 8])));
            let begun = receive.as_mut().now_or_never();
            shielded(turns(3)).await;
            scope.cancel();
            let ended = match begun {
                Some(ended) => ended,
                None => receive.await,
            };
            let (count, buf) = ended.expect("the time is not over")?;
            got.borrow_mut().extend_from_slice(&buf[..count]);
            checkpoint().await.map_err(io::Error::from)
        });
        assert!(outcome.await?.is_none());
        assert_eq!(got.take(), b"there");
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Finalization".
fn a_timeout_of_the_clean_up_works_behind_a_shield(cx: Cx) {
    virtually(cx, async {
        let (begin, scope) = (now(), CancelScope::new());
        let outcome = scope.run(async {
            scope.cancel();
            let failed = checkpoint().await;
            assert_eq!(shielded(timeout(ms(4), pending::<()>())).await, Err(TimedOut::default()));
            failed
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(now() - begin, ms(4));
        Ok::<_, io::Error>(())
    });
}
