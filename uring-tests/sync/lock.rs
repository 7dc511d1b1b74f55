//! `Lock`.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use futures_util::join;
use proactor::sync::{Lock, LockGuard};
use proactor::{WouldBlock, spawn, yield_now};

use super::{Log, begin, kind, poll_once, settle, waiting};
use crate::harness::{Cx, both_drivers, many};

both_drivers!(
    a_new_lock_is_free,
    one_task_at_a_time_has_it_across_its_awaits,
    it_goes_to_who_waits_in_the_order_in_which_they_came,
    a_newcomer_cannot_take_it_in_passing,
    acquire_nowait_takes_it_or_says_that_it_would_block,
    the_guard_of_a_lock_gives_access_to_its_value,
    the_statistics_tell_whether_it_is_locked_and_who_waits,
    a_dropped_wait_gives_up_its_place,
    a_grant_that_is_dropped_before_it_was_noticed_goes_to_the_next,
    a_grant_that_is_dropped_with_nobody_behind_frees_the_lock,
    a_task_that_panics_with_the_lock_releases_it,
    two_futures_of_one_task_take_turns,
    a_guard_may_go_to_another_task,
    a_future_that_was_never_polled_takes_no_place,
    a_loop_of_free_locks_yields_to_other_tasks,
    a_hundred_thousand_who_wait_take_linear_time,
);

// asyncio, Lock: created in the unlocked state.
fn a_new_lock_is_free(cx: Cx) {
    cx.run(async {
        let lock: Lock = Lock::default();
        assert!(!lock.is_locked());
        let guard = lock.acquire().await?;
        assert!(lock.is_locked());
        drop(guard);
        assert!(!lock.is_locked());
        Ok::<_, io::Error>(())
    });
}

// AnyIO and asyncio, Lock.
fn one_task_at_a_time_has_it_across_its_awaits(cx: Cx) {
    cx.run(async {
        let (lock, inside) = (Lock::new(0), Rc::new(Cell::new(false)));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (lock, inside) = (lock.clone(), inside.clone());
                spawn(async move {
                    let mut count = lock.acquire().await?;
                    assert!(!inside.replace(true), "two tasks have the lock");
                    let before = *count;
                    yield_now().await;
                    *count = before + 1;
                    inside.set(false);
                    Ok::<_, io::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        assert_eq!(*lock.acquire().await?, 20);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Lock: the first coroutine which is blocked in acquire() is being processed.
fn it_goes_to_who_waits_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (lock, log) = (Lock::new(()), Log::new());
        let guard = lock.acquire().await?;
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiting(&log, number, lock.acquire()).await);
        }
        drop(guard);
        for task in tasks {
            drop(task.await??);
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Lock: ownership is handed over.
fn a_newcomer_cannot_take_it_in_passing(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let mut first = begin(lock.acquire());
        drop(guard);
        // The first one has not run yet, but the lock is its own.
        assert!(lock.is_locked());
        assert_eq!(lock.acquire_nowait().err(), Some(WouldBlock::default()));
        let mut newcomer = begin(lock.acquire());
        assert!(poll_once(&mut newcomer).is_pending());
        assert!(poll_once(&mut first).is_ready());
        assert!(poll_once(&mut newcomer).is_ready(), "the guard of the first is gone already");
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Lock.acquire_nowait: WouldBlock if the operation would block.
fn acquire_nowait_takes_it_or_says_that_it_would_block(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire_nowait()?;
        assert_eq!(kind(lock.acquire_nowait()), io::ErrorKind::WouldBlock);
        drop(guard);
        drop(lock.acquire_nowait()?);
        Ok::<_, io::Error>(())
    });
}

fn the_guard_of_a_lock_gives_access_to_its_value(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(String::from("a"));
        let mut guard = lock.acquire().await?;
        guard.push('b');
        assert_eq!(guard.as_str(), "ab");
        assert!(LockGuard::lock(&guard).is_locked());
        drop(guard);
        assert_eq!(*lock.acquire_nowait()?, "ab");
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Lock.statistics.
fn the_statistics_tell_whether_it_is_locked_and_who_waits(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let told = |lock: &Lock| (lock.statistics().locked, lock.statistics().tasks_waiting);
        assert_eq!(told(&lock), (false, 0));
        let guard = lock.acquire().await?;
        assert_eq!(told(&lock), (true, 0));
        let wait = begin(lock.acquire());
        assert_eq!(told(&lock), (true, 1));
        drop(guard);
        assert_eq!(told(&lock), (true, 0), "it was handed over");
        drop(wait);
        assert_eq!(told(&lock), (false, 0));
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_wait_gives_up_its_place(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let [first, mut second, third] = [(); 3].map(|()| begin(lock.acquire()));
        drop((first, third));
        drop(guard);
        assert!(poll_once(&mut second).is_ready());
        assert!(!lock.is_locked());
        Ok::<_, io::Error>(())
    });
}

fn a_grant_that_is_dropped_before_it_was_noticed_goes_to_the_next(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let first = begin(lock.acquire());
        let second = spawn(lock.acquire());
        settle().await;
        drop(guard);
        drop(first);
        drop(second.await??);
        assert!(!lock.is_locked());
        Ok::<_, io::Error>(())
    });
}

fn a_grant_that_is_dropped_with_nobody_behind_frees_the_lock(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let wait = begin(lock.acquire());
        drop(guard);
        drop(wait);
        drop(lock.acquire_nowait()?);
        Ok::<_, io::Error>(())
    });
}

