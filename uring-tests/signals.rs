//! Signals: receivers, handlers, and others who listen for the same.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use proactor::cancel::move_on_after;
use proactor::event_loop::{add_signal_handler, remove_signal_handler};
use proactor::signal::{ctrl_c, open_signal_receiver, terminate};
use proactor::stream::{AsyncResource, ObjectReceiveStream};
use proactor::{Closed, MayBeCancelled, spawn};

use crate::harness::{Cx, both_drivers, patience, turns, until};

both_drivers!(
    a_receiver_gives_each_signal_in_the_order_in_which_they_came,
    a_receiver_remembers_what_came_before_it_was_asked,
    a_second_task_at_a_receiver_is_told_that_it_is_busy,
    a_cancelled_wait_at_a_receiver_loses_nothing,
    a_receiver_is_a_stream_and_ends_when_it_is_closed,
    a_handler_is_called_each_time_its_signal_comes,
    a_second_handler_takes_the_place_of_the_first,
    removing_a_handler_says_whether_there_was_one,
    a_handler_may_remove_itself,
    a_handler_that_panics_is_called_again,
    everybody_who_listens_for_a_signal_hears_of_it,
    a_signal_reaches_each_loop_that_listens,
    numbers_of_no_signal_and_signals_that_cannot_be_caught_are_errors,
    handlers_go_with_their_loop,
    interrupt_and_terminate_are_waited_for,
);

/// Sends signals to this process, one after the other. Each is taken by a thread before the next one comes: of those that
/// wait the kernel makes one of each kind, and the lowest number is first.
fn send(names: &[&str]) {
    let is_waiting = || {
        let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
        let mut masks = status.lines().filter_map(|line| line.strip_prefix("ShdPnd:"));
        masks.any(|mask| mask.trim().bytes().any(|digit| digit != b'0'))
    };
    for name in names {
        let command = format!("kill -{name} $PPID");
        assert!(Command::new("sh").args(["-c", &command]).status().expect("a shell").success());
        let end = Instant::now() + patience(20);
        while is_waiting() {
            assert!(Instant::now() < end, "nobody takes {name}");
            thread::yield_now();
        }
    }
}

fn a_receiver_gives_each_signal_in_the_order_in_which_they_came(cx: Cx) {
    cx.run(async {
        let signals = open_signal_receiver(&[libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2])?;
        let waiting = async { (signals.next().await, signals.next().await, signals.next().await) };
        let (got, ()) = futures_util::join!(waiting, async {
            turns(3).await;
            send(&["USR2", "HUP", "USR1"]);
        });
        assert_eq!((got.0?, got.1?, got.2?), (libc::SIGUSR2, libc::SIGHUP, libc::SIGUSR1));
        Ok::<_, io::Error>(())
    });
}

fn a_receiver_remembers_what_came_before_it_was_asked(cx: Cx) {
    cx.run(async {
        let signals = open_signal_receiver(&[libc::SIGUSR1])?;
        send(&["USR1"; 5]);
        for _ in 0..5 {
            assert_eq!(signals.next().await?, libc::SIGUSR1);
        }
        let mut more = Box::pin(signals.next());
        turns(3).await;
        assert!(futures_util::poll!(more.as_mut()).is_pending(), "there were five");
        Ok::<_, io::Error>(())
    });
}

