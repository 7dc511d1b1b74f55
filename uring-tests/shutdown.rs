//! A loop that ends with thousands of operations of every kind in flight: nothing leaks, hangs or is touched too late.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::fs::File;
use proactor::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::{EventLoop, event_loop, interval, nop, sleep, spawn, timeout, yield_now};

use crate::harness::{Cx, both_drivers, many, needs};

both_drivers!(
    a_loop_that_ends_with_thousands_of_operations_in_flight_leaves_nothing,
    a_loop_that_ends_again_and_again_with_everything_in_flight_leaves_nothing,
    a_loop_that_is_closed_keeps_what_the_program_still_holds_sound,
    futures_of_a_loop_that_is_gone_end_and_do_not_hang,
    a_panic_that_ends_a_loop_leaves_nothing,
);

/// More than a socket takes.
static MUCH: [u8; 1 << 20] = [7; 1 << 20];

/// Says when it is dropped.
struct Note(Rc<Cell<usize>>);

impl Drop for Note {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Spawns tasks that note their end.
#[derive(Default)]
struct Spawner {
    ended: Rc<Cell<usize>>,
    spawned: Cell<usize>,
}

impl Spawner {
    fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) {
        let note = Note(self.ended.clone());
        self.spawned.set(self.spawned.get() + 1);
        drop(spawn(async move {
            let _note = note;
            future.await
        }));
    }

    fn assert_all_ended(&self) {
        assert_eq!(self.ended.get(), self.spawned.get(), "every future is dropped");
    }
}

/// Streams that wait in every way there is.
async fn waiting_streams(spawner: &Spawner, count: usize) -> io::Result<()> {
    for n in 0..count {
        let (one, two) = UnixStream::pair()?;
        match n % 6 {
            0 => spawner.spawn(async move {
                let _two = two;
                one.receive().await.map(drop)
            }),
            1 => spawner.spawn(async move {
                let _two = two;
                one.receive_into(vec![0; 1000]).await.map(drop).map_err(io::Error::from)
            }),
            // Nobody reads: the send begins and cannot end.
            2 => spawner.spawn(async move {
                let _two = two;
                one.send(vec![7; 400_000]).await.map(drop).map_err(io::Error::from)
            }),
            3 => spawner.spawn(async move {
                let _two = two;
                one.send_vectored(vec![&MUCH[..]; 3]).await.map(drop).map_err(io::Error::from)
            }),
            4 => spawner.spawn(async move {
                let _two = two;
                one.write(&MUCH[..])?;
                one.write(vec![8; 1000])?;
                one.flush().await
            }),
            // Bytes came, nobody took them, and the receive is armed.
            _ => spawner.spawn(async move {
                two.send("unread").await?;
                let limited = timeout(Duration::ZERO, one.receive()).await;
                two.send("unread").await?;
                pending::<()>().await;
                drop((limited, one, two));
                Ok::<_, io::Error>(())
            }),
        }
    }
    Ok(())
}

/// Everything else that can be under way.
async fn waiting_others(spawner: &Spawner, count: usize) -> io::Result<()> {
    for _ in 0..count / 10 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (client, server) = futures_util::join!(TcpStream::connect(address), listener.accept());
        let (client, server) = (client?, server?);
        spawner.spawn(async move {
            let _client = client;
            server.receive().await.map(drop)
        });
        // Connections that nobody accepts are with the listener.
        spawner.spawn(async move { listener.accept().await?.receive().await.map(drop) });
        spawner.spawn(async move { TcpStream::connect(address).await?.receive().await.map(drop) });
        spawner.spawn(async move { TcpStream::connect(address).await?.close().await });
        let (one, two) = UnixStream::pair()?;
        let (receiving, sending) = one.split();
        spawner.spawn(async move { receiving.receive().await.map(drop) });
        spawner.spawn(async move {
            let _two = two;
            sending.send(&MUCH[..]).await.map(drop).map_err(io::Error::from)
        });
        let file = File::open("/proc/self/status").await?;
        spawner.spawn(async move { file.read_at(vec![0; 4096], 0).await.map(drop).map_err(io::Error::from) });
        spawner.spawn(proactor::fs::metadata("/proc/self/status"));
        spawner.spawn(File::open("/proc/self/maps"));
    }
    for n in 0..count {
        match n % 4 {
            0 => spawner.spawn(sleep(Duration::from_secs(n as u64 + 1))),
            1 => spawner.spawn(nop()),
            2 => spawner.spawn(async {
                let mut clock = interval(Duration::from_millis(1));
                while clock.tick().await.is_ok() {
                    yield_now().await;
                }
            }),
            _ => spawner.spawn(timeout(Duration::from_secs(60), pending::<()>())),
        }
        let note = Note(spawner.ended.clone());
        spawner.spawned.set(spawner.spawned.get() + 1);
        event_loop::call_later(Duration::from_secs(60), move || drop(note))?;
    }
    Ok(())
}

