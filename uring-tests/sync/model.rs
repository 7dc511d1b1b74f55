//! Many tasks and random drops: in the end every permit and every item is accounted for. Each run is decided by its seed,
//! which is in the message of a failure.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;

use futures_util::future::{Either, select};
use proactor::stream::memory_object_stream;
use proactor::sync::{
    CapacityLimiter, Condition, Fifo, Lifo, Lock, Order, OrderedQueue, Priority, Semaphore,
};
use proactor::{Task, spawn, yield_now};

use crate::harness::{Cx, Random, both_drivers};

both_drivers!(
    a_lock_excludes_and_is_free_in_the_end,
    a_semaphore_has_all_its_permits_in_the_end,
    a_limiter_has_all_its_tokens_in_the_end,
    every_notification_reaches_somebody,
    a_queue_gives_every_item_once,
    a_lifo_queue_gives_every_item_once,
    a_priority_queue_gives_every_item_once,
    a_memory_stream_gives_every_item_once_and_in_order,
);

const SEEDS: u64 = 12;
const TASKS: u64 = 16;
const ROUNDS: usize = 60;

/// Random numbers of one task of one run.
fn random(seed: u64, task: u64) -> Random {
    let mut random =
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (task + 1).wrapping_mul(0xD134_2543_DE82_EF95));
    random.below(2);
    random
}

/// Gives `future` some turns, and drops it then.
async fn within_turns<F: Future + Unpin>(turns: usize, future: F) -> Option<F::Output> {
    let clock = std::pin::pin!(async {
        for _ in 0..turns {
            yield_now().await;
        }
    });
    // The clock first: it drops a future in the same turn in which that was granted what it waits for.
    match select(clock, future).await {
        Either::Left(((), _dropped)) => None,
        Either::Right((output, _)) => Some(output),
    }
}

async fn pause(random: &mut Random) {
    for _ in 0..random.below(3) {
        yield_now().await;
    }
}

