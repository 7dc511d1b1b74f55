//! The loop as an object: handles of it, the one of a thread, how loops are made, and the driver that they get.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proactor::sync::Event;
use proactor::{DriverKind, EventLoop, JoinError, event_loop, sleep, spawn};

use crate::harness::{Cx, both_drivers, turns};

both_drivers!(
    a_clone_is_a_handle_of_the_same_loop,
    the_last_handle_closes_the_loop,
    a_task_may_hold_its_own_loop,
    the_running_loop_is_found_and_used,
    a_thread_has_the_loop_that_was_set_while_none_runs,
    tasks_and_futures_are_made_before_the_loop_runs,
    a_task_of_a_closed_loop_is_cancelled,
    a_handle_says_whether_it_was_cancelled,
    a_builder_runs_a_program,
    a_program_that_panics_leaves_a_closed_loop,
    the_policy_can_be_read_changed_and_put_back,
    each_driver_says_whether_it_can_run,
);

fn new_loop(cx: Cx) -> EventLoop {
    cx.builder().build().expect("a loop")
}

fn a_clone_is_a_handle_of_the_same_loop(cx: Cx) {
    let event_loop = new_loop(cx);
    let clone = event_loop.clone();
    let count = Rc::new(Cell::new(0));
    for handle in [&event_loop, &clone] {
        let count = count.clone();
        handle.call_soon(move || count.set(count.get() + 1)).expect("it is open");
    }
    clone.run_until_complete(turns(1)).expect("it runs");
    assert_eq!(count.get(), 2);
    drop(clone);
    assert!(!event_loop.is_closed(), "there is a handle still");
    event_loop.run_until_complete(async {}).expect("it runs");
}

fn the_last_handle_closes_the_loop(cx: Cx) {
    let event_loop = new_loop(cx);
    let remote = event_loop.handle();
    let clones = [event_loop.clone(), event_loop];
    for (index, clone) in clones.into_iter().enumerate() {
        assert!(!remote.is_closed(), "with {} handles left", 2 - index);
        drop(clone);
    }
    assert!(remote.is_closed());
}

fn a_task_may_hold_its_own_loop(cx: Cx) {
    let event_loop = new_loop(cx);
    let (remote, held) = (event_loop.handle(), event_loop.clone());
    drop(event_loop.spawn(async move {
        sleep(Duration::from_secs(3600)).await.expect("nobody cancels");
        held.stop();
    }));
    event_loop.run_until_complete(turns(2)).expect("it runs");
    // Closing ends that task, and with it the handle that it holds.
    event_loop.close().expect("it closes");
    assert!(remote.is_closed());
    // And `run` closes, whoever holds it.
    let kept = cx.builder().run(async { EventLoop::running() }).expect("it runs");
    assert!(kept.is_closed());
}

fn the_running_loop_is_found_and_used(cx: Cx) {
    assert!(EventLoop::running().is_err());
    let event_loop = new_loop(cx);
    event_loop
        .run_until_complete(async {
            let running = EventLoop::running().expect("one runs");
            assert!(running.is_running());
            let (done, flag) = (Event::new(), Event::new());
            let (first, second) = (done.clone(), flag.clone());
            running.call_soon(move || first.set()).expect("it is open");
            running.call_later(Duration::ZERO, move || second.set()).expect("it is open");
            done.wait().await?;
            flag.wait().await?;
            assert_eq!(running.spawn(async { 5 }).await?, 5);
            assert!(running.run_forever().is_err() && running.close().is_err(), "it runs");
            Ok::<_, io::Error>(())
        })
        .expect("it runs")
        .expect("nothing fails");
    assert!(EventLoop::running().is_err());
}

fn a_thread_has_the_loop_that_was_set_while_none_runs(cx: Cx) {
    assert!(EventLoop::current().is_err(), "none is made by itself");
    let (set, other) = (new_loop(cx), new_loop(cx));
    assert!(EventLoop::set_current(Some(set.clone())).is_none());
    let id = |event_loop: &EventLoop| format!("{:?}", event_loop.handle());
    assert_eq!(id(&EventLoop::current().expect("it was set")), id(&set));
    // One that runs goes first.
    other
        .run_until_complete(async {
            assert_eq!(
                id(&EventLoop::current().expect("one runs")),
                id(&EventLoop::running().expect("one runs"))
            );
            assert_ne!(id(&EventLoop::current().expect("one runs")), id(&set));
        })
        .expect("it runs");
    std::thread::spawn(|| assert!(EventLoop::current().is_err(), "each thread has its own"))
        .join()
        .expect("a thread");
    let before = EventLoop::set_current(None).expect("it was set");
    assert_eq!(id(&before), id(&set));
    assert!(EventLoop::current().is_err());
}

