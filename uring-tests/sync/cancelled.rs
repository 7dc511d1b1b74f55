//! Every wait of these modules under a cancel: nothing that was granted is lost, and success wins (CANCEL rules 3 and 4).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use proactor::cancel::{CancelScope, shielded};
use proactor::stream::memory_object_stream;
use proactor::sync::{CapacityLimiter, Condition, Event, Lock, Queue, Semaphore};
use proactor::{MayBeCancelled, Task, current_task, spawn};

use super::{begin, poll_once, settle};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    a_cancel_ends_a_wait_and_the_next_one_gets_what_comes,
    what_was_granted_before_the_cancel_is_had,
    a_cancelled_scope_takes_nothing_even_if_it_is_there,
    what_a_dropped_wait_was_granted_goes_to_the_next,
    what_a_dropped_scope_was_granted_goes_to_the_next,
    a_cancel_gives_the_item_of_a_put_or_send_back,
    a_cancelled_condition_that_was_notified_notifies_the_next,
    a_shield_keeps_a_wait_from_the_cancel,
    a_cancel_of_ten_thousand_waits_leaves_the_rest_in_their_order,
    a_task_says_what_it_waits_for,
    a_lock_names_the_task_that_has_it,
);

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// Something to wait for, with what a test needs to know of it.
struct Case {
    name: &'static str,
    wait: Box<dyn Fn() -> Waiting>,
    /// Lets one who waits go, or the next who comes.
    grant: Box<dyn Fn()>,
    /// How many wait.
    waiting: Box<dyn Fn() -> usize>,
    /// Whether as much is there as after so many grants and so many waits that had one.
    is_intact: Box<dyn Fn(usize, usize) -> bool>,
    /// What was granted to a future that is dropped is somebody else's. Not so if a grant takes an item in.
    passes_on: bool,
}

impl Case {
    fn wait(&self) -> Waiting {
        (self.wait)()
    }

    /// A task that waits outside of every scope.
    async fn bystander(&self) -> Task<io::Result<()>> {
        let task = spawn(self.wait());
        settle().await;
        task
    }

    /// A task that waits in a scope, and tells what became of it.
    async fn in_scope(&self) -> (CancelScope, Task<io::Result<Option<()>>>) {
        let scope = CancelScope::new();
        let (handle, body) = (scope.clone(), self.wait());
        let task = spawn(async move { handle.run(body).await });
        settle().await;
        (scope, task)
    }

    #[track_caller]
    fn check(&self, granted: usize, had: usize) {
        assert_eq!((self.waiting)(), 0, "{}: somebody is left in the queue", self.name);
        assert!((self.is_intact)(granted, had), "{}: something was lost or doubled", self.name);
    }
}

macro_rules! boxed {
    (async $body:block) => {
        Box::pin(async move { io::Result::Ok($body) }) as Waiting
    };
}

fn event() -> Case {
    let event = Event::new();
    let [first, second, third] = [(); 3].map(|()| event.clone());
    Case {
        name: "Event",
        wait: Box::new(move || {
            Box::pin({
                let wait = first.wait();
                async move { Ok(wait.await?) }
            })
        }),
        grant: Box::new(move || second.set()),
        waiting: Box::new(move || third.statistics().tasks_waiting),
        is_intact: Box::new(|_, _| true),
        passes_on: true,
    }
}

fn lock() -> Case {
    let lock = Lock::new(());
    let guard = RefCell::new(lock.acquire_nowait().ok());
    let [first, second] = [(); 2].map(|()| lock.clone());
    Case {
        name: "Lock",
        wait: Box::new(move || {
            let acquire = first.acquire();
            boxed!(async { drop(acquire.await?) })
        }),
        grant: Box::new(move || drop(guard.take())),
        waiting: Box::new(move || second.statistics().tasks_waiting),
        is_intact: Box::new(move |granted, _| lock.is_locked() == (granted == 0)),
        passes_on: true,
    }
}

fn condition() -> Case {
    let condition = Condition::new(());
    let [first, second, third] = [(); 3].map(|()| condition.clone());
    Case {
        name: "Condition",
        wait: Box::new(move || {
            let condition = first.clone();
            boxed!(async {
                let guard = condition.acquire().await?;
                drop(condition.wait(guard).await?);
            })
        }),
        grant: Box::new(move || second.notify(&second.acquire_nowait().expect("the lock is free"), 1)),
        waiting: Box::new(move || third.statistics().tasks_waiting),
        is_intact: Box::new(move |_, _| !condition.is_locked()),
        passes_on: true,
    }
}

