//! Wakers and turns: who is woken, how often, in which order, and that nobody starves.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use proactor::net::{TcpListener, TcpStream, UnixStream};
use proactor::{Task, metrics, nop, sleep, spawn, yield_now};

use crate::harness::{Cx, both_drivers, turns, until};

both_drivers!(
    tasks_run_in_the_order_in_which_they_became_ready,
    a_woken_task_is_polled_once_however_often_it_was_woken,
    a_stale_waker_never_reaches_the_next_task_of_its_slot,
    a_waker_outlives_its_task_and_its_loop,
    a_waker_of_another_thread_wakes_a_loop_that_sleeps,
    foreign_combinators_drive_our_futures,
    a_task_that_wakes_itself_starves_neither_io_nor_timers,
    a_connection_with_much_to_read_yields_to_other_tasks,
);

fn tasks_run_in_the_order_in_which_they_became_ready(cx: Cx) {
    /// More than run in one turn.
    const TASKS: usize = 3000;
    cx.run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        for round in 0..2 {
            for n in 0..TASKS {
                let log = log.clone();
                drop(spawn(async move {
                    log.borrow_mut().push((round, 1, n));
                    yield_now().await;
                    log.borrow_mut().push((round, 2, n));
                }));
            }
            until(|| log.borrow().len() == TASKS * 2).await;
            let expected: Vec<_> =
                (1..=2).flat_map(|step| (0..TASKS).map(move |n| (round, step, n))).collect();
            assert_eq!(log.take(), expected);
        }
        Ok::<_, io::Error>(())
    });
}

/// A task that counts its polls, hands out its waker, and ends when it is told to.
struct Probe {
    polls: Rc<Cell<u32>>,
    end: Rc<Cell<bool>>,
    waker: Rc<RefCell<Option<Waker>>>,
    task: Task<()>,
}

