//! Portals: threads without a loop run async code in one.
//!
//! Source: AnyIO's reference of `BlockingPortal` and `start_blocking_portal`.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proactor::net::{TcpListener, TcpStream};
use proactor::thread::{
    BlockingPortal, PortalThread, start_blocking_portal, start_blocking_portal_with, to_thread,
};
use proactor::{nop, sleep, spawn, yield_now};

use crate::harness::{Cx, both_drivers, turns};
use crate::threads::LIMIT;

both_drivers!(
    a_portal_runs_async_code_for_a_thread,
    a_function_is_called_on_the_loops_thread,
    many_threads_may_use_one_portal,
    a_task_that_is_started_soon_gives_its_result_later,
    a_task_is_cancelled_by_its_handle,
    a_panic_over_there_is_an_error_here,
    start_task_waits_until_the_task_says_that_it_has_started,
    a_task_that_ends_without_saying_so_is_an_error,
    a_stopped_portal_starts_nothing,
    closing_waits_for_the_tasks_that_are_left,
    closing_cancels_the_tasks_that_are_left_when_asked,
    dropping_the_thread_of_a_portal_stops_it,
    what_is_opened_in_a_loop_can_be_held_by_a_thread,
    a_guard_that_is_dropped_lets_its_task_go_on,
    stopping_a_portal_ends_what_its_guards_hold,
    a_portal_into_the_running_loop_works_for_its_threads,
    sleep_until_stopped_ends_when_another_thread_stops_the_portal,
    on_the_loops_own_thread_a_portal_is_an_error,
    a_portal_whose_loop_is_gone_is_an_error,
);

fn portal(cx: Cx) -> PortalThread {
    start_blocking_portal_with(cx.builder()).expect("a loop in a thread")
}

/// "Call the given function in the event loop thread. If the callable returns a coroutine object, it is awaited on."
fn a_portal_runs_async_code_for_a_thread(cx: Cx) {
    let portal = portal(cx);
    let echoed = portal.call(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let server = listener.accept().await?;
        client.send("through").await?;
        Ok::<_, io::Error>(server.receive().await?.expect("bytes").to_vec())
    });
    assert_eq!(echoed.expect("the portal is open").expect("it works"), b"through");
    portal.close(false).expect("the loop ends well");
    let default = start_blocking_portal().expect("a loop as the policy says");
    assert_eq!(default.call(async || 1).expect("it is open"), 1);
}

fn a_function_is_called_on_the_loops_thread(cx: Cx) {
    let portal = portal(cx);
    let first = portal.call_sync(|| thread::current().id()).expect("it is open");
    let second = portal.call(async || thread::current().id()).expect("it is open");
    assert_eq!(first, second);
    assert_ne!(first, thread::current().id());
}

fn many_threads_may_use_one_portal(cx: Cx) {
    let portal = portal(cx);
    let threads: Vec<_> = (0..4_u64)
        .map(|id| {
            let portal = BlockingPortal::clone(&portal);
            thread::spawn(move || {
                (0..200).map(|n| portal.call(async move || id + n).expect("it is open")).sum::<u64>()
            })
        })
        .collect();
    for (id, thread) in (0..).zip(threads) {
        assert_eq!(thread.join().expect("no panic"), 19_900 + 200 * id);
    }
    portal.close(false).expect("the loop ends well");
}

/// "a future that resolves with the return value of the callable"
fn a_task_that_is_started_soon_gives_its_result_later(cx: Cx) {
    let portal = portal(cx);
    let task = |n| {
        portal.start_task_soon(async move || {
            let local = Rc::new(Cell::new(n));
            yield_now().await;
            local.get() * 2
        })
    };
    let tasks: Vec<_> = (0..100).map(|n| task(n).expect("it is open")).collect();
    for (n, mut task) in (0..).zip(tasks) {
        assert_eq!(task.wait(LIMIT).expect("a result"), n * 2);
    }
}

