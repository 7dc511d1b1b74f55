//! Memory object streams.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use proactor::spawn;
use proactor::stream::{ReceiveError, SendError, memory_object_stream};

use super::{Log, begin, kind, poll_once, settle, waiting};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    items_come_in_the_order_in_which_they_were_sent,
    without_a_buffer_a_send_waits_for_its_receiver,
    without_a_buffer_a_receiver_who_waits_gets_the_item_at_once,
    a_buffer_takes_as_many_items_as_it_is_told,
    an_unlimited_buffer_takes_everything,
    send_nowait_says_that_it_would_block_and_gives_the_item_back,
    receive_nowait_takes_from_the_buffer_and_from_senders_who_wait,
    receive_nowait_says_that_it_would_block,
    the_end_comes_when_every_sender_is_closed_and_all_was_received,
    who_receives_hears_of_the_end,
    next_gives_none_at_the_end,
    sending_to_nobody_is_broken,
    who_sends_hears_that_every_receiver_has_gone_and_has_the_item_back,
    a_closed_end_cannot_be_used,
    closing_an_end_wakes_who_waits_on_it,
    closing_twice_does_nothing,
    each_clone_is_closed_for_itself,
    a_clone_of_a_closed_end_is_closed,
    dropping_an_end_closes_it,
    each_item_goes_to_one_receiver_in_the_order_of_their_waiting,
    a_newcomer_cannot_overtake_who_waits,
    the_statistics_tell_of_buffer_ends_and_waits,
    a_dropped_receive_leaves_its_item_for_the_next,
    a_dropped_receive_with_nobody_behind_leaves_its_item_in_front,
    a_dropped_send_that_waited_sends_nothing,
    what_a_receiver_was_granted_it_gets_even_if_it_is_closed_meanwhile,
    items_that_nobody_will_receive_are_dropped,
    errors_have_their_kind,
);

// AnyIO, memory object streams.
fn items_come_in_the_order_in_which_they_were_sent(cx: Cx) {
    cx.run(async {
        for max_buffer in [0, 1, 2, 64, usize::MAX] {
            let (sender, receiver) = memory_object_stream(max_buffer);
            let producer = spawn(async move {
                for item in 0..200 {
                    sender.send(item).await?;
                }
                Ok::<_, io::Error>(())
            });
            for item in 0..200 {
                assert_eq!(receiver.receive().await?, item);
            }
            producer.await??;
        }
        Ok::<_, io::Error>(())
    });
}

// AnyIO, create_memory_object_stream(max_buffer_size=0): send() blocks until somebody receives.
fn without_a_buffer_a_send_waits_for_its_receiver(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let mut send = begin(sender.send(1));
        assert_eq!(receiver.receive().await?, 1);
        assert!(poll_once(&mut send).is_ready());
        Ok::<_, io::Error>(())
    });
}

