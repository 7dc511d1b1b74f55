//! Channels between loops and threads: every item arrives once and in order, whoever waits, blocks, closes or gives up.
//!
//! Sources: AnyIO's memory object streams for what closing and cancelling mean; `std::sync::mpsc` and tokio's `mpsc` for
//! the blocking faces.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use proactor::thread::{Receiver, Sender, channel, unbounded_channel};
use proactor::{spawn, timeout, yield_now};

use crate::harness::{Cx, Random, both_drivers, many, turns};
use crate::threads::{LIMIT, poll_now};

both_drivers!(
    items_of_a_thread_arrive_in_the_loop_in_order,
    items_of_a_loop_arrive_in_a_thread_in_order,
    items_go_from_loop_to_loop,
    a_full_channel_makes_its_senders_wait,
    an_unbounded_channel_never_does,
    with_a_capacity_of_zero_items_go_from_hand_to_hand,
    waiting_senders_come_in_their_order,
    waiting_receivers_come_in_their_order,
    try_faces_never_wait,
    a_dropped_receive_loses_no_item,
    a_dropped_receive_that_was_told_of_an_item_tells_the_next,
    a_dropped_send_takes_its_item_back,
    receivers_get_what_is_left_and_then_the_end,
    without_a_receiver_sending_fails_and_gives_the_item_back,
    closing_wakes_everybody_who_waits,
    items_that_nobody_receives_are_dropped_with_the_last_receiver,
    blocking_faces_end_at_their_limit,
    a_send_whose_limit_passed_gives_its_item_back_and_is_not_received,
    no_thread_of_a_loop_may_block_on_a_channel,
    a_channel_needs_no_loop,
    many_threads_and_many_tasks_share_one_channel,
    a_thread_that_sleeps_is_woken_for_each_item,
    a_storm_of_dropped_waits_loses_and_doubles_nothing,
    a_receiver_of_a_channel_that_is_never_empty_lets_others_run,
);

fn items_of_a_thread_arrive_in_the_loop_in_order(cx: Cx) {
    let count = many(10_000);
    cx.run(async {
        let (sender, receiver) = channel(8);
        let thread = thread::spawn(move || (0..count).try_for_each(|n| sender.send_blocking(n, LIMIT)));
        for n in 0..count {
            assert_eq!(receiver.receive().await?, Some(n));
        }
        assert_eq!(receiver.receive().await?, None);
        thread.join().expect("no panic")?;
        Ok::<_, io::Error>(())
    });
}

fn items_of_a_loop_arrive_in_a_thread_in_order(cx: Cx) {
    let count = many(10_000);
    cx.run(async {
        let (sender, receiver) = channel(8);
        let thread = thread::spawn(move || {
            for n in 0..count {
                assert_eq!(receiver.receive_blocking(LIMIT).expect("in time"), Some(n));
            }
            assert_eq!(receiver.receive_blocking(LIMIT).expect("in time"), None);
        });
        for n in 0..count {
            sender.send(n).await?;
        }
        drop(sender);
        thread.join().expect("it got them all");
        Ok::<_, io::Error>(())
    });
}

fn items_go_from_loop_to_loop(cx: Cx) {
    let (there, here) = channel::<String>(2);
    let (back, answers) = channel::<usize>(0);
    let other = thread::spawn(move || {
        cx.run(async {
            while let Some(text) = here.receive().await? {
                back.send(text.len()).await?;
            }
            Ok::<_, io::Error>(())
        });
    });
    cx.run(async {
        for n in 0..many(2000) {
            there.send("x".repeat(n % 50)).await?;
            assert_eq!(answers.receive().await?, Some(n % 50));
        }
        drop(there);
        assert_eq!(answers.receive().await?, None);
        Ok::<_, io::Error>(())
    });
    other.join().expect("the other loop ends well");
}

