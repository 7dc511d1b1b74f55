//! C12 and C13: how loops and descriptors end. Made to run under AddressSanitizer too.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::poll;
use proactor::fs::{self, File};
use proactor::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::{metrics, nop, sleep, spawn};

use super::Count;
use crate::harness::{
    Cx, Folder, Random, both_drivers, many, needs, open_descriptors, tcp_pair, turns, until,
};

both_drivers!(
    c12_a_loop_dropped_with_thousands_of_operations_in_flight_frees_all,
    c12_what_outlives_its_loop_says_so_and_does_no_harm,
    c12_files_dropped_right_before_the_end_are_closed,
    c12_a_panic_in_a_destructor_does_not_stop_the_shutdown,
    c13_a_reused_descriptor_gets_nothing_of_the_old_one,
);

/// Counts how many of it are alive.
struct Alive(Rc<Cell<usize>>);

impl Alive {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Spawns a task that must not end by itself.
fn keep_busy<T: 'static>(alive: &Rc<Cell<usize>>, work: impl Future<Output = T> + 'static) {
    let here = Alive::new(alive);
    drop(spawn(async move {
        let _here = here;
        let _ = work.await;
        pending::<()>().await;
    }));
}

fn c12_a_loop_dropped_with_thousands_of_operations_in_flight_frees_all(cx: Cx) {
    let count = many(1000);
    if !needs(3 * count + 100, 600 * count / 1000 + 20) {
        return;
    }
    for turns_before in [0, 1, 20] {
        let (folder, alive) = (Folder::new(), Rc::new(Cell::new(0)));
        std::fs::write(folder.path("file"), vec![1; 1 << 16]).expect("a file");
        let before = open_descriptors();
        let event_loop = cx.builder().ring_entries(64).build().expect("a loop");
        let main = async {
            let listener = Rc::new(UnixListener::bind(folder.path("socket")).await?);
            let tcp = TcpListener::bind("127.0.0.1:0").await?;
            let address = tcp.local_addr()?;
            for number in 0..count as u64 {
                let (a, b) = UnixStream::pair()?;
                let (a, b) = (Rc::new(a), Rc::new(b));
                keep_busy(&alive, {
                    let a = a.clone();
                    async move { a.receive().await.map(drop) }
                });
                keep_busy(&alive, {
                    let b = b.clone();
                    async move { b.receive_into(vec![0; 4096]).await.map(drop) }
                });
                if number % 5 == 0 {
                    keep_busy(&alive, async move { a.send(vec![2; 1 << 20]).await.map(drop) });
                    let _ = b.write(vec![3; 1 << 20])?;
                }
                keep_busy(&alive, sleep(Duration::from_secs(3600 + number)));
                let path = folder.path("file");
                keep_busy(&alive, async move {
                    File::open(path)
                        .await?
                        .read_at(Vec::with_capacity(8192), number)
                        .await
                        .map_err(io::Error::from)
                });
                if number % 10 == 0 {
                    let (listener, path) = (listener.clone(), folder.path("socket"));
                    keep_busy(&alive, async move { listener.accept().await });
                    keep_busy(&alive, UnixStream::connect(path));
                    keep_busy(&alive, TcpStream::connect(address));
                    keep_busy(&alive, fs::metadata("/"));
                    keep_busy(&alive, TcpListener::bind("localhost:0"));
                }
                keep_busy(&alive, nop());
            }
            keep_busy(&alive, async move { tcp.accept().await });
            turns(turns_before).await;
            assert!(turns_before == 0 || metrics().in_flight > count, "{:?}", metrics());
            Ok::<_, io::Error>(())
        };
        event_loop.run_until_complete(main).expect("the loop runs").expect("all was begun");
        assert!(alive.get() > 5 * count);
        let begun = Instant::now();
        drop(event_loop);
        assert!(begun.elapsed() < Duration::from_secs(5), "shutting down took {:?}", begun.elapsed());
        assert_eq!(alive.get(), 0, "tasks are left");
        assert_eq!(open_descriptors(), before, "descriptors are left");
    }
}

/// Polls as a loop would, as long as somebody is woken: it must end with an error of our own, or with ECANCELED.
#[track_caller]
fn gone<T>(future: impl Future<Output = io::Result<T>>) {
    let (count, waker) = Count::new();
    let mut future = pin!(future);
    for polls in 0..5 {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            let errno = outcome.map(drop).expect_err("the loop is gone").raw_os_error();
            assert!(errno.is_none_or(|errno| errno == libc::ECANCELED), "errno {errno:?}");
            return;
        }
        assert!(count.get() > polls, "it would wait for ever");
    }
    panic!("it wakes for ever");
}

