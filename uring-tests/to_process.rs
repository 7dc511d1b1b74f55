//! `to_process`: functions in worker processes, and what becomes of those, whatever happens.
//!
//! Source: AnyIO's reference of `to_process.run_sync` and `current_default_process_limiter`, and its worker processes:
//! used again, ended after five minutes without work, replaced when they die.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as Connection;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio, abort, exit};
use std::rc::Rc;
use std::time::Duration;

use proactor::cancel::CancelScope;
use proactor::net::{UnixListener, UnixStream};
use proactor::process::to_process::{self, Function, current_default_process_limiter, run_sync};
use proactor::sync::CapacityLimiter;
use proactor::{BrokenWorker, WorkerPanicked, sleep, spawn, timeout};

use crate::harness::{Cx, Folder, both_drivers, many, open_descriptors, turns, until};

both_drivers!(
    a_function_runs_in_another_process_and_its_result_comes_back,
    a_worker_is_used_again,
    who_finds_all_workers_busy_gets_another_one,
    the_default_limiter_has_as_many_tokens_as_there_are_processors,
    a_limiter_bounds_the_workers,
    a_panic_is_an_error_with_its_text_and_the_worker_goes_on,
    a_crash_is_an_error_and_the_next_function_gets_a_new_worker,
    a_worker_that_somebody_kills_is_an_error,
    dropping_a_cancellable_wait_kills_the_worker,
    dropping_any_other_wait_lets_the_worker_finish_and_be_used_again,
    a_token_is_held_until_the_worker_is_done,
    idle_workers_end_after_five_minutes,
    an_idle_worker_that_died_is_replaced_unnoticed,
    the_end_of_the_loop_ends_its_workers,
    a_wait_that_was_not_begun_starts_nothing,
    big_arguments_and_results_arrive_whole,
    a_worker_has_no_descriptors_of_the_program,
    a_worker_has_nothing_to_read_and_may_write_anything,
    a_function_that_init_was_not_told_of_is_an_error,
    a_program_that_is_killed_takes_its_busy_workers_along,
    a_cancelled_scope_kills_the_worker_of_a_cancellable_wait,
    a_cancelled_scope_waits_for_any_other_worker,
);

const LIMIT: Duration = Duration::from_secs(60);

const ECHO: Function = Function::new("echo", |bytes| bytes);
const PID: Function = Function::new("pid", |_| std::process::id().to_le_bytes().to_vec());
const PANIC: Function = Function::new("panic", |text| panic!("{}", String::from_utf8_lossy(&text)));
const EXIT: Function = Function::new("exit", |code| exit(i32::from(code[0])));
const ABORT: Function = Function::new("abort", |_| abort());
const MEET: Function = Function::new("meet", meet);
const DESCRIPTORS: Function = Function::new("descriptors", |_| {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.map(|target| format!("{}\n", target.display())).collect::<String>().into_bytes()
});
const STANDARD: Function = Function::new("standard", |_| {
    println!("nobody reads this");
    let mut input = String::new();
    let read = io::stdin().read_to_string(&mut input);
    format!("{read:?}").into_bytes()
});
const UNKNOWN: Function = Function::new("unknown", |bytes| bytes);

/// Connects to a socket, says which process this is, and waits there for a byte: a test sees it begin, and end.
fn meet(path: Vec<u8>) -> Vec<u8> {
    let path = String::from_utf8(path).expect("a path");
    let mut connection = Connection::connect(path).expect("the test listens");
    connection.write_all(&std::process::id().to_le_bytes()).expect("the test listens");
    let mut released = [0];
    let count = connection.read(&mut released).expect("the test answers");
    vec![count as u8]
}

/// Not a test by itself: where the workers of the others begin.
#[test]
fn worker_main() {
    set_up();
}

fn set_up() {
    let arguments = ["--exact", "to_process::worker_main", "--nocapture", "--test-threads=1"];
    let functions = [ECHO, PID, PANIC, EXIT, ABORT, MEET, DESCRIPTORS, STANDARD];
    to_process::init_with_arguments(&functions, &arguments);
}

