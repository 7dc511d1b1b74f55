//! Tasks: their results, panics and destructors, how they are run, and what becomes of them at the end.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proactor::net::UnixStream;
use proactor::{EventLoop, JoinError, Task, metrics, nop, sleep, spawn, yield_now};

use crate::harness::{Cx, both_drivers, many, turns, until};

both_drivers!(
    a_task_runs_beside_its_spawner_and_gives_its_result,
    a_task_whose_handle_is_dropped_goes_on,
    a_panic_fails_its_task_and_no_other,
    the_panic_of_a_task_can_be_raised_again,
    a_destructor_that_panics_fails_its_task_and_no_other,
    a_destructor_that_panics_at_the_end_of_the_loop_stops_neither_the_loop_nor_other_destructors,
    a_result_whose_destructor_panics_harms_nobody,
    the_panic_of_the_main_future_passes_through_and_the_loop_can_be_used_again,
    a_task_has_a_number_a_name_and_a_place,
    a_task_may_wait_for_itself_and_is_dropped_in_the_end,
    a_nested_run_is_an_error_and_harms_nothing,
    run_gives_the_result_or_the_error_of_main,
    tasks_that_are_left_are_dropped_when_the_loop_ends,
    a_task_that_is_spawned_while_the_loop_ends_is_refused,
    a_hundred_thousand_tasks_run_to_their_end,
);

/// Says when it is dropped.
struct Note(Rc<Cell<u32>>);

impl Drop for Note {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the destructor");
    }
}

/// A future that is ready at once and panics when it is dropped.
struct Explosive {
    _bomb: Bomb,
}

impl Future for Explosive {
    type Output = u8;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u8> {
        Poll::Ready(1)
    }
}

fn panic_text<T>(outcome: Result<T, JoinError>) -> String {
    let error = outcome.err().expect("the task panicked");
    assert!(matches!(error, JoinError::Panicked(_)), "{error}");
    error.panic_message().expect("the panic has a text").to_owned()
}

fn a_task_runs_beside_its_spawner_and_gives_its_result(cx: Cx) {
    cx.run(async {
        let started = Rc::new(Cell::new(false));
        let seen = started.clone();
        let task = spawn(async move {
            seen.set(true);
            yield_now().await;
            "result".to_owned()
        });
        assert!(!started.get(), "spawning does not run the task");
        assert!(!task.is_finished());
        assert_eq!(metrics().tasks, 1);
        assert_eq!(task.await.map_err(io::Error::from)?, "result");
        assert!(started.get());
        assert_eq!(metrics().tasks, 0);

        let task = spawn(async { 7 });
        until(|| task.is_finished()).await;
        assert_eq!(task.await.map_err(io::Error::from)?, 7, "a result waits for whoever joins late");
        Ok::<_, io::Error>(())
    });
}

fn a_task_whose_handle_is_dropped_goes_on(cx: Cx) {
    cx.run(async {
        let turns = Rc::new(Cell::new(0));
        let seen = turns.clone();
        drop(spawn(async move {
            for _ in 0..10 {
                yield_now().await;
                seen.set(seen.get() + 1);
            }
        }));
        until(|| turns.get() == 10).await;

        // Dropped by somebody who waited already.
        let (done, seen) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let flag = done.clone();
        let task = spawn(async move {
            until(|| seen.replace(true)).await;
            flag.set(true);
        });
        let mut task = Box::pin(task);
        assert!(poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx).is_pending())).await);
        drop(task);
        until(|| done.get()).await;
        Ok::<_, io::Error>(())
    });
}

fn a_panic_fails_its_task_and_no_other(cx: Cx) {
    cx.run(async {
        let before = spawn(async { 1 });
        let plain = spawn(async { panic!("plain text") });
        let formatted = spawn(async {
            yield_now().await;
            panic!("number {}", 42);
        });
        let payload = spawn(async { std::panic::panic_any(7_u64) });
        let after = spawn(async { 2 });
        assert_eq!(panic_text::<()>(plain.await), "plain text");
        assert_eq!(panic_text::<()>(formatted.await), "number 42");
        match payload.await {
            Err(JoinError::Panicked(payload)) => assert_eq!(payload.downcast_ref::<u64>(), Some(&7)),
            other => panic!("{:?}", other.map(|(): ()| ())),
        }
        assert_eq!((before.await.expect("a result"), after.await.expect("a result")), (1, 2));
        // A detached one takes nothing with it either.
        drop(spawn(async { panic!("nobody listens") }));
        until(|| metrics().tasks == 0).await;
        nop().await
    });
}

