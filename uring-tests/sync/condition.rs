//! `Condition`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proactor::sync::{Condition, Lock};
use proactor::{Task, WouldBlock, spawn};

use super::{Log, begin, poll_once, settle};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    waiting_releases_the_lock_and_has_it_again_in_the_end,
    notify_wakes_as_many_as_it_is_told_in_the_order_in_which_they_came,
    notify_with_nobody_waiting_does_nothing,
    notify_all_wakes_everybody_one_after_the_other,
    who_was_notified_goes_on_only_with_the_lock,
    wait_for_looks_after_each_notification,
    wait_for_does_not_wait_if_it_is_true_already,
    several_conditions_may_share_a_lock,
    a_guard_of_another_lock_is_refused,
    acquire_nowait_and_is_locked_are_those_of_the_lock,
    the_statistics_count_who_waits_here_and_at_the_lock,
    a_wait_that_was_never_polled_keeps_and_then_releases_the_lock,
    a_dropped_wait_leaves_the_lock_released,
    a_notification_of_a_dropped_wait_goes_to_the_next,
    a_notification_of_a_wait_dropped_at_the_lock_goes_to_the_next,
);

/// A task that waits to be notified, and then notes its number.
async fn waiter(condition: &Condition, log: &Log<u32>, number: u32) -> Task<io::Result<()>> {
    let (condition, log) = (condition.clone(), log.clone());
    let task = spawn(async move {
        let guard = condition.acquire().await?;
        let _guard = condition.wait(guard).await?;
        assert!(condition.is_locked());
        log.push(number);
        Ok(())
    });
    settle().await;
    task
}

// asyncio, Condition.wait: releases the underlying lock, blocks, and once awakened re-acquires it.
fn waiting_releases_the_lock_and_has_it_again_in_the_end(cx: Cx) {
    cx.run(async {
        let (condition, log) = (Condition::new(()), Log::new());
        let task = waiter(&condition, &log, 1).await;
        assert!(!condition.is_locked());
        let guard = condition.acquire().await?;
        condition.notify(&guard, 1);
        drop(guard);
        task.await??;
        assert_eq!(log.take(), [1]);
        assert!(!condition.is_locked());
        Ok::<_, io::Error>(())
    });
}

// asyncio, Condition.notify(n): wakes up at most n of those who wait.
fn notify_wakes_as_many_as_it_is_told_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (condition, log) = (Condition::new(()), Log::new());
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiter(&condition, &log, number).await);
        }
        condition.notify(&condition.acquire().await?, 2);
        settle().await;
        assert_eq!(log.take(), [0, 1]);
        condition.notify(&condition.acquire().await?, 0);
        settle().await;
        assert!(log.take().is_empty());
        condition.notify(&condition.acquire().await?, 100);
        for task in tasks {
            task.await??;
        }
        assert_eq!(log.take(), [2, 3, 4]);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Condition.notify: a no-op if nobody waits; it is not kept for later.
fn notify_with_nobody_waiting_does_nothing(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(());
        let guard = condition.acquire().await?;
        condition.notify(&guard, 1);
        condition.notify_all(&guard);
        let wait = begin(condition.wait(guard));
        assert_eq!(condition.statistics().tasks_waiting, 1);
        drop(wait);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Condition.notify_all.
fn notify_all_wakes_everybody_one_after_the_other(cx: Cx) {
    cx.run(async {
        let (condition, log) = (Condition::new(()), Log::new());
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiter(&condition, &log, number).await);
        }
        condition.notify_all(&condition.acquire().await?);
        for task in tasks {
            task.await??;
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Condition.notify: an awakened coroutine does not return from wait() until it can re-acquire the lock.
fn who_was_notified_goes_on_only_with_the_lock(cx: Cx) {
    cx.run(async {
        let (condition, log) = (Condition::new(()), Log::new());
        let task = waiter(&condition, &log, 1).await;
        let guard = condition.acquire().await?;
        condition.notify(&guard, 1);
        settle().await;
        assert!(log.take().is_empty());
        assert_eq!(condition.statistics().lock_statistics.tasks_waiting, 1);
        drop(guard);
        task.await??;
        assert_eq!(log.take(), [1]);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Condition.wait_for: waits until the predicate becomes true.
fn wait_for_looks_after_each_notification(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(0);
        let other = condition.clone();
        let task = spawn(async move {
            let guard = other.acquire().await?;
            let guard = other.wait_for(guard, |count| *count >= 3).await?;
            Ok::<_, io::Error>(*guard)
        });
        settle().await;
        for count in 1..=3 {
            assert!(!task.is_finished());
            let mut guard = condition.acquire().await?;
            *guard = count;
            condition.notify_all(&guard);
            drop(guard);
            settle().await;
        }
        assert_eq!(task.await??, 3);
        Ok::<_, io::Error>(())
    });
}

fn wait_for_does_not_wait_if_it_is_true_already(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(3);
        let guard = condition.acquire().await?;
        let guard = condition.wait_for(guard, |count| *count == 3).await?;
        assert!(condition.is_locked());
        drop(guard);
        Ok::<_, io::Error>(())
    });
}

// AnyIO and asyncio, Condition(lock).
fn several_conditions_may_share_a_lock(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let (full, empty) = (Condition::with_lock(lock.clone()), Condition::with_lock(lock.clone()));
        let log = Log::new();
        let (first, second) = (waiter(&full, &log, 1).await, waiter(&empty, &log, 2).await);
        let guard = lock.acquire().await?;
        assert!(full.is_locked() && empty.is_locked());
        empty.notify(&guard, 1);
        drop(guard);
        second.await??;
        assert_eq!(log.take(), [2]);
        full.notify(&full.acquire().await?, 1);
        first.await??;
        Ok::<_, io::Error>(())
    });
}