/// "The task will be run inside a cancel scope which can be cancelled by cancelling the returned future."
fn a_task_is_cancelled_by_its_handle(cx: Cx) {
    let portal = portal(cx);
    let mut task =
        portal.start_task_soon(async || sleep(Duration::from_secs(3600)).await).expect("it is open");
    assert!(task.cancel("no more"));
    let error = task.wait(LIMIT).expect("it ends").expect_err("cancelled");
    assert_eq!(error.message(), Some("no more"));
    portal.close(false).expect("nothing is left to wait for");
}

fn a_panic_over_there_is_an_error_here(cx: Cx) {
    let portal = portal(cx);
    let error = portal.call(async || panic!("over there")).expect_err("it panics");
    assert!(error.to_string().contains("over there"), "{error}");
    let error = portal.call_sync(|| panic!("there too")).expect_err("it panics");
    assert!(error.to_string().contains("there too"), "{error}");
    assert_eq!(portal.call(async || 1).expect("it goes on"), 1);
}

/// "Start a task in the portal's task group and wait until it signals for readiness."
fn start_task_waits_until_the_task_says_that_it_has_started(cx: Cx) {
    let portal = portal(cx);
    let (end, ends) = proactor::thread::channel::<()>(0);
    let server = async move |status: proactor::thread::PortalTaskStatus<_>| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        status.started(listener.local_addr()?);
        ends.receive().await?;
        Ok::<_, io::Error>("served")
    };
    let (mut task, address) = portal.start_task(server).expect("it starts");
    assert!(std::net::TcpStream::connect(address).is_ok(), "it listens already");
    assert!(!task.is_finished());
    drop(end);
    assert_eq!(task.wait(LIMIT).expect("it ends").expect("no error"), "served");
}

fn a_task_that_ends_without_saying_so_is_an_error(cx: Cx) {
    let portal = portal(cx);
    let error = portal.start_task::<_, (), _>(async |_| ()).map(drop).expect_err("it said nothing");
    assert!(error.to_string().contains("started"), "{error}");
    let error =
        portal.start_task::<(), (), _>(async |_| panic!("before")).map(drop).expect_err("it said nothing");
    assert!(error.to_string().contains("started"), "{error}");
}

/// "This marks the portal as no longer accepting new calls"
fn a_stopped_portal_starts_nothing(cx: Cx) {
    let portal = portal(cx);
    let clone = BlockingPortal::clone(&portal);
    portal.stop(false);
    let refused = clone.call(async || ()).expect_err("it was stopped");
    assert_eq!(
        (refused.kind(), refused.to_string().as_str()),
        (io::ErrorKind::NotConnected, "the portal is closed")
    );
    assert!(clone.start_task_soon(async || ()).is_err());
    portal.close(false).expect("the loop ends well");
    assert!(clone.call_sync(|| ()).is_err());
}

fn closing_waits_for_the_tasks_that_are_left(cx: Cx) {
    let portal = portal(cx);
    let (release, released) = proactor::thread::channel::<()>(0);
    let (tell, told) = mpsc::channel();
    let task = portal.start_task_soon(async move || {
        let _ = released.receive().await;
        tell.send(1).expect("somebody waits");
    });
    let other = thread::spawn(move || portal.close(false));
    drop(release);
    assert_eq!(told.recv(), Ok(1));
    other.join().expect("no panic").expect("the loop ends well");
    assert!(task.expect("it was open").is_finished());
}

fn closing_cancels_the_tasks_that_are_left_when_asked(cx: Cx) {
    let portal = portal(cx);
    let tasks: Vec<_> = (0..10)
        .map(|_| portal.start_task_soon(async || sleep(Duration::from_secs(3600)).await).expect("it is open"))
        .collect();
    drop(portal.start_task_soon(async || pending::<()>().await));
    portal.close(true).expect("the loop ends well");
    for mut task in tasks {
        let error = task.wait(LIMIT).expect("it ended").expect_err("cancelled");
        assert!(error.message().is_some_and(|message| message.contains("portal")), "{error}");
    }
}

fn dropping_the_thread_of_a_portal_stops_it(cx: Cx) {
    let portal = portal(cx);
    let clone = BlockingPortal::clone(&portal);
    let mut task = clone.start_task_soon(async || nop().await.is_ok()).expect("it is open");
    drop(portal);
    assert!(task.wait(Some(Duration::ZERO)).expect("it was waited for"));
    assert!(clone.call(async || ()).is_err());
}

