//! Files, sleeps, queues, locks and semaphores in a storm: every item comes once, and every permit comes back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::fs::File;
use proactor::stream::memory_object_stream;
use proactor::sync::{Lock, Queue, Semaphore};
use proactor::{Unsent, sleep, spawn};

use super::streams::Pattern;
use super::{End, Storm, assert_cancelled, join, pause};

pub(super) async fn writes(storm: Rc<Storm>, file: File, pattern: Rc<Pattern>) -> io::Result<()> {
    let file = Rc::new(file);
    let (mut random, mut at, mut known) = (storm.random(), 0_u64, Vec::new());
    while storm.goes_on() {
        let len = 1 + random.below(5000);
        let (used, offset) = (file.clone(), at);
        if random.below(2) == 0 || known.is_empty() {
            let bytes = pattern.bytes(offset, len);
            // What was cut short may still be written, so its place is not used again.
            at += len as u64;
            let operation = async move { used.write_at(bytes, offset).await.map(|(count, _)| count) };
            match storm.cut("write_at", &mut random, operation).await {
                End::Answered(Ok(count)) => {
                    storm.note_success("write_at");
                    known.push((offset, count));
                }
                End::Answered(Err(failed)) => assert_cancelled(&failed.error),
                End::Dropped => {}
            }
        } else {
            let (offset, written) = known[random.below(known.len())];
            let operation = async move { used.read_at(vec![0; written], offset).await };
            match storm.cut("read_at", &mut random, operation).await {
                End::Answered(Ok((count, buf))) => {
                    storm.note_success("read_at");
                    pattern.check(offset, &buf[..count]);
                    assert!(count > 0);
                }
                End::Answered(Err(failed)) => assert_cancelled(&failed.error),
                End::Dropped => {}
            }
        }
    }
    Ok(())
}

pub(super) async fn naps(storm: Rc<Storm>) -> io::Result<()> {
    let mut random = storm.random();
    while storm.goes_on() {
        let (begin, time) = (Instant::now(), Duration::from_micros(random.below(400) as u64));
        match storm.cut("sleep", &mut random, sleep(time)).await {
            End::Answered(Ok(())) => {
                storm.note_success("sleep");
                assert!(begin.elapsed() >= time);
            }
            End::Answered(Err(_)) | End::Dropped => {}
        }
    }
    Ok(())
}

/// What producers and consumers say in the end.
#[derive(Default)]
struct Books {
    sent: RefCell<BTreeSet<u64>>,
    /// Dropped on the way, so they may have been sent.
    unsure: RefCell<BTreeSet<u64>>,
    received: RefCell<BTreeSet<u64>>,
}

impl Books {
    fn received(&self, item: u64) {
        assert!(self.received.borrow_mut().insert(item), "item {item} came twice");
    }

    fn balance(&self) {
        let (sent, unsure, received) = (self.sent.borrow(), self.unsure.borrow(), self.received.borrow());
        let lost: Vec<_> = sent.difference(&received).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let stray: Vec<_> =
            received.iter().filter(|item| !sent.contains(item) && !unsure.contains(item)).collect();
        assert!(stray.is_empty(), "from nowhere: {stray:?}");
    }
}

/// Sends numbers, of which no other producer has the same.
async fn produces<C, E, F>(
    storm: Rc<Storm>,
    what: &'static str,
    books: Rc<Books>,
    number: u64,
    send: C,
) -> io::Result<()>
where
    C: Fn(u64) -> F,
    F: Future<Output = Result<(), Unsent<u64, E>>> + 'static,
    E: Into<io::Error> + 'static,
{
    let (mut random, mut next) = (storm.random(), number << 40);
    while storm.goes_on() {
        match storm.cut(what, &mut random, send(next)).await {
            End::Answered(Ok(())) => {
                storm.note_success(what);
                books.sent.borrow_mut().insert(next);
                next += 1;
            }
            // It came back, and is sent again.
            End::Answered(Err(unsent)) => {
                assert_eq!(unsent.item, next);
                assert_cancelled(&unsent.error.into());
            }
            End::Dropped => {
                books.unsure.borrow_mut().insert(next);
                next += 1;
            }
        }
        pause(random.below(2)).await;
    }
    Ok(())
}

