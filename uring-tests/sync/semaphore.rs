//! `Semaphore`.

use std::cell::Cell;
use std::io;
use std::panic::catch_unwind;
use std::rc::Rc;

use proactor::sync::Semaphore;
use proactor::{WouldBlock, spawn, yield_now};

use super::{Log, begin, kind, poll_once, settle, waiting};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    no_more_tasks_than_permits_are_inside,
    its_value_is_what_can_be_acquired,
    it_begins_with_one_permit_by_default,
    acquire_nowait_takes_a_permit_or_says_that_it_would_block,
    permits_go_to_who_waits_in_the_order_in_which_they_came,
    a_newcomer_cannot_take_a_permit_in_passing,
    release_without_acquire_adds_a_permit,
    a_bounded_semaphore_refuses_a_release_too_many,
    a_bounded_semaphore_begins_within_its_bound,
    a_forgotten_permit_comes_back_by_release_only,
    a_permit_that_was_released_by_hand_too_is_not_counted_twice,
    the_statistics_count_who_waits,
    a_permit_for_a_dropped_wait_goes_to_the_next,
    a_permit_for_a_dropped_wait_with_nobody_behind_is_free,
    a_permit_may_go_to_another_task,
);

// AnyIO and asyncio, Semaphore.
fn no_more_tasks_than_permits_are_inside(cx: Cx) {
    cx.run(async {
        let (semaphore, inside, most) = (Semaphore::new(3), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (semaphore, inside, most) = (semaphore.clone(), inside.clone(), most.clone());
                spawn(async move {
                    let _permit = semaphore.acquire().await?;
                    inside.set(inside.get() + 1);
                    most.set(most.get().max(inside.get()));
                    yield_now().await;
                    inside.set(inside.get() - 1);
                    Ok::<_, io::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        assert_eq!(most.get(), 3);
        assert_eq!(semaphore.value(), 3);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Semaphore.value; asyncio, Semaphore.locked.
fn its_value_is_what_can_be_acquired(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(2);
        let first = semaphore.acquire().await?;
        assert_eq!((semaphore.value(), semaphore.is_locked()), (1, false));
        let second = semaphore.acquire().await?;
        assert_eq!((semaphore.value(), semaphore.is_locked()), (0, true));
        drop((first, second));
        assert_eq!((semaphore.value(), semaphore.max_value()), (2, None));
        Ok::<_, io::Error>(())
    });
}

// asyncio, Semaphore: the initial value defaults to 1.
fn it_begins_with_one_permit_by_default(cx: Cx) {
    cx.run(async {
        assert_eq!(Semaphore::default().value(), 1);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Semaphore.acquire_nowait.
fn acquire_nowait_takes_a_permit_or_says_that_it_would_block(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.acquire_nowait()?;
        assert_eq!(kind(semaphore.acquire_nowait()), io::ErrorKind::WouldBlock);
        drop(permit);
        drop(semaphore.acquire_nowait()?);
        Ok::<_, io::Error>(())
    });
}

fn permits_go_to_who_waits_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (semaphore, log) = (Semaphore::new(0), Log::new());
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiting(&log, number, semaphore.acquire()).await);
        }
        semaphore.release()?;
        for task in tasks {
            drop(task.await??);
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        assert_eq!(semaphore.value(), 1);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Semaphore: fair, the permit is handed over.
fn a_newcomer_cannot_take_a_permit_in_passing(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(0);
        let mut first = begin(semaphore.acquire());
        semaphore.release()?;
        assert_eq!(semaphore.value(), 0);
        assert_eq!(semaphore.acquire_nowait().err(), Some(WouldBlock::default()));
        let mut newcomer = begin(semaphore.acquire());
        assert!(poll_once(&mut newcomer).is_pending());
        assert!(poll_once(&mut first).is_ready());
        assert!(poll_once(&mut newcomer).is_ready());
        Ok::<_, io::Error>(())
    });
}

// asyncio, Semaphore.release: increments the internal counter.
fn release_without_acquire_adds_a_permit(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(0);
        semaphore.release()?;
        semaphore.release()?;
        assert_eq!(semaphore.value(), 2);
        Ok::<_, io::Error>(())
    });
}

// asyncio, BoundedSemaphore.release: ValueError if it would go above the initial value; AnyIO, max_value.
fn a_bounded_semaphore_refuses_a_release_too_many(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::bounded(1, 2);
        assert_eq!(semaphore.max_value(), Some(2));
        semaphore.release()?;
        assert_eq!(kind(semaphore.release()), io::ErrorKind::InvalidInput);
        assert_eq!(semaphore.value(), 2);
        drop(semaphore.acquire().await?);
        assert_eq!(semaphore.value(), 2);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Semaphore: max_value must not be below the initial value.
fn a_bounded_semaphore_begins_within_its_bound(cx: Cx) {
    cx.run(async {
        assert!(catch_unwind(|| drop(Semaphore::bounded(3, 2))).is_err());
        assert_eq!(Semaphore::bounded(2, 2).value(), 2);
        Ok::<_, io::Error>(())
    });
}

fn a_forgotten_permit_comes_back_by_release_only(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::bounded(1, 1);
        semaphore.acquire().await?.forget();
        assert_eq!(semaphore.value(), 0);
        semaphore.release()?;
        assert_eq!(semaphore.value(), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_permit_that_was_released_by_hand_too_is_not_counted_twice(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::bounded(1, 1);
        let permit = semaphore.acquire().await?;
        semaphore.release()?;
        drop(permit);
        assert_eq!(semaphore.value(), 1);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Semaphore.statistics.
fn the_statistics_count_who_waits(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(0);
        let waits = [begin(semaphore.acquire()), begin(semaphore.acquire())];
        assert_eq!(semaphore.statistics().tasks_waiting, 2);
        drop(waits);
        assert_eq!(semaphore.statistics().tasks_waiting, 0);
        Ok::<_, io::Error>(())
    });
}

fn a_permit_for_a_dropped_wait_goes_to_the_next(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(0);
        let first = begin(semaphore.acquire());
        let second = spawn(semaphore.acquire());
        settle().await;
        semaphore.release()?;
        drop(first);
        drop(second.await??);
        assert_eq!(semaphore.value(), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_permit_for_a_dropped_wait_with_nobody_behind_is_free(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(0);
        let wait = begin(semaphore.acquire());
        semaphore.release()?;
        drop(wait);
        assert_eq!(semaphore.value(), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_permit_may_go_to_another_task(cx: Cx) {
    cx.run(async {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.acquire().await?;
        let task = spawn(async move {
            yield_now().await;
            drop(permit);
        });
        drop(semaphore.acquire().await?);
        task.await?;
        Ok::<_, io::Error>(())
    });
}