fn a_full_channel_makes_its_senders_wait(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(2);
        sender.send(1).await?;
        sender.send(2).await?;
        let mut third = sender.send(3);
        assert!(poll_now(&mut third).is_pending());
        assert_eq!(sender.len(), 2);
        assert_eq!(receiver.receive().await?, Some(1));
        assert!(poll_now(&mut third).is_ready(), "there is room now, and the item is in it");
        assert_eq!(sender.len(), 2);
        assert_eq!((receiver.receive().await?, receiver.receive().await?), (Some(2), Some(3)));
        Ok::<_, io::Error>(())
    });
}

fn an_unbounded_channel_never_does(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = unbounded_channel();
        (0..100_000).try_for_each(|n| sender.try_send(n))?;
        assert_eq!(receiver.len(), 100_000);
        drop(sender);
        let mut sum = 0_u64;
        while let Some(n) = receiver.receive().await? {
            sum += n;
        }
        assert_eq!(sum, 4_999_950_000);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO: with `max_buffer_size` 0 "send() will block until there's another task that calls receive()".
fn with_a_capacity_of_zero_items_go_from_hand_to_hand(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(0);
        assert!(sender.try_send(1).is_err(), "nobody waits for one");
        let mut send = sender.send(2);
        assert!(poll_now(&mut send).is_pending());
        assert_eq!(receiver.try_receive()?, Some(2));
        assert!(poll_now(&mut send).is_ready());
        let mut receive = receiver.receive();
        assert!(poll_now(&mut receive).is_pending());
        sender.try_send(3)?;
        assert!(sender.try_send(4).is_err(), "one waits, for one");
        assert_eq!(receive.await?, Some(3));
        Ok::<_, io::Error>(())
    });
}

fn waiting_senders_come_in_their_order(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let sender = sender.clone();
                spawn(async move { sender.send(n).await.map_err(io::Error::from) })
            })
            .collect();
        turns(2).await;
        // Who comes later does not get in before those who wait.
        assert_eq!(receiver.try_receive()?, Some(0));
        assert!(sender.try_send(99).is_err());
        for n in 1..50 {
            assert_eq!(receiver.receive().await?, Some(n));
        }
        for task in tasks {
            task.await??;
        }
        Ok::<_, io::Error>(())
    });
}

fn waiting_receivers_come_in_their_order(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let receiver = receiver.clone();
                spawn(async move { receiver.receive().await.map(|item| (n, item)) })
            })
            .collect();
        turns(2).await;
        for n in 0..50 {
            sender.send(n).await?;
        }
        for task in tasks {
            let (n, item) = task.await??;
            assert_eq!(item, Some(n));
        }
        Ok::<_, io::Error>(())
    });
}

