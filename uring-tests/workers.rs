//! Many loops: spread, watched, shut down; one that fails leaves the others alone.

use std::collections::BTreeSet;
use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::socket::{AddressFamily, Shutdown, SockaddrLike, SockaddrStorage, getsockname, shutdown};
use nix::unistd::Pid;
use proactor::net::TcpStream;
use proactor::workers::{
    ServeEverywhere, Worker, WorkerFailure, Workers, WorkersBuilder, WorkersFailed, serve,
};
use proactor::{LoopHandle, spawn};

use crate::harness::{Cx, both_drivers, patience};

both_drivers!(
    connections_are_spread_over_all_workers,
    every_worker_has_a_number_and_a_loop,
    a_panic_in_one_worker_is_reported_and_the_others_go_on,
    a_panic_of_a_callback_ends_no_worker,
    an_error_of_a_worker_is_reported_with_its_number,
    a_panic_of_a_handler_ends_no_worker,
    a_shutdown_lets_open_connections_finish,
    a_shutdown_ends_what_does_not_finish_in_time,
    a_worker_that_does_not_end_is_left_behind,
    what_a_worker_leaves_can_clean_up,
    a_worker_whose_task_does_not_end_ends_in_order,
    dropped_workers_are_cancelled,
    a_server_serves_until_it_is_told,
    a_server_whose_workers_have_all_failed_ends,
    a_pinned_worker_runs_on_its_cpu,
    a_cpu_that_is_not_there_is_refused,
    more_workers_than_cpus_are_not_pinned,
    an_address_that_cannot_be_bound_is_an_error,
);

fn three(cx: Cx) -> WorkersBuilder {
    Workers::builder().count(3).event_loop(cx.builder()).clean_up(patience(20)).on_failure(|_| ())
}

/// Says who it is to everybody who connects, then echoes.
async fn name_and_echo(stream: TcpStream) -> io::Result<()> {
    stream.send(std::thread::current().name().expect("workers have names").to_owned()).await?;
    while let Some(chunk) = stream.receive().await? {
        match chunk[0] {
            b'p' => panic!("asked to panic"),
            _ => drop(stream.send(chunk).await?),
        }
    }
    stream.close().await
}

type Handler = fn(TcpStream) -> Pin<Box<dyn Future<Output = io::Result<()>>>>;

fn server(cx: Cx) -> ServeEverywhere<&'static str, Handler> {
    let handler: Handler = |stream| Box::pin(name_and_echo(stream));
    serve("127.0.0.1:0", handler).workers(three(cx)).on_error(|_| ())
}

/// A connection, and the name of the worker that serves it.
fn connect(address: SocketAddr) -> (StdTcpStream, String) {
    let mut stream = StdTcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(patience(20))).expect("a time limit");
    let mut name = [0; 8];
    stream.read_exact(&mut name).expect("the server says who it is");
    (stream, String::from_utf8(name.to_vec()).expect("a name"))
}

fn echoes(stream: &mut StdTcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"echo").and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == *b"echo"
}

/// Whether the other side has ended the connection.
fn is_ended(stream: &mut StdTcpStream) -> bool {
    // Unlike `read` it goes on when a signal (or what the kernel treats as one) interrupts it.
    match stream.read_exact(&mut [0]) {
        Ok(()) => false,
        Err(error) => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
    }
}

fn failures(outcome: Result<(), WorkersFailed>) -> Vec<(usize, String)> {
    let failed = outcome.expect_err("a worker has failed");
    failed.workers().iter().map(|failed| (failed.worker, failed.failure.to_string())).collect()
}

fn connections_are_spread_over_all_workers(cx: Cx) {
    let serving = server(cx).start().expect("a server");
    assert_eq!(serving.workers().len(), 3);
    let names: BTreeSet<_> = (0..90).map(|_| connect(serving.local_addr()).1).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["worker-0", "worker-1", "worker-2"]);
    serving.shutdown().expect("nothing fails");
}

fn every_worker_has_a_number_and_a_loop(cx: Cx) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let numbers = seen.clone();
    let workers = three(cx).start(async move |worker: Worker| {
        assert_eq!((worker.count(), worker.cpu()), (3, None));
        numbers.lock().unwrap().push(worker.index());
        worker.stopping().await
    });
    let workers = workers.expect("workers");
    // A call from outside goes to the loop that was meant.
    let name = async || std::thread::current().name().map(str::to_owned);
    for (index, handle) in workers.handles().iter().enumerate() {
        let answer = handle.spawn(name).expect("the loop is open").wait(Some(patience(20)));
        assert_eq!(answer.expect("the loop answers"), Some(format!("worker-{index}")));
    }
    workers.stop();
    workers.join().expect("nobody fails");
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
}