fn the_panic_of_a_task_can_be_raised_again(cx: Cx) {
    cx.run(async {
        let error = spawn(async { panic!("raised twice") }).await.expect_err("the task panicked");
        assert_eq!(error.to_string(), "task panicked: raised twice");
        let raised = catch_unwind(AssertUnwindSafe(|| error.resume_panic())).expect_err("it panics");
        assert_eq!(raised.downcast_ref::<&str>(), Some(&"raised twice"));
        let error: io::Error = spawn(async { panic!("as io") }).await.map(|(): ()| ()).unwrap_err().into();
        assert_eq!(error.to_string(), "task panicked: as io");
        Ok::<_, io::Error>(())
    });
}

fn a_destructor_that_panics_fails_its_task_and_no_other(cx: Cx) {
    cx.run(async {
        let dropped = Rc::new(Cell::new(0));
        let note = Note(dropped.clone());
        // A local variable, dropped by the last poll.
        let local = spawn(async move {
            let (_note, _bomb) = (note, Bomb);
            yield_now().await;
            1
        });
        // The future itself, dropped after its last poll.
        let future = spawn(Explosive { _bomb: Bomb });
        let well = spawn(async { 3 });
        assert_eq!(panic_text(local.await), "the destructor");
        assert_eq!(dropped.get(), 1, "what else the task held is dropped");
        assert_eq!(panic_text(future.await), "the destructor");
        assert_eq!(well.await.expect("a result"), 3);
        drop(spawn(Explosive { _bomb: Bomb }));
        until(|| metrics().tasks == 0).await;
        nop().await
    });
}

fn a_destructor_that_panics_at_the_end_of_the_loop_stops_neither_the_loop_nor_other_destructors(cx: Cx) {
    let dropped = Rc::new(Cell::new(0));
    let event_loop = cx.builder().build().expect("a loop");
    let mut handles = Vec::new();
    let run = event_loop.run_until_complete(async {
        for n in 0..9 {
            let note = Note(dropped.clone());
            handles.push(spawn(async move {
                let _note = note;
                let _bomb = (n % 3 == 1).then_some(Bomb);
                pending::<()>().await;
            }));
        }
        yield_now().await;
    });
    run.expect("the loop runs");
    event_loop.close().expect("the loop closes");
    assert_eq!(dropped.get(), 9);
    assert!(handles.iter().all(Task::is_finished));
}

fn a_result_whose_destructor_panics_harms_nobody(cx: Cx) {
    /// Ready at once with a result that panics when it is dropped, as its future does.
    struct Worse {
        _bomb: Bomb,
    }
    impl Future for Worse {
        type Output = Bomb;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Bomb> {
            Poll::Ready(Bomb)
        }
    }
    cx.run(async {
        // Nobody takes the result, so the loop drops it.
        drop(spawn(async { Bomb }));
        drop(spawn(async { std::panic::panic_any(Bomb) }));
        let well = spawn(async { 3 });
        assert_eq!(panic_text(spawn(Worse { _bomb: Bomb }).await), "the destructor");
        assert_eq!(well.await.expect("a result"), 3);
        until(|| metrics().tasks == 0).await;
        nop().await
    });
}

fn the_panic_of_the_main_future_passes_through_and_the_loop_can_be_used_again(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let dropped = Rc::new(Cell::new(0));
    let note = Note(dropped.clone());
    let run = catch_unwind(AssertUnwindSafe(|| {
        event_loop.run_until_complete(async move {
            let _note = note;
            nop().await.expect("a nop");
            panic!("main");
        })
    }));
    assert_eq!(run.expect_err("it panics").downcast_ref::<&str>(), Some(&"main"));
    assert_eq!(dropped.get(), 1);
    assert!(!event_loop.is_running() && !event_loop.is_closed());
    assert!(proactor::current().is_err(), "no loop runs any more");
    let sum = event_loop.run_until_complete(async {
        nop().await.expect("a nop");
        spawn(async { 20 }).await.expect("a result") + 22
    });
    assert_eq!(sum.expect("the loop runs"), 42);
}