async fn consumes<C, E, F>(
    storm: Rc<Storm>,
    what: &'static str,
    books: Rc<Books>,
    receive: C,
) -> io::Result<()>
where
    C: Fn() -> F,
    F: Future<Output = Result<u64, E>> + 'static,
    E: Into<io::Error> + 'static,
{
    let mut random = storm.random();
    while storm.goes_on() {
        match storm.cut(what, &mut random, receive()).await {
            End::Answered(Ok(item)) => {
                storm.note_success(what);
                books.received(item);
            }
            End::Answered(Err(error)) => assert_cancelled(&error.into()),
            End::Dropped => {}
        }
    }
    Ok(())
}

pub(super) async fn queues(storm: Rc<Storm>, capacity: usize) -> io::Result<()> {
    let (queue, books) = (Queue::new(capacity), Rc::new(Books::default()));
    let mut tasks = Vec::new();
    for number in 0..2 {
        let (puts, gets) = (queue.clone(), queue.clone());
        tasks.push(spawn(produces(storm.clone(), "put", books.clone(), number, move |item| puts.put(item))));
        tasks.push(spawn(consumes(storm.clone(), "get", books.clone(), move || gets.get())));
    }
    for task in tasks {
        join(task).await?;
    }
    while let Ok(item) = queue.get_nowait() {
        books.received(item);
    }
    books.balance();
    Ok(())
}

pub(super) async fn object_streams(storm: Rc<Storm>, capacity: usize) -> io::Result<()> {
    let ((sender, receiver), books) = (memory_object_stream(capacity), Rc::new(Books::default()));
    let mut tasks = Vec::new();
    for number in 0..2 {
        let (sends, receives) = (sender.clone(), receiver.clone());
        let send = move |item| sends.send(item);
        tasks.push(spawn(produces(storm.clone(), "object send", books.clone(), number, send)));
        let receive = move || receives.receive();
        tasks.push(spawn(consumes(storm.clone(), "object receive", books.clone(), receive)));
    }
    for task in tasks {
        join(task).await?;
    }
    while let Ok(item) = receiver.receive_nowait() {
        books.received(item);
    }
    books.balance();
    let left = sender.statistics();
    assert_eq!((left.tasks_waiting_send, left.tasks_waiting_receive), (0, 0));
    Ok(())
}

pub(super) async fn locks(storm: Rc<Storm>, lock: Lock<u64>, entered: Rc<Cell<u64>>) -> io::Result<()> {
    let mut random = storm.random();
    while storm.goes_on() {
        let wants = lock.clone();
        match storm.cut("lock", &mut random, wants.acquire()).await {
            End::Answered(Ok(mut guard)) => {
                storm.note_success("lock");
                let before = *guard;
                pause(random.below(3)).await;
                assert_eq!(*guard, before, "two were inside");
                *guard += 1;
                entered.set(entered.get() + 1);
            }
            End::Answered(Err(_)) | End::Dropped => {}
        }
    }
    Ok(())
}

pub(super) async fn permits(
    storm: Rc<Storm>,
    semaphore: Semaphore,
    inside: Rc<Cell<usize>>,
) -> io::Result<()> {
    let mut random = storm.random();
    while storm.goes_on() {
        let wants = semaphore.clone();
        if let End::Answered(Ok(permit)) = storm.cut("semaphore", &mut random, wants.acquire()).await {
            storm.note_success("semaphore");
            inside.set(inside.get() + 1);
            assert!(inside.get() <= 3, "too many are inside");
            pause(random.below(3)).await;
            inside.set(inside.get() - 1);
            drop(permit);
        }
    }
    Ok(())
}
