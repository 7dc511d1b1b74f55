//! What goes wrong where nobody waits for it reaches the exception handler; and what the debug mode finds.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::cancel::task_group;
use proactor::compat::{add_reader, remove_reader};
use proactor::event_loop::{self, ExceptionContext, ExceptionKind, Panicked};
use proactor::{Cancelled, EventLoop, JoinError, TaskState, current, sleep, spawn, yield_now};

use crate::harness::{Cx, both_drivers, turns, until};

both_drivers!(
    a_callback_that_panics_reaches_the_handler_with_its_origin,
    a_later_callback_and_one_from_another_thread_reach_it_too,
    a_reader_that_panics_reaches_it_in_each_turn,
    a_task_that_panics_and_is_not_awaited_reaches_it,
    a_task_that_fails_and_is_not_awaited_reaches_it,
    an_error_of_any_type_reaches_it_from_a_detached_task,
    what_somebody_has_seen_does_not_reach_it,
    a_cancellation_is_no_failure,
    the_children_of_a_group_fail_to_their_group,
    a_handler_that_panics_ends_nothing,
    a_handler_may_use_the_loop_and_replace_itself,
    without_a_handler_the_loop_goes_on,
    a_program_tells_the_handler_of_its_own,
    the_debug_mode_tells_of_a_slow_callback_and_where_it_came_from,
    the_debug_mode_tells_of_a_task_that_keeps_the_loop_waiting,
    without_the_debug_mode_nobody_is_told_of_what_is_slow,
    the_debug_mode_tells_of_tasks_that_a_closing_loop_drops,
);

/// What the handler heard.
#[derive(Clone, Default)]
struct Heard(Rc<RefCell<Vec<ExceptionContext>>>);

impl Heard {
    /// Of this loop.
    fn of(event_loop: &EventLoop) -> Self {
        let heard = Self::default();
        let log = heard.clone();
        event_loop
            .set_exception_handler(Some(Rc::new(move |context| log.0.borrow_mut().push(context.clone()))));
        heard
    }

    /// Of the loop that runs.
    fn here() -> Self {
        Self::of(&EventLoop::running().expect("a loop runs"))
    }

    fn take(&self) -> Vec<ExceptionContext> {
        self.0.take()
    }

    /// The only one since the last time.
    #[track_caller]
    fn only(&self) -> ExceptionContext {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

fn panic(text: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(text))
}

fn this_file(context: &ExceptionContext) -> bool {
    context.given_at.is_some_and(|at| at.file().ends_with("exceptions.rs"))
}

fn panicked(context: &ExceptionContext) -> Option<&str> {
    context.error.as_ref()?.downcast_ref::<Panicked>()?.message.as_deref()
}

fn a_callback_that_panics_reaches_the_handler_with_its_origin(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        let line = line!() + 1;
        event_loop::call_soon(|| panic("boom"))?;
        turns(2).await;
        let context = heard.only();
        assert_eq!((context.kind, panicked(&context)), (ExceptionKind::Panicked, Some("boom")));
        assert_eq!(context.given_at.map(|at| at.line()), Some(line));
        assert!(this_file(&context) && context.task.is_none());
        let text = context.to_string();
        assert!(text.starts_with("a callback failed: panicked: boom; given to the loop at "), "{text}");
        Ok::<_, io::Error>(())
    });
}

fn a_later_callback_and_one_from_another_thread_reach_it_too(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        event_loop::call_later(Duration::ZERO, || panic("later"))?;
        until(|| heard.0.borrow().len() == 1).await;
        assert!(this_file(&heard.only()));
        let handle = current()?;
        std::thread::spawn(move || handle.call_soon_threadsafe(|| panic("from elsewhere")))
            .join()
            .expect("a thread")?;
        until(|| heard.0.borrow().len() == 1).await;
        assert_eq!(panicked(&heard.only()), Some("from elsewhere"));
        Ok::<_, io::Error>(())
    });
}