fn tasks_and_futures_are_made_before_the_loop_runs(cx: Cx) {
    let event_loop = new_loop(cx);
    let future = event_loop.create_future::<u32>();
    let setter = future.clone();
    let task = event_loop.spawn(async move { setter.set_result(7).is_ok() });
    assert!(!task.is_finished() && !future.is_done());
    assert_eq!(event_loop.run_until_complete(async { future.await }).expect("it runs").expect("a value"), 7);
    assert!(event_loop.run_until_complete(task).expect("it runs").expect("a result"));
}

fn a_task_of_a_closed_loop_is_cancelled(cx: Cx) {
    let (event_loop, other) = (new_loop(cx), new_loop(cx));
    event_loop.close().expect("it closes");
    let task = event_loop.spawn(async { panic!("it never runs") });
    assert!(matches!(other.run_until_complete(task).expect("it runs"), Err(JoinError::Cancelled(_))));
}

fn a_handle_says_whether_it_was_cancelled(cx: Cx) {
    let event_loop = new_loop(cx);
    let soon = event_loop.call_soon(|| panic!("it was cancelled")).expect("it is open");
    let later = event_loop.call_later(Duration::ZERO, || panic!("it was cancelled")).expect("it is open");
    let runs = event_loop.call_soon(|| ()).expect("it is open");
    assert!(!soon.cancelled() && !later.cancelled() && !runs.cancelled());
    assert!(soon.cancel() && later.cancel());
    assert!(!soon.cancel(), "once is enough");
    event_loop.run_until_complete(turns(2)).expect("it runs");
    assert!(soon.cancelled() && later.cancelled());
    assert!(!runs.cancel() && !runs.cancelled(), "it has run");
}

fn a_builder_runs_a_program(cx: Cx) {
    let ended = Rc::new(Cell::new(false));
    let flag = ended.clone();
    let result = cx.builder().debug(false).run(async move {
        // Cancelled when the main future is done, and awaited.
        drop(spawn(async move {
            let cut = sleep(Duration::from_secs(3600)).await;
            flag.set(cut.is_err());
        }));
        turns(1).await;
        event_loop::call_soon(|| ())?;
        Ok::<_, io::Error>("done")
    });
    assert_eq!(result.expect("it runs"), "done");
    assert!(ended.get());
    let failed = cx.builder().run(async { Err::<(), _>(io::Error::other("failed")) });
    assert_eq!(failed.expect_err("it fails").to_string(), "failed");
}

fn a_program_that_panics_leaves_a_closed_loop(cx: Cx) {
    let kept = Rc::new(Cell::new(None));
    let keep = kept.clone();
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cx.builder().run(async move {
            keep.set(Some(EventLoop::running()?));
            std::panic::resume_unwind(Box::new("on purpose"));
            #[allow(unreachable_code, reason = "the type of the result")]
            Ok::<(), io::Error>(())
        })
    }));
    assert!(run.is_err());
    assert!(kept.take().is_some_and(|event_loop: EventLoop| event_loop.is_closed()));
}

fn the_policy_can_be_read_changed_and_put_back(cx: Cx) {
    let before = EventLoop::policy();
    EventLoop::set_policy(Some(cx.builder().debug(true)));
    let event_loop = EventLoop::new().expect("a loop");
    assert!(event_loop.debug());
    let expected = if cx.is_uring() { DriverKind::IoUring } else { DriverKind::Epoll };
    assert_eq!(event_loop.report().driver(), expected);
    // A policy that differs in one thing from the one before.
    EventLoop::set_policy(Some(EventLoop::policy().debug(false)));
    let event_loop = EventLoop::new().expect("a loop");
    assert_eq!((event_loop.debug(), event_loop.report().driver()), (false, expected));
    EventLoop::set_policy(Some(before));
    EventLoop::set_policy(None);
}

fn each_driver_says_whether_it_can_run(cx: Cx) {
    assert_eq!(DriverKind::ALL.len(), 2);
    DriverKind::Epoll.can_run().expect("every Linux has epoll");
    for kind in DriverKind::ALL {
        let made = EventLoop::builder().driver(kind.into()).build();
        match (kind.can_run(), made) {
            (Ok(()), Ok(event_loop)) => assert_eq!(event_loop.report().driver(), kind),
            (Err(reason), Err(error)) => assert_eq!(reason.to_string(), error.to_string()),
            (can, made) => panic!("{kind}: {can:?}, but {made:?}"),
        }
    }
    if cx.is_uring() {
        DriverKind::IoUring.can_run().expect("this test runs on it");
    }
}
