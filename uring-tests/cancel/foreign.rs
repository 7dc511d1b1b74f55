//! Scopes and the combinators of other crates: futures that are dropped, polled by wakers of their own, or never again.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn, ready};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};

use futures_util::future::{self, Either, join, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, select_biased};
use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded, sleep_forever, task_group};
use proactor::net::UnixStream;
use proactor::thread::to_thread;
use proactor::{Cancelled, sleep, spawn, yield_now};

use crate::cancel::{ForeignFlag, LONG, Log, ms, now, virtually, yields};
use crate::harness::{Cx, both_drivers, tcp_pair, turns, until};

both_drivers!(
    join_has_both_branches_cancelled,
    join_all_of_many_waits_ends,
    select_drops_the_loser_and_loses_nothing,
    the_select_macro_works_in_a_scope,
    a_scope_that_loses_a_select_leaves_nothing,
    scopes_in_a_set_of_futures_are_cancelled_one_by_one,
    waits_in_a_set_of_futures_are_all_cancelled,
    a_wait_in_a_set_of_futures_belongs_to_the_scope_it_was_polled_in_last,
    a_wait_in_a_set_of_futures_that_outlives_its_scope_passes_to_the_parent,
    a_channel_of_another_crate_is_dropped_by_a_cancel,
    a_foreign_wake_up_from_another_thread_keeps_the_clean_up_alive,
    a_foreign_wait_beside_one_of_ours_is_not_dropped_before_that_has_answered,
    a_foreign_wait_beside_a_shielded_branch_is_not_dropped_before_that_is_over,
    a_foreign_wait_beside_a_group_is_not_dropped_before_that_is_over,
    a_foreign_wait_beside_a_wait_for_a_thread_is_not_dropped_before_that_is_over,
    the_end_of_the_last_inner_scope_is_noticed,
    a_foreign_body_in_an_inner_scope_is_dropped_there,
    a_foreign_wait_that_one_branch_put_off_is_dropped_all_the_same,
    each_turn_of_a_clean_up_lets_others_run,
    a_task_that_only_lets_others_run_is_dropped_in_the_end,
    a_poll_function_of_the_program_that_registers_with_us_is_answered,
    a_scope_that_is_polled_by_another_task_goes_with_it,
    a_future_of_a_scope_can_be_boxed_and_moved,
    the_main_future_may_be_in_a_scope,
    a_destructor_that_wakes_others_may_run_when_a_body_is_dropped,
);

/// CANCEL.md: a scope holds all waits below it.
fn join_has_both_branches_cancelled(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let log = Log::default();
        let scope = CancelScope::new();
        let handle = scope.clone();
        drop(spawn(async move {
            turns(2).await;
            handle.cancel();
        }));
        let outcome = scope.run(async {
            let slept = async {
                let slept = sleep(LONG).await;
                log.note("sleep");
                slept.map_err(io::Error::from)
            };
            let received = async {
                let received = a.receive_into(vec![0; 8]).await;
                log.note("receive");
                received.map(drop).map_err(io::Error::from)
            };
            let (slept, received) = join(slept, received).await;
            slept.and(received)
        });
        assert!(outcome.await?.is_none());
        log.expect(&["sleep", "receive"]);
        Ok::<_, io::Error>(())
    });
}

/// One answer in each poll of a task, and still all of them.
fn join_all_of_many_waits_ends(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let handle = scope.clone();
        drop(spawn(async move { handle.cancel() }));
        let cancelled = Cell::new(0);
        let outcome = scope.run(async {
            let naps = (0..200).map(|_| sleep(LONG));
            let ends = join_all(naps).await;
            cancelled.set(ends.iter().filter(|end| end.is_err()).count());
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(cancelled.get(), 200);
        Ok::<_, io::Error>(())
    });
}

