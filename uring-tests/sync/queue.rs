//! `Queue`, `LifoQueue`, `PriorityQueue`.

use std::cmp::Reverse;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proactor::sync::{LifoQueue, PriorityQueue, Queue};
use proactor::{Cancelled, spawn};

use super::{Log, begin, kind, poll_once, settle, waiting};
use crate::harness::{Cx, both_drivers, many};

both_drivers!(
    a_queue_gives_its_items_first_in_first_out,
    a_lifo_queue_gives_the_last_first,
    a_priority_queue_gives_the_lowest_first_and_equals_in_their_order,
    get_waits_for_an_item,
    put_waits_while_the_queue_is_full,
    a_queue_without_maxsize_is_never_full,
    get_nowait_and_put_nowait_say_that_they_would_block,
    a_put_that_fails_gives_the_item_back,
    len_and_its_kin_tell_what_is_in_the_queue,
    items_go_to_who_waits_in_the_order_in_which_they_came,
    a_newcomer_cannot_take_a_promised_item,
    room_goes_to_who_waits_in_the_order_in_which_they_came,
    a_newcomer_cannot_take_the_room_of_who_waits,
    a_dropped_get_leaves_its_item_in_front,
    the_item_of_a_dropped_get_goes_to_the_next_who_waits,
    a_dropped_put_that_waited_puts_nothing,
    a_put_that_was_taken_in_and_then_dropped_has_happened,
    join_waits_until_everything_is_done,
    join_of_a_queue_that_was_never_used_does_not_wait,
    a_put_that_waits_counts_for_join_when_it_comes_in,
    task_done_too_often_is_an_error,
    items_that_panic_when_compared_harm_nobody_else,
    a_loop_of_ready_gets_yields_to_other_tasks,
    a_hundred_thousand_who_wait_take_linear_time,
);

// asyncio, Queue.
fn a_queue_gives_its_items_first_in_first_out(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        for item in 0..5 {
            queue.put(item).await?;
        }
        for item in 0..5 {
            assert_eq!(queue.get().await?, item);
        }
        Ok::<_, io::Error>(())
    });
}

// asyncio, LifoQueue: retrieves most recently added entries first.
fn a_lifo_queue_gives_the_last_first(cx: Cx) {
    cx.run(async {
        let queue = LifoQueue::new(0);
        for item in 0..5 {
            queue.put(item).await?;
        }
        for item in (0..5).rev() {
            assert_eq!(queue.get().await?, item);
        }
        Ok::<_, io::Error>(())
    });
}

// asyncio, PriorityQueue: retrieves entries in priority order, lowest first.
fn a_priority_queue_gives_the_lowest_first_and_equals_in_their_order(cx: Cx) {
    /// Compared by the first field only.
    #[derive(Debug)]
    struct Job(u32, &'static str);
    impl Ord for Job {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.cmp(&other.0)
        }
    }
    impl PartialOrd for Job {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl PartialEq for Job {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }
    impl Eq for Job {}

    cx.run(async {
        let queue = PriorityQueue::new(0);
        for (number, name) in [(2, "d"), (1, "a"), (2, "e"), (1, "b"), (3, "f"), (1, "c")] {
            queue.put(Job(number, name)).await?;
        }
        let mut names = String::new();
        while let Ok(job) = queue.get_nowait() {
            names += job.1;
        }
        assert_eq!(names, "abcdef");
        let highest_first = PriorityQueue::default();
        for item in [1, 3, 2] {
            highest_first.put(Reverse(item)).await?;
        }
        assert_eq!(highest_first.get().await?, Reverse(3));
        Ok::<_, io::Error>(())
    });
}

// asyncio, Queue.get: if the queue is empty, waits until an item is available.
fn get_waits_for_an_item(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        let task = spawn(queue.get());
        settle().await;
        assert!(!task.is_finished());
        queue.put("item").await?;
        assert_eq!(task.await??, "item");
        Ok::<_, io::Error>(())
    });
}

// asyncio, Queue.put: if the queue is full, waits until a free slot is available.
fn put_waits_while_the_queue_is_full(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put(1).await?;
        let task = spawn(queue.put(2));
        settle().await;
        assert!(!task.is_finished());
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.get().await?, 1);
        task.await??;
        assert_eq!(queue.get().await?, 2);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Queue(maxsize=0): the size is infinite, and full() never true.