fn a_panic_in_one_worker_is_reported_and_the_others_go_on(cx: Cx) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let builder = three(cx).on_failure(move |failed| tell.lock().unwrap().send(failed.to_string()).unwrap());
    let workers = builder.start(async |worker: Worker| match worker.index() {
        1 => panic!("of its own"),
        _ => worker.stopping().await,
    });
    let workers = workers.expect("workers");
    assert_eq!(told.recv_timeout(patience(20)).expect("it is reported"), "worker 1 panicked: of its own");
    for index in [0, 2] {
        let answer = workers.handles()[index].spawn(async || 7).expect("its loop is open").wait(None);
        assert_eq!(answer.expect("its loop goes on"), 7);
    }
    assert!(workers.handles()[1].spawn(async || 7).and_then(|mut task| task.wait(None)).is_err());
    assert_eq!(failures(workers.shutdown(patience(20))), [(1, "panicked: of its own".to_owned())]);
}

fn a_panic_of_a_callback_ends_no_worker(cx: Cx) {
    let workers = three(cx).start(async |worker: Worker| worker.stopping().await).expect("workers");
    let bad = &workers.handles()[2];
    bad.call_soon_threadsafe(|| panic!("of a callback")).expect("its loop is open");
    assert_eq!(bad.spawn(async || 7).expect("its loop is open").wait(None).expect("it goes on"), 7);
    workers.shutdown(patience(20)).expect("nobody has failed");
}

fn an_error_of_a_worker_is_reported_with_its_number(cx: Cx) {
    let workers = three(cx).start(async |worker: Worker| match worker.index() {
        0 => Ok(()),
        index => Err(format!("nothing to do for {index}")),
    });
    let mut failed = failures(workers.expect("workers").join());
    failed.sort_unstable();
    let expected = [(1, "failed: nothing to do for 1"), (2, "failed: nothing to do for 2")];
    assert_eq!(failed, expected.map(|(index, text)| (index, text.to_owned())));
}

fn a_panic_of_a_handler_ends_no_worker(cx: Cx) {
    let serving = server(cx).start().expect("a server");
    let mut good: Vec<_> = (0..9).map(|_| connect(serving.local_addr()).0).collect();
    for _ in 0..9 {
        let (mut bad, _) = connect(serving.local_addr());
        bad.write_all(b"p").expect("it is open");
        assert!(is_ended(&mut bad));
    }
    assert!(good.iter_mut().all(echoes));
    drop(good);
    serving.shutdown().expect("no worker fails");
}

fn a_shutdown_lets_open_connections_finish(cx: Cx) {
    let serving = server(cx).drain(patience(60)).start().expect("a server");
    let address = serving.local_addr();
    let mut open: Vec<_> = (0..6).map(|_| connect(address).0).collect();
    let is_down = Arc::new(AtomicBool::new(false));
    let down = is_down.clone();
    let shutdown = std::thread::spawn(move || {
        let outcome = serving.shutdown();
        down.store(true, Ordering::SeqCst);
        outcome
    });
    // Nobody listens any more, as soon as the workers have heard of it.
    while StdTcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    assert!(open.iter_mut().all(echoes), "open connections go on");
    assert!(!is_down.load(Ordering::SeqCst), "it waits for them");
    drop(open);
    shutdown.join().expect("it does not panic").expect("nobody fails");
}

fn a_shutdown_ends_what_does_not_finish_in_time(cx: Cx) {
    let serving = server(cx).drain(Duration::from_millis(20)).start().expect("a server");
    let mut open: Vec<_> = (0..6).map(|_| connect(serving.local_addr()).0).collect();
    serving.shutdown().expect("to be ended so is no failure");
    assert!(open.iter_mut().all(is_ended));
}

/// Waits for the end of a loop that nobody waits for.
fn until_closed(handle: &LoopHandle) {
    while !handle.is_closed() {
        std::thread::yield_now();
    }
}

fn a_worker_that_does_not_end_is_left_behind(cx: Cx) {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let workers = three(cx).clean_up(Duration::from_millis(200)).start(async move |worker: Worker| {
        worker.stopping().await?;
        if worker.index() == 1 {
            // Blocks its thread: no cancel can reach it.
            let _ = released.lock().unwrap().recv();
        }
        Ok::<_, proactor::Cancelled>(())
    });
    let workers = workers.expect("workers");
    let handles = workers.handles().to_vec();
    let failed = workers.shutdown(patience(1)).expect_err("one is left");
    assert!(matches!(failed.workers()[0].failure, WorkerFailure::LeftBehind), "{failed}");
    assert_eq!((failed.workers().len(), failed.workers()[0].worker), (1, 1));
    drop(release);
    handles.iter().for_each(until_closed);
}