fn end_with_everything_in_flight(event_loop: EventLoop, count: usize, turns: usize) {
    let spawner = Spawner::default();
    let begun = event_loop.run_until_complete(async {
        waiting_streams(&spawner, count).await?;
        waiting_others(&spawner, count).await?;
        for _ in 0..turns {
            yield_now().await;
        }
        Ok::<_, io::Error>(())
    });
    begun.expect("the loop runs").expect("everything begins");
    if turns > 3 {
        let in_flight = event_loop.metrics().in_flight;
        assert!(in_flight >= count / 3, "only {in_flight} in flight");
    }
    let begin = Instant::now();
    event_loop.close().expect("the loop closes");
    assert!(begin.elapsed() < Duration::from_secs(30), "it took {:?}", begin.elapsed());
    let left = event_loop.metrics();
    assert_eq!((left.in_flight, left.timers, left.tasks, left.buffers_in_use), (0, 0, 0, 0));
    spawner.assert_all_ended();
}

fn a_loop_that_ends_with_thousands_of_operations_in_flight_leaves_nothing(cx: Cx) {
    let count = many(3000);
    if !needs(3 * count + 1000, count / 5 + 20) {
        return;
    }
    end_with_everything_in_flight(cx.builder().build().expect("a loop"), count, 20);
}

fn a_loop_that_ends_again_and_again_with_everything_in_flight_leaves_nothing(cx: Cx) {
    if !needs(500, 60) {
        return;
    }
    for round in 0..many(40) {
        // From before anything was submitted to long after; and with queues that overflow.
        let builder = cx.builder().ring_entries(if round % 2 == 0 { 8 } else { 1024 }).buffer_size(4096);
        end_with_everything_in_flight(builder.build().expect("a loop"), 120, round % 8);
    }
}

fn a_loop_that_is_closed_keeps_what_the_program_still_holds_sound(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let run = event_loop.run_until_complete(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let server = listener.accept().await?;
        client.send("held").await?;
        let chunk = server.receive().await?.expect("bytes");
        client.send("more").await?;
        // Armed, and with bytes to come.
        let limited = timeout(Duration::ZERO, server.receive()).await;
        let task = spawn(pending::<()>());
        let sleeping = Box::pin(sleep(Duration::from_secs(60)));
        Ok::<_, io::Error>((listener, client, server, chunk, limited, task, sleeping))
    });
    let held = run.expect("the loop runs").expect("all of it works");
    drop(event_loop);
    let (listener, client, server, chunk, limited, task, sleeping) = held;
    assert_eq!(&chunk[..], b"held", "the bytes stay where they are");
    assert!(task.is_finished());
    drop(chunk);
    drop((limited, sleeping));
    drop((server, listener));
    drop(client);
}

fn futures_of_a_loop_that_is_gone_end_and_do_not_hang(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let run = event_loop.run_until_complete(async {
        let (one, two) = UnixStream::pair()?;
        let sleeping = sleep(Duration::from_secs(60));
        let listener = UnixListener::bind(std::env::temp_dir().join(format!("gone-{}", std::process::id())));
        Ok::<_, io::Error>((one, two, sleeping, listener.await?))
    });
    let (one, two, sleeping, listener) = run.expect("the loop runs").expect("all of it works");
    drop(event_loop);
    std::fs::remove_file(std::env::temp_dir().join(format!("gone-{}", std::process::id())))
        .expect("it is ours");
    // In another loop they belong to nobody, so each of them is an error, at once.
    cx.run(async {
        let limit = Duration::from_secs(20);
        assert!(timeout(limit, one.receive()).await?.is_err());
        assert!(timeout(limit, two.send("late")).await?.is_err());
        assert!(timeout(limit, two.flush()).await.is_ok());
        assert!(timeout(limit, two.receive_into(vec![0; 10])).await?.is_err());
        assert!(timeout(limit, listener.accept()).await?.is_err());
        assert!(timeout(limit, sleeping).await?.is_err());
        let _ = timeout(limit, one.close()).await?;
        drop((two, listener));
        Ok::<_, io::Error>(())
    });
}

fn a_panic_that_ends_a_loop_leaves_nothing(cx: Cx) {
    let spawner = Spawner::default();
    let event_loop = cx.builder().build().expect("a loop");
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let event_loop = event_loop;
        event_loop.run_until_complete(async {
            waiting_streams(&spawner, 300).await.expect("everything begins");
            waiting_others(&spawner, 300).await.expect("everything begins");
            let mut turns = 0;
            poll_fn(|cx| {
                turns += 1;
                assert!(turns < 10, "the end");
                cx.waker().wake_by_ref();
                std::task::Poll::<()>::Pending
            })
            .await;
        })
    }));
    assert!(run.is_err());
    spawner.assert_all_ended();
}