async fn all(tasks: Vec<Task<io::Result<()>>>) -> io::Result<()> {
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn a_lock_excludes_and_is_free_in_the_end(cx: Cx) {
    cx.run(async {
        for seed in 1..=SEEDS {
            let (lock, inside) = (Lock::new(0), Rc::new(Cell::new(0)));
            let entered = Rc::new(Cell::new(0));
            let tasks = (0..TASKS).map(|task| {
                let (lock, inside, entered) = (lock.clone(), inside.clone(), entered.clone());
                let mut random = random(seed, task);
                spawn(async move {
                    for _ in 0..ROUNDS {
                        let turns = random.below(12);
                        if let Some(guard) = within_turns(turns, lock.acquire()).await {
                            let mut guard = guard?;
                            assert_eq!(inside.replace(1), 0, "two are inside, seed {seed}");
                            pause(&mut random).await;
                            *guard += 1;
                            entered.set(entered.get() + 1);
                            inside.set(0);
                        }
                        pause(&mut random).await;
                    }
                    Ok(())
                })
            });
            all(tasks.collect()).await?;
            assert_eq!(lock.statistics().tasks_waiting, 0, "seed {seed}");
            assert_eq!(*lock.acquire_nowait()?, entered.get(), "seed {seed}");
            assert!(entered.get() > 100, "seed {seed} does not do much");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_semaphore_has_all_its_permits_in_the_end(cx: Cx) {
    cx.run(async {
        for seed in 1..=SEEDS {
            let (semaphore, inside) = (Semaphore::bounded(3, 3), Rc::new(Cell::new(0)));
            let tasks = (0..TASKS).map(|task| {
                let (semaphore, inside) = (semaphore.clone(), inside.clone());
                let mut random = random(seed, task);
                spawn(async move {
                    for _ in 0..ROUNDS {
                        let turns = random.below(12);
                        if let Some(permit) = within_turns(turns, semaphore.acquire()).await {
                            let permit = permit?;
                            inside.set(inside.get() + 1);
                            assert!(inside.get() <= 3, "too many are inside, seed {seed}");
                            pause(&mut random).await;
                            inside.set(inside.get() - 1);
                            if random.below(2) == 0 {
                                permit.forget();
                                semaphore.release()?;
                            }
                        }
                    }
                    Ok(())
                })
            });
            all(tasks.collect()).await?;
            assert_eq!((semaphore.value(), semaphore.statistics().tasks_waiting), (3, 0), "seed {seed}");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_limiter_has_all_its_tokens_in_the_end(cx: Cx) {
    cx.run(async {
        for seed in 1..=SEEDS {
            let limiter = CapacityLimiter::new(3);
            let tasks = (0..TASKS).map(|task| {
                let limiter = limiter.clone();
                let mut random = random(seed, task);
                spawn(async move {
                    for _ in 0..ROUNDS {
                        let turns = random.below(12);
                        if random.below(2) == 0 {
                            if let Some(token) = within_turns(turns, limiter.acquire()).await {
                                let _token = token?;
                                pause(&mut random).await;
                            }
                        } else if let Some(granted) =
                            within_turns(turns, limiter.acquire_on_behalf_of(task)).await
                        {
                            granted?;
                            pause(&mut random).await;
                            limiter.release_on_behalf_of(task)?;
                        }
                        if random.below(8) == 0 {
                            limiter.set_total_tokens(1 + random.below(5));
                        }
                        let told = limiter.statistics();
                        assert_eq!(told.borrowers.len(), told.borrowed_tokens, "seed {seed}");
                        assert!(told.tasks_waiting == 0 || limiter.available_tokens() == 0, "seed {seed}");
                    }
                    Ok(())
                })
            });
            all(tasks.collect()).await?;
            let told = limiter.statistics();
            assert_eq!((told.borrowed_tokens, told.tasks_waiting), (0, 0), "seed {seed}");
        }
        Ok::<_, io::Error>(())
    });
}

/// A stock that producers fill and consumers, who may lose patience, empty: with `notify(1)` for each piece, a consumer
/// who goes with its notification must pass it on, or somebody waits for ever beside a full stock.
fn every_notification_reaches_somebody(cx: Cx) {
    cx.run(async {
        for seed in 1..=SEEDS {
            let (stock, taken) = (Condition::new(0_usize), Rc::new(Cell::new(0)));
            let pieces = TASKS as usize * ROUNDS;
            let consumers = (0..TASKS).map(|task| {
                let (stock, taken) = (stock.clone(), taken.clone());
                let mut random = random(seed, task);
                spawn(async move {
                    while taken.get() < pieces {
                        let guard = stock.acquire().await?;
                        let turns = if random.below(4) == 0 { usize::MAX } else { random.below(12) };
                        let wait = Box::pin(stock.wait_for(guard, |count| *count > 0));
                        // Who never loses patience ends when the last piece was taken.
                        let Some(guard) = within_turns(turns.min(2000), wait).await else { continue };
                        *guard? -= 1;
                        taken.set(taken.get() + 1);
                    }
                    Ok(())
                })
            });
            let consumers: Vec<_> = consumers.collect();
            let producers = (0..TASKS).map(|task| {
                let stock = stock.clone();
                let mut random = random(seed, task + TASKS);
                spawn(async move {
                    for _ in 0..ROUNDS {
                        let mut guard = stock.acquire().await?;
                        *guard += 1;
                        stock.notify(&guard, 1);
                        drop(guard);
                        pause(&mut random).await;
                    }
                    Ok(())
                })
            });
            all(producers.collect()).await?;
            all(consumers).await?;
            assert_eq!((taken.get(), *stock.acquire_nowait()?), (pieces, 0), "seed {seed}");
            assert_eq!(stock.statistics().tasks_waiting, 0, "seed {seed}");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_queue_gives_every_item_once(cx: Cx) {
    gives_every_item_once::<Fifo<u64>>(cx);
}

fn a_lifo_queue_gives_every_item_once(cx: Cx) {
    gives_every_item_once::<Lifo<u64>>(cx);
}

fn a_priority_queue_gives_every_item_once(cx: Cx) {
    gives_every_item_once::<Priority<u64>>(cx);
}

/// Every put that succeeded comes out once; every put that was dropped, at most once.
fn gives_every_item_once<O: Order<Item = u64> + 'static>(cx: Cx) {
    cx.run(async {
        for seed in 1..=SEEDS {
            let queue = OrderedQueue::<O>::new(random(seed, 99).below(4));
            let (put, maybe, got) = (Notes::default(), Notes::default(), Notes::default());
            let tasks = (0..TASKS).map(|task| {
                let (queue, put, maybe, got) = (queue.clone(), put.clone(), maybe.clone(), got.clone());
                let mut random = random(seed, task);
                spawn(async move {
                    for round in 0..ROUNDS as u64 {
                        let (item, turns) = (task * 1000 + round, random.below(12));
                        match random.below(4) {
                            0 => match queue.put_nowait(item) {
                                Ok(()) => put.add(item),
                                Err(unsent) => assert_eq!(unsent.item, item),
                            },
                            1 => match within_turns(turns, queue.put(item)).await {
                                Some(outcome) => outcome.map(|()| put.add(item))?,
                                None => maybe.add(item),
                            },
                            2 => drop(queue.get_nowait().map(|item| got.add(item))),
                            _ => {
                                if let Some(item) = within_turns(turns, queue.get()).await {
                                    got.add(item?);
                                }
                            }
                        }
                        pause(&mut random).await;
                    }
                    Ok(())
                })
            });
            all(tasks.collect()).await?;
            while let Ok(item) = queue.get_nowait() {
                got.add(item);
            }
            assert!(queue.is_empty(), "seed {seed}");
            check(seed, &put, &maybe, &got);
            for _ in 0..got.0.borrow().len() {
                queue.task_done()?;
            }
            assert!(queue.task_done().is_err(), "seed {seed}");
        }
        Ok::<_, io::Error>(())
    });
}

#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<u64>>>);

impl Notes {
    fn add(&self, item: u64) {
        self.0.borrow_mut().push(item);
    }

    fn sorted(&self) -> Vec<u64> {
        let mut items = self.0.borrow().clone();
        items.sort_unstable();
        items
    }
}

fn check(seed: u64, put: &Notes, maybe: &Notes, got: &Notes) {
    let (put, maybe, got) = (put.sorted(), maybe.sorted(), got.sorted());
    assert!(got.windows(2).all(|pair| pair[0] != pair[1]), "an item came twice, seed {seed}");
    assert!(put.iter().all(|item| got.binary_search(item).is_ok()), "an item was lost, seed {seed}");
    let is_known = |item: &u64| put.binary_search(item).is_ok() || maybe.binary_search(item).is_ok();
    assert!(got.iter().all(is_known), "an item came from nowhere, seed {seed}");
    assert!(got.len() > 50, "seed {seed} does not do much");
}

fn a_memory_stream_gives_every_item_once_and_in_order(cx: Cx) {
    cx.run(async {
        for seed in 1..=SEEDS {
            let (sender, receiver) = memory_object_stream(random(seed, 99).below(3));
            let (put, maybe, got) = (Notes::default(), Notes::default(), Notes::default());
            let senders: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (sender, put, maybe) = (sender.clone(), put.clone(), maybe.clone());
                    let mut random = random(seed, task);
                    spawn(async move {
                        for round in 0..ROUNDS as u64 {
                            let (item, turns) = (task * 1000 + round, random.below(12));
                            if random.below(4) == 0 {
                                if sender.send_nowait(item).is_ok() {
                                    put.add(item);
                                }
                            } else {
                                match within_turns(turns, sender.send(item)).await {
                                    Some(outcome) => outcome.map(|()| put.add(item))?,
                                    None => maybe.add(item),
                                }
                            }
                            pause(&mut random).await;
                        }
                        Ok(())
                    })
                })
                .collect();
            drop(sender);
            let receivers = (0..TASKS).map(|task| {
                let (receiver, got) = (receiver.clone(), got.clone());
                let mut random = random(seed, task + TASKS);
                spawn(async move {
                    loop {
                        match within_turns(random.below(12), receiver.next()).await {
                            Some(Ok(Some(item))) => got.add(item),
                            Some(Ok(None)) => return Ok(()),
                            Some(Err(error)) => return Err(error.into()),
                            None => pause(&mut random).await,
                        }
                    }
                })
            });
            all(receivers.collect()).await?;
            all(senders).await?;
            // Of each sender, its items came in the order in which it sent them.
            for task in 0..TASKS {
                let items = got.0.borrow();
                let own: Vec<_> = items.iter().filter(|item| **item / 1000 == task).collect();
                assert!(own.is_sorted(), "sender {task} was overtaken by itself, seed {seed}");
            }
            check(seed, &put, &maybe, &got);
        }
        Ok::<_, io::Error>(())
    });
}