fn a_task_has_a_number_a_name_and_a_place(cx: Cx) {
    cx.run(async {
        let line = line!() + 1;
        let first = spawn(async {});
        let second = spawn(async {}).set_name("second");
        assert!(first.id() < second.id(), "numbers grow");
        assert_eq!(&*first.name(), format!("Task-{}", first.id()));
        assert_eq!(&*second.name(), "second");
        let place = first.spawned_at();
        assert!(place.file().ends_with("tasks.rs"), "{place}");
        assert_eq!(place.line(), line);
        let debug = format!("{second:?}");
        assert!(debug.contains("second") && debug.contains("tasks.rs"), "{debug}");
        let ids = (first.id(), second.id());
        first.await.map_err(io::Error::from)?;
        second.await.map_err(io::Error::from)?;
        let third = spawn(async {});
        assert!(third.id() > ids.1, "no number is used twice");
        third.await.map_err(io::Error::from)
    });
}

fn a_task_may_wait_for_itself_and_is_dropped_in_the_end(cx: Cx) {
    let dropped = Rc::new(Cell::new(0));
    let event_loop = cx.builder().build().expect("a loop");
    let run = event_loop.run_until_complete(async {
        let own = Rc::new(RefCell::new(None::<Task<()>>));
        let (place, note) = (own.clone(), Note(dropped.clone()));
        *own.borrow_mut() = Some(spawn(async move {
            let _note = note;
            let task = place.take().expect("its own handle");
            assert!(!task.is_finished());
            task.await.expect("it never comes to that");
        }));
        turns(4).await;
        assert_eq!(metrics().tasks, 1, "it waits");
        spawn(async { 1 }).await
    });
    assert_eq!(run.expect("the loop runs").expect("others go on"), 1);
    assert_eq!(dropped.get(), 0);
    drop(event_loop);
    assert_eq!(dropped.get(), 1, "a task that holds its own handle is dropped all the same");
}

fn a_nested_run_is_an_error_and_harms_nothing(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let other = cx.builder().build().expect("a second loop");
    let run = event_loop.run_until_complete(async {
        let polled = Cell::new(false);
        let same = event_loop.run_until_complete(async { polled.set(true) });
        let text = same.expect_err("it runs already").to_string();
        assert!(text.contains("running already"), "{text}");
        let text =
            other.run_until_complete(async { polled.set(true) }).expect_err("one runs here").to_string();
        assert!(text.contains("on this thread already"), "{text}");
        assert!(other.run_forever().is_err());
        let outcome: io::Result<()> = proactor::run(async {
            polled.set(true);
            Ok(())
        });
        assert!(outcome.is_err());
        assert!(!polled.get(), "no future of a refused run is polled");
        assert!(event_loop.close().is_err(), "a running loop is not closed");
        assert!(event_loop.is_running() && !other.is_running());
        nop().await.expect("the loop works");
        other.close().expect("a loop may be closed inside another");
        nop().await.expect("the loop still works");
        spawn(async { 5 }).await.expect("a result")
    });
    assert_eq!(run.expect("the loop runs"), 5);
}

/// Makes `proactor::run` use the driver of the test.
struct Policy;

impl Policy {
    fn of(cx: Cx) -> Self {
        EventLoop::set_policy(Some(cx.builder()));
        Self
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        EventLoop::set_policy(None);
    }
}