async fn pid() -> io::Result<u32> {
    Ok(number(&run_sync(PID, []).await?))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

/// Whether there is no such process, not even one that waits to be reaped.
fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Where functions meet the test.
struct Meeting {
    path: String,
    listener: UnixListener,
    _folder: Folder,
}

impl Meeting {
    async fn new() -> io::Result<Self> {
        let folder = Folder::new();
        let path = folder.path("meeting");
        let listener = UnixListener::bind(&path).await?;
        Ok(Self { path: path.display().to_string(), listener, _folder: folder })
    }

    /// A function has begun: which process it is, and how to let it end.
    async fn begun(&self) -> io::Result<(u32, UnixStream)> {
        let connection = timeout(LIMIT, self.listener.accept()).await??;
        let (count, pid) = timeout(LIMIT, connection.receive_into(Vec::with_capacity(4))).await??;
        assert_eq!(count, 4);
        Ok((number(&pid), connection))
    }
}

/// Completes when the process at the other end is gone, or has ended its function.
async fn ended(connection: &UnixStream) -> io::Result<()> {
    match timeout(LIMIT, connection.receive_into(Vec::with_capacity(1))).await? {
        Ok((count, _)) => assert_eq!(count, 0, "it says nothing more"),
        Err(failed) => assert_eq!(failed.error.kind(), io::ErrorKind::ConnectionReset),
    }
    Ok(())
}

fn run<T>(cx: Cx, main: impl Future<Output = io::Result<T>>) -> T {
    set_up();
    cx.run(main)
}

/// "Call the given function … in a worker process."
fn a_function_runs_in_another_process_and_its_result_comes_back(cx: Cx) {
    run(cx, async {
        assert_eq!(run_sync(ECHO, "there and back").await?, b"there and back");
        assert_eq!(run_sync(ECHO, []).await?, b"");
        assert_ne!(pid().await?, std::process::id());
        Ok(())
    });
}

fn a_worker_is_used_again(cx: Cx) {
    run(cx, async {
        let first = pid().await?;
        for _ in 0..20 {
            assert_eq!(pid().await?, first);
        }
        Ok(())
    });
}

fn who_finds_all_workers_busy_gets_another_one(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let limiter = CapacityLimiter::new(3);
        let tasks: Vec<_> =
            (0..3).map(|_| spawn(run_sync(MEET, meeting.path.clone()).limiter(&limiter))).collect();
        let mut pids = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..3 {
            let (pid, connection) = meeting.begun().await?;
            pids.push(pid);
            connections.push(connection);
        }
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), 3, "all three at once");
        for connection in connections {
            connection.send("x").await?;
        }
        for task in tasks {
            assert_eq!(task.await??, [1]);
        }
        assert!(pids.contains(&pid().await?));
        Ok(())
    });
}

fn the_default_limiter_has_as_many_tokens_as_there_are_processors(cx: Cx) {
    run(cx, async {
        let processors = std::thread::available_parallelism()?.get();
        assert_eq!(current_default_process_limiter().total_tokens(), processors);
        let meeting = Meeting::new().await?;
        let task = spawn(run_sync(MEET, meeting.path.clone()));
        let (_, connection) = meeting.begun().await?;
        assert_eq!(current_default_process_limiter().borrowed_tokens(), 1);
        drop(connection);
        assert_eq!(task.await??, [0]);
        assert_eq!(current_default_process_limiter().borrowed_tokens(), 0);
        Ok(())
    });
}

fn a_limiter_bounds_the_workers(cx: Cx) {
    run(cx, async {
        let limiter = CapacityLimiter::new(1);
        let tasks: Vec<_> = (0..10).map(|_| spawn(run_sync(PID, []).limiter(&limiter))).collect();
        let mut pids = Vec::new();
        for task in tasks {
            pids.push(number(&task.await??));
        }
        pids.dedup();
        assert_eq!(pids.len(), 1, "one after the other in the same worker");
        Ok(())
    });
}

fn a_panic_is_an_error_with_its_text_and_the_worker_goes_on(cx: Cx) {
    run(cx, async {
        let worker = pid().await?;
        let error = run_sync(PANIC, "what went wrong").await.expect_err("it panics");
        let panic = error.get_ref().and_then(|inner| inner.downcast_ref::<WorkerPanicked>());
        assert_eq!(panic.expect("that error").message(), "what went wrong");
        assert!(error.to_string().contains("what went wrong"), "{error}");
        assert_eq!(pid().await?, worker);
        Ok(())
    });
}

#[track_caller]
fn broken(error: &io::Error) -> BrokenWorker {
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    *error.get_ref().and_then(|inner| inner.downcast_ref()).expect("a broken worker")
}

/// AnyIO: `BrokenWorkerProcess` "if the worker process … behaves in an unexpected way".
fn a_crash_is_an_error_and_the_next_function_gets_a_new_worker(cx: Cx) {
    run(cx, async {
        let first = pid().await?;
        let error = run_sync(EXIT, [7]).await.expect_err("it exits");
        assert_eq!(broken(&error).status().and_then(|status| status.code()), Some(7));
        let second = pid().await?;
        assert_ne!(first, second);
        let error = run_sync(ABORT, []).await.expect_err("it aborts");
        assert_eq!(broken(&error).status().and_then(|status| status.signal()), Some(libc::SIGABRT));
        assert!(error.to_string().contains("SIGABRT"), "{error}");
        assert_ne!(pid().await?, second);
        assert!(is_gone(first) && is_gone(second));
        Ok(())
    });
}

fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.expect("there is a kill").success());
}

fn a_worker_that_somebody_kills_is_an_error(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let task = spawn(run_sync(MEET, meeting.path.clone()));
        let (pid, _connection) = meeting.begun().await?;
        kill(pid);
        let error = task.await?.expect_err("it was killed");
        assert_eq!(broken(&error).status().and_then(|status| status.signal()), Some(libc::SIGKILL));
        assert!(is_gone(pid));
        Ok(())
    });
}

/// "the worker process running it will be abruptly terminated using SIGKILL"
fn dropping_a_cancellable_wait_kills_the_worker(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let mut pids = Vec::new();
        for _ in 0..3 {
            let wait = run_sync(MEET, meeting.path.clone()).cancellable(true);
            let connection = {
                let mut wait = pin!(wait);
                let begun = pin!(meeting.begun());
                let begun = futures_util::future::select(wait.as_mut(), begun).await;
                let futures_util::future::Either::Right((begun, _)) = begun else { panic!("it waits") };
                let (pid, connection) = begun?;
                pids.push(pid);
                connection
            };
            ended(&connection).await?;
        }
        pids.dedup();
        assert_eq!(pids.len(), 3, "a new one each time");
        until(|| pids.iter().all(|pid| is_gone(*pid))).await;
        until(|| current_default_process_limiter().borrowed_tokens() == 0).await;
        Ok(())
    });
}

fn dropping_any_other_wait_lets_the_worker_finish_and_be_used_again(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let mut wait = Box::pin(run_sync(MEET, meeting.path.clone()));
        let begun = pin!(meeting.begun());
        let begun = futures_util::future::select(wait.as_mut(), begun).await;
        let futures_util::future::Either::Right((begun, _)) = begun else { panic!("it waits") };
        let (worker, connection) = begun?;
        drop(wait);
        turns(5).await;
        assert!(!is_gone(worker));
        connection.send("x").await?;
        ended(&connection).await?;
        until(|| current_default_process_limiter().borrowed_tokens() == 0).await;
        assert_eq!(pid().await?, worker);
        Ok(())
    });
}

fn a_token_is_held_until_the_worker_is_done(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let limiter = CapacityLimiter::new(1);
        let mut wait = Box::pin(run_sync(MEET, meeting.path.clone()).limiter(&limiter));
        let begun = pin!(meeting.begun());
        let begun = futures_util::future::select(wait.as_mut(), begun).await;
        let futures_util::future::Either::Right((begun, _)) = begun else { panic!("it waits") };
        drop(wait);
        let next = spawn(run_sync(PID, []).limiter(&limiter));
        turns(5).await;
        assert!(!next.is_finished());
        let (worker, connection) = begun?;
        connection.send("x").await?;
        assert_eq!(number(&next.await??), worker);
        Ok(())
    });
}