// AnyIO, send: the item can be sent directly to a receiver.
fn without_a_buffer_a_receiver_who_waits_gets_the_item_at_once(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let task = spawn(receiver.receive());
        settle().await;
        sender.send_nowait(1)?;
        assert_eq!(sender.statistics().current_buffer_used, 0);
        assert!(sender.send_nowait(2).is_err(), "for this one nobody waits");
        // The receiver was dropped with its task's future or lives here: it stays open.
        assert_eq!(task.await??, 1);
        drop(receiver);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, max_buffer_size: number of items held in the buffer until send() starts blocking.
fn a_buffer_takes_as_many_items_as_it_is_told(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(2);
        sender.send(1).await?;
        sender.send(2).await?;
        let mut third = begin(sender.send(3));
        assert_eq!(receiver.receive().await?, 1);
        assert!(poll_once(&mut third).is_ready());
        assert_eq!(receiver.statistics().current_buffer_used, 2);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, max_buffer_size=math.inf.
fn an_unlimited_buffer_takes_everything(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(usize::MAX);
        for item in 0..10_000 {
            sender.send_nowait(item)?;
        }
        assert_eq!(receiver.statistics().current_buffer_used, 10_000);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, send_nowait: WouldBlock if the buffer is full and nobody waits to receive.
fn send_nowait_says_that_it_would_block_and_gives_the_item_back(cx: Cx) {
    cx.run(async {
        let (sender, _receiver) = memory_object_stream(1);
        sender.send_nowait("a")?;
        let unsent = sender.send_nowait("b").expect_err("the buffer is full");
        assert_eq!(unsent.item, "b");
        assert!(matches!(unsent.error, SendError::WouldBlock(_)));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, receive_nowait: from the buffer, or from a task that waits to send.
fn receive_nowait_takes_from_the_buffer_and_from_senders_who_wait(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let mut sends = [begin(sender.send(1)), begin(sender.send(2))];
        assert_eq!((receiver.receive_nowait()?, receiver.receive_nowait()?), (1, 2));
        assert!(sends.iter_mut().all(|send| poll_once(send).is_ready()));
        let (sender, receiver) = memory_object_stream(1);
        sender.send_nowait(1)?;
        let mut send = begin(sender.send(2));
        assert_eq!((receiver.receive_nowait()?, receiver.receive_nowait()?), (1, 2));
        assert!(poll_once(&mut send).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn receive_nowait_says_that_it_would_block(cx: Cx) {
    cx.run(async {
        let (_sender, receiver) = memory_object_stream::<u8>(1);
        assert!(matches!(receiver.receive_nowait(), Err(ReceiveError::WouldBlock(_))));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, receive: EndOfStream if the buffer is empty and the stream was closed from the sending end.
fn the_end_comes_when_every_sender_is_closed_and_all_was_received(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(2);
        let other = sender.clone();
        sender.send(1).await?;
        sender.close();
        other.send(2).await?;
        other.close();
        assert_eq!(receiver.receive().await?, 1);
        assert_eq!(receiver.receive_nowait()?, 2);
        for _ in 0..2 {
            assert!(matches!(receiver.receive().await, Err(ReceiveError::EndOfStream(_))));
            assert!(matches!(receiver.receive_nowait(), Err(ReceiveError::EndOfStream(_))));
        }
        Ok::<_, io::Error>(())
    });
}

// AnyIO, MemoryObjectSendStream.close: wakes who receives.
fn who_receives_hears_of_the_end(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream::<u8>(0);
        let tasks = [spawn(receiver.receive()), spawn(receiver.receive())];
        settle().await;
        drop(sender);
        for task in tasks {
            assert!(matches!(task.await?, Err(ReceiveError::EndOfStream(_))));
        }
        Ok::<_, io::Error>(())
    });
}

// AnyIO, "async for item in receive_stream".
fn next_gives_none_at_the_end(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let producer = spawn(async move {
            for item in 1..=3 {
                sender.send(item).await?;
            }
            Ok::<_, io::Error>(())
        });
        let mut items = Vec::new();
        while let Some(item) = receiver.next().await? {
            items.push(item);
        }
        assert_eq!(items, [1, 2, 3]);
        assert_eq!(receiver.next().await?, None);
        receiver.close();
        assert!(matches!(receiver.next().await, Err(ReceiveError::Closed(_))));
        producer.await?
    });
}

// AnyIO, send: BrokenResourceError if the stream was closed from the receiving end.
fn sending_to_nobody_is_broken(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(5);
        drop(receiver);
        let unsent = sender.send("a").await.expect_err("nobody receives");
        assert!(matches!(unsent.error, SendError::Broken(_)));
        assert_eq!(unsent.item, "a");
        assert!(matches!(sender.send_nowait("b").map_err(|unsent| unsent.error), Err(SendError::Broken(_))));
        Ok::<_, io::Error>(())
    });
}

fn who_sends_hears_that_every_receiver_has_gone_and_has_the_item_back(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let tasks = ["a", "b"].map(|item| spawn(sender.send(item)));
        settle().await;
        receiver.clone().close();
        settle().await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        receiver.close();
        let mut items = Vec::new();
        for task in tasks {
            let unsent = task.await?.expect_err("nobody received it");
            assert!(matches!(unsent.error, SendError::Broken(_)));
            items.push(unsent.item);
        }
        assert_eq!(items, ["a", "b"]);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, ClosedResourceError.
fn a_closed_end_cannot_be_used(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(5);
        sender.send("a").await?;
        sender.close();
        receiver.close();
        assert!(matches!(sender.send("b").await.map_err(|unsent| unsent.error), Err(SendError::Closed(_))));
        assert!(matches!(sender.send_nowait("b").map_err(|unsent| unsent.error), Err(SendError::Closed(_))));
        assert!(matches!(receiver.receive().await, Err(ReceiveError::Closed(_))));
        assert!(matches!(receiver.receive_nowait(), Err(ReceiveError::Closed(_))));
        Ok::<_, io::Error>(())
    });
}

// Closing wakes whoever waits on the closed object, with Closed; other clones are not affected.
fn closing_an_end_wakes_who_waits_on_it(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream::<u8>(0);
        let other = receiver.clone();
        let (mine, others) = (spawn(receiver.receive()), spawn(other.receive()));
        settle().await;
        receiver.close();
        assert!(matches!(mine.await?, Err(ReceiveError::Closed(_))));
        settle().await;
        assert!(!others.is_finished());
        sender.send(1).await?;
        assert_eq!(others.await??, 1);
        let send = spawn(sender.send(2));
        settle().await;
        drop(sender);
        let unsent = send.await?.expect_err("its sender was closed");
        assert!(matches!(unsent.error, SendError::Closed(_)));
        assert_eq!(unsent.item, 2);
        Ok::<_, io::Error>(())
    });
}

