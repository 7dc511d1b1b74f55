//! `CapacityLimiter`.

use std::collections::HashSet;
use std::io;

use proactor::spawn;
use proactor::sync::{BorrowError, Borrower, CapacityLimiter};

use super::{Log, begin, kind, poll_once, settle, waiting};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    it_lends_its_tokens_and_no_more,
    acquire_nowait_says_that_it_would_block,
    a_token_goes_back_when_it_is_dropped,
    tokens_go_to_who_waits_in_the_order_in_which_they_came,
    a_newcomer_cannot_take_a_token_in_passing,
    a_borrower_holds_its_token_until_it_is_released_on_its_behalf,
    a_borrower_has_one_token_at_most,
    a_borrower_that_waits_already_is_refused,
    a_release_by_who_holds_nothing_is_an_error,
    more_tokens_go_to_those_who_wait,
    with_fewer_tokens_than_are_borrowed_nobody_gets_any,
    an_unlimited_limiter_never_waits,
    without_tokens_everybody_waits,
    the_statistics_name_the_borrowers,
    a_token_for_a_dropped_wait_goes_to_the_next,
    a_borrower_whose_wait_was_dropped_may_borrow_again,
    a_task_can_be_a_borrower,
);

// AnyIO, CapacityLimiter.
fn it_lends_its_tokens_and_no_more(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(2);
        let first = limiter.acquire().await?;
        let second = limiter.acquire().await?;
        assert_eq!(
            (limiter.total_tokens(), limiter.borrowed_tokens(), limiter.available_tokens()),
            (2, 2, 0)
        );
        drop(begin(limiter.acquire()));
        drop((first, second));
        assert_eq!((limiter.borrowed_tokens(), limiter.available_tokens()), (0, 2));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiter.acquire_nowait and acquire_on_behalf_of_nowait.
fn acquire_nowait_says_that_it_would_block(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let token = limiter.acquire_nowait()?;
        assert_eq!(kind(limiter.acquire_nowait()), io::ErrorKind::WouldBlock);
        assert_eq!(kind(limiter.acquire_on_behalf_of_nowait(7)), io::ErrorKind::WouldBlock);
        drop(token);
        limiter.acquire_on_behalf_of_nowait(7)?;
        assert_eq!(limiter.borrowed_tokens(), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_token_goes_back_when_it_is_dropped(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let token = limiter.acquire().await?;
        let mut wait = begin(limiter.acquire());
        drop(token);
        assert!(poll_once(&mut wait).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn tokens_go_to_who_waits_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (limiter, log) = (CapacityLimiter::new(1), Log::new());
        let token = limiter.acquire().await?;
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiting(&log, number, limiter.acquire()).await);
        }
        drop(token);
        for task in tasks {
            drop(task.await??);
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        Ok::<_, io::Error>(())
    });
}

fn a_newcomer_cannot_take_a_token_in_passing(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let token = limiter.acquire().await?;
        let mut first = begin(limiter.acquire());
        drop(token);
        assert_eq!(kind(limiter.acquire_nowait()), io::ErrorKind::WouldBlock);
        assert_eq!(limiter.borrowed_tokens(), 1);
        assert!(poll_once(&mut first).is_ready());
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiter.acquire_on_behalf_of and release_on_behalf_of.
fn a_borrower_holds_its_token_until_it_is_released_on_its_behalf(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        limiter.acquire_on_behalf_of("a").await?;
        let mut wait = begin(limiter.acquire_on_behalf_of("b"));
        limiter.release_on_behalf_of("a")?;
        assert!(poll_once(&mut wait).is_ready());
        drop(wait);
        assert_eq!(limiter.borrowed_tokens(), 1, "the end of the future is not that of the loan");
        limiter.release_on_behalf_of("b")?;
        assert_eq!(limiter.borrowed_tokens(), 0);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiter: a borrower that already holds one of the tokens is refused.
fn a_borrower_has_one_token_at_most(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(5);
        limiter.acquire_on_behalf_of(1).await?;
        assert_eq!(limiter.acquire_on_behalf_of(1).await, Err(BorrowError::AlreadyBorrowing));
        assert_eq!(limiter.acquire_on_behalf_of_nowait(1), Err(BorrowError::AlreadyBorrowing));
        assert_eq!(kind(limiter.acquire_on_behalf_of_nowait(1)), io::ErrorKind::InvalidInput);
        assert_eq!(limiter.borrowed_tokens(), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_borrower_that_waits_already_is_refused(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        limiter.acquire_on_behalf_of(1).await?;
        let mut wait = begin(limiter.acquire_on_behalf_of(2));
        assert_eq!(limiter.acquire_on_behalf_of(2).await, Err(BorrowError::AlreadyBorrowing));
        assert_eq!(kind(limiter.release_on_behalf_of(2)), io::ErrorKind::InvalidInput);
        limiter.release_on_behalf_of(1)?;
        assert!(poll_once(&mut wait).is_ready());
        limiter.release_on_behalf_of(2)?;
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiter.release_on_behalf_of: RuntimeError if the borrower has not borrowed.
fn a_release_by_who_holds_nothing_is_an_error(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        assert_eq!(kind(limiter.release_on_behalf_of("nobody")), io::ErrorKind::InvalidInput);
        limiter.acquire_on_behalf_of("somebody").await?;
        assert!(limiter.release_on_behalf_of("nobody").is_err());
        limiter.release_on_behalf_of("somebody")?;
        assert!(limiter.release_on_behalf_of("somebody").is_err());
        assert_eq!(limiter.available_tokens(), 1);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiter.total_tokens: settable; raising it lets tasks go that wait.
fn more_tokens_go_to_those_who_wait(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(0);
        let [mut first, mut second, mut third] = [(); 3].map(|()| begin(limiter.acquire()));
        limiter.set_total_tokens(2);
        assert_eq!(limiter.statistics().tasks_waiting, 1);
        let held = (poll_once(&mut first), poll_once(&mut second));
        assert!(held.0.is_ready() && held.1.is_ready());
        assert!(poll_once(&mut third).is_pending());
        limiter.set_total_tokens(3);
        assert!(poll_once(&mut third).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn with_fewer_tokens_than_are_borrowed_nobody_gets_any(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(3);
        let mut tokens = Vec::new();
        for _ in 0..3 {
            tokens.push(limiter.acquire().await?);
        }
        limiter.set_total_tokens(1);
        assert_eq!((limiter.borrowed_tokens(), limiter.available_tokens()), (3, 0));
        let mut wait = begin(limiter.acquire());
        tokens.truncate(1);
        assert!(poll_once(&mut wait).is_pending());
        tokens.clear();
        assert!(poll_once(&mut wait).is_ready());
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiter(math.inf).
fn an_unlimited_limiter_never_waits(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let _token = limiter.acquire().await?;
        let mut wait = begin(limiter.acquire());
        limiter.set_total_tokens(CapacityLimiter::UNLIMITED);
        assert!(poll_once(&mut wait).is_ready());
        let tokens: Result<Vec<_>, _> = (0..1000).map(|_| limiter.acquire_nowait()).collect();
        assert_eq!(tokens?.len(), 1000);
        assert_eq!(limiter.available_tokens(), CapacityLimiter::UNLIMITED);
        Ok::<_, io::Error>(())
    });
}

fn without_tokens_everybody_waits(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(0);
        assert_eq!(kind(limiter.acquire_nowait()), io::ErrorKind::WouldBlock);
        drop(begin(limiter.acquire()));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, CapacityLimiterStatistics(borrowed_tokens, total_tokens, borrowers, tasks_waiting).
fn the_statistics_name_the_borrowers(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(3);
        let _token = limiter.acquire().await?;
        limiter.acquire_on_behalf_of(7).await?;
        limiter.acquire_on_behalf_of("the cleaner").await?;
        let waits = [begin(limiter.acquire_on_behalf_of(8)), begin(limiter.acquire_on_behalf_of(9))];
        let statistics = limiter.statistics();
        assert_eq!(
            (statistics.borrowed_tokens, statistics.total_tokens, statistics.tasks_waiting),
            (3, 3, 2)
        );
        let borrowers: HashSet<_> = statistics.borrowers.into_iter().collect();
        assert_eq!(borrowers.len(), 3);
        assert!(borrowers.contains(&7.into()) && borrowers.contains(&"the cleaner".into()));
        assert!(borrowers.iter().any(|borrower| matches!(borrower, Borrower::Token { .. })));
        drop(waits);
        Ok::<_, io::Error>(())
    });
}

fn a_token_for_a_dropped_wait_goes_to_the_next(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let token = limiter.acquire().await?;
        let first = begin(limiter.acquire_on_behalf_of(1));
        let second = spawn(limiter.acquire());
        settle().await;
        drop(token);
        drop(first);
        drop(second.await??);
        assert_eq!(limiter.borrowed_tokens(), 0);
        assert!(limiter.release_on_behalf_of(1).is_err());
        Ok::<_, io::Error>(())
    });
}

fn a_borrower_whose_wait_was_dropped_may_borrow_again(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(0);
        drop(begin(limiter.acquire_on_behalf_of(1)));
        limiter.set_total_tokens(1);
        limiter.acquire_on_behalf_of(1).await?;
        limiter.release_on_behalf_of(1)?;
        Ok::<_, io::Error>(())
    });
}

fn a_task_can_be_a_borrower(cx: Cx) {
    cx.run(async {
        let limiter = CapacityLimiter::new(1);
        let task = spawn(async {});
        limiter.acquire_on_behalf_of(task.id()).await?;
        assert_eq!(limiter.statistics().borrowers, [Borrower::Task(task.id())]);
        limiter.release_on_behalf_of(task.id())?;
        task.await?;
        Ok::<_, io::Error>(())
    });
}