fn a_second_task_at_a_receiver_is_told_that_it_is_busy(cx: Cx) {
    cx.run(async {
        let signals = Rc::new(open_signal_receiver(&[libc::SIGUSR1])?);
        let theirs = signals.clone();
        let first = spawn(async move { theirs.next().await });
        turns(2).await;
        let error = signals.next().await.expect_err("another waits");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        send(&["USR1"]);
        assert_eq!(first.await??, libc::SIGUSR1);
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_wait_at_a_receiver_loses_nothing(cx: Cx) {
    cx.run(async {
        let signals = Rc::new(open_signal_receiver(&[libc::SIGUSR1])?);
        let theirs = signals.clone();
        let task = spawn(async move { theirs.next().await });
        turns(2).await;
        send(&["USR1"]);
        task.cancel("enough");
        let cancelled = task.await?;
        // Whichever was first: the signal is there, once.
        if cancelled.is_err_and(|error| error.is_cancelled()) {
            assert_eq!(signals.next().await?, libc::SIGUSR1);
        }
        let none = move_on_after(std::time::Duration::from_millis(1), signals.next()).await?;
        assert!(none.is_none());
        Ok::<_, io::Error>(())
    });
}

/// As a function over streams sees it.
async fn first_of<S: ObjectReceiveStream>(stream: &S) -> io::Result<Option<S::Item>> {
    stream.receive().await
}

fn a_receiver_is_a_stream_and_ends_when_it_is_closed(cx: Cx) {
    cx.run(async {
        let signals = open_signal_receiver(&[libc::SIGUSR1])?;
        send(&["USR1"]);
        assert_eq!(first_of(&signals).await?, Some(libc::SIGUSR1));
        let (waited, closed) = futures_util::join!(signals.next(), async {
            turns(3).await;
            signals.aclose().await
        });
        let is_closed = |error: io::Error| error.get_ref().is_some_and(|inner| inner.is::<Closed>());
        assert!(is_closed(waited.expect_err("it was closed")));
        closed?;
        let other = open_signal_receiver(&[libc::SIGUSR1])?;
        send(&["USR1"]);
        assert_eq!(other.next().await?, libc::SIGUSR1);
        assert!(is_closed(first_of(&signals).await.expect_err("nobody listens")));
        signals.aclose().await
    });
}

fn a_handler_is_called_each_time_its_signal_comes(cx: Cx) {
    cx.run(async {
        let calls = Rc::new(RefCell::new(Vec::new()));
        for signal in [libc::SIGUSR1, libc::SIGUSR2] {
            let calls = calls.clone();
            add_signal_handler(signal, move || calls.borrow_mut().push(signal))?;
        }
        send(&["USR1"; 5]);
        until(|| calls.borrow().len() == 5).await;
        send(&["USR2", "USR1"]);
        until(|| calls.borrow().len() == 7).await;
        turns(3).await;
        assert_eq!(calls.borrow().iter().filter(|signal| **signal == libc::SIGUSR1).count(), 6);
        assert_eq!(calls.borrow().len(), 7);
        assert!(remove_signal_handler(libc::SIGUSR1)? && remove_signal_handler(libc::SIGUSR2)?);
        Ok::<_, io::Error>(())
    });
}

/// A counter, and a callback that counts.
fn counter() -> (Rc<Cell<u32>>, impl Fn() + use<>) {
    let count = Rc::new(Cell::new(0));
    let theirs = count.clone();
    (count, move || theirs.set(theirs.get() + 1))
}

fn a_second_handler_takes_the_place_of_the_first(cx: Cx) {
    cx.run(async {
        let ((first, count_first), (second, count_second)) = (counter(), counter());
        add_signal_handler(libc::SIGUSR1, count_first)?;
        send(&["USR1"]);
        until(|| first.get() == 1).await;
        // What came before the change is for the new one, and not lost.
        send(&["USR1"]);
        add_signal_handler(libc::SIGUSR1, count_second)?;
        assert_eq!(Rc::strong_count(&first), 1, "the first is dropped");
        until(|| second.get() == 1).await;
        assert!(remove_signal_handler(libc::SIGUSR1)?);
        assert_eq!(Rc::strong_count(&second), 1);
        Ok::<_, io::Error>(())
    });
}

fn removing_a_handler_says_whether_there_was_one(cx: Cx) {
    cx.run(async {
        assert!(!remove_signal_handler(libc::SIGUSR1)?);
        add_signal_handler(libc::SIGUSR1, || panic!("it was removed"))?;
        send(&["USR1"]);
        assert!(remove_signal_handler(libc::SIGUSR1)?);
        assert!(!remove_signal_handler(libc::SIGUSR1)?);
        assert!(!remove_signal_handler(-1)? && !remove_signal_handler(1000)?);
        turns(5).await;
        Ok::<_, io::Error>(())
    });
    assert!(remove_signal_handler(libc::SIGUSR1).is_err(), "no loop runs");
}

fn a_handler_may_remove_itself(cx: Cx) {
    cx.run(async {
        let (count, up) = counter();
        add_signal_handler(libc::SIGUSR1, move || {
            up();
            assert!(remove_signal_handler(libc::SIGUSR1).expect("a loop runs"));
        })?;
        send(&["USR1"; 3]);
        until(|| count.get() == 1).await;
        turns(3).await;
        assert_eq!((count.get(), Rc::strong_count(&count)), (1, 1));
        Ok::<_, io::Error>(())
    });
}

fn a_handler_that_panics_is_called_again(cx: Cx) {
    cx.run(async {
        let (count, up) = counter();
        add_signal_handler(libc::SIGUSR1, move || {
            up();
            std::panic::resume_unwind(Box::new("on purpose"));
        })?;
        send(&["USR1"; 3]);
        until(|| count.get() == 3).await;
        assert!(remove_signal_handler(libc::SIGUSR1)?);
        Ok::<_, io::Error>(())
    });
}

fn everybody_who_listens_for_a_signal_hears_of_it(cx: Cx) {
    cx.run(async {
        let (count, up) = counter();
        let (first, second) =
            (open_signal_receiver(&[libc::SIGUSR1])?, open_signal_receiver(&[libc::SIGUSR1])?);
        add_signal_handler(libc::SIGUSR1, up)?;
        send(&["USR1"]);
        assert_eq!((first.next().await?, second.next().await?), (libc::SIGUSR1, libc::SIGUSR1));
        until(|| count.get() == 1).await;
        // One goes, the others stay.
        drop(first);
        send(&["USR1"]);
        assert_eq!(second.next().await?, libc::SIGUSR1);
        until(|| count.get() == 2).await;
        assert!(remove_signal_handler(libc::SIGUSR1)?);
        send(&["USR1"]);
        assert_eq!(second.next().await?, libc::SIGUSR1);
        assert_eq!(count.get(), 2);
        Ok::<_, io::Error>(())
    });
}

fn a_signal_reaches_each_loop_that_listens(cx: Cx) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let threads = [(); 2].map(|()| {
        let ready = ready.clone();
        thread::spawn(move || {
            cx.run(async {
                let signals = open_signal_receiver(&[libc::SIGUSR2])?;
                ready.send(()).expect("somebody listens");
                signals.next().await
            })
        })
    });
    threads.iter().for_each(|_| is_ready.recv().expect("a loop"));
    send(&["USR2"]);
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().expect("a signal"), libc::SIGUSR2));
}

