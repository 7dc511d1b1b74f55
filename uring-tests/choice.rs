//! Which driver runs, and why: builder, environment, denials, missing descriptors; and what the ring is seen to do.
#![allow(unsafe_code)]

use std::env;
use std::fs::{self, File};
use std::io;
use std::mem::offset_of;
use std::process::{Command, Output};
use std::time::Duration;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use proactor::net::{TcpListener, TcpStream};
use proactor::{DriverChoice, DriverKind, EventLoop, metrics, sleep, spawn, timeout};

use crate::harness::{Cx, alone, both_drivers, ring_refused, skip};

both_drivers!(
    the_report_says_which_driver_runs_and_why_for_a_person_to_read,
    an_echo_is_made_of_ring_operations_only,
    a_loop_that_finds_no_descriptors_says_so_and_the_next_one_works,
    the_first_loop_of_a_process_may_find_no_descriptors_and_the_next_one_works,
);

/// Says to the test binary that it is a child, and what to do there.
const CHILD: &str = "URING_TESTS_CHILD";

/// Runs `task` of `in_a_child` in a process of its own and returns what it printed between the marks.
fn child(task: &str, environment: &[(&str, &str)]) -> String {
    let output = child_command(Command::new(env::current_exe().expect("a path")), task, environment);
    said(&output)
}