fn what_a_worker_leaves_can_clean_up(cx: Cx) {
    let cleaned = Arc::new(AtomicUsize::new(0));
    let count = cleaned.clone();
    let workers = three(cx).start(async move |_| {
        let count = count.clone();
        drop(spawn(async move {
            assert!(proactor::cancel::sleep_forever().await.is_err());
            count.fetch_add(1, Ordering::SeqCst);
        }));
        proactor::yield_now().await;
        Ok::<_, io::Error>(())
    });
    workers.expect("workers").join().expect("nobody fails");
    assert_eq!(cleaned.load(Ordering::SeqCst), 3);
}

fn a_worker_whose_task_does_not_end_ends_in_order(cx: Cx) {
    let workers = three(cx).clean_up(Duration::from_millis(300)).start(async move |_| {
        drop(spawn(async {
            let shield = proactor::cancel::CancelScope::new().with_shield();
            shield.run(proactor::cancel::sleep_forever()).await.map(drop)
        }));
        proactor::cancel::sleep_forever().await.map(drop)
    });
    // Each worker needs all of that time, and then closes: nobody is left behind.
    workers.expect("workers").shutdown(Duration::from_millis(50)).expect("all end");
}

fn dropped_workers_are_cancelled(cx: Cx) {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = cancelled.clone();
    let workers = three(cx).start(async move |_| {
        let slept = proactor::cancel::sleep_forever().await;
        count.fetch_add(1, Ordering::SeqCst);
        slept.map(drop)
    });
    drop(workers.expect("workers"));
    assert_eq!(cancelled.load(Ordering::SeqCst), 3);
}

fn a_server_serves_until_it_is_told(cx: Cx) {
    let told = async {
        proactor::sleep(Duration::from_millis(20)).await.expect("nobody cancels");
    };
    server(cx).until(|| told).expect("it is told");
}

/// Makes every listener of this process useless, as nothing that a program does would.
fn break_listeners() {
    for fd in 3..1000 {
        if getsockname::<SockaddrStorage>(fd)
            .is_ok_and(|address| address.family() == Some(AddressFamily::Inet))
        {
            let _ = shutdown(fd, Shutdown::Both);
        }
    }
}

fn a_server_whose_workers_have_all_failed_ends(cx: Cx) {
    let failed = server(cx).until(|| async {
        break_listeners();
        pending::<()>().await
    });
    let text = failed.expect_err("there is nothing to serve").to_string();
    assert_eq!(text.matches("failed: ").count(), 3, "{text}");
}

fn cpus() -> CpuSet {
    sched_getaffinity(Pid::from_raw(0)).expect("every thread may ask")
}

fn a_pinned_worker_runs_on_its_cpu(cx: Cx) {
    let builder = Workers::builder().pinned(true).event_loop(cx.builder());
    let workers = builder.start(async |worker: Worker| {
        let (only, cpus) = (worker.cpu().expect("it is pinned"), cpus());
        assert!((0..CpuSet::count()).all(|cpu| cpus.is_set(cpu).unwrap() == (cpu == only)), "{cpus:?}");
        Ok::<_, io::Error>(())
    });
    let workers = workers.expect("workers");
    let allowed = cpus();
    assert_eq!(workers.len(), (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap()).count());
    workers.join().expect("they run where they should");
}

fn a_cpu_that_is_not_there_is_refused(cx: Cx) {
    let here = (0..CpuSet::count()).find(|&cpu| cpus().is_set(cpu).unwrap()).expect("this one");
    for absent in [CpuSet::count() - 1, CpuSet::count(), usize::MAX] {
        let builder = Workers::builder().on_cpus([here, absent]).event_loop(cx.builder());
        let started = builder.start(async |_| -> io::Result<()> { panic!("it must not run") });
        let error = started.expect_err("there is no such CPU").to_string();
        assert!(error.starts_with(&format!("worker 1 cannot run on CPU {absent}: ")), "{error}");
    }
}

fn more_workers_than_cpus_are_not_pinned(cx: Cx) {
    for builder in [three(cx).on_cpus([0, 1]), three(cx).pinned(true).count(10_000), three(cx).on_cpus([])] {
        let started = builder.start(async |_| -> io::Result<()> { panic!("it must not run") });
        assert_eq!(started.expect_err("they have no place").kind(), io::ErrorKind::InvalidInput);
    }
}

fn an_address_that_cannot_be_bound_is_an_error(cx: Cx) {
    // Bound without SO_REUSEPORT, so nobody can join in.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let server = serve(address, async |_: TcpStream| Ok::<_, io::Error>(())).workers(three(cx));
    assert_eq!(server.start().expect_err("it is taken").kind(), io::ErrorKind::AddrInUse);
}
