//! `Event`.

use std::io;

use futures_util::future::join_all;
use proactor::sync::Event;
use proactor::{spawn, yield_now};

use super::{Log, begin, poll_once, settle, waiting};
use crate::harness::{Cx, both_drivers, many};

both_drivers!(
    a_new_event_is_not_set,
    waiting_for_a_set_event_does_not_wait,
    set_lets_everybody_go_in_the_order_in_which_they_came,
    who_waited_goes_on_even_if_the_event_is_cleared_before_it_runs,
    who_comes_after_a_clear_waits_for_the_next_set,
    setting_and_clearing_twice_does_nothing_more,
    the_statistics_count_who_waits,
    a_dropped_wait_is_forgotten,
    a_clone_is_the_same_event,
    a_loop_of_ready_waits_yields_to_other_tasks,
    a_hundred_thousand_waits_take_linear_time,
);

// asyncio, Event: "the flag is initially false".
fn a_new_event_is_not_set(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        assert!(!event.is_set());
        drop(begin(event.wait()));
        Ok::<_, io::Error>(())
    });
}

// asyncio, Event.wait: returns at once if the flag is true.
fn waiting_for_a_set_event_does_not_wait(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        event.set();
        assert!(event.is_set());
        assert!(poll_once(&mut event.wait()).is_ready());
        Ok::<_, io::Error>(())
    });
}

// asyncio, Event.set: all who wait are awakened.
fn set_lets_everybody_go_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (event, log) = (Event::new(), Log::new());
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiting(&log, number, event.wait()).await);
        }
        assert!(log.take().is_empty());
        event.set();
        for task in tasks {
            task.await??;
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Event.set: who waited at that moment is let go.
fn who_waited_goes_on_even_if_the_event_is_cleared_before_it_runs(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        let task = spawn(event.wait());
        settle().await;
        event.set();
        event.clear();
        task.await??;
        assert!(!event.is_set());
        Ok::<_, io::Error>(())
    });
}

// asyncio, Event.clear: subsequently, who calls wait blocks until set is called again.
fn who_comes_after_a_clear_waits_for_the_next_set(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        event.set();
        event.clear();
        let mut wait = begin(event.wait());
        event.set();
        assert!(poll_once(&mut wait).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn setting_and_clearing_twice_does_nothing_more(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        event.set();
        event.set();
        assert!(event.is_set());
        event.clear();
        event.clear();
        assert!(!event.is_set());
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Event.statistics: the number of tasks waiting.
fn the_statistics_count_who_waits(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        assert_eq!(event.statistics().tasks_waiting, 0);
        let mut waits = [begin(event.wait()), begin(event.wait())];
        assert_eq!(event.statistics().tasks_waiting, 2);
        event.set();
        assert_eq!(event.statistics().tasks_waiting, 0, "who was let go waits no longer");
        assert!(waits.iter_mut().all(|wait| poll_once(wait).is_ready()));
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_wait_is_forgotten(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        let [first, mut second, third] = [(); 3].map(|()| begin(event.wait()));
        drop(first);
        drop(third);
        assert_eq!(event.statistics().tasks_waiting, 1);
        event.set();
        assert!(poll_once(&mut second).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn a_clone_is_the_same_event(cx: Cx) {
    cx.run(async {
        let event = Event::new();
        event.clone().set();
        assert!(event.is_set());
        Ok::<_, io::Error>(())
    });
}

fn a_loop_of_ready_waits_yields_to_other_tasks(cx: Cx) {
    cx.run(async {
        let (event, over) = (Event::new(), Event::new());
        event.set();
        let other = over.clone();
        drop(spawn(async move {
            yield_now().await;
            other.set();
        }));
        while !over.is_set() {
            event.wait().await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_hundred_thousand_waits_take_linear_time(cx: Cx) {
    let count = many(100_000);
    cx.run(async {
        let event = Event::new();
        let mut waits: Vec<_> = (0..count).map(|_| begin(event.wait())).collect();
        // Every second one goes, from the middle of the queue.
        let mut number = 0;
        waits.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        assert_eq!(event.statistics().tasks_waiting, count / 2);
        event.set();
        join_all(waits).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok::<_, io::Error>(())
    });
}