/// "Spawns a task that will call both __aenter__() and __aexit__(), stopping in the middle until the synchronous context
/// manager exits."
fn what_is_opened_in_a_loop_can_be_held_by_a_thread(cx: Cx) {
    let portal = portal(cx);
    let (tell, told) = mpsc::channel();
    let guard = portal.wrap_async_context_manager(async move |middle| {
        let task = thread::current().id();
        middle.until_left("the value".to_owned()).await;
        nop().await.expect("it may await here too");
        tell.send(thread::current().id() == task).expect("somebody waits");
        "the result"
    });
    let guard = guard.expect("it is entered");
    assert_eq!(*guard, "the value");
    portal.call(async || nop().await).expect("it is open").expect("the loop goes on meanwhile");
    assert!(told.try_recv().is_err());
    assert_eq!(guard.leave().expect("it ends"), "the result");
    assert_eq!(told.try_recv(), Ok(true));
}

fn a_guard_that_is_dropped_lets_its_task_go_on(cx: Cx) {
    let portal = portal(cx);
    let (tell, told) = mpsc::channel();
    let guard = portal.wrap_async_context_manager(async move |middle| {
        middle.until_left(()).await;
        tell.send("left").expect("somebody waits");
    });
    drop(guard.expect("it is entered"));
    assert_eq!(told.recv(), Ok("left"));
}

fn stopping_a_portal_ends_what_its_guards_hold(cx: Cx) {
    let portal = portal(cx);
    let guard = portal.wrap_async_context_manager(async |middle| {
        middle.until_left(()).await;
        "cleaned up"
    });
    portal.close(true).expect("the loop ends well");
    assert_eq!(guard.expect("it was entered").leave().expect("it ended"), "cleaned up");
}

fn a_portal_into_the_running_loop_works_for_its_threads(cx: Cx) {
    cx.run(async {
        let portal = BlockingPortal::new()?;
        let home = thread::current().id();
        let threads: Vec<_> = (0..3_u32)
            .map(|n| {
                let portal = portal.clone();
                let work = move || {
                    let there = portal.call(async move || {
                        yield_now().await;
                        thread::current().id()
                    });
                    there.map(|there| (there == home, n))
                };
                spawn(to_thread::run_sync(work))
            })
            .collect();
        for (n, thread) in (0..).zip(threads) {
            assert_eq!(thread.await???, (true, n));
        }
        portal.stop(false);
        portal.join().await?;
        Ok::<_, io::Error>(())
    });
}

fn sleep_until_stopped_ends_when_another_thread_stops_the_portal(cx: Cx) {
    cx.run(async {
        let portal = BlockingPortal::new()?;
        let (theirs, ours) = (portal.clone(), portal.clone());
        let sleeper = spawn(async move { ours.sleep_until_stopped().await });
        let remaining = portal.clone();
        let thread = thread::spawn(move || {
            drop(remaining.start_task_soon(async || pending::<()>().await));
            theirs.call(async || ()).expect("it is open");
            theirs.stop(true);
        });
        sleeper.await??;
        portal.join().await?;
        thread.join().expect("no panic");
        Ok::<_, io::Error>(())
    });
}

/// "RuntimeError – … if this method is called from within the event loop thread"
fn on_the_loops_own_thread_a_portal_is_an_error(cx: Cx) {
    cx.run(async {
        let portal = BlockingPortal::new()?;
        assert!(
            portal
                .call(async || ())
                .expect_err("it would wait for itself")
                .to_string()
                .contains("other threads")
        );
        assert!(portal.start_task_soon(async || ()).is_err());
        assert!(portal.start_task::<_, (), _>(async |_| ()).is_err());
        turns(2).await;
        Ok::<_, io::Error>(())
    });
    assert!(BlockingPortal::new().is_err(), "no loop runs here");
}

fn a_portal_whose_loop_is_gone_is_an_error(cx: Cx) {
    let portal = cx.run(async { BlockingPortal::new() });
    assert_eq!(portal.call(async || ()).expect_err("it is gone").kind(), io::ErrorKind::NotConnected);
}