fn a_task_that_panics_with_the_lock_releases_it(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(1);
        let held = lock.clone();
        let task = spawn(async move {
            let _guard = held.acquire().await;
            panic!("with the lock");
        });
        assert!(task.await.is_err());
        assert_eq!(*lock.acquire().await?, 1);
        Ok::<_, io::Error>(())
    });
}

// Here a task may wait in several futures at a time: that it holds the lock in one of them is no error in another.
fn two_futures_of_one_task_take_turns(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(Vec::new());
        let turn = |number| {
            let lock = lock.clone();
            async move {
                let mut guard = lock.acquire().await?;
                yield_now().await;
                guard.push(number);
                Ok::<_, io::Error>(())
            }
        };
        let (first, second) = join!(turn(1), turn(2));
        first.and(second)?;
        assert_eq!(*lock.acquire().await?, [1, 2]);
        Ok::<_, io::Error>(())
    });
}

fn a_guard_may_go_to_another_task(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let task = spawn(async move {
            yield_now().await;
            drop(guard);
        });
        drop(lock.acquire().await?);
        task.await?;
        Ok::<_, io::Error>(())
    });
}

fn a_future_that_was_never_polled_takes_no_place(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let wait = lock.acquire();
        assert_eq!(lock.statistics().tasks_waiting, 0);
        drop(lock.acquire_nowait()?);
        drop(wait);
        assert!(!lock.is_locked());
        Ok::<_, io::Error>(())
    });
}

fn a_loop_of_free_locks_yields_to_other_tasks(cx: Cx) {
    cx.run(async {
        let (lock, over) = (Lock::new(()), Rc::new(Cell::new(false)));
        let other = over.clone();
        drop(spawn(async move { other.set(true) }));
        while !over.get() {
            drop(lock.acquire().await?);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_hundred_thousand_who_wait_take_linear_time(cx: Cx) {
    let count = many(100_000);
    cx.run(async {
        let lock = Lock::new(0);
        let guard = lock.acquire().await?;
        let mut waits: Vec<_> = (0..count).map(|_| begin(lock.acquire())).collect();
        // The last come first out of the queue, and then the rest in turn.
        waits.truncate(count / 2);
        drop(guard);
        for mut wait in waits {
            assert!(poll_once(&mut wait).is_ready(), "it is the turn of this one");
        }
        assert!(!lock.is_locked());
        Ok::<_, io::Error>(())
    });
}