fn closing_twice_does_nothing(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream::<u8>(0);
        let (other_sender, other_receiver) = (sender.clone(), receiver.clone());
        for _ in 0..2 {
            sender.close();
            receiver.close();
        }
        let told = other_sender.statistics();
        assert_eq!((told.open_send_streams, told.open_receive_streams), (1, 1));
        drop((sender, receiver, other_sender, other_receiver));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, clone: only when all clones have been closed the end is closed.
fn each_clone_is_closed_for_itself(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(1);
        let other = sender.clone();
        sender.close();
        other.send(1).await?;
        let second = receiver.clone();
        receiver.close();
        assert_eq!(second.receive().await?, 1);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, clone of a closed stream: ClosedResourceError; here, at its first use.
fn a_clone_of_a_closed_end_is_closed(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(1);
        let (open_sender, open_receiver) = (sender.clone(), receiver.clone());
        sender.close();
        receiver.close();
        assert!(matches!(
            sender.clone().send(1).await.map_err(|unsent| unsent.error),
            Err(SendError::Closed(_))
        ));
        assert!(matches!(receiver.clone().receive_nowait(), Err(ReceiveError::Closed(_))));
        let told = open_sender.statistics();
        assert_eq!((told.open_send_streams, told.open_receive_streams), (1, 1));
        drop(open_receiver);
        Ok::<_, io::Error>(())
    });
}

fn dropping_an_end_closes_it(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream::<u8>(0);
        let other = sender.clone();
        assert_eq!(receiver.statistics().open_send_streams, 2);
        drop(other);
        assert_eq!(receiver.statistics().open_send_streams, 1);
        drop(receiver);
        assert_eq!(sender.statistics().open_receive_streams, 0);
        Ok::<_, io::Error>(())
    });
}

fn each_item_goes_to_one_receiver_in_the_order_of_their_waiting(cx: Cx) {
    cx.run(async {
        let ((sender, receiver), log) = (memory_object_stream(0), Log::new());
        let mut tasks = Vec::new();
        for number in 0..4 {
            tasks.push(waiting(&log, number, receiver.receive()).await);
        }
        for item in 0..4 {
            sender.send(item).await?;
        }
        for (item, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await??, item);
        }
        assert_eq!(log.take(), [0, 1, 2, 3]);
        Ok::<_, io::Error>(())
    });
}