/// AnyIO's `WORKER_MAX_IDLE_TIME`: 300 seconds; those that are too old end when the next function is run.
fn idle_workers_end_after_five_minutes(cx: Cx) {
    set_up();
    let event_loop = cx.builder().virtual_clock(true).build().expect("a loop");
    let run = event_loop.run_until_complete(async {
        let first = pid().await?;
        sleep(Duration::from_secs(299)).await?;
        assert_eq!(pid().await?, first);
        sleep(Duration::from_secs(301)).await?;
        let second = pid().await?;
        assert_ne!(first, second);
        until(|| is_gone(first)).await;
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("all of it");
}

fn an_idle_worker_that_died_is_replaced_unnoticed(cx: Cx) {
    run(cx, async {
        let first = pid().await?;
        kill(first);
        // It is not reaped before somebody asks for it, and cannot answer any more as soon as it is a zombie.
        // (The first of its threads is one before the others are gone.)
        let (state, threads) = (format!("/proc/{first}/stat"), format!("/proc/{first}/task"));
        until(|| {
            std::fs::read_to_string(&state).is_ok_and(|state| state.contains(") Z "))
                && std::fs::read_dir(&threads).is_ok_and(|threads| threads.count() == 1)
        })
        .await;
        assert_ne!(pid().await?, first);
        assert!(is_gone(first));
        Ok(())
    });
}

fn the_end_of_the_loop_ends_its_workers(cx: Cx) {
    set_up();
    let before = open_descriptors();
    let event_loop = cx.builder().build().expect("a loop");
    let ran = event_loop.run_until_complete(async {
        let meeting = Meeting::new().await?;
        let idle = pid().await?;
        let limiter = CapacityLimiter::new(2);
        // One worker is busy for somebody who waits, another one for nobody.
        drop(spawn(run_sync(MEET, meeting.path.clone()).limiter(&limiter)));
        let (first, one) = meeting.begun().await?;
        drop(spawn(run_sync(MEET, meeting.path.clone()).limiter(&limiter)));
        let (second, other) = meeting.begun().await?;
        let third = pid().await?;
        assert_eq!(idle, first, "the idle one was used");
        Ok::<_, io::Error>(([first, second, third], one.into_std().await?, other.into_std().await?))
    });
    // Their ends of the meeting stay open, so that nothing but the end of the loop can end them.
    let (pids, one, other) = ran.expect("the loop runs").expect("all of it");
    event_loop.close().expect("the loop closes");
    let checks = cx.builder().build().expect("a loop");
    checks.run_until_complete(until(|| pids.iter().all(|pid| is_gone(*pid)))).expect("the loop runs");
    drop((checks, event_loop, one, other));
    assert_eq!(open_descriptors(), before);
}

fn a_wait_that_was_not_begun_starts_nothing(cx: Cx) {
    run(cx, async {
        drop(run_sync(ABORT, []));
        assert_eq!(current_default_process_limiter().borrowed_tokens(), 0);
        Ok(())
    });
}

fn big_arguments_and_results_arrive_whole(cx: Cx) {
    run(cx, async {
        let bytes: Vec<u8> = (0..many(10_000_000) as u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let echoed = run_sync(ECHO, bytes.clone()).await?;
        assert!(echoed == bytes);
        Ok(())
    });
}

fn a_worker_has_no_descriptors_of_the_program(cx: Cx) {
    run(cx, async {
        let _listener = UnixListener::bind(Folder::new().path("not there")).await;
        let (one, other) = UnixStream::pair()?;
        let listed = String::from_utf8(run_sync(DESCRIPTORS, []).await?).expect("a list");
        let sockets = listed.lines().filter(|target| target.starts_with("socket:")).count();
        // Standard error may be one of the test's.
        assert!(sockets <= 3, "its own, which two threads share, and not more: {listed}");
        assert!(!listed.contains("[io_uring]") && !listed.contains("[eventpoll]"), "{listed}");
        drop(Rc::new((one, other)));
        Ok(())
    });
}

fn a_worker_has_nothing_to_read_and_may_write_anything(cx: Cx) {
    run(cx, async {
        assert_eq!(run_sync(STANDARD, []).await?, b"Ok(0)");
        assert_eq!(run_sync(ECHO, "goes on").await?, b"goes on");
        Ok(())
    });
}

fn a_function_that_init_was_not_told_of_is_an_error(cx: Cx) {
    run(cx, async {
        let error = run_sync(UNKNOWN, []).await.expect_err("nobody knows it");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("unknown"), "{error}");
        Ok(())
    });
}

const DRIVER: &str = "URING_TESTS_TO_PROCESS";

/// Not a test by itself: a program that has a busy worker.
#[test]
fn busy_program() {
    let Ok(path) = env::var(DRIVER) else { return };
    set_up();
    proactor::run(async { run_sync(MEET, path).await.map(drop) }).expect("it is killed before that");
}

fn a_program_that_is_killed_takes_its_busy_workers_along(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let mut program = Command::new(env::current_exe()?);
        program.args(["--exact", "to_process::busy_program", "--nocapture", "--test-threads=1"]);
        program.env(DRIVER, &meeting.path);
        program.env("PROACTOR_DRIVER", if cx.is_uring() { "io_uring" } else { "epoll" });
        let mut program = program.stdout(Stdio::null()).spawn()?;
        let (_, connection) = meeting.begun().await?;
        program.kill()?;
        program.wait()?;
        ended(&connection).await
    });
}

/// "True to allow cancellation of the operation while it's running"
fn a_cancelled_scope_kills_the_worker_of_a_cancellable_wait(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let scope = CancelScope::new();
        let task = spawn(scope.run(run_sync(MEET, meeting.path.clone()).cancellable(true)));
        let (worker, connection) = meeting.begun().await?;
        scope.cancel();
        assert_eq!(task.await??, None);
        ended(&connection).await?;
        until(|| is_gone(worker)).await;
        until(|| current_default_process_limiter().borrowed_tokens() == 0).await;
        Ok(())
    });
}

fn a_cancelled_scope_waits_for_any_other_worker(cx: Cx) {
    run(cx, async {
        let meeting = Meeting::new().await?;
        let scope = CancelScope::new();
        let task = spawn(scope.run(run_sync(MEET, meeting.path.clone())));
        let (worker, connection) = meeting.begun().await?;
        scope.cancel();
        turns(5).await;
        assert!(!task.is_finished());
        connection.send("x").await?;
        assert_eq!(task.await??.as_deref(), Some(&[1][..]));
        assert_eq!(pid().await?, worker);
        Ok(())
    });
}