fn numbers_of_no_signal_and_signals_that_cannot_be_caught_are_errors(cx: Cx) {
    cx.run(async {
        let refused = [
            (0, "not the number"),
            (-1, "not the number"),
            (32, "not the number"),
            (33, "not the number"),
            (65, "not the number"),
            (i32::MAX, "not the number"),
            (libc::SIGKILL, "cannot be caught"),
            (libc::SIGSTOP, "cannot be caught"),
            (libc::SIGSEGV, "happen again"),
            (libc::SIGFPE, "happen again"),
            (libc::SIGILL, "happen again"),
        ];
        for (signal, why) in refused {
            let errors = [
                add_signal_handler(signal, || ()).expect_err("it is refused"),
                open_signal_receiver(&[libc::SIGUSR1, signal]).expect_err("it is refused"),
            ];
            for error in errors {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert!(error.to_string().contains(why), "{signal}: {error}");
            }
            assert!(!remove_signal_handler(signal)?);
        }
        // Real-time signals are signals.
        add_signal_handler(libc::SIGRTMIN(), || ())?;
        assert!(remove_signal_handler(libc::SIGRTMIN())?);
        Ok::<_, io::Error>(())
    });
}

fn handlers_go_with_their_loop(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let (count, up) = counter();
    event_loop.add_signal_handler(libc::SIGUSR1, up).expect("it is open");
    send(&["USR1"]);
    event_loop.run_until_complete(until(|| count.get() == 1)).expect("it runs");
    event_loop.close().expect("it closes");
    assert_eq!(Rc::strong_count(&count), 1);
    assert!(!event_loop.remove_signal_handler(libc::SIGUSR1));
    let error = event_loop.add_signal_handler(libc::SIGUSR1, || ()).expect_err("it is closed");
    assert_eq!(error.to_string(), "the event loop is closed");
    send(&["USR1"]);
}

fn interrupt_and_terminate_are_waited_for(cx: Cx) {
    cx.run(async {
        let (interrupt, terminated) = (ctrl_c(), terminate());
        send(&["INT", "TERM"]);
        interrupt.await?;
        terminated.await?;
        // Only what comes after the call counts.
        let again = ctrl_c();
        assert!(move_on_after(std::time::Duration::from_millis(1), again).await?.is_none());
        Ok::<_, io::Error>(())
    });
}