fn child_command(mut command: Command, task: &str, environment: &[(&str, &str)]) -> Output {
    command.args(["--exact", "choice::in_a_child", "--nocapture", "--test-threads=1"]);
    command.env_remove("PROACTOR_DRIVER").env_remove("PROACTOR_WITHOUT").env(CHILD, task);
    command.envs(environment.iter().copied()).output().expect("the child runs")
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let inner = text.split_once("<<<").and_then(|(_, rest)| rest.split_once(">>>"));
    let (inner, _) = inner.unwrap_or_else(|| {
        panic!("the child said nothing: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    inner.to_owned()
}

/// Not a test by itself: what the children of the other tests do.
#[test]
fn in_a_child() {
    let Ok(task) = env::var(CHILD) else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let answer = match words[..] {
        ["build", choice] => build(choice_of(choice)),
        ["denied", errno, choice] => {
            deny_io_uring(errno.parse().expect("a number")).expect("a seccomp filter");
            build(choice_of(choice))
        }
        ["descriptors", warm, choice] => without_descriptors(warm == "warm", choice_of(choice)),
        ["steady"] => steady(),
        _ => panic!("no such task: {task}"),
    };
    println!("<<<{answer}>>>");
}

fn choice_of(name: &str) -> DriverChoice {
    match name {
        "auto" => DriverChoice::Auto,
        "io_uring" => DriverChoice::IoUring,
        "epoll" => DriverChoice::Epoll,
        other => panic!("no such driver: {other}"),
    }
}

fn name_of(cx: Cx) -> &'static str {
    if cx.is_uring() { "io_uring" } else { "epoll" }
}

/// Makes a loop, uses it, and says what it is.
fn build(choice: DriverChoice) -> String {
    let event_loop = match EventLoop::builder().driver(choice).build() {
        Ok(event_loop) => event_loop,
        Err(error) => return format!("error {:?}: {error}", error.kind()),
    };
    event_loop.run_until_complete(echo(3)).expect("the loop runs").expect("it echoes");
    let report = event_loop.report();
    format!("{} because {}", report.driver(), report.reason())
}

/// A server and a client in one loop.
async fn echo(rounds: u32) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let server = listener.accept().await?;
    let serving = spawn(async move {
        while let Some(chunk) = server.receive().await? {
            server.send(chunk).await?;
        }
        server.close().await
    });
    for round in 0..rounds {
        client.send("ping").await?;
        let chunk = timeout(Duration::from_secs(60), client.receive()).await??;
        assert_eq!(&chunk.expect("bytes")[..], b"ping");
        if round % 10 == 0 {
            sleep(Duration::from_micros(10)).await?;
        }
    }
    client.close().await?;
    serving.await??;
    listener.close().await
}

/// Lets the system calls of io_uring answer `errno` in this process.
fn deny_io_uring(errno: i32) -> io::Result<()> {
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = vec![step(BPF_LD | BPF_W | BPF_ABS, number, 0, 0)];
    for (left, call) in
        [(2, libc::SYS_io_uring_setup), (1, libc::SYS_io_uring_enter), (0, libc::SYS_io_uring_register)]
    {
        filter.push(step(BPF_JMP | BPF_JEQ | BPF_K, call as u32, left + 1, 0));
    }
    filter.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    filter.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: numbers only.
    let privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the kernel copies the program, which is alive, before the call returns.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            // All threads: the test runs in one that the harness made.
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    if privileges == 0 && installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets how many descriptors this process may have, if the hard limit allows it. Returns how many it may have now.
pub(crate) fn limit_descriptors(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: `limit` lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    // SAFETY: `limit` lives through the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// Makes loops with 0, 1, 2 … free descriptors, until it works.
fn without_descriptors(warm: bool, choice: DriverChoice) -> String {
    if warm {
        build(choice);
    }
    limit_descriptors(100);
    let mut taken: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    let mut refusals = Vec::new();
    for free in 0.. {
        assert!(free < 30, "more and more descriptors are needed");
        match EventLoop::builder().driver(choice).build() {
            Ok(event_loop) => {
                let works = event_loop.run_until_complete(async { proactor::nop().await });
                works.expect("the loop runs").expect("a nop");
                break;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("open files") || text.contains("RLIMIT_NOFILE"), "{free} free: {text}");
                refusals.push(text);
            }
        }
        taken.pop();
    }
    assert!(!refusals.is_empty(), "a loop needs no descriptors?");
    // Nothing was left behind by those that failed, and nothing is remembered against the ones to come.
    drop(taken);
    let before = crate::harness::open_descriptors();
    let answer = build(choice);
    assert_eq!(crate::harness::open_descriptors(), before);
    format!("{answer}; before that: {}", refusals.last().expect("not empty"))
}

#[test]
fn the_environment_chooses_where_the_program_does_not() {
    let _alone = alone();
    let by_environment = "because asked for by PROACTOR_DRIVER";
    assert_eq!(child("build auto", &[("PROACTOR_DRIVER", "epoll")]), format!("epoll {by_environment}"));
    let auto = child("build auto", &[]);
    assert!(!auto.contains("PROACTOR_DRIVER") || auto.contains("forces it"), "{auto}");
    for value in ["", "auto"] {
        assert_eq!(child("build auto", &[("PROACTOR_DRIVER", value)]), auto);
    }
    let by_program = "epoll because asked for by the program";
    for value in ["io_uring", "epoll", "auto"] {
        assert_eq!(child("build epoll", &[("PROACTOR_DRIVER", value)]), by_program);
    }
    if let Some(reason) = ring_refused() {
        skip(&format!("the ring by the environment: {reason}"));
        return;
    }
    let answer = child("build auto", &[("PROACTOR_DRIVER", "io_uring")]);
    assert_eq!(answer, format!("io_uring {by_environment}"));
    let answer = child("build io_uring", &[("PROACTOR_DRIVER", "epoll")]);
    assert_eq!(answer, "io_uring because asked for by the program");
}

#[test]
fn a_driver_that_does_not_exist_is_an_error_that_names_the_choices() {
    let _alone = alone();
    for value in ["kqueue", "IO_URING", " epoll"] {
        let answer = child("build auto", &[("PROACTOR_DRIVER", value)]);
        let expected = format!("error InvalidInput: PROACTOR_DRIVER={value}: use auto, io_uring or epoll");
        assert_eq!(answer, expected);
    }
}

#[test]
fn a_denied_ring_is_an_error_with_the_remedy_where_it_was_forced_and_else_a_reason() {
    let _alone = alone();
    for (errno, remedies) in [
        (libc::EPERM, &["seccomp", "io_uring_disabled"][..]),
        (libc::ENOSYS, &["seccomp", "CONFIG_IO_URING"]),
    ] {
        let names_a_remedy = |text: &str| remedies.iter().any(|remedy| text.contains(remedy));
        for (task, environment) in [
            (format!("denied {errno} io_uring"), &[][..]),
            (format!("denied {errno} auto"), &[("PROACTOR_DRIVER", "io_uring")]),
        ] {
            let answer = child(&task, environment);
            assert!(answer.starts_with("error ") && answer.contains("io_uring cannot be used"), "{answer}");
            assert!(names_a_remedy(&answer), "{answer}");
        }
        let answer = child(&format!("denied {errno} auto"), &[]);
        assert!(answer.starts_with("epoll because no io_uring"), "{answer}");
        assert!(names_a_remedy(&answer), "{answer}");
        let answer = child(&format!("denied {errno} epoll"), &[]);
        assert_eq!(answer, "epoll because asked for by the program");
    }
}

#[test]
fn a_ring_that_is_too_old_refuses_to_start_and_says_what_it_lacks() {
    let _alone = alone();
    if let Some(reason) = ring_refused() {
        skip(&reason.to_string());
        return;
    }
    for name in ["EXT_ARG", "NODROP", "NATIVE_WORKERS", "RSRC_TAGS"] {
        let without = [("PROACTOR_WITHOUT", name), ("PROACTOR_DRIVER", "io_uring")];
        let why = format!(
            "this kernel's io_uring lacks {name}: it is too old; use a 6.1 or later kernel, or epoll"
        );
        let refusal = format!("error Unsupported: {why}");
        assert_eq!(child("build io_uring", &without[..1]), refusal);
        assert_eq!(child("build auto", &without), refusal);
        assert_eq!(child("build auto", &without[..1]), format!("epoll because {why}"));
    }
}

#[test]
fn the_automatic_choice_is_the_modern_ring_and_else_epoll() {
    let _alone = alone();
    let report = EventLoop::builder().build().expect("auto always finds a driver").report();
    println!("{report}");
    if let Ok(expected) = env::var("URING_TESTS_EXPECT_AUTO") {
        assert_eq!(report.driver().to_string(), expected, "{report}");
        return;
    }
    if env::var("PROACTOR_DRIVER").is_ok_and(|value| !value.is_empty() && value != "auto") {
        skip("PROACTOR_DRIVER chooses");
        return;
    }
    let has = |name: &str| report.features().any(|(n, present)| n == name && present);
    let modern = ["SINGLE_ISSUER", "DEFER_TASKRUN", "EXT_ARG", "CQE_SKIP", "LINKED_FILE", "MSG_RING"];
    let expected = match ring_refused() {
        None if modern.into_iter().all(has) => DriverKind::IoUring,
        _ => DriverKind::Epoll,
    };
    assert_eq!(report.driver(), expected, "{report}");
}

fn the_report_says_which_driver_runs_and_why_for_a_person_to_read(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let report = event_loop.report();
    let text = report.to_string();
    let first = format!("driver: {} (asked for by the program)", name_of(cx));
    assert_eq!(text.lines().next(), Some(&*first));
    assert_eq!(report.reason(), "asked for by the program");
    for (name, present) in report.features() {
        let line = if present { "features: " } else { "not here: " };
        let line = text.lines().find(|l| l.starts_with(line)).unwrap_or_default();
        assert!(line.contains(name), "{name} is not in its line of {text}");
    }
    assert_eq!(report.features().count() > 0, cx.is_uring(), "epoll by name asks nothing of the ring");
    assert_eq!(event_loop.handle().report().to_string(), text);
}

fn an_echo_is_made_of_ring_operations_only(cx: Cx) {
    const ROUNDS: u32 = 100;
    cx.run(async {
        let before = metrics();
        echo(ROUNDS).await?;
        let after = metrics();
        let submitted = |name| after.submitted_of(name) - before.submitted_of(name);
        if !cx.is_uring() {
            assert_eq!(after.submitted().count(), 0, "epoll submits nothing");
            return Ok(());
        }
        let rounds = u64::from(ROUNDS);
        assert!(submitted("connect") >= 1, "{after:?}");
        assert!((1..=4).contains(&submitted("accept")), "{after:?}");
        assert!((2..=2 * rounds + 4).contains(&submitted("recv")), "{after:?}");
        assert!((2 * rounds..=2 * rounds + 8).contains(&submitted("send")), "{after:?}");
        assert!(submitted("timeout") >= 1, "{after:?}");
        assert!(submitted("close") >= 3, "{after:?}");
        assert_eq!(after.submitted().find(|(name, _)| *name == "other"), None);
        Ok::<_, io::Error>(())
    });
}

fn descriptors(cx: Cx, warm: &str) {
    for choice in [name_of(cx), "auto"] {
        let answer = child(&format!("descriptors {warm} {choice}"), &[]);
        // What comes after is what would have been without.
        let (then, refused) = answer.split_once("; before that: ").expect("there were refusals");
        assert_eq!(then, child(&format!("build {choice}"), &[]));
        if choice == "io_uring" {
            assert!(refused.contains("open files"), "{refused}");
        }
    }
}

fn a_loop_that_finds_no_descriptors_says_so_and_the_next_one_works(cx: Cx) {
    descriptors(cx, "warm");
}

fn the_first_loop_of_a_process_may_find_no_descriptors_and_the_next_one_works(cx: Cx) {
    descriptors(cx, "cold");
}

/// Echoes for a while between two marks that a trace shows.
fn steady() -> String {
    let event_loop = EventLoop::builder().driver(DriverChoice::IoUring).build().expect("a ring");
    // A call that a trace shows and that nothing else makes.
    let mark = |name: &str| drop(fs::symlink_metadata(format!("/nonexistent-{name}")));
    let run = event_loop.run_until_complete(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let server = listener.accept().await?;
        for round in 0..600 {
            if round == 100 {
                mark("begin");
            }
            client.send("ping").await?;
            server.send(server.receive().await?.expect("bytes")).await?;
            assert_eq!(client.receive().await?.expect("bytes").len(), 4);
            let limited = timeout(Duration::from_secs(60), async { sleep(Duration::from_nanos(1)).await });
            limited.await??;
        }
        mark("end");
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("it echoes");
    "steady".to_owned()
}

#[test]
fn an_echo_in_steady_state_makes_no_system_call_but_io_uring_enter() {
    let _alone = alone();
    if let Some(reason) = ring_refused() {
        skip(&reason.to_string());
        return;
    }
    let log = env::temp_dir().join(format!("uring-tests-trace-{}", std::process::id()));
    let traceable = Command::new("strace").args(["-f", "-o"]).arg(&log).arg("true").output();
    if !traceable.is_ok_and(|output| output.status.success()) {
        skip("strace is not here or not allowed, so the system calls are not seen");
        return;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(&log).arg(env::current_exe().expect("a path"));
    let output = child_command(command, "steady", &[]);
    let trace = fs::read_to_string(&log).expect("a trace");
    fs::remove_file(&log).expect("it is ours");
    assert_eq!(said(&output), "steady");
    let lines: Vec<&str> = trace.lines().collect();
    let at = |mark: &str| {
        let found = lines.iter().position(|line| line.contains(mark));
        found.unwrap_or_else(|| panic!("{mark} is not in the trace of {} lines", lines.len()))
    };
    let steady = &lines[at("/nonexistent-begin") + 1..at("/nonexistent-end")];
    let others: Vec<_> = steady.iter().filter(|line| !line.contains("io_uring_enter")).collect();
    assert!(steady.len() >= 500, "{} calls for 500 echoes: the trace is not of the loop", steady.len());
    assert!(others.is_empty(), "{others:#?}");
    println!("500 echoes with two time-outs each, both sides: {} io_uring_enter", steady.len());
}