fn c12_what_outlives_its_loop_says_so_and_does_no_harm(cx: Cx) {
    let before = open_descriptors();
    let event_loop = cx.builder().build().expect("a loop");
    let main = async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (a, b) = tcp_pair().await?;
        b.send("chunk").await?;
        let chunk = a.receive().await?.expect("bytes");
        let file = File::open("/proc/self/status").await?;
        Ok::<_, io::Error>((listener, Rc::new(a), Rc::new(b), chunk, file))
    };
    let (listener, a, b, chunk, file) =
        event_loop.run_until_complete(main).expect("runs").expect("all was made");
    let (mut receive, mut into) = (Box::pin(a.receive()), Box::pin(b.receive_into(vec![0; 64])));
    let mut accept = Box::pin(listener.accept());
    let mut read = Box::pin(file.read_at(vec![0; 64], 0));
    let mut nap =
        event_loop.run_until_complete(async { Box::pin(sleep(Duration::from_secs(3600))) }).expect("runs");
    let begin = poll_fn(|cx| {
        assert!(receive.as_mut().poll(cx).is_pending());
        assert!(into.as_mut().poll(cx).is_pending());
        assert!(accept.as_mut().poll(cx).is_pending());
        assert!(nap.as_mut().poll(cx).is_pending());
        let _ = read.as_mut().poll(cx);
        Poll::Ready(())
    });
    event_loop.run_until_complete(begin).expect("runs");
    drop(event_loop);
    assert_eq!(&chunk[..], b"chunk");
    // Each is answered, with an error that is no lie.
    gone(&mut receive);
    gone(&mut accept);
    gone(async { Ok((&mut into).await?) });
    drop((receive, into, accept, read, nap));
    gone(a.receive());
    gone(listener.accept());
    gone(async { Ok(a.receive_into(vec![0; 8]).await?) });
    gone(async { Ok(a.send("bytes").await?) });
    gone(async { Ok(a.send_vectored(vec!["bytes"]).await?) });
    gone(async { Ok(file.read_at(vec![0; 8], 0).await?) });
    gone(file.metadata());
    let _ = b.write("bytes");
    drop((listener, a, b, file));
    assert_eq!(&chunk.into_vec(), b"chunk");
    assert_eq!(open_descriptors(), before, "descriptors are left");
}

fn c12_files_dropped_right_before_the_end_are_closed(cx: Cx) {
    let before = open_descriptors();
    for round in 0..many(50) {
        let event_loop = cx.builder().build().expect("a loop");
        let main = async {
            let mut files = Vec::new();
            for _ in 0..40 {
                files.push(File::open("/proc/self/status").await?);
            }
            drop(files);
            turns(round % 3).await;
            Ok::<_, io::Error>(())
        };
        event_loop.run_until_complete(main).expect("the loop runs").expect("all were opened");
        drop(event_loop);
        assert_eq!(open_descriptors(), before, "round {round}: files were left open");
    }
}

/// Panics when it is dropped.
pub(super) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as the test wants it");
    }
}

fn c12_a_panic_in_a_destructor_does_not_stop_the_shutdown(cx: Cx) {
    let before = open_descriptors();
    for kind in 0..2 {
        let alive = Rc::new(Cell::new(0));
        let event_loop = cx.builder().build().expect("a loop");
        let main = async {
            let (a, b) = UnixStream::pair()?;
            let b = Rc::new(b);
            keep_busy(&alive, async move { a.receive_into(vec![0; 4096]).await.map(drop) });
            keep_busy(&alive, {
                let b = b.clone();
                async move { b.receive().await.map(drop) }
            });
            if kind == 0 {
                let bomb = Bomb;
                keep_busy(&alive, async move {
                    let _bomb = bomb;
                    pending::<()>().await;
                });
            } else {
                let bomb = Bomb;
                proactor::event_loop::call_later(Duration::from_secs(3600), move || drop(bomb))?;
            }
            keep_busy(&alive, pending::<()>());
            turns(2).await;
            Ok::<_, io::Error>(())
        };
        event_loop.run_until_complete(main).expect("the loop runs").expect("all was begun");
        // The panic may come out here or be kept by the task that nobody joins; everything else ends as always.
        let _ = catch_unwind(AssertUnwindSafe(|| event_loop.close()));
        assert!(event_loop.is_closed());
        drop(event_loop);
        assert_eq!(alive.get(), 0, "tasks are left");
        assert_eq!(open_descriptors(), before, "descriptors are left");
    }
}

fn c13_a_reused_descriptor_gets_nothing_of_the_old_one(cx: Cx) {
    cx.run(async {
        let (rounds, mut reused, mut random) = (many(1200), 0, Random(5));
        let before = open_descriptors();
        for round in 0..rounds {
            // All of the last round is closed, so there is no lower number to be given out after this one.
            until(|| open_descriptors() == before).await;
            let (a, b) = UnixStream::pair()?;
            let number = a.as_raw_fd();
            // In flight on the old descriptor: a receive of one kind or the other, and a send that cannot end.
            match round % 3 {
                0 => assert!(poll!(pin!(a.receive())).is_pending()),
                1 => assert!(poll!(pin!(a.receive_into(vec![0; 64]))).is_pending()),
                _ => {
                    assert!(poll!(pin!(a.send(vec![b'o'; 1 << 20]))).is_pending());
                    assert!(poll!(pin!(a.receive())).is_pending());
                }
            }
            turns(random.below(3)).await;
            b.send("old").await?;
            drop(a);
            if round % 2 == 0 {
                let open = format!("/proc/self/fd/{number}");
                until(|| std::fs::symlink_metadata(&open).is_err()).await;
            } else {
                turns(random.below(3)).await;
            }
            let (c, d) = UnixStream::pair()?;
            reused += usize::from(c.as_raw_fd() == number || d.as_raw_fd() == number);
            let (mut at_c, mut at_d) = (Box::pin(c.receive()), Box::pin(d.receive()));
            for _ in 0..random.below(4) {
                assert!(poll!(&mut at_c).is_pending(), "nothing was sent to it, and nobody cancelled it");
                assert!(poll!(&mut at_d).is_pending(), "nothing was sent to it, and nobody cancelled it");
                turns(1).await;
            }
            c.send("new from c").await?;
            d.send("new from d").await?;
            assert_eq!(&at_c.await?.expect("bytes")[..], b"new from d");
            assert_eq!(&at_d.await?.expect("bytes")[..], b"new from c");
        }
        assert!(reused >= rounds / 2, "numbers were reused {reused} times only");
        Ok::<_, io::Error>(())
    });
}
