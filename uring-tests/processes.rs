//! What ends or changes a whole process, each in a child: forks, thread-locals, a lack of threads, passed listeners.
#![allow(unsafe_code)]

use std::env;
use std::future::pending;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proactor::fs::metadata;
use proactor::net::{TcpStream, listen_fds};
use proactor::thread::to_thread;
use proactor::{DriverChoice, EventLoop, nop, spawn, timeout};

use crate::harness::{Cx, both_drivers, open_descriptors, skip};
use crate::regressions::{LIMIT, TcpOrUnix, new_loop, receive_all, tcp_pair};

both_drivers!(
    without_a_thread_for_the_pool_work_fails_instead_of_spinning,
    after_a_fork_the_child_has_a_pool_of_its_own,
    an_event_loop_in_a_thread_local_ends_with_its_thread,
    the_threads_of_all_loops_together_can_be_bounded,
    a_wrong_listen_fds_takes_no_descriptor_of_ours,
);

const CHILD: &str = "URING_TESTS_PROCESS";

/// Runs a task of `in_a_child` in a process of its own.
pub(crate) fn child(cx: Cx, task: &str) {
    child_of(Command::new(env::current_exe().expect("a path")), cx, task);
}

/// The same by a command of the test's own, which ends with this program.
pub(crate) fn child_of(mut command: Command, cx: Cx, task: &str) {
    command.args(["--exact", "processes::in_a_child", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, format!("{task} {}", if cx.is_uring() { "io_uring" } else { "epoll" }));
    let output = command.output().expect("the child runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{}: {text}", output.status);
    if let Some((_, reason)) = text.split_once("<<<cannot: ") {
        skip(reason.split(">>>").next().unwrap_or_default());
        return;
    }
    assert!(text.contains("<<<done>>>"), "the child did nothing: {text}");
}

/// Not a test by itself: what the children of the other tests do.
#[test]
fn in_a_child() {
    let Ok(task) = env::var(CHILD) else { return };
    let (task, driver) = task.split_once(' ').expect("a task and a driver");
    let driver = if driver == "io_uring" { DriverChoice::IoUring } else { DriverChoice::Epoll };
    let cx = Cx { driver };
    let done = match task {
        "no-threads" => no_threads(cx),
        "fork" => fork(cx),
        "only-enters" => crate::costs::only_enters(cx),
        "copy-without-signal" => crate::copy::without_signal(cx),
        "vectored-to-a-shared-pipe" => crate::pipes::vectored_to_a_shared_pipe(cx),
        "send-file-without-signal" => crate::send_file::without_signal(cx),
        "send-file-without-pipes" => crate::send_file::without_pipes(cx),
        "thread-local" => thread_local(cx),
        "threads-max" => threads_max(cx),
        "listen-fds" => wrong_listen_fds(cx),
        "no-descriptors" => crate::faults::no_descriptors(cx),
        "passed" => crate::faults::passed(cx),
        "refusals" => crate::faults::refusals(cx),
        other => panic!("no such task: {other}"),
    };
    match done {
        Ok(()) => println!("<<<done>>>"),
        Err(reason) => println!("<<<cannot: {reason}>>>"),
    }
}

fn without_a_thread_for_the_pool_work_fails_instead_of_spinning(cx: Cx) {
    child(cx, "no-threads");
}

fn no_threads(cx: Cx) -> Result<(), String> {
    let event_loop = new_loop(cx);
    let run = event_loop.run_until_complete(async {
        let (lingering, peer) = tcp_pair().await?;
        lingering.set_linger(Some(Duration::from_secs(1)))?;
        forbid_threads()?;
        let lacks = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
        lacks(timeout(LIMIT, metadata("/")).await?.expect_err("no thread for statx"));
        let found = timeout(LIMIT, TcpStream::connect("localhost:1")).await?;
        lacks(found.map(drop).expect_err("no thread to look a name up"));
        let ran = timeout(LIMIT, to_thread::run_sync(|| ())).await?;
        assert!(ran.is_err(), "no thread to run it in");
        // A close is done all the same.
        drop(lingering);
        assert!(timeout(LIMIT, peer.receive()).await??.is_none());
        Ok::<_, io::Error>(())
    });
    match run.expect("the loop runs") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.to_string()),
        result => {
            result.expect("all of it");
            Ok(())
        }
    }
}