fn try_faces_never_wait(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        assert_eq!(receiver.try_receive().expect_err("it is empty").kind(), io::ErrorKind::WouldBlock);
        sender.try_send("a")?;
        let unsent = sender.try_send("b").expect_err("it is full");
        assert_eq!((unsent.error.kind(), unsent.item), (io::ErrorKind::WouldBlock, "b"));
        assert_eq!(receiver.try_receive()?, Some("a"));
        drop(sender);
        assert_eq!(receiver.try_receive()?, None);
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_receive_loses_no_item(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        for n in 0..100 {
            let mut receive = receiver.receive();
            assert!(poll_now(&mut receive).is_pending());
            sender.send(n).await?;
            // The item is there for it already.
            drop(receive);
            assert_eq!(receiver.receive().await?, Some(n));
        }
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_receive_that_was_told_of_an_item_tells_the_next(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(4);
        let mut first = receiver.receive();
        assert!(poll_now(&mut first).is_pending());
        let other = receiver.clone();
        let second = spawn(async move { other.receive().await });
        turns(2).await;
        sender.send(1).await?;
        drop(first);
        // Nothing else would wake it.
        assert_eq!(second.await??, Some(1));
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_send_takes_its_item_back(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let item = Arc::new(());
        sender.send(Arc::clone(&item)).await?;
        let mut waits = sender.send(Arc::clone(&item));
        assert!(poll_now(&mut waits).is_pending());
        drop(waits);
        assert_eq!(Arc::strong_count(&item), 2, "only the one that was sent");
        drop(receiver.receive().await?);
        assert!(receiver.try_receive().is_err());
        Ok::<_, io::Error>(())
    });
}

/// AnyIO: a receive on a stream whose senders are closed gives what is buffered, then `EndOfStream`.
fn receivers_get_what_is_left_and_then_the_end(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(10);
        (0..3).try_for_each(|n| sender.try_send(n))?;
        let clone = sender.clone();
        drop(sender);
        clone.send(3).await?;
        clone.close();
        assert!(clone.is_closed());
        assert!(clone.send(4).await.is_err());
        for n in 0..4 {
            assert_eq!(receiver.receive().await?, Some(n));
        }
        assert_eq!((receiver.receive().await?, receiver.receive().await?), (None, None));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO: `BrokenResourceError` when the receiving end is gone.
fn without_a_receiver_sending_fails_and_gives_the_item_back(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let clone = receiver.clone();
        drop(receiver);
        sender.send("one receiver is left".to_owned()).await?;
        drop(clone);
        let unsent = sender.send("nobody".to_owned()).await.expect_err("nobody is left");
        assert_eq!((unsent.item.as_str(), unsent.error.kind()), ("nobody", io::ErrorKind::NotConnected));
        assert_eq!(sender.try_send("nobody".to_owned()).expect_err("nobody").item, "nobody");
        let blocking = thread::spawn(move || sender.send_blocking("nobody".to_owned(), LIMIT));
        assert_eq!(blocking.join().expect("no panic").expect_err("nobody is left").item, "nobody");
        Ok::<_, io::Error>(())
    });
}

fn closing_wakes_everybody_who_waits(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel::<u32>(0);
        let meet = Arc::new(Barrier::new(3));
        let (theirs, first) = (sender.clone(), meet.clone());
        let sends = thread::spawn(move || {
            first.wait();
            theirs.send_blocking(1, LIMIT)
        });
        let theirs = sender.clone();
        let sending = spawn(async move { theirs.send(2).await });
        let second = meet.clone();
        let (_, other) = channel::<u32>(0);
        let (keep, waits) = channel::<u32>(0);
        let receives = thread::spawn(move || {
            second.wait();
            (other.receive_blocking(LIMIT), waits.receive_blocking(LIMIT))
        });
        meet.wait();
        turns(3).await;
        keep.close();
        receiver.close();
        assert_eq!(sends.join().expect("no panic").expect_err("it is closed").item, 1);
        assert_eq!(sending.await?.expect_err("it is closed").item, 2);
        let (first, second) = receives.join().expect("no panic");
        assert_eq!((first?, second?), (None, None));
        Ok::<_, io::Error>(())
    });
}

fn items_that_nobody_receives_are_dropped_with_the_last_receiver(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(10);
        let item = Arc::new(());
        (0..5).try_for_each(|_| sender.try_send(Arc::clone(&item)))?;
        drop(receiver);
        assert_eq!(Arc::strong_count(&item), 1);
        Ok::<_, io::Error>(())
    });
}

fn blocking_faces_end_at_their_limit(_: Cx) {
    let (sender, receiver) = channel(0);
    let error = receiver.receive_blocking(Some(Duration::from_millis(2))).expect_err("nobody sends");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(
        receiver.receive_blocking(Some(Duration::ZERO)).expect_err("nobody").kind(),
        io::ErrorKind::TimedOut
    );
    let unsent = sender.send_blocking(1, Some(Duration::from_millis(2))).expect_err("nobody receives");
    assert_eq!((unsent.error.kind(), unsent.item), (io::ErrorKind::TimedOut, 1));
    drop(sender);
    assert_eq!(receiver.receive_blocking(Some(Duration::ZERO)).expect("the end is there"), None);
}