fn semaphore() -> Case {
    let semaphore = Semaphore::new(0);
    let [first, second, third] = [(); 3].map(|()| semaphore.clone());
    Case {
        name: "Semaphore",
        wait: Box::new(move || {
            let acquire = first.acquire();
            boxed!(async { acquire.await?.forget() })
        }),
        grant: Box::new(move || second.release().expect("it has no bound")),
        waiting: Box::new(move || third.statistics().tasks_waiting),
        is_intact: Box::new(move |granted, had| semaphore.value() == granted - had),
        passes_on: true,
    }
}

fn limiter() -> Case {
    let limiter = CapacityLimiter::new(0);
    let [first, second, third] = [(); 3].map(|()| limiter.clone());
    Case {
        name: "CapacityLimiter",
        wait: Box::new(move || {
            let acquire = first.acquire();
            boxed!(async { drop(acquire.await?) })
        }),
        grant: Box::new(move || second.set_total_tokens(second.total_tokens() + 1)),
        waiting: Box::new(move || third.statistics().tasks_waiting),
        is_intact: Box::new(move |granted, _| limiter.available_tokens() == granted),
        passes_on: true,
    }
}

fn limiter_on_behalf() -> Case {
    let (limiter, borrowers) = (CapacityLimiter::new(0), Cell::new(0));
    let [first, second, third] = [(); 3].map(|()| limiter.clone());
    Case {
        name: "CapacityLimiter on behalf of somebody",
        wait: Box::new(move || {
            borrowers.set(borrowers.get() + 1);
            let acquire = first.acquire_on_behalf_of(borrowers.get());
            boxed!(async { acquire.await? })
        }),
        grant: Box::new(move || second.set_total_tokens(second.total_tokens() + 1)),
        waiting: Box::new(move || third.statistics().tasks_waiting),
        is_intact: Box::new(move |granted, had| {
            let told = limiter.statistics();
            (told.borrowed_tokens, told.borrowers.len(), told.total_tokens) == (had, had, granted)
        }),
        passes_on: true,
    }
}