// asyncio, Condition.notify and wait: RuntimeError if the caller has not acquired the lock.
fn a_guard_of_another_lock_is_refused(cx: Cx) {
    cx.run(async {
        let (condition, other) = (Condition::new(()), Lock::new(()));
        let guard = other.acquire().await?;
        assert!(catch_unwind(AssertUnwindSafe(|| condition.notify(&guard, 1))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| condition.notify_all(&guard))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| drop(condition.wait(guard)))).is_err());
        assert!(!other.is_locked());
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Condition.acquire_nowait and locked.
fn acquire_nowait_and_is_locked_are_those_of_the_lock(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(());
        let guard = condition.acquire_nowait()?;
        assert!(condition.is_locked() && condition.lock().is_locked());
        assert_eq!(condition.acquire_nowait().err(), Some(WouldBlock::default()));
        drop(guard);
        assert!(!condition.is_locked());
        Ok::<_, io::Error>(())
    });
}

// AnyIO, ConditionStatistics(tasks_waiting, lock_statistics).
fn the_statistics_count_who_waits_here_and_at_the_lock(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(());
        let wait = begin(condition.wait(condition.acquire().await?));
        let guard = condition.acquire().await?;
        let at_the_lock = begin(condition.acquire());
        let statistics = condition.statistics();
        assert_eq!(statistics.tasks_waiting, 1);
        assert_eq!((statistics.lock_statistics.locked, statistics.lock_statistics.tasks_waiting), (true, 1));
        drop((wait, at_the_lock, guard));
        assert_eq!(condition.statistics().tasks_waiting, 0);
        Ok::<_, io::Error>(())
    });
}

fn a_wait_that_was_never_polled_keeps_and_then_releases_the_lock(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(());
        let wait = condition.wait(condition.acquire().await?);
        assert!(condition.is_locked());
        drop(wait);
        assert!(!condition.is_locked());
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_wait_leaves_the_lock_released(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(());
        drop(begin(condition.wait(condition.acquire().await?)));
        assert!(!condition.is_locked());
        assert_eq!(condition.statistics().tasks_waiting, 0);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Condition.wait: who was notified and goes notifies the next.
fn a_notification_of_a_dropped_wait_goes_to_the_next(cx: Cx) {
    cx.run(async {
        let (condition, log) = (Condition::new(()), Log::new());
        let first = begin(condition.wait(condition.acquire().await?));
        let second = waiter(&condition, &log, 2).await;
        condition.notify(&condition.acquire().await?, 1);
        drop(first);
        second.await??;
        assert_eq!(log.take(), [2]);
        assert!(!condition.is_locked());
        Ok::<_, io::Error>(())
    });
}

fn a_notification_of_a_wait_dropped_at_the_lock_goes_to_the_next(cx: Cx) {
    cx.run(async {
        let (condition, log) = (Condition::new(()), Log::new());
        let mut first = begin(condition.wait(condition.acquire().await?));
        let second = waiter(&condition, &log, 2).await;
        let guard = condition.acquire().await?;
        condition.notify(&guard, 1);
        assert!(poll_once(&mut first).is_pending(), "it waits for the lock now");
        drop(guard);
        // It has the notification and the lock, and does not know it.
        drop(first);
        second.await??;
        assert_eq!(log.take(), [2]);
        assert!(!condition.is_locked());
        Ok::<_, io::Error>(())
    });
}
