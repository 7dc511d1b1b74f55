//! What goes wrong around a program: signals all the time, full queues, no descriptors left, connections that break.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::env;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all, try_join_all};
use proactor::fs::File;
use proactor::net::{PassedListener, ServeError, TcpListener, TcpStream, UnixStream, listen_fds};
use proactor::{metrics, nop, sleep, spawn, timeout, yield_now};

use crate::harness::{Cx, Folder, both_drivers, many, needs, patience, tcp_pair, turns, until};
use crate::processes::{child, child_of};
use crate::regressions::{LIMIT, new_loop};

both_drivers!(
    signals_all_the_time_break_nothing_and_lose_nothing,
    more_completions_than_the_ring_holds_all_arrive,
    bytes_for_more_sockets_than_the_ring_holds_all_arrive,
    cancels_are_not_lost_in_a_full_queue,
    without_descriptors_a_server_waits_and_recovers,
    what_the_system_refuses_is_told_and_tried_again_with_patience,
    passed_listeners_accept,
    a_reset_is_an_error_for_who_sends_and_for_who_receives,
    a_reset_after_the_end_of_the_stream_leaves_it_an_end,
    a_half_close_of_our_own_is_no_reset,
);

// ---- signals ----

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// Sends a signal to this thread again and again, until it is dropped. Its handler does nothing, but system calls that
/// wait end with EINTR: the kernel does not restart them.
struct Storm {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Storm {
    fn new() -> Self {
        extern "C" fn count(_: libc::c_int) {
            SIGNALS.fetch_add(1, Ordering::Relaxed);
        }
        let signal = libc::SIGRTMIN() + 9;
        // SAFETY: zeroes are a valid description: no flags (so no SA_RESTART), an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
        // SAFETY: `action` lives through the call, and its handler only adds to an atomic number.
        assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
        // SAFETY: no pointers.
        let target = unsafe { libc::pthread_self() };
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let storm = move || {
            while !is_over.load(Ordering::SeqCst) {
                // SAFETY: the target outlives this thread: `drop` joins it there.
                unsafe { libc::pthread_kill(target, signal) };
                thread::park_timeout(Duration::from_micros(20));
            }
        };
        Self { over, thread: Some(thread::spawn(storm)) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().map(thread::JoinHandle::join);
    }
}

fn signals_all_the_time_break_nothing_and_lose_nothing(cx: Cx) {
    const FEW: u64 = 10;
    let enough = many(5000);
    let before = SIGNALS.load(Ordering::Relaxed);
    let storms = move |count| count <= FEW || SIGNALS.load(Ordering::Relaxed) - before < enough;
    let folder = Folder::new();
    let content: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(folder.path("read"), &content).expect("a file");
    let _storm = Storm::new();
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = tcp_pair().await?;
        let server = spawn(async move {
            let echo = async |stream: TcpStream| {
                while let Some(chunk) = stream.receive().await? {
                    stream.send(chunk).await?;
                }
                Ok::<_, io::Error>(())
            };
            let on_error = |error: &ServeError| panic!("{error}");
            listener.serve(echo).on_error(on_error).until(stopped.receive()).await
        });
        let echoes = spawn(async move {
            let stream = TcpStream::connect(address).await?;
            let mut count = 0;
            while storms(count) {
                count += 1;
                stream.send(count.to_le_bytes().to_vec()).await?;
                assert_eq!(receive(&stream, 8).await?, count.to_le_bytes());
            }
            Ok::<_, io::Error>(count)
        });
        let connects = spawn(async move {
            let mut count = 0;
            while storms(count) {
                let stream = TcpStream::connect(address).await?;
                stream.send(vec![7; 300_000]).await?;
                stream.shutdown_write().await?;
                assert_eq!(receive(&stream, 300_000).await?.len(), 300_000);
                assert!(stream.receive().await?.is_none());
                count += 1;
            }
            Ok::<_, io::Error>(count)
        });
        let reads = spawn(async move {
            let file = File::open(folder.path("read")).await?;
            let mut count = 0;
            while storms(count) {
                let at = count as usize * 997 % content.len();
                let (len, bytes) = file.read_at(Vec::with_capacity(1000), at as u64).await?;
                assert_eq!(bytes, content[at..][..len]);
                assert_eq!(len, 1000.min(content.len() - at));
                count += 1;
            }
            Ok::<_, io::Error>(count)
        });
        let timers = spawn(async move {
            let mut count = 0;
            while storms(count) {
                nap().await?;
                count += 1;
            }
            Ok::<_, io::Error>(count)
        });
        for (what, work) in [("echo", echoes), ("connect", connects), ("read", reads), ("sleep", timers)] {
            assert!(work.await?? > FEW, "{what} goes on under fire");
        }
        drop(stop);
        server.await??;
        // And where the loop has nothing to do but wait.
        for _ in 0..200 {
            nap().await?;
        }
        Ok::<_, io::Error>(())
    });
}