fn run_gives_the_result_or_the_error_of_main(cx: Cx) {
    let _policy = Policy::of(cx);
    let result: io::Result<u32> = proactor::run(async {
        nop().await?;
        Ok(3)
    });
    assert_eq!(result.expect("a result"), 3);
    let result: io::Result<u32> = proactor::run(async { Err(io::Error::other("mine")) });
    assert_eq!(result.expect_err("an error").to_string(), "mine");
    // Any error that an io::Error converts into will do.
    let result: Result<(), Box<dyn std::error::Error>> = proactor::run(async { Err("a sentence".into()) });
    assert_eq!(result.expect_err("an error").to_string(), "a sentence");
    let dropped = Rc::new(Cell::new(0));
    let note = Note(dropped.clone());
    let run = catch_unwind(AssertUnwindSafe(|| {
        proactor::run(async {
            drop(spawn(async move {
                let _note = note;
                pending::<()>().await;
            }));
            yield_now().await;
            if metrics().tasks > 0 {
                panic!("main");
            }
            Ok::<_, io::Error>(())
        })
    }));
    assert!(run.is_err());
    assert_eq!(dropped.get(), 1, "the loop of a main that panicked is closed");
}

fn tasks_that_are_left_are_dropped_when_the_loop_ends(cx: Cx) {
    let dropped = Rc::new(Cell::new(0));
    let event_loop = cx.builder().build().expect("a loop");
    let run = event_loop.run_until_complete(async {
        let mut tasks = Vec::new();
        for n in 0..100 {
            let note = Note(dropped.clone());
            tasks.push(spawn(async move {
                let _note = note;
                match n % 4 {
                    0 => pending().await,
                    1 => sleep(Duration::from_secs(3600)).await.map_err(io::Error::from),
                    2 => loop {
                        yield_now().await;
                    },
                    _ => {
                        let (_client, server) = UnixStream::pair()?;
                        server.receive().await.map(drop)
                    }
                }
            }));
        }
        turns(4).await;
        tasks
    });
    let mut tasks = run.expect("the loop runs");
    assert_eq!(dropped.get(), 0);
    event_loop.close().expect("the loop closes");
    assert_eq!(dropped.get(), 100);
    assert_eq!(event_loop.metrics().tasks, 0);
    let mut cx = Context::from_waker(Waker::noop());
    for task in &mut tasks {
        match Pin::new(task).poll(&mut cx) {
            Poll::Ready(Err(JoinError::Cancelled(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn a_task_that_is_spawned_while_the_loop_ends_is_refused(cx: Cx) {
    /// Spawns when it is dropped.
    struct Spawner(Rc<RefCell<Vec<Task<()>>>>, Rc<Cell<u32>>);
    impl Drop for Spawner {
        fn drop(&mut self) {
            let drops = self.1.replace(self.1.get() + 1);
            // Dropping the refused future comes here again; a few times are enough.
            if drops < 3 {
                let again = Spawner(self.0.clone(), self.1.clone());
                let task = spawn(async move {
                    let _again = again;
                    panic!("it never runs");
                });
                self.0.borrow_mut().push(task);
            }
        }
    }
    let (refused, drops) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
    let event_loop = cx.builder().build().expect("a loop");
    let spawner = Spawner(refused.clone(), drops.clone());
    let run = event_loop.run_until_complete(async {
        drop(spawn(async move {
            let _spawner = spawner;
            pending::<()>().await;
        }));
        yield_now().await;
    });
    run.expect("the loop runs");
    drop(event_loop);
    assert_eq!(drops.get(), 4);
    let mut cx = Context::from_waker(Waker::noop());
    let tasks = refused.take();
    assert_eq!(tasks.len(), 3);
    for mut task in tasks {
        assert!(task.is_finished());
        assert!(matches!(Pin::new(&mut task).poll(&mut cx), Poll::Ready(Err(JoinError::Cancelled(_)))));
    }
}

fn a_hundred_thousand_tasks_run_to_their_end(cx: Cx) {
    let count = many(100_000) as u64;
    cx.run(async {
        let sum = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..count)
            .map(|n| {
                let sum = sum.clone();
                spawn(async move {
                    yield_now().await;
                    sum.set(sum.get() + n);
                    n
                })
            })
            .collect();
        assert_eq!(metrics().tasks, count as usize);
        for (n, task) in (0..).zip(tasks) {
            assert_eq!(task.await.map_err(io::Error::from)?, n);
        }
        assert_eq!(sum.get(), count * (count - 1) / 2);
        assert_eq!(metrics().tasks, 0);
        Ok::<_, io::Error>(())
    });
}