/// DESIGN, idea 2: "dropping it loses nothing".
fn select_drops_the_loser_and_loses_nothing(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        for round in 0..20_u8 {
            let outcome = move_on_after(ms(1000), async {
                let receive = pin!(a.receive());
                match future::select(pin!(yields(2)), receive).await {
                    Either::Left(((), _lost)) => {}
                    Either::Right((chunk, _)) => panic!("nothing was sent: {:?}", chunk?),
                }
                Ok::<_, io::Error>(())
            });
            assert!(outcome.await?.is_some());
            b.send(vec![round]).await?;
            assert_eq!(&a.receive().await?.expect("bytes")[..], [round]);
        }
        Ok::<_, io::Error>(())
    });
}

/// The macro of futures-util.
fn the_select_macro_works_in_a_scope(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let outcome = move_on_after(ms(10), async {
            let mut rounds = 0;
            loop {
                select_biased! {
                    ended = sleep(ms(3)).fuse() => ended?,
                    ended = sleep(LONG).fuse() => ended?,
                }
                rounds += 1;
                assert!(rounds <= 3);
            }
            #[allow(unreachable_code)]
            Ok::<(), Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(now() - begin, ms(10));
        Ok::<_, io::Error>(())
    });
}

/// Dropped inside of another scope's body.
fn a_scope_that_loses_a_select_leaves_nothing(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            for _ in 0..10 {
                let limited = pin!(move_on_after(LONG, sleep(LONG)));
                future::select(limited, pin!(yields(1))).await;
            }
            scope.cancel();
            let limited = pin!(move_on_after(LONG, pending::<Result<(), Cancelled>>()));
            future::select(limited, ready(())).await;
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 5: "wakes the waker of every affected scope".
fn scopes_in_a_set_of_futures_are_cancelled_one_by_one(cx: Cx) {
    cx.run(async {
        let scopes: Vec<_> = (0..10).map(|_| CancelScope::new()).collect();
        let mut bodies: FuturesUnordered<_> = (0..10)
            .map(|at| {
                scopes[at].run(async { Ok::<(), Cancelled>(pending().await) }).map(move |end| (at, end))
            })
            .collect();
        assert!(bodies.next().now_or_never().is_none());
        for at in [3, 9, 0, 5] {
            let handle = scopes[at].clone();
            drop(spawn(async move { handle.cancel() }));
            assert_eq!(bodies.next().await, Some((at, Ok(None))));
        }
        assert_eq!(bodies.len(), 6);
        Ok::<_, io::Error>(())
    });
}

/// Each by its own waker.
fn waits_in_a_set_of_futures_are_all_cancelled(cx: Cx) {
    cx.run(async {
        let (a, _b) = UnixStream::pair()?;
        let scope = CancelScope::new();
        let handle = scope.clone();
        drop(spawn(async move {
            turns(2).await;
            handle.cancel();
        }));
        let outcome = scope.run(async {
            let mut waits = FuturesUnordered::new();
            for _ in 0..20 {
                waits.push(sleep(LONG).map(|end| end.map_err(io::Error::from)).boxed_local());
            }
            waits.push(a.receive().map(|end| end.map(drop)).boxed_local());
            let mut ended = 0;
            while let Some(end) = waits.next().await {
                assert!(end.is_err());
                ended += 1;
            }
            assert_eq!(ended, 21);
            checkpoint().await.map_err(io::Error::from)
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 1, where nobody but the cancel wakes the wait.
fn a_wait_in_a_set_of_futures_belongs_to_the_scope_it_was_polled_in_last(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let nudge: Cell<Option<Waker>> = Cell::new(None);
        // Its waker is kept, so that it can be polled again.
        let mut receive = Box::pin(a.receive_into(vec![0; 8]));
        let receive = poll_fn(|cx| {
            nudge.set(Some(cx.waker().clone()));
            receive.as_mut().poll(cx).map(|end| end.is_err())
        });
        let mut nap = Box::pin(sleep(LONG));
        let other: Cell<Option<Waker>> = Cell::new(None);
        let nap = poll_fn(|cx| {
            other.set(Some(cx.waker().clone()));
            nap.as_mut().poll(cx).map(|end| end.is_err())
        });
        let mut waits: FuturesUnordered<_> = [receive.boxed_local(), nap.boxed_local()].into_iter().collect();
        assert!(waits.next().now_or_never().is_none(), "polled outside of the scope");
        [&nudge, &other].iter().for_each(|waker| waker.take().expect("polled").wake());
        let log = Log::default();
        let outcome = move_on_after(ms(5), async {
            while let Some(is_cancelled) = waits.next().await {
                assert!(is_cancelled);
                log.note("answered");
            }
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["answered", "answered"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 1: "what outlives a scope passes to the parent".
fn a_wait_in_a_set_of_futures_that_outlives_its_scope_passes_to_the_parent(cx: Cx) {
    cx.run(async {
        let (outer, log) = (CancelScope::new(), Log::default());
        let mut waits: FuturesUnordered<_> = [sleep(LONG)].into_iter().collect();
        let handle = outer.clone();
        drop(spawn(async move {
            turns(2).await;
            handle.cancel();
        }));
        let outcome = outer.run(async {
            let inside = move_on_after(LONG, async {
                assert!(waits.next().now_or_never().is_none());
                Ok::<_, Cancelled>(())
            });
            assert_eq!(inside.await, Ok(Some(())));
            assert!(waits.next().await.expect("one").is_err());
            log.note("answered");
            checkpoint().await
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["answered"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6.
fn a_channel_of_another_crate_is_dropped_by_a_cancel(cx: Cx) {
    virtually(cx, async {
        let flag = Rc::new(ForeignFlag::default());
        let waits = flag.clone();
        let outcome = move_on_after(ms(5), async move { Ok::<_, Cancelled>(waits.wait().await) });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(Rc::strong_count(&flag), 1);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6: who was woken is not stuck.
fn a_foreign_wake_up_from_another_thread_keeps_the_clean_up_alive(cx: Cx) {
    cx.run(async {
        let (begin, begun) = mpsc::channel::<std::task::Waker>();
        let thread = std::thread::spawn(move || {
            while let Ok(waker) = begun.recv() {
                waker.wake();
            }
        });
        let (scope, rounds) = (CancelScope::new(), Cell::new(0));
        let outcome = scope.run(async {
            scope.cancel();
            let failed = checkpoint().await;
            // Foreign, and awake: it hands its waker over and is woken by the thread and by itself.
            poll_fn(|cx| {
                rounds.set(rounds.get() + 1);
                if rounds.get() > 30 {
                    return Poll::Ready(());
                }
                begin.send(cx.waker().clone()).expect("the thread listens");
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            failed
        });
        assert_eq!(outcome.await, Ok(None));
        assert_eq!(rounds.get(), 31, "it was not dropped before its end");
        drop(begin);
        thread.join().expect("no panic");
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6: a wait that is not over counts.
fn a_foreign_wait_beside_one_of_ours_is_not_dropped_before_that_has_answered(cx: Cx) {
    cx.run(async {
        let (a, _b) = tcp_pair().await?;
        let log = Log::default();
        let outcome = move_on_after(ms(1), async {
            let received = async {
                assert!(a.receive_into(vec![0; 8]).await.is_err());
                log.note("answered");
            };
            join(received, pending::<()>()).await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["answered"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6: a live inner scope counts.
fn a_foreign_wait_beside_a_shielded_branch_is_not_dropped_before_that_is_over(cx: Cx) {
    virtually(cx, async {
        let log = Log::default();
        let outcome = move_on_after(ms(1), async {
            let cleans = shielded(async {
                sleep(ms(20)).await.expect("shielded");
                log.note("cleaned up");
            });
            join(cleans, pending::<()>()).await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["cleaned up"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6: a group counts until its join ends.
fn a_foreign_wait_beside_a_group_is_not_dropped_before_that_is_over(cx: Cx) {
    virtually(cx, async {
        let log = Log::default();
        let outcome = move_on_after(ms(1), async {
            let group = task_group(async |group| {
                group.start_soon(crate::cancel::cleans_up(&log, "child"));
                Ok::<_, io::Error>(())
            });
            let noted = async {
                assert!(group.await.is_err());
                log.note("group");
            };
            join(noted, pending::<()>()).await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["child", "group"]);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 6, and AnyIO's `to_thread`: it is waited for.
fn a_foreign_wait_beside_a_wait_for_a_thread_is_not_dropped_before_that_is_over(cx: Cx) {
    cx.run(async {
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (scope, log) = (CancelScope::new(), Log::default());
        let handle = scope.clone();
        let other = spawn(async move {
            until(|| begun.try_recv().is_ok()).await;
            handle.cancel();
            yields(20).await;
            release.send(()).expect("the thread waits");
        });
        let outcome = scope.run(async {
            let function = move || {
                begin.send(()).expect("somebody waits");
                released.recv().expect("it is released");
            };
            let in_thread = async {
                to_thread::run_sync(function).await.expect("it is done");
                log.note("thread");
            };
            join(in_thread, pending::<()>()).await;
            Ok::<_, Cancelled>(())
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["thread"]);
        Ok::<_, io::Error>(other.await?)
    });
}

/// CANCEL.md, rule 6: an inner scope counts as long as it lives, and somebody else may end it.
fn the_end_of_the_last_inner_scope_is_noticed(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let inner = Rc::new(RefCell::new(Some(shielded(sleep(LONG)).boxed_local())));
        let (handle, ends) = (scope.clone(), inner.clone());
        let other = spawn(async move {
            yields(2).await;
            handle.cancel();
            yields(5).await;
            drop(ends.take());
        });
        let stuck = poll_fn(|cx| {
            if let Some(inner) = &mut *inner.borrow_mut() {
                assert!(inner.as_mut().poll(cx).is_pending());
            }
            Poll::<Result<(), Cancelled>>::Pending
        });
        assert_eq!(scope.run(stuck).await, Ok(None));
        assert!(inner.borrow().is_none(), "it was not dropped before that");
        Ok::<_, io::Error>(other.await?)
    });
}

/// The innermost scope of the stuck body drops it, and the error goes on from there.
fn a_foreign_body_in_an_inner_scope_is_dropped_there(cx: Cx) {
    cx.run(async {
        let (outer, inner, log) = (CancelScope::new(), CancelScope::new(), Log::default());
        let handle = outer.clone();
        drop(spawn(async move { handle.cancel_with("outer") }));
        let outcome = outer.run(async {
            let inside = inner.run(async { Ok::<(), Cancelled>(pending().await) }).await;
            log.note("went on behind the inner scope");
            assert_eq!(inside.as_ref().expect_err("cancelled").message(), Some("outer"));
            inside
        });
        assert_eq!(outcome.await, Ok(None));
        log.expect(&["went on behind the inner scope"]);
        Ok::<_, io::Error>(())
    });
}

/// What one body of a task put off is no excuse for another.
fn a_foreign_wait_that_one_branch_put_off_is_dropped_all_the_same(cx: Cx) {
    cx.run(async {
        let scopes = [CancelScope::new(), CancelScope::new()];
        let mut bodies = FuturesUnordered::new();
        bodies.push(
            scopes[0]
                .run(async {
                    let _ = checkpoint().await;
                    // The second in one poll is put off, and dropped at once.
                    let _ = checkpoint().now_or_never();
                    future::select(pin!(checkpoint()), ready(())).await;
                    Ok::<_, Cancelled>(1)
                })
                .boxed_local(),
        );
        bodies.push(scopes[1].run(async { Ok::<_, Cancelled>(pending().await) }).boxed_local());
        scopes.iter().for_each(CancelScope::cancel);
        let mut ends = Vec::new();
        while let Some(end) = bodies.next().await {
            ends.push(end);
        }
        assert_eq!(ends, [Ok(Some(1)), Ok(None)]);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `checkpoint_if_cancelled`: `yield_now` is for letting others run and not being cancelled.
fn each_turn_of_a_clean_up_lets_others_run(cx: Cx) {
    cx.run(async {
        let (scope, others) = (CancelScope::new(), Rc::new(Cell::new(0)));
        let count = others.clone();
        let other = spawn(async move {
            loop {
                count.set(count.get() + 1);
                checkpoint().await?;
            }
            #[allow(unreachable_code)]
            Ok::<(), Cancelled>(())
        });
        let outcome = scope.run(async {
            scope.cancel();
            yields(50).await;
            Ok::<_, Cancelled>(others.get())
        });
        let turns = outcome.await?.expect("it ran to its end");
        assert!((50..55).contains(&turns), "{turns}");
        other.cancel("enough");
        assert!(other.await.expect("no panic").is_err());
        Ok::<_, Cancelled>(())
    });
}

/// CANCEL.md, rule 6: "64 such turns".
fn a_task_that_only_lets_others_run_is_dropped_in_the_end(cx: Cx) {
    cx.run(async {
        let rounds = Rc::new(Cell::new(0));
        let count = rounds.clone();
        let task = spawn(async move {
            loop {
                count.set(count.get() + 1);
                yield_now().await;
            }
        });
        yields(100).await;
        let before = rounds.get();
        task.cancel("enough");
        task.await.expect_err("it was dropped");
        assert!((60..=70).contains(&(rounds.get() - before)), "{}", rounds.get() - before);
        Ok::<_, io::Error>(())
    });
}

/// API: every resource has poll faces.
fn a_poll_function_of_the_program_that_registers_with_us_is_answered(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let answered = Cell::new(false);
        let outcome = move_on_after(ms(1), async {
            let received = poll_fn(|cx| a.poll_receive(cx)).await;
            // What is taken for foreign is dropped, and does not come here.
            answered.set(received.is_err());
            received
        });
        assert!(outcome.await?.is_none());
        assert!(answered.get());
        b.send("kept").await?;
        assert_eq!(&poll_fn(|cx| a.poll_receive(cx)).await?.expect("bytes")[..], b"kept");
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 1, for whole scopes.
fn a_scope_that_is_polled_by_another_task_goes_with_it(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let inner = scope.clone();
        let mut body = Box::pin(async move { inner.run(sleep_forever()).await.map(|_| ()) });
        assert!(body.as_mut().now_or_never().is_none());
        let task = spawn(body);
        yields(2).await;
        task.cancel("its new home");
        assert_eq!(task.await?.expect_err("cancelled").message(), Some("its new home"));
        assert!(!scope.cancel_called());
        Ok::<_, io::Error>(())
    });
}

/// A scope's future is a future as any other.
fn a_future_of_a_scope_can_be_boxed_and_moved(cx: Cx) {
    virtually(cx, async {
        let mut limits: Vec<_> = (1..=3).map(|n| move_on_after(ms(n), sleep(LONG)).boxed_local()).collect();
        limits.reverse();
        let begin = now();
        assert_eq!(join_all(limits).await, [Ok(None), Ok(None), Ok(None)]);
        assert_eq!(now() - begin, ms(3));
        Ok::<_, io::Error>(())
    });
}

/// The main future has a root scope as every task.
fn the_main_future_may_be_in_a_scope(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let outcome = event_loop
        .run_until_complete(async { CancelScope::new().with_timeout(ms(1)).run(sleep(LONG)).await });
    assert_eq!(outcome.expect("the loop runs"), Ok(None));
    event_loop.close().expect("it closes");
}

/// C14: user code runs while nothing is borrowed.
fn a_destructor_that_wakes_others_may_run_when_a_body_is_dropped(cx: Cx) {
    struct Acts(CancelScope, Rc<ForeignFlag>);
    impl Drop for Acts {
        fn drop(&mut self) {
            self.0.cancel();
            self.0.set_deadline(None);
            self.1.set();
            drop(spawn(async {}));
            drop(CancelScope::new());
        }
    }
    cx.run(async {
        let (other, flag) = (CancelScope::new(), Rc::new(ForeignFlag::default()));
        let (acts, waits) = (Acts(other.clone(), flag.clone()), flag.clone());
        let waiting = spawn(async move { waits.wait().await });
        yield_now().await;
        let outcome = move_on_after(ms(1), async move {
            let _acts = acts;
            Ok::<(), Cancelled>(pending().await)
        });
        assert_eq!(outcome.await, Ok(None));
        waiting.await?;
        assert!(other.cancel_called());
        Ok::<_, io::Error>(())
    });
}