/// How many wait, as the debug output tells.
fn told(queue: &Queue<u32>, what: &str) -> usize {
    let text = format!("{queue:?}");
    let number = text.split(what).nth(1).map(|rest| rest.trim_start_matches(": "));
    let digits: String = number.into_iter().flat_map(str::chars).take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

fn get() -> Case {
    let queue = Queue::new(0);
    let [first, second, third] = [(); 3].map(|()| queue.clone());
    Case {
        name: "Queue::get",
        wait: Box::new(move || {
            let get = first.get();
            boxed!(async {
                let _item = get.await?;
            })
        }),
        grant: Box::new(move || second.put_nowait(1).expect("it is never full")),
        waiting: Box::new(move || told(&third, "getters_waiting")),
        is_intact: Box::new(move |granted, had| queue.len() == granted - had),
        passes_on: true,
    }
}

fn put() -> Case {
    let (queue, taken) = (Queue::new(1), Rc::new(Cell::new(0)));
    queue.put_nowait(0).expect("it is empty");
    let [first, second, third] = [(); 3].map(|()| queue.clone());
    let count = taken.clone();
    Case {
        name: "Queue::put",
        wait: Box::new(move || {
            let put = first.put(1);
            boxed!(async { put.await? })
        }),
        grant: Box::new(move || {
            second.get_nowait().expect("it is full");
            count.set(count.get() + 1);
        }),
        waiting: Box::new(move || told(&third, "putters_waiting")),
        is_intact: Box::new(move |_, had| queue.len() + taken.get() == had + 1),
        passes_on: false,
    }
}

fn join() -> Case {
    let queue = Queue::new(0);
    queue.put_nowait(1).expect("it is never full");
    let [first, second] = [(); 2].map(|()| queue.clone());
    Case {
        name: "Queue::join",
        wait: Box::new(move || {
            let join = first.join();
            boxed!(async { join.await? })
        }),
        grant: Box::new(move || assert!(second.task_done().is_ok())),
        waiting: Box::new(|| 0),
        is_intact: Box::new(move |granted, _| queue.task_done().is_err() == (granted > 0)),
        passes_on: true,
    }
}

fn send() -> Case {
    let (sender, receiver) = memory_object_stream(0);
    let told = sender.clone();
    let received = Rc::new(Cell::new(0));
    let count = received.clone();
    Case {
        name: "ObjectSender::send",
        wait: Box::new(move || {
            let send = sender.send(1);
            boxed!(async { send.await? })
        }),
        grant: Box::new(move || count.set(count.get() + usize::from(receiver.receive_nowait().is_ok()))),
        waiting: Box::new(move || told.statistics().tasks_waiting_send),
        is_intact: Box::new(move |_, had| received.get() == had),
        passes_on: false,
    }
}

fn receive() -> Case {
    let (sender, receiver) = memory_object_stream(5);
    let (told, left) = (receiver.clone(), receiver.clone());
    Case {
        name: "ObjectReceiver::receive",
        wait: Box::new(move || {
            let receive = receiver.receive();
            boxed!(async {
                let _item = receive.await?;
            })
        }),
        grant: Box::new(move || sender.send_nowait(1).expect("there is room")),
        waiting: Box::new(move || told.statistics().tasks_waiting_receive),
        is_intact: Box::new(move |granted, had| left.statistics().current_buffer_used == granted - had),
        passes_on: true,
    }
}

fn cases() -> Vec<Case> {
    let limiters = [limiter(), limiter_on_behalf()];
    let queues = [get(), put(), join()];
    let others = [event(), lock(), condition(), semaphore(), send(), receive()];
    others.into_iter().chain(limiters).chain(queues).collect()
}

fn a_cancel_ends_a_wait_and_the_next_one_gets_what_comes(cx: Cx) {
    cx.run(async {
        for case in cases() {
            let (scope, first) = case.in_scope().await;
            let second = case.bystander().await;
            scope.cancel();
            assert_eq!(first.await??, None, "{}", case.name);
            assert!(!second.is_finished(), "{}", case.name);
            (case.grant)();
            second.await??;
            case.check(1, 1);
        }
        Ok::<_, io::Error>(())
    });
}

fn what_was_granted_before_the_cancel_is_had(cx: Cx) {
    cx.run(async {
        // A condition is had with its lock only: who was notified and does not have that yet notifies the next (below).
        for case in cases().into_iter().filter(|case| case.name != "Condition") {
            let (scope, first) = case.in_scope().await;
            (case.grant)();
            scope.cancel();
            assert_eq!(first.await??, Some(()), "{}", case.name);
            case.check(1, 1);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_scope_takes_nothing_even_if_it_is_there(cx: Cx) {
    cx.run(async {
        // Of a condition, and of a stream without a buffer, nothing is there before somebody waits.
        for case in
            cases().into_iter().filter(|case| !["Condition", "ObjectSender::send"].contains(&case.name))
        {
            (case.grant)();
            let scope = CancelScope::new();
            scope.cancel();
            assert_eq!(scope.run(case.wait()).await?, None, "{}", case.name);
            case.check(1, 0);
            case.wait().await?;
            case.check(1, 1);
        }
        Ok::<_, io::Error>(())
    });
}

fn what_a_dropped_wait_was_granted_goes_to_the_next(cx: Cx) {
    cx.run(async {
        for case in cases() {
            let first = begin(case.wait());
            let second = case.bystander().await;
            (case.grant)();
            drop(first);
            passed_on(&case, second).await?;
        }
        Ok::<_, io::Error>(())
    });
}

/// Polled last in a scope that is cancelled and then dropped as a whole.
fn what_a_dropped_scope_was_granted_goes_to_the_next(cx: Cx) {
    cx.run(async {
        for case in cases() {
            let scope = CancelScope::new();
            let first = begin(Box::pin(scope.run(case.wait())));
            let second = case.bystander().await;
            (case.grant)();
            scope.cancel();
            drop(first);
            passed_on(&case, second).await?;
        }
        Ok::<_, io::Error>(())
    });
}

async fn passed_on(case: &Case, second: Task<io::Result<()>>) -> io::Result<()> {
    settle().await;
    if case.passes_on {
        assert!(second.is_finished(), "{}: nobody got it", case.name);
        second.await??;
        case.check(1, 1);
    } else {
        assert!(!second.is_finished(), "{}: the item was taken in", case.name);
        (case.grant)();
        second.await??;
        case.check(2, 2);
    }
    Ok(())
}

fn a_cancel_gives_the_item_of_a_put_or_send_back(cx: Cx) {
    cx.run(async {
        let queue = Queue::new(1);
        queue.put("first").await?;
        let (sender, receiver) = memory_object_stream(0);
        let scope = CancelScope::new();
        let (handle, putter) = (scope.clone(), queue.clone());
        let task = spawn(async move {
            let body = async {
                let put = putter.put("second").await.expect_err("it is cancelled");
                let sent = sender.send("third").await.expect_err("it is cancelled");
                assert!(sent.error.is_cancelled());
                Ok::<_, io::Error>((put.item, put.error.message().map(str::to_owned), sent.item))
            };
            handle.run(body).await
        });
        settle().await;
        scope.cancel_with("enough");
        // A body that ends with a value was successful.
        assert_eq!(task.await??, Some(("second", Some("enough".into()), "third")));
        assert_eq!((queue.len(), receiver.statistics().current_buffer_used), (1, 0));
        Ok::<_, io::Error>(())
    });
}

// AnyIO, Condition.wait: a task that was notified and is cancelled before it has the lock notifies the next.
fn a_cancelled_condition_that_was_notified_notifies_the_next(cx: Cx) {
    cx.run(async {
        let condition = Condition::new(());
        let scope = CancelScope::new();
        let (handle, waiter) = (scope.clone(), condition.clone());
        let first = spawn(async move {
            let body = async {
                let guard = waiter.acquire().await?;
                drop(waiter.wait(guard).await?);
                io::Result::Ok(())
            };
            handle.run(body).await
        });
        settle().await;
        let waiter = condition.clone();
        let second = spawn(async move {
            let guard = waiter.acquire().await?;
            drop(waiter.wait(guard).await?);
            io::Result::Ok(())
        });
        settle().await;
        let guard = condition.acquire().await?;
        condition.notify(&guard, 1);
        settle().await;
        // The first waits for the lock, which is not free.
        scope.cancel();
        assert_eq!(first.await??, None);
        drop(guard);
        second.await??;
        assert!(!condition.is_locked());
        Ok::<_, io::Error>(())
    });
}

fn a_shield_keeps_a_wait_from_the_cancel(cx: Cx) {
    cx.run(async {
        for case in cases() {
            let scope = CancelScope::new();
            let (handle, body) = (scope.clone(), case.wait());
            let task = spawn(async move { handle.run(shielded(body)).await });
            settle().await;
            scope.cancel();
            settle().await;
            assert!(!task.is_finished(), "{}", case.name);
            (case.grant)();
            assert_eq!(task.await??, Some(()), "{}", case.name);
            case.check(1, 1);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_cancel_of_ten_thousand_waits_leaves_the_rest_in_their_order(cx: Cx) {
    const COUNT: usize = 10_000;
    cx.run(async {
        let (lock, scope, order) = (Lock::new(()), CancelScope::new(), Rc::new(RefCell::new(Vec::new())));
        let guard = lock.acquire().await?;
        let inside = lock.clone();
        let handle = scope.clone();
        let cancelled = spawn(async move {
            let waits = (0..COUNT).map(|_| inside.acquire());
            let all = async { futures_util::future::try_join_all(waits).await.map(|guards| guards.len()) };
            handle.run(all).await
        });
        settle().await;
        let mut rest = Vec::new();
        for number in 0..100 {
            let (lock, order) = (lock.clone(), order.clone());
            rest.push(spawn(async move {
                let _guard = lock.acquire().await?;
                order.borrow_mut().push(number);
                io::Result::Ok(())
            }));
        }
        settle().await;
        assert_eq!(lock.statistics().tasks_waiting, COUNT + 100);
        scope.cancel();
        assert_eq!(cancelled.await??, None);
        assert_eq!(lock.statistics().tasks_waiting, 100);
        drop(guard);
        for task in rest {
            task.await??;
        }
        assert!(order.borrow().iter().copied().eq(0..100));
        Ok::<_, io::Error>(())
    });
}

fn a_task_says_what_it_waits_for(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let task = spawn(lock.acquire());
        settle().await;
        let id = task.id();
        let tasks = proactor::all_tasks();
        let info = tasks.iter().find(|info| info.id == id).expect("it is not over");
        assert!(info.to_string().contains("waits for a lock"), "{info}");
        drop(guard);
        drop(task.await??);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, LockStatistics.owner.
fn a_lock_names_the_task_that_has_it(cx: Cx) {
    cx.run(async {
        let lock = Lock::new(());
        assert_eq!(lock.statistics().owner, None);
        let guard = lock.acquire().await?;
        assert_eq!(lock.statistics().owner, current_task().map(|task| task.id));
        let other = lock.clone();
        let task = spawn(async move {
            let _guard = other.acquire().await?;
            assert_eq!(other.statistics().owner, current_task().map(|task| task.id));
            io::Result::Ok(())
        });
        settle().await;
        let mut wait = begin(lock.acquire());
        drop(guard);
        assert_eq!(lock.statistics().owner, None, "handed over, but not noticed yet");
        assert!(poll_once(&mut wait).is_pending());
        task.await??;
        assert!(poll_once(&mut wait).is_ready());
        assert_eq!(lock.statistics().owner, None);
        Ok::<_, io::Error>(())
    });
}