impl Probe {
    fn spawn() -> Self {
        let (polls, end, waker) =
            (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
        let (count, done, place) = (polls.clone(), end.clone(), waker.clone());
        let task = spawn(poll_fn(move |cx| {
            count.set(count.get() + 1);
            *place.borrow_mut() = Some(cx.waker().clone());
            if done.get() { Poll::Ready(()) } else { Poll::Pending }
        }));
        Self { polls, end, waker, task }
    }

    fn waker(&self) -> Waker {
        self.waker.borrow().clone().expect("it was polled")
    }

    async fn finish(self) {
        self.end.set(true);
        self.waker().wake();
        self.task.await.expect("a result");
    }
}

fn a_woken_task_is_polled_once_however_often_it_was_woken(cx: Cx) {
    cx.run(async {
        let probe = Probe::spawn();
        turns(4).await;
        assert_eq!(probe.polls.get(), 1, "nobody woke it");
        let waker = probe.waker();
        assert!(waker.will_wake(&waker.clone()));
        for _ in 0..100 {
            waker.wake_by_ref();
            let copies = [waker.clone(), waker.clone()];
            copies.into_iter().take(1).for_each(Waker::wake);
        }
        turns(4).await;
        assert_eq!(probe.polls.get(), 2);
        probe.finish().await;
        Ok::<_, io::Error>(())
    });
}

fn a_stale_waker_never_reaches_the_next_task_of_its_slot(cx: Cx) {
    cx.run(async {
        let mut stale = Vec::new();
        for _ in 0..100 {
            let probe = Probe::spawn();
            turns(4).await;
            stale.push(probe.waker());
            probe.finish().await;
        }
        let probe = Probe::spawn();
        turns(4).await;
        stale.iter().for_each(Waker::wake_by_ref);
        turns(4).await;
        assert_eq!(probe.polls.get(), 1, "wakers of tasks that are over reach nobody");
        // From another thread one may cause a poll too many, and no more than that.
        let woken = stale.clone();
        thread::spawn(move || woken.iter().for_each(Waker::wake_by_ref)).join().expect("the thread ends");
        turns(4).await;
        assert!(probe.polls.get() <= 2, "{} polls", probe.polls.get());
        probe.finish().await;
        Ok::<_, io::Error>(())
    });
}

fn a_waker_outlives_its_task_and_its_loop(cx: Cx) {
    let mut wakers = Vec::new();
    for _ in 0..3 {
        let event_loop = cx.builder().build().expect("a loop");
        let run = event_loop.run_until_complete(async {
            let probe = Probe::spawn();
            turns(4).await;
            wakers.push(probe.waker());
            poll_fn(|cx| {
                wakers.push(cx.waker().clone());
                Poll::Ready(())
            })
            .await;
            wakers.iter().for_each(Waker::wake_by_ref);
            turns(4).await;
        });
        run.expect("the loop runs");
        wakers.iter().for_each(Waker::wake_by_ref);
        drop(event_loop);
        wakers.iter().for_each(Waker::wake_by_ref);
    }
    let others = wakers.clone();
    thread::spawn(move || others.into_iter().for_each(Waker::wake)).join().expect("the thread ends");
    wakers.into_iter().for_each(Waker::wake);
}

fn a_waker_of_another_thread_wakes_a_loop_that_sleeps(cx: Cx) {
    cx.run(async {
        let (to_thread, wakers) = mpsc::channel::<(Waker, mpsc::Sender<()>)>();
        let thread = thread::spawn(move || {
            for (waker, done) in wakers {
                done.send(()).expect("the loop waits for it");
                waker.wake();
            }
        });
        for _ in 0..200 {
            let (sender, receiver) = mpsc::channel();
            let mut sender = Some(sender);
            poll_fn(|cx| {
                if let Some(sender) = sender.take() {
                    to_thread.send((cx.waker().clone(), sender)).expect("the thread runs");
                }
                if receiver.try_recv().is_ok() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        drop(to_thread);
        thread.join().expect("the thread ends");
        Ok::<_, io::Error>(())
    });
}

fn foreign_combinators_drive_our_futures(cx: Cx) {
    cx.run(async {
        let (a, b) = futures_util::join!(async { nop().await.map(|()| 1) }, spawn(async { 2 }));
        assert_eq!((a?, b.map_err(io::Error::from)?), (1, 2));

        let results = join_all((0..100).map(|n| spawn(async move { n }))).await;
        let results: Vec<_> = results.into_iter().map(|result| result.expect("a result")).collect();
        assert_eq!(results, (0..100).collect::<Vec<_>>());

        let mut unordered: FuturesUnordered<_> = (0..100_u64)
            .map(|n| async move {
                sleep(Duration::from_micros(n % 7 * 100)).await?;
                nop().await?;
                Ok::<_, io::Error>(n)
            })
            .collect();
        let mut seen = Vec::new();
        while let Some(n) = unordered.next().await {
            seen.push(n?);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());

        // The loser is dropped; nothing of it is lost.
        let (client, server) = UnixStream::pair()?;
        for byte in [b"a", b"b", b"c"] {
            match futures_util::future::select(server.receive(), yield_now()).await {
                Either::Left((chunk, _)) => panic!("{chunk:?} came from nowhere"),
                Either::Right(((), receive)) => drop(receive),
            }
            client.send(byte).await?;
            assert_eq!(&server.receive().await?.expect("a byte")[..], byte);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_task_that_wakes_itself_starves_neither_io_nor_timers(cx: Cx) {
    cx.run(async {
        let stop = Rc::new(Cell::new(false));
        let busy: Vec<_> = (0..3000)
            .map(|_| {
                let stop = stop.clone();
                spawn(async move {
                    let mut turns = 0_u64;
                    while !stop.get() {
                        turns += 1;
                        yield_now().await;
                    }
                    turns
                })
            })
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let server = listener.accept().await?;
        for _ in 0..20 {
            client.send("ping").await?;
            server.send(server.receive().await?.expect("bytes")).await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
            let due = Instant::now() + Duration::from_millis(1);
            sleep(Duration::from_millis(1)).await?;
            assert!(Instant::now() >= due);
        }
        stop.set(true);
        for task in busy {
            assert!(task.await.map_err(io::Error::from)? > 20, "each of them ran on");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_connection_with_much_to_read_yields_to_other_tasks(cx: Cx) {
    const CHUNKS: usize = 600;
    const SIZE: usize = 256;
    let builder = cx.builder().buffer_size(SIZE);
    cx.run_with(builder, async {
        let (client, server) = UnixStream::pair()?;
        // The first receive arms the socket; then each message arrives as a chunk of its own.
        assert!(poll_fn(|cx| Poll::Ready(server.poll_receive(cx).is_pending())).await);
        if cx.is_uring() {
            for _ in 0..CHUNKS {
                client.send([b'x'; SIZE].to_vec()).await?;
                turns(1).await;
            }
            until(|| metrics().buffers_in_use >= CHUNKS).await;
        } else {
            // There they stay in the socket until somebody asks.
            client.send(vec![b'x'; CHUNKS * SIZE]).await?;
        }
        let (rounds, stop) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(false)));
        let (count, end) = (rounds.clone(), stop.clone());
        let other = spawn(async move {
            while !end.get() {
                count.set(count.get() + 1);
                yield_now().await;
            }
        });
        let reader = spawn(async move {
            for _ in 0..CHUNKS {
                assert_eq!(server.receive().await?.expect("a chunk").len(), SIZE);
            }
            stop.set(true);
            Ok::<_, io::Error>(server)
        });
        let server = reader.await.map_err(io::Error::from)??;
        other.await.map_err(io::Error::from)?;
        assert!(rounds.get() >= 4, "the other task ran {} times while 600 chunks were read", rounds.get());
        drop((client, server));
        Ok::<_, io::Error>(())
    });
}