fn a_send_whose_limit_passed_gives_its_item_back_and_is_not_received(_: Cx) {
    // At the last moment either it is taken or it comes back, never both, never neither.
    let (sender, receiver) = channel(0);
    let sends = thread::spawn(move || {
        let mut taken = HashSet::new();
        for n in 0..3000_u32 {
            match sender.send_blocking(n, Some(Duration::from_micros(u64::from(n % 20)))) {
                Ok(()) => assert!(taken.insert(n)),
                Err(unsent) => assert_eq!(unsent.item, n),
            }
        }
        taken
    });
    let mut received = HashSet::new();
    while let Some(n) = receiver.receive_blocking(LIMIT).expect("in time") {
        assert!(received.insert(n));
    }
    assert_eq!(sends.join().expect("no panic"), received);
}

fn no_thread_of_a_loop_may_block_on_a_channel(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let unsent = sender.send_blocking(5, None).expect_err("on the loop's thread");
        assert_eq!(unsent.item, 5);
        assert!(unsent.error.to_string().contains("await it"), "{}", unsent.error);
        let error = receiver.receive_blocking(None).expect_err("on the loop's thread");
        assert!(error.to_string().contains("await it"), "{error}");
        Ok::<_, io::Error>(())
    });
}

fn a_channel_needs_no_loop(_: Cx) {
    let (sender, receiver) = channel(3);
    let threads: Vec<_> = (0..4)
        .map(|id| {
            let sender = sender.clone();
            thread::spawn(move || (0..1000).try_for_each(|n| sender.send_blocking((id, n), LIMIT)))
        })
        .collect();
    drop(sender);
    let mut next = [0; 4];
    while let Some((id, n)) = receiver.receive_blocking(LIMIT).expect("in time") {
        assert_eq!(next[id], n, "in the order of each thread");
        next[id] += 1;
    }
    assert_eq!(next, [1000; 4]);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic").expect("sent"));
}

fn many_threads_and_many_tasks_share_one_channel(cx: Cx) {
    const EACH: u64 = 500;
    cx.run(async {
        let (sender, receiver) = channel(5);
        let (sent, got) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let add = |counter: &AtomicUsize, n: u64| {
            counter.fetch_add(n as usize, Ordering::SeqCst);
        };
        let mut threads = Vec::new();
        let mut tasks = Vec::new();
        for id in 0..4 {
            let (theirs, sum) = (sender.clone(), sent.clone());
            threads.push(thread::spawn(move || {
                (0..EACH).try_for_each(|n| {
                    add(&sum, id * EACH + n);
                    theirs.send_blocking(id * EACH + n, LIMIT).map_err(io::Error::from)
                })
            }));
            let (theirs, sum) = (sender.clone(), sent.clone());
            tasks.push(spawn(async move {
                for n in 0..EACH {
                    add(&sum, id * EACH + n);
                    theirs.send(id * EACH + n).await?;
                }
                Ok::<_, io::Error>(())
            }));
            let (theirs, sum) = (receiver.clone(), got.clone());
            threads.push(thread::spawn(move || {
                while let Some(n) = theirs.receive_blocking(LIMIT)? {
                    add(&sum, n);
                }
                Ok(())
            }));
            let (theirs, sum) = (receiver.clone(), got.clone());
            tasks.push(spawn(async move {
                while let Some(n) = theirs.receive().await? {
                    add(&sum, n);
                }
                Ok(())
            }));
        }
        drop((sender, receiver));
        for task in tasks {
            task.await??;
        }
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        assert_eq!(got.load(Ordering::SeqCst), sent.load(Ordering::SeqCst));
        Ok::<_, io::Error>(())
    });
}

fn a_thread_that_sleeps_is_woken_for_each_item(cx: Cx) {
    let (there, here) = channel::<u32>(1);
    let (back, answers) = channel::<u32>(1);
    let echo = thread::spawn(move || {
        while let Some(n) = here.receive_blocking(LIMIT).expect("in time") {
            back.send_blocking(n, LIMIT).expect("somebody waits");
        }
    });
    cx.run(async {
        for n in 0..many(3000) as u32 {
            there.send(n).await?;
            assert_eq!(answers.receive().await?, Some(n));
        }
        drop(there);
        Ok::<_, io::Error>(())
    });
    echo.join().expect("it ends well");
}