fn a_queue_without_maxsize_is_never_full(cx: Cx) {
    cx.run(async {
        let queue = Queue::default();
        assert_eq!(queue.maxsize(), 0);
        for item in 0..10_000 {
            queue.put_nowait(item)?;
        }
        assert_eq!((queue.len(), queue.is_full()), (10_000, false));
        Ok::<_, io::Error>(())
    });
}

// asyncio, QueueEmpty and QueueFull.
fn get_nowait_and_put_nowait_say_that_they_would_block(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        assert_eq!(kind(queue.get_nowait()), io::ErrorKind::WouldBlock);
        queue.put_nowait(1)?;
        assert_eq!(kind(queue.put_nowait(2)), io::ErrorKind::WouldBlock);
        assert_eq!(queue.get_nowait()?, 1);
        Ok::<_, io::Error>(())
    });
}

fn a_put_that_fails_gives_the_item_back(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put_nowait(String::from("first"))?;
        let unsent = queue.put_nowait(String::from("second")).expect_err("the queue is full");
        assert_eq!(unsent.item, "second");
        assert_eq!(unsent.to_string(), "not sent: this would have to wait");
        Ok::<_, io::Error>(())
    });
}

// asyncio, Queue.qsize, empty, full, maxsize.
fn len_and_its_kin_tell_what_is_in_the_queue(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(2);
        let told = || (queue.len(), queue.is_empty(), queue.is_full());
        assert_eq!(queue.maxsize(), 2);
        assert_eq!(told(), (0, true, false));
        queue.put(1).await?;
        assert_eq!(told(), (1, false, false));
        queue.put(2).await?;
        assert_eq!(told(), (2, false, true));
        queue.get().await?;
        assert_eq!(told(), (1, false, false));
        Ok::<_, io::Error>(())
    });
}

fn items_go_to_who_waits_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (queue, log) = (Queue::new(0), Log::new());
        let mut tasks = Vec::new();
        for number in 0..5 {
            tasks.push(waiting(&log, number, queue.get()).await);
        }
        for item in 0..5 {
            queue.put(item).await?;
        }
        for (item, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await??, item);
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
        Ok::<_, io::Error>(())
    });
}

fn a_newcomer_cannot_take_a_promised_item(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        let mut first = begin(queue.get());
        queue.put_nowait(1)?;
        assert!(queue.is_empty(), "it is as good as gotten");
        assert!(queue.get_nowait().is_err());
        let mut newcomer = begin(queue.get());
        assert!(poll_once(&mut newcomer).is_pending());
        assert!(poll_once(&mut first).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn room_goes_to_who_waits_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let (queue, log) = (Queue::new(1), Log::new());
        queue.put(100).await?;
        let mut tasks = Vec::new();
        for number in 0..4 {
            tasks.push(waiting(&log, number, queue.put(number)).await);
        }
        for item in [100, 0, 1, 2, 3] {
            assert_eq!(queue.get().await?, item);
        }
        for task in tasks {
            task.await??;
        }
        assert_eq!(log.take(), [0, 1, 2, 3]);
        Ok::<_, io::Error>(())
    });
}

fn a_newcomer_cannot_take_the_room_of_who_waits(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put(1).await?;
        let mut first = begin(queue.put(2));
        assert_eq!(queue.get_nowait()?, 1);
        assert!(queue.put_nowait(3).is_err());
        assert!(poll_once(&mut first).is_ready());
        assert_eq!(queue.get_nowait()?, 2);
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_get_leaves_its_item_in_front(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        let get = begin(queue.get());
        queue.put_nowait(1)?;
        queue.put_nowait(2)?;
        drop(get);
        assert_eq!(queue.len(), 2);
        assert_eq!((queue.get_nowait()?, queue.get_nowait()?), (1, 2));
        Ok::<_, io::Error>(())
    });
}