/// From now on this thread can make no others.
fn forbid_threads() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) };
    // The limit is not for root. The system call changes this thread only, other than the function of libc.
    let nobody = 65534;
    // SAFETY: numbers only.
    if unsafe { libc::geteuid() } == 0
        // SAFETY: numbers only.
        && unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) } != 0
    {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "cannot become another user"));
    }
    match thread::Builder::new().spawn(|| ()) {
        Err(_) => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::PermissionDenied, "RLIMIT_NPROC is not obeyed here")),
    }
}

fn after_a_fork_the_child_has_a_pool_of_its_own(cx: Cx) {
    child(cx, "fork");
}

fn fork(cx: Cx) -> Result<(), String> {
    let look = || {
        let found = new_loop(cx).run_until_complete(async { timeout(LIMIT, metadata("/")).await });
        found.expect("the loop runs").expect("in time").expect("there is a root").is_dir()
    };
    // Now there is a thread that waits for work.
    assert!(look());
    // SAFETY: the other threads of this process only wait, so that no lock is held for ever in its copy.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let works = std::panic::catch_unwind(look).unwrap_or(false);
        // SAFETY: it ends the process, without the destructors of what belongs to the parent.
        unsafe { libc::_exit(if works { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the pool does not work in a forked child");
    assert!(look());
    Ok(())
}

fn an_event_loop_in_a_thread_local_ends_with_its_thread(cx: Cx) {
    child(cx, "thread-local");
}

fn thread_local(cx: Cx) -> Result<(), String> {
    thread_local! {
        static KEPT: std::cell::OnceCell<EventLoop> = const { std::cell::OnceCell::new() };
    }
    drop(new_loop(cx));
    let before = open_descriptors();
    let user = thread::spawn(move || {
        KEPT.with(|kept| {
            let event_loop = kept.get_or_init(|| new_loop(cx));
            let run = event_loop.run_until_complete(async {
                drop(spawn(pending::<()>()));
                nop().await
            });
            run.expect("the loop runs")
        })
    });
    user.join().expect("the thread ends").expect("a nop");
    assert_eq!(open_descriptors(), before, "the loop was not closed");
    Ok(())
}

fn the_threads_of_all_loops_together_can_be_bounded(cx: Cx) {
    child(cx, "threads-max");
}

fn threads_max(cx: Cx) -> Result<(), String> {
    to_thread::set_threads_max(2);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let run = new_loop(cx).run_until_complete(async {
        let works = (0..20).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            spawn(to_thread::run_sync(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            }))
        });
        for work in works.collect::<Vec<_>>() {
            timeout(LIMIT, work).await???;
        }
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("all of them ran");
    assert!(most.load(Ordering::SeqCst) <= 2);
    Ok(())
}

fn a_wrong_listen_fds_takes_no_descriptor_of_ours(cx: Cx) {
    child(cx, "listen-fds");
}

fn wrong_listen_fds(cx: Cx) -> Result<(), String> {
    let event_loop = new_loop(cx);
    // SAFETY: the other threads of this process only wait.
    unsafe { env::set_var("LISTEN_PID", std::process::id().to_string()) };
    // SAFETY: as above. It names every descriptor of the loop.
    unsafe { env::set_var("LISTEN_FDS", "64") };
    let before = open_descriptors();
    let run = event_loop.run_until_complete(async {
        let error = listen_fds().expect_err("there is no listener");
        assert!(error.to_string().contains("LISTEN_FDS=64"), "{error}");
        assert_eq!(open_descriptors(), before);
        let (client, server) = tcp_pair().await?;
        client.send("still here").await?;
        assert_eq!(receive_all(&TcpOrUnix::Tcp(&server), 10).await?, b"still here");
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("it works");
    Ok(())
}