async fn nap() -> io::Result<()> {
    let begin = Instant::now();
    sleep(Duration::from_micros(700)).await?;
    assert!(begin.elapsed() >= Duration::from_micros(700), "a timer is never early");
    Ok(())
}

/// Receives `count` bytes.
async fn receive(stream: &TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        bytes.extend_from_slice(&stream.receive().await?.expect("the stream goes on"));
    }
    Ok(bytes)
}

// ---- queues ----

/// Places in the smallest ring's submission queue, and in its completion queue.
const SUBMISSIONS: u32 = 8;
const COMPLETIONS: usize = 64;

fn more_completions_than_the_ring_holds_all_arrive(cx: Cx) {
    cx.run_with(cx.builder().ring_entries(SUBMISSIONS), async {
        for count in [COMPLETIONS - 1, COMPLETIONS + 1, 20 * COMPLETIONS] {
            let before = metrics();
            let done = Rc::new(Cell::new(0));
            // All are submitted by one `poll` of the driver, and each is complete as soon as the kernel has seen it.
            let tasks = (0..count).map(|_| {
                let done = done.clone();
                spawn(async move {
                    nop().await?;
                    done.set(done.get() + 1);
                    Ok::<_, io::Error>(())
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                timeout(LIMIT, task).await???;
            }
            assert_eq!(done.get(), count);
            if cx.is_uring() {
                assert_eq!(metrics().completions - before.completions, count as u64, "each once");
                let has_overflowed = metrics().overflows > before.overflows;
                assert_eq!(has_overflowed, count > COMPLETIONS, "{count} completions");
            }
        }
        Ok::<_, io::Error>(())
    });
}

/// Clients that have connected and sent their number before anybody looks.
fn clients(count: usize, address: SocketAddr) -> io::Result<Vec<StdTcpStream>> {
    let connect = |number: usize| {
        let mut stream = StdTcpStream::connect(address)?;
        stream.write_all(&(number as u64).to_le_bytes())?;
        Ok(stream)
    };
    (0..count).map(connect).collect()
}

fn bytes_for_more_sockets_than_the_ring_holds_all_arrive(cx: Cx) {
    const COUNT: usize = 5 * COMPLETIONS;
    if !needs(2 * COUNT + 30, 0) {
        return;
    }
    cx.run_with(cx.builder().ring_entries(SUBMISSIONS), async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        // One turn brings more connections than there is room for.
        let mut clients = clients(COUNT, listener.local_addr()?)?;
        let mut streams = Vec::new();
        for _ in 0..COUNT {
            streams.push(timeout(LIMIT, listener.accept()).await??);
        }
        let mut seen = vec![false; COUNT];
        for stream in &streams {
            let number = timeout(LIMIT, receive(stream, 8)).await??;
            let number = u64::from_le_bytes(number.try_into().expect("eight bytes"));
            assert!(!std::mem::replace(&mut seen[number as usize], true));
        }
        // And one turn brings more bytes, to receives that are all armed: those of whom each gets half of its message.
        let halves: Vec<_> = streams.iter().map(|stream| receive(stream, 16)).collect();
        let feed = async {
            for half in [b"one half", b"another."] {
                turns(3).await;
                for client in &mut clients {
                    client.write_all(half)?;
                }
            }
            Ok::<_, io::Error>(())
        };
        let (received, fed) = timeout(LIMIT, join(try_join_all(halves), feed)).await?;
        fed?;
        assert!(received?.iter().all(|bytes| bytes == b"one halfanother."));
        Ok::<_, io::Error>(())
    });
}

fn cancels_are_not_lost_in_a_full_queue(cx: Cx) {
    const PAIRS: usize = 150;
    if !needs(2 * PAIRS + 30, 0) {
        return;
    }
    cx.run_with(cx.builder().ring_entries(SUBMISSIONS), async {
        let mut pairs = Vec::new();
        for _ in 0..PAIRS {
            pairs.push(tcp_pair().await?);
        }
        turns(3).await;
        let idle = metrics().in_flight;
        for submitted in [false, true] {
            let mut receives: Vec<_> =
                pairs.iter().map(|(_, server)| Box::pin(server.receive_into(vec![0; 8]))).collect();
            poll_fn(|cx| {
                // Many more than there are places: most wait for one in software.
                receives.iter_mut().for_each(|receive| assert!(Pin::new(receive).poll(cx).is_pending()));
                Poll::Ready(())
            })
            .await;
            if submitted {
                turns(3).await;
            }
            assert_eq!(metrics().in_flight, idle + PAIRS);
            // Every second one is given up, in the middle of the others: its cancel is one of many.
            let mut number = 0;
            receives.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            until(|| metrics().in_flight == idle + PAIRS / 2).await;
            for (client, _) in &pairs {
                client.send("12345678").await?;
            }
            for received in timeout(LIMIT, join_all(receives)).await? {
                assert_eq!(received?, (8, b"12345678".to_vec()));
            }
            // Those that were cancelled have taken nothing.
            for (_, server) in pairs.iter().step_by(2) {
                let received = timeout(LIMIT, server.receive_into(vec![0; 8])).await?;
                assert_eq!(received?, (8, b"12345678".to_vec()));
            }
        }
        Ok::<_, io::Error>(())
    });
}

// ---- descriptors ----

fn without_descriptors_a_server_waits_and_recovers(cx: Cx) {
    child(cx, "no-descriptors");
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    // SAFETY: zeroes are valid numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` lives through the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Makes the kernel forget what it has cached of a file, as far as that is on the disk.
pub(crate) fn forget_cached(fd: std::os::fd::RawFd) {
    // SAFETY: no pointers.
    unsafe { libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Binds a UNIX socket to a path that fills the room for it to the last byte, which std refuses.
pub(crate) fn bind_to_all_of_a_name(socket: &impl AsRawFd, path: &Path) -> io::Result<()> {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    assert_eq!(bytes.len(), address.sun_path.len(), "all of it");
    for (to, byte) in address.sun_path.iter_mut().zip(bytes) {
        *to = *byte as libc::c_char;
    }
    // SAFETY: the address lives through the call, and is as long as is said.
    let bound = unsafe {
        let len = size_of_val(&address) as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len)
    };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From now on writing to what nobody reads ends this process.
pub(crate) fn let_broken_pipes_kill() {
    // SAFETY: the default action has no function.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ends this process as a success, at once, though a filter allows it hardly anything.
pub(crate) fn done_under_a_filter() -> ! {
    let text = "<<<done>>>\n";
    // SAFETY: the text is as long as is said.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    // SAFETY: nobody needs destructors here.
    unsafe { libc::_exit(0) }
}

/// From now on the kernel reads only what it is asked for, by who has this file open so.
pub(crate) fn read_nothing_ahead(file: &impl AsRawFd) {
    // SAFETY: no pointers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

/// Whether the kernel has this part of a file in memory, as far as one byte tells.
pub(crate) fn is_cached(file: &impl AsRawFd, at: i64) -> bool {
    let mut byte = 0_u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: one part is passed, which is a local of one byte.
    unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) == 1 }
}

/// Takes every descriptor that this process may still have.
pub(crate) fn take_all_descriptors() -> io::Result<Vec<OwnedFd>> {
    let limit = libc::rlimit { rlim_cur: 200, rlim_max: 200 };
    // SAFETY: `limit` lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let first: OwnedFd = std::fs::File::open("/dev/null")?.into();
    let mut taken = vec![first];
    loop {
        match taken[0].try_clone() {
            Ok(another) => taken.push(another),
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn no_descriptors(cx: Cx) -> Result<(), String> {
    const CLIENTS: usize = 20;
    let run = new_loop(cx).run_until_complete(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut clients = clients(CLIENTS, listener.local_addr()?)?;
        let taken = take_all_descriptors()?;
        let errors = Rc::new(RefCell::new(Vec::new()));
        let (heard, served) = (errors.clone(), Rc::new(Cell::new(0)));
        let count = served.clone();
        let address = listener.local_addr()?;
        let server = spawn(async move {
            let echo = async move |stream: TcpStream| {
                count.set(count.get() + 1);
                let bytes = receive(&stream, 8).await?;
                stream.send(bytes).await.map(drop).map_err(io::Error::from)
            };
            let on_error = move |error: &ServeError| heard.borrow_mut().push(error.to_string());
            listener.serve(echo).on_error(on_error).until_cancelled().await
        });
        let before = (cpu_time(), metrics().enters);
        sleep(Duration::from_millis(400)).await?;
        let spent = (cpu_time() - before.0, metrics().enters - before.1);
        let told = std::mem::take(&mut *errors.borrow_mut());
        assert!(!told.is_empty() && told.iter().all(|error| error.contains("os error 24")), "{told:?}");
        // 5, 10, 20 … ms between them.
        assert!(told.len() < 10, "{} attempts", told.len());
        // On an emulated machine CPU time is also what its host took away from it.
        let is_emulated = patience(1) > Duration::from_secs(1);
        assert!(spent.0 < Duration::from_millis(100) || is_emulated, "it spins: {spent:?}");
        assert!(spent.1 < 100, "it spins: {spent:?}");
        assert_eq!(served.get(), 0);
        // Other work is told the same, and goes on where it needs no descriptor.
        let refused = TcpStream::connect(address).await.expect_err("no descriptor for it");
        assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
        nop().await?;
        // Descriptors return: everybody is served, nobody was lost.
        drop(taken);
        let all = timeout(LIMIT, until(|| served.get() == CLIENTS));
        all.await?;
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = TcpStream::from_std(client.try_clone()?)?;
            let bytes = timeout(LIMIT, receive(&answer, 8)).await??;
            assert_eq!(bytes, (number as u64).to_le_bytes());
        }
        drop(server);
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("all of it");
    Ok(())
}

fn what_the_system_refuses_is_told_and_tried_again_with_patience(cx: Cx) {
    child(cx, "refusals");
}

/// From now on these system calls of this thread fail, each with its errno.
fn refuse(calls: &[(libc::c_long, i32)]) -> io::Result<()> {
    let answers: Vec<_> =
        calls.iter().map(|(call, errno)| (*call, libc::SECCOMP_RET_ERRNO | *errno as u32)).collect();
    answer(&answers, libc::SECCOMP_RET_ALLOW)
}

/// From now on each other system call of this thread ends the process.
pub(crate) fn allow_only(calls: &[libc::c_long]) -> io::Result<()> {
    let answers: Vec<_> = calls.iter().map(|call| (*call, libc::SECCOMP_RET_ALLOW)).collect();
    answer(&answers, libc::SECCOMP_RET_KILL_PROCESS)
}

/// Puts a filter between this thread and the kernel.
fn answer(calls: &[(libc::c_long, u32)], others: u32) -> io::Result<()> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    // The first field of what a filter sees is the number of the call.
    let mut filter = vec![step(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
    for (call, answer) in calls {
        filter.push(step(BPF_JMP | BPF_JEQ | BPF_K, *call as u32, 1));
        filter.push(step(BPF_RET | BPF_K, *answer, 0));
    }
    filter.push(step(BPF_RET | BPF_K, others, 0));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: numbers only.
    let allowed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the kernel copies `program` and `filter` during the call.
    let set = || unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if allowed != 0 || set() != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn refusals(cx: Cx) -> Result<(), String> {
    let run = new_loop(cx).run_until_complete(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let _clients = clients(3, address)?;
        let (one, other) = UnixStream::pair()?;
        let calls = [
            (libc::SYS_socket, libc::ENFILE),
            (libc::SYS_accept4, libc::ENFILE),
            (libc::SYS_epoll_ctl, libc::ENOMEM),
        ];
        if let Err(reason) = refuse(&calls) {
            return Ok(Err(reason.to_string()));
        }
        let refused = TcpStream::connect(address).await.expect_err("no file for it");
        assert_eq!(refused.raw_os_error(), Some(libc::ENFILE));
        if cx.is_uring() {
            // The ring asks by other ways, which no filter sees.
            return Ok(Ok(()));
        }
        let (begin, before) = (Instant::now(), metrics().enters);
        // The pauses are 5, 10 and 20 ms, each since the refusal before it.
        for since_the_first in [0, 5, 15, 35] {
            let refused = listener.accept().await.expect_err("no file for it");
            assert_eq!(refused.raw_os_error(), Some(libc::ENFILE));
            assert!(begin.elapsed() >= Duration::from_millis(since_the_first), "{:?}", begin.elapsed());
        }
        assert!(metrics().enters - before < 50, "it spins");
        // A socket that cannot be waited for says so, and goes on.
        let refused = timeout(LIMIT, one.receive()).await?.expect_err("no memory for it");
        assert_eq!(refused.raw_os_error(), Some(libc::ENOMEM));
        other.send("there").await?;
        assert_eq!(&timeout(LIMIT, one.receive_into(vec![0; 5])).await??.1, b"there");
        Ok::<_, io::Error>(Ok(()))
    });
    run.expect("the loop runs").expect("all of it")
}

fn passed_listeners_accept(cx: Cx) {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let folder = Folder::new();
    let unix = std::os::unix::net::UnixListener::bind(folder.path("socket")).expect("a listener");
    let mut client = StdTcpStream::connect(tcp.local_addr().expect("an address")).expect("the backlog");
    let mut local = std::os::unix::net::UnixStream::connect(folder.path("socket")).expect("the backlog");
    // The shell moves them to where they are expected, and its process becomes the one that is meant.
    let script = "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).arg(env::current_exe().expect("a path"));
    command.stdin(Stdio::from(OwnedFd::from(tcp))).stdout(Stdio::from(OwnedFd::from(unix)));
    child_of(command, cx, "passed");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("an answer");
    local.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "by TCP, by UNIX");
}

pub(crate) fn passed(cx: Cx) -> Result<(), String> {
    let run = new_loop(cx).run_until_complete(async {
        let passed = listen_fds()?;
        let [PassedListener::Tcp(tcp), PassedListener::Unix(unix)] = &passed[..] else {
            panic!("{passed:?}");
        };
        let client = timeout(LIMIT, tcp.accept()).await??;
        client.send("by TCP, ").await?;
        client.close().await?;
        let local = timeout(LIMIT, unix.accept()).await??;
        local.send("by UNIX").await?;
        local.close().await?;
        assert!(listen_fds()?.is_empty(), "they are given out once");
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("it works");
    Ok(())
}

// ---- connections ----

/// Far more than the sockets of a connection hold.
const MUCH: usize = 64 << 20;

async fn reset(stream: TcpStream) -> io::Result<()> {
    turns(3).await;
    stream.set_linger(Some(Duration::ZERO))?;
    stream.close().await
}

fn a_reset_is_an_error_for_who_sends_and_for_who_receives(cx: Cx) {
    let kind = io::ErrorKind::ConnectionReset;
    cx.run(async {
        for _ in 0..5 {
            // Both wait.
            let (ours, theirs) = tcp_pair().await?;
            let both = join(ours.receive(), ours.send(vec![0; MUCH]));
            let ((received, sent), closed) = join(both, reset(theirs)).await;
            closed?;
            assert_eq!(received.expect_err("no end of the stream").kind(), kind);
            sent.expect_err("the connection is gone");
            assert_eq!(ours.receive().await.expect_err("it stays so").kind(), kind);
            // The send alone; who asks for bytes later hears of it too.
            let (ours, theirs) = tcp_pair().await?;
            let (sent, closed) = join(ours.send(vec![0; MUCH]), reset(theirs)).await;
            closed?;
            assert_eq!(sent.expect_err("the connection is gone").error.kind(), kind);
            assert_eq!(ours.receive().await.expect_err("no end of the stream").kind(), kind);
            let into = ours.receive_into(vec![0; 8]).await.expect_err("no end of the stream");
            assert_eq!(into.error.kind(), kind);
            // Bytes on their way are received first.
            let (ours, theirs) = tcp_pair().await?;
            ours.write(vec![0; MUCH])?;
            theirs.send("last words").await?;
            assert_eq!(receive(&ours, 10).await?, b"last words");
            let (received, closed) = join(ours.receive(), reset(theirs)).await;
            closed?;
            assert_eq!(received.expect_err("no end of the stream").kind(), kind);
            assert!(ours.flush().await.is_err());
        }
        Ok::<_, io::Error>(())
    });
}

fn a_reset_after_the_end_of_the_stream_leaves_it_an_end(cx: Cx) {
    cx.run(async {
        for receives in [false, true] {
            let (ours, theirs) = tcp_pair().await?;
            let end = async {
                theirs.send("bye").await?;
                theirs.shutdown_write().await?;
                reset(theirs).await
            };
            let words = async {
                let words = receive(&ours, 3).await?;
                Ok::<_, io::Error>((words, ours.receive().await?))
            };
            let sending = ours.send(vec![0; MUCH]);
            let heard = if receives {
                let ((heard, sent), closed) = join(join(words, sending), end).await;
                closed?;
                sent.expect_err("the connection is gone");
                heard?
            } else {
                let (sent, closed) = join(sending, end).await;
                closed?;
                sent.expect_err("the connection is gone");
                words.await?
            };
            assert_eq!(heard.0, b"bye");
            assert!(heard.1.is_none(), "all that the peer had to say was received");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_half_close_of_our_own_is_no_reset(cx: Cx) {
    cx.run(async {
        // By hand, so that the stream does not know.
        let (ours, theirs) = tcp_pair().await?;
        ours.with_socket(|socket| socket.shutdown(std::net::Shutdown::Write))?;
        let failed = ours.send("more").await.expect_err("nothing can be sent");
        assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe);
        theirs.send("answer").await?;
        assert_eq!(receive(&ours, 6).await?, b"answer");
        // Of the receiving side, while a send waits.
        let (ours, theirs) = tcp_pair().await?;
        ours.write(vec![0; MUCH])?;
        yield_now().await;
        ours.with_socket(|socket| socket.shutdown(std::net::Shutdown::Read))?;
        assert!(ours.receive().await?.is_none());
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}