fn a_reader_that_panics_reaches_it_in_each_turn(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        let (reader, writer) = io::pipe()?;
        drop(writer);
        add_reader(&reader, || panic("unreadable"))?;
        until(|| heard.0.borrow().len() >= 3).await;
        assert!(remove_reader(&reader)?);
        assert!(
            heard.take().iter().all(|context| this_file(context) && panicked(context) == Some("unreadable"))
        );
        Ok::<_, io::Error>(())
    });
}

async fn panics() {
    panic("boom")
}

async fn fails() -> io::Result<()> {
    Err(io::ErrorKind::AddrInUse.into())
}

fn a_task_that_panics_and_is_not_awaited_reaches_it(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        // Dropped before it runs, while it waits, and when it is over.
        drop(spawn(panics()).set_name("early"));
        turns(2).await;
        let context = heard.only();
        let task = context.task.as_ref().expect("a task");
        assert_eq!((&*task.name, task.state), ("early", TaskState::Over));
        assert!(task.spawned_at.file().ends_with("exceptions.rs"));
        assert_eq!((context.kind, panicked(&context)), (ExceptionKind::Panicked, Some("boom")));
        let waiting = spawn(async {
            sleep(Duration::from_millis(1)).await.expect("nobody cancels");
            panics().await;
        });
        turns(1).await;
        drop(waiting);
        until(|| heard.0.borrow().len() == 1).await;
        heard.only();
        let over = spawn(panics());
        turns(2).await;
        assert!(over.is_finished() && heard.0.borrow().is_empty(), "somebody may still ask");
        drop(over);
        heard.only();
        Ok::<_, io::Error>(())
    });
}

fn a_task_that_fails_and_is_not_awaited_reaches_it(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        drop(spawn(fails()).set_name("early"));
        turns(2).await;
        let context = heard.only();
        assert_eq!(context.kind, ExceptionKind::Lost);
        let error =
            context.error.as_ref().and_then(|error| error.downcast_ref::<io::Error>()).expect("the error");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(context.task.as_ref().map(|task| &*task.name), Some("early"));
        drop(spawn(async { Err::<(), Box<dyn StdError>>("a box".into()) }));
        drop(spawn(async { Err::<(), Box<dyn StdError + Send + Sync>>("a box to send".into()) }));
        turns(2).await;
        let texts: Vec<_> =
            heard.take().iter().map(|context| context.error.as_ref().expect("one").to_string()).collect();
        assert_eq!(texts, ["a box", "a box to send"]);
        // Success is no failure, and what else is returned is the task's own business.
        drop(spawn(async { Ok::<(), io::Error>(()) }));
        drop(spawn(async { Some("value") }));
        turns(2).await;
        assert!(heard.take().is_empty());
        Ok::<_, io::Error>(())
    });
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error("no such user")]
    NoSuchUser,
}

impl proactor::MayBeCancelled for Trouble {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        self
    }
}

fn an_error_of_any_type_reaches_it_from_a_detached_task(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        drop(spawn(async { Err::<u32, _>(Trouble::NoSuchUser) }));
        turns(2).await;
        assert!(heard.take().is_empty(), "of a type that is not known");
        spawn(async { Err::<u32, _>(Trouble::NoSuchUser) }).detach();
        turns(2).await;
        let context = heard.only();
        assert_eq!(context.error.as_ref().map(ToString::to_string).as_deref(), Some("no such user"));
        spawn(async { Err::<u32, _>(Trouble::from(Cancelled::default())) }).detach();
        spawn(async { Ok::<u32, Trouble>(3) }).detach();
        let over = spawn(async { Err::<u32, _>(Trouble::NoSuchUser) });
        turns(2).await;
        assert!(heard.take().is_empty());
        over.detach();
        heard.only();
        Ok::<_, io::Error>(())
    });
}