fn a_newcomer_cannot_overtake_who_waits(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let mut first = begin(receiver.receive());
        sender.send_nowait(1)?;
        assert!(receiver.receive_nowait().is_err());
        let newcomer = begin(receiver.receive());
        assert!(poll_once(&mut first).is_ready());
        drop(newcomer);
        let mut sends = [begin(sender.send(2)), begin(sender.send(3))];
        assert!(sender.send_nowait(4).is_err());
        assert_eq!(receiver.receive_nowait()?, 2);
        assert!(sender.send_nowait(4).is_err());
        assert_eq!(receiver.receive_nowait()?, 3);
        assert!(sends.iter_mut().all(|send| poll_once(send).is_ready()));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, MemoryObjectStreamStatistics.
fn the_statistics_tell_of_buffer_ends_and_waits(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(1);
        let other = receiver.clone();
        sender.send(1).await?;
        let sends = [begin(sender.send(2)), begin(sender.send(3))];
        let told = sender.statistics();
        assert_eq!((told.current_buffer_used, told.max_buffer_size), (1, 1));
        assert_eq!((told.open_send_streams, told.open_receive_streams), (1, 2));
        assert_eq!((told.tasks_waiting_send, told.tasks_waiting_receive), (2, 0));
        assert_eq!(told, other.statistics());
        drop(sends);
        assert_eq!(receiver.receive().await?, 1);
        let receive = begin(receiver.receive());
        let told = sender.statistics();
        assert_eq!(
            (told.current_buffer_used, told.tasks_waiting_send, told.tasks_waiting_receive),
            (0, 0, 1)
        );
        drop(receive);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, receive: a cancelled receive does not lose the item.
fn a_dropped_receive_leaves_its_item_for_the_next(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let first = begin(receiver.receive());
        let second = spawn(receiver.receive());
        settle().await;
        sender.send_nowait(1)?;
        drop(first);
        assert_eq!(second.await??, 1);
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_receive_with_nobody_behind_leaves_its_item_in_front(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(1);
        let receive = begin(receiver.receive());
        sender.send_nowait(1)?;
        sender.send_nowait(2)?;
        drop(receive);
        assert_eq!((receiver.receive().await?, receiver.receive().await?), (1, 2));
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_send_that_waited_sends_nothing(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        drop(begin(sender.send(1)));
        assert!(matches!(receiver.receive_nowait(), Err(ReceiveError::WouldBlock(_))));
        let mut second = begin(sender.send(2));
        assert_eq!(receiver.receive().await?, 2);
        assert!(poll_once(&mut second).is_ready());
        Ok::<_, io::Error>(())
    });
}

fn what_a_receiver_was_granted_it_gets_even_if_it_is_closed_meanwhile(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream(1);
        let receive = begin(receiver.receive());
        sender.send_nowait(1)?;
        sender.send_nowait(2)?;
        receiver.close();
        drop(sender);
        assert_eq!(receive.await?, 1);
        Ok::<_, io::Error>(())
    });
}

fn items_that_nobody_will_receive_are_dropped(cx: Cx) {
    /// Counts itself when it is dropped.
    struct Item(Rc<Cell<u32>>);
    impl Drop for Item {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    cx.run(async {
        let dropped = Rc::new(Cell::new(0));
        let (sender, receiver) = memory_object_stream(3);
        for _ in 0..3 {
            sender.send(Item(dropped.clone())).await?;
        }
        drop(receiver);
        assert_eq!(dropped.get(), 3);
        assert_eq!(sender.statistics().current_buffer_used, 0);
        Ok::<_, io::Error>(())
    });
}

fn errors_have_their_kind(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream::<u8>(0);
        assert_eq!(kind(sender.send_nowait(1)), io::ErrorKind::WouldBlock);
        assert_eq!(kind(receiver.receive_nowait()), io::ErrorKind::WouldBlock);
        receiver.close();
        assert_eq!(kind(sender.send(1).await), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(receiver.receive().await), io::ErrorKind::NotConnected);
        sender.close();
        assert_eq!(kind(sender.send(1).await), io::ErrorKind::NotConnected);
        let (_, receiver) = memory_object_stream::<u8>(0);
        assert_eq!(kind(receiver.receive().await), io::ErrorKind::UnexpectedEof);
        Ok::<_, io::Error>(())
    });
}