/// Sends and receives with time limits of chance on all sides; what was sent is received, once.
fn a_storm_of_dropped_waits_loses_and_doubles_nothing(cx: Cx) {
    for capacity in [0, 1, 3] {
        let (sender, receiver) = channel(capacity);
        let receives = |receiver: Receiver<u64>, seed| {
            thread::spawn(move || {
                let mut random = Random(seed);
                let mut got = Vec::new();
                loop {
                    let limit = Duration::from_micros(random.below(30) as u64);
                    match receiver.receive_blocking(Some(limit)) {
                        Ok(Some(n)) => got.push(n),
                        Ok(None) => return got,
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
                    }
                }
            })
        };
        let sends = |sender: Sender<u64>, seed| {
            thread::spawn(move || {
                let mut random = Random(seed);
                let limit = |random: &mut Random| Some(Duration::from_micros(random.below(30) as u64));
                let numbers = (0..many(1000) as u64).map(|n| seed << 32 | n);
                numbers.filter(|n| sender.send_blocking(*n, limit(&mut random)).is_ok()).collect::<Vec<_>>()
            })
        };
        let threads = [receives(receiver.clone(), 1), receives(receiver.clone(), 2)];
        let senders = [sends(sender.clone(), 3), sends(sender.clone(), 4)];
        let ((mut sent, unknown), mut got) = cx.run(async move {
            let task = spawn(sends_in_the_loop(sender));
            let got = receives_in_the_loop(receiver).await?;
            Ok::<_, io::Error>((task.await?, got))
        });
        sent.extend(senders.into_iter().flat_map(|thread| thread.join().expect("no panic")));
        got.extend(threads.into_iter().flat_map(|thread| thread.join().expect("no panic")));
        let received: HashSet<u64> = got.iter().copied().collect();
        assert_eq!(received.len(), got.len(), "an item came twice");
        assert!(sent.len() > many(100), "too few of them came through");
        assert!(sent.iter().all(|n| received.contains(n)), "an item was lost");
        sent.extend(unknown);
        let sent: HashSet<u64> = sent.into_iter().collect();
        assert!(received.is_subset(&sent), "an item came although its sender had it back");
    }
}

/// What was sent, and what may have been: sends that were dropped while they waited.
async fn sends_in_the_loop(sender: Sender<u64>) -> (Vec<u64>, Vec<u64>) {
    let mut random = Random(5);
    let (mut sent, mut unknown) = (Vec::new(), Vec::new());
    'items: for n in 0..many(3000) as u64 {
        let mut send = sender.send(n);
        for _ in 0..=random.below(3) {
            if let Poll::Ready(result) = poll_now(&mut send) {
                result.expect("somebody receives");
                sent.push(n);
                continue 'items;
            }
            yield_now().await;
        }
        unknown.push(n);
    }
    (sent, unknown)
}

async fn receives_in_the_loop(receiver: Receiver<u64>) -> io::Result<Vec<u64>> {
    let mut random = Random(6);
    let mut got = Vec::new();
    loop {
        let wait = Box::pin(async {
            for _ in 0..=random.below(3) {
                yield_now().await;
            }
        });
        match select(receiver.receive(), wait).await {
            Either::Left((item, _)) => match item? {
                Some(n) => got.push(n),
                None => return Ok(got),
            },
            Either::Right(_) => {}
        }
    }
}

fn a_receiver_of_a_channel_that_is_never_empty_lets_others_run(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = channel(1);
        let stop = Rc::new(Cell::new(false));
        let stopped = stop.clone();
        let hog = spawn(async move {
            while !stopped.get() {
                sender.send(()).await?;
                receiver.receive().await?;
            }
            Ok::<_, io::Error>(())
        });
        timeout(Duration::from_secs(30), turns(3)).await.expect("they have their turn");
        assert!(!hog.is_finished());
        stop.set(true);
        hog.await?
    });
}