fn what_somebody_has_seen_does_not_reach_it(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        assert!(spawn(fails()).await?.is_err());
        assert!(matches!(spawn(panics()).await, Err(JoinError::Panicked(_))));
        let peeked = spawn(fails());
        turns(2).await;
        assert!(!peeked.cancelled(), "which looks, but tells nobody what went wrong");
        assert!(peeked.peek(|result| matches!(result, Ok(Err(_)))).expect("it is over"));
        drop(peeked);
        turns(2).await;
        assert!(heard.take().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_cancellation_is_no_failure(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        for round in 0..3 {
            let task = spawn(async {
                sleep(Duration::from_secs(3600)).await?;
                Ok::<_, io::Error>(())
            });
            let foreign = spawn(std::future::pending::<()>());
            turns(round).await;
            task.cancel("enough");
            foreign.cancel("enough");
            drop((task, foreign));
            turns(3).await;
        }
        assert!(heard.take().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn the_children_of_a_group_fail_to_their_group(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        let result = task_group(async |group| {
            group.start_soon(fails());
            Ok::<_, io::Error>(())
        });
        assert!(result.await.is_err());
        assert!(heard.take().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_handler_that_panics_ends_nothing(cx: Cx) {
    cx.run(async {
        let calls = Rc::new(Cell::new(0));
        let count = calls.clone();
        let event_loop = EventLoop::running()?;
        event_loop.set_exception_handler(Some(Rc::new(move |_| {
            count.set(count.get() + 1);
            panic("the handler too");
        })));
        event_loop.call_soon(|| panic("boom"))?;
        drop(spawn(panics()));
        drop(spawn(fails()));
        turns(3).await;
        assert_eq!(calls.get(), 3);
        event_loop.set_exception_handler(None);
        assert_eq!(Rc::strong_count(&calls), 1, "the handler is dropped");
        Ok::<_, io::Error>(())
    });
}

fn a_handler_may_use_the_loop_and_replace_itself(cx: Cx) {
    cx.run(async {
        let event_loop = EventLoop::running()?;
        let second = Heard::default();
        let log = second.clone();
        event_loop.set_exception_handler(Some(Rc::new(move |context| {
            let event_loop = EventLoop::running().expect("a loop runs");
            let log = log.clone();
            let again: event_loop::ExceptionHandler =
                Rc::new(move |context: &ExceptionContext| log.0.borrow_mut().push(context.clone()));
            event_loop.set_exception_handler(Some(again.clone()));
            assert!(event_loop.exception_handler().is_some());
            let context = context.clone();
            event_loop.call_soon(move || again(&context)).expect("it is open");
            drop(spawn(panics()));
        })));
        event_loop.call_soon(|| panic("boom"))?;
        turns(4).await;
        assert_eq!(second.take().len(), 2, "the first again, and the one after it");
        Ok::<_, io::Error>(())
    });
}

fn without_a_handler_the_loop_goes_on(cx: Cx) {
    cx.run(async {
        let event_loop = EventLoop::running()?;
        assert!(event_loop.exception_handler().is_none());
        event_loop.call_soon(|| panic("nobody listens"))?;
        drop(spawn(panics()));
        drop(spawn(fails()));
        turns(3).await;
        event_loop.default_exception_handler(&ExceptionContext::new("a message of a test"));
        yield_now().await;
        Ok::<_, io::Error>(())
    });
}

fn a_program_tells_the_handler_of_its_own(cx: Cx) {
    cx.run(async {
        let heard = Heard::here();
        let mut context = ExceptionContext::new("the cache is gone").with_error("it was never there");
        context.task = proactor::current_task();
        event_loop::call_exception_handler(&context)?;
        let context = heard.only();
        assert_eq!(context.kind, ExceptionKind::Other);
        let text = context.to_string();
        assert!(text.starts_with("the cache is gone: it was never there; main runs"), "{text}");
        Ok::<_, io::Error>(())
    });
    assert!(event_loop::call_exception_handler(&ExceptionContext::new("nobody runs")).is_err());
}

/// Takes at least so long, without waiting.
fn toil(duration: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < duration {
        std::hint::spin_loop();
    }
}

const LONG: Duration = Duration::from_millis(3);

fn the_debug_mode_tells_of_a_slow_callback_and_where_it_came_from(cx: Cx) {
    cx.run_with(cx.builder().debug(true), async {
        let event_loop = EventLoop::running()?;
        assert!(event_loop.debug());
        assert_eq!(event_loop.slow_callback_duration(), Duration::from_millis(100));
        event_loop.set_slow_callback_duration(LONG);
        let heard = Heard::here();
        let line = line!() + 1;
        event_loop::call_soon(|| toil(LONG))?;
        until(|| heard.0.borrow().iter().any(|context| context.given_at.is_some())).await;
        let all = heard.take();
        let context = all.iter().find(|context| context.given_at.is_some()).expect("it was found");
        assert_eq!(context.kind, ExceptionKind::Slow);
        assert!(context.duration.is_some_and(|duration| duration >= LONG), "{context}");
        assert_eq!(context.given_at.map(|at| at.line()), Some(line));
        event_loop.set_slow_callback_duration(Duration::from_secs(100));
        Ok::<_, io::Error>(())
    });
}

fn the_debug_mode_tells_of_a_task_that_keeps_the_loop_waiting(cx: Cx) {
    cx.run_with(cx.builder(), async {
        let event_loop = EventLoop::running()?;
        event_loop.set_debug(true);
        event_loop.set_slow_callback_duration(LONG);
        let heard = Heard::here();
        let task = spawn(async {
            toil(LONG);
            yield_now().await;
        });
        let task = task.set_name("toiling");
        task.await?;
        let all = heard.take();
        let of_task =
            |context: &&ExceptionContext| context.task.as_ref().is_some_and(|task| &*task.name == "toiling");
        let context = all.iter().find(of_task).expect("it was told");
        assert!(
            context.kind == ExceptionKind::Slow && context.duration.is_some_and(|duration| duration >= LONG)
        );
        assert!(context.task.as_ref().expect("a task").spawned_at.file().ends_with("exceptions.rs"));
        // The main future too.
        toil(LONG);
        yield_now().await;
        let of_main =
            |context: &ExceptionContext| context.task.as_ref().is_some_and(|task| &*task.name == "main");
        assert!(heard.take().iter().any(of_main));
        event_loop.set_slow_callback_duration(Duration::from_secs(100));
        Ok::<_, io::Error>(())
    });
}

fn without_the_debug_mode_nobody_is_told_of_what_is_slow(cx: Cx) {
    cx.run_with(cx.builder().debug(false), async {
        let event_loop = EventLoop::running()?;
        event_loop.set_slow_callback_duration(Duration::ZERO);
        let heard = Heard::here();
        event_loop.call_soon(|| toil(LONG))?;
        spawn(async { toil(LONG) }).await?;
        turns(2).await;
        assert!(heard.take().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn the_debug_mode_tells_of_tasks_that_a_closing_loop_drops(cx: Cx) {
    for debug in [true, false] {
        let event_loop = cx.builder().debug(debug).build().expect("a loop");
        event_loop.set_slow_callback_duration(Duration::from_secs(100));
        let heard = Heard::of(&event_loop);
        let task = event_loop.spawn(async { sleep(Duration::from_secs(3600)).await }).set_name("sleeper");
        event_loop.run_until_complete(turns(1)).expect("it runs");
        event_loop.close().expect("it closes");
        drop(task);
        let told: Vec<_> = heard.take().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), usize::from(debug), "{told:?}");
        assert!(
            told.iter().all(|text| text.contains("before a task is done; sleeper waits for time to pass")),
            "{told:?}"
        );
    }
}