fn the_item_of_a_dropped_get_goes_to_the_next_who_waits(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        let first = begin(queue.get());
        let second = spawn(queue.get());
        settle().await;
        queue.put_nowait(1)?;
        drop(first);
        assert_eq!(second.await??, 1);
        assert!(queue.is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_put_that_waited_puts_nothing(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put(1).await?;
        drop(begin(queue.put(2)));
        assert_eq!(queue.get_nowait()?, 1);
        assert!(queue.is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_put_that_was_taken_in_and_then_dropped_has_happened(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put(1).await?;
        let put = begin(queue.put(2));
        assert_eq!(queue.get_nowait()?, 1);
        drop(put);
        assert_eq!(queue.get_nowait()?, 2);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Queue.join: blocks until all items have been gotten and processed.
fn join_waits_until_everything_is_done(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        queue.put(1).await?;
        queue.put(2).await?;
        let (first, second) = (spawn(queue.join()), spawn(queue.join()));
        for _ in 0..2 {
            settle().await;
            assert!(!first.is_finished() && !second.is_finished());
            queue.get().await?;
            settle().await;
            assert!(!first.is_finished(), "gotten is not done");
            queue.task_done()?;
        }
        first.await??;
        second.await??;
        queue.join().await?;
        queue.put(3).await?;
        drop(begin(queue.join()));
        Ok::<_, io::Error>(())
    });
}

fn join_of_a_queue_that_was_never_used_does_not_wait(cx: Cx) {
    cx.run(async {
        Queue::<u8>::new(0).join().await?;
        Ok::<_, Cancelled>(())
    });
}

fn a_put_that_waits_counts_for_join_when_it_comes_in(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put(1).await?;
        let put = begin(queue.put(2));
        assert_eq!(queue.get_nowait()?, 1);
        queue.task_done()?;
        // The second item came in when the first one went, though its task has not run yet.
        drop(begin(queue.join()));
        assert_eq!(queue.get_nowait()?, 2);
        queue.task_done()?;
        queue.join().await?;
        drop(put);
        Ok::<_, io::Error>(())
    });
}

// asyncio, Queue.task_done: ValueError if called more times than there were items.
fn task_done_too_often_is_an_error(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(0);
        assert_eq!(kind(queue.task_done()), io::ErrorKind::InvalidInput);
        queue.put(1).await?;
        queue.get().await?;
        queue.task_done()?;
        assert!(queue.task_done().is_err());
        queue.join().await?;
        Ok::<_, io::Error>(())
    });
}

fn items_that_panic_when_compared_harm_nobody_else(cx: Cx) {
    /// Cannot be compared with its like.
    #[derive(PartialEq, Eq, Debug)]
    struct Item(u32);
    impl Ord for Item {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            assert!(self.0 != 13 && other.0 != 13, "an unlucky comparison");
            self.0.cmp(&other.0)
        }
    }
    impl PartialOrd for Item {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    cx.run(async {
        let queue = PriorityQueue::new(2);
        queue.put(Item(1)).await?;
        queue.put(Item(2)).await?;
        let (unlucky, third) = (spawn(queue.put(Item(13))), spawn(queue.put(Item(3))));
        settle().await;
        // The item 13 comes in when the first goes.
        assert!(catch_unwind(AssertUnwindSafe(|| queue.get_nowait())).is_err());
        // Its sender was woken all the same, and the counts are right: everybody gets on.
        unlucky.await??;
        let mut left = 0;
        while !queue.is_empty() {
            left += usize::from(
                catch_unwind(AssertUnwindSafe(|| queue.get_nowait())).is_ok_and(|got| got.is_ok()),
            );
        }
        assert!(left > 0);
        third.await??;
        queue.put_nowait(Item(4))?;
        assert_eq!(queue.get().await?, Item(4));
        Ok::<_, io::Error>(())
    });
}

fn a_loop_of_ready_gets_yields_to_other_tasks(cx: Cx) {
    cx.run(async {
        let (queue, over) = (Queue::new(0), Queue::new(0));
        let other = over.clone();
        drop(spawn(async move { other.put_nowait(()).is_ok() }));
        while over.is_empty() {
            queue.put(1).await?;
            queue.get().await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_hundred_thousand_who_wait_take_linear_time(cx: Cx) {
    let count = many(100_000);
    cx.run(async {
        let queue = Queue::new(1);
        let mut gets: Vec<_> = (0..count).map(|_| begin(queue.get())).collect();
        gets.truncate(count / 2);
        for item in 0..count / 2 {
            queue.put_nowait(item)?;
        }
        // All are granted; from the back, each item goes to nobody, as nobody waits behind.
        gets.truncate(count / 4);
        assert_eq!(queue.len(), count / 4);
        for (item, get) in gets.into_iter().enumerate() {
            assert_eq!(get.await?, item);
        }
        let mut puts: Vec<_> = (0..count).map(|item| begin(queue.put(item))).collect();
        puts.truncate(count / 2);
        for item in count / 4..count / 2 {
            assert_eq!(queue.get_nowait()?, item);
        }
        for (item, put) in puts.into_iter().enumerate() {
            assert_eq!(queue.get().await?, item);
            put.await?;
        }
        Ok::<_, io::Error>(())
    });
}
