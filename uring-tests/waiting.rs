//! The ways to wait that a program can ask for: everything works with each of them, and what each promises holds.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use proactor::cancel::move_on_after;
use proactor::net::TcpStream;
use proactor::{Builder, metrics, nop, sleep, spawn};

use crate::harness::{Cx, both_drivers, tcp_pair};

both_drivers!(
    everything_works_however_the_loop_waits,
    a_spinning_loop_hears_of_a_wake_without_having_slept,
    a_gathering_loop_sleeps_while_nothing_happens,
    a_polled_queue_takes_submissions_without_system_calls,
    more_submissions_than_a_polled_queue_has_places_are_all_taken,
);

const SPIN: Duration = Duration::from_micros(50);

/// Each way, if this kernel has it.
fn ways(cx: Cx) -> Vec<(&'static str, Builder)> {
    let all = [
        ("spin", cx.builder().spin(SPIN)),
        ("gather", cx.builder().gather(SPIN)),
        ("sq_poll", cx.builder().sq_poll(Duration::from_millis(1))),
        ("busy_poll", cx.builder().busy_poll(SPIN)),
        ("all", cx.builder().spin(SPIN).gather(SPIN).sq_poll(Duration::from_millis(20))),
    ];
    all.into_iter().filter(|(_, builder)| works(builder)).collect()
}

/// Whether this kernel has what such a loop asks for; there are too many that do not to say so each time.
fn works(builder: &Builder) -> bool {
    builder.clone().build().is_ok()
}

async fn echo_rounds(ours: &TcpStream, theirs: &TcpStream, rounds: usize) -> io::Result<()> {
    for _ in 0..rounds {
        ours.send("ping").await?;
        let chunk = theirs.receive().await?.expect("a ping");
        theirs.send(chunk).await?;
        assert_eq!(&ours.receive().await?.expect("a pong")[..], b"ping");
    }
    Ok(())
}

fn everything_works_however_the_loop_waits(cx: Cx) {
    for (_, builder) in ways(cx) {
        cx.run_with(builder, async {
            let (ours, theirs) = tcp_pair().await?;
            echo_rounds(&ours, &theirs, 40).await?;
            // Long enough for a thread that polls to fall asleep.
            let begun = Instant::now();
            sleep(Duration::from_millis(30)).await?;
            assert!(begun.elapsed() >= Duration::from_millis(30));
            echo_rounds(&ours, &theirs, 20).await?;
            // A wake from another thread, and work for the pool.
            let woken = proactor::thread::to_thread::run_sync(|| 5).await?;
            assert_eq!(woken, 5);
            // A cancel, and bytes that come after it.
            let cut = move_on_after(Duration::from_millis(5), async { theirs.receive().await }).await?;
            assert!(cut.is_none());
            ours.send("after").await?;
            assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"after");
            // An operation that is in flight when the loop ends.
            let waiting = spawn(async move { theirs.receive().await.map(drop) });
            nop().await?;
            waiting.cancel("the end");
            drop(ours);
            let _ = waiting.await;
            Ok::<_, io::Error>(())
        });
    }
}

fn a_spinning_loop_hears_of_a_wake_without_having_slept(cx: Cx) {
    let builder = cx.builder().spin(Duration::from_secs(10));
    cx.run_with(builder, async {
        let begun = Instant::now();
        let (sender, receiver) = proactor::thread::channel(1);
        let other = thread::spawn(move || {
            thread::park_timeout(Duration::from_millis(10));
            sender.send_blocking(7, None)
        });
        assert_eq!(receiver.receive().await?, Some(7));
        assert!(begun.elapsed() < Duration::from_secs(9), "it was heard while the loop spun");
        // A deadline ends the spin.
        sleep(Duration::from_millis(20)).await?;
        assert!(begun.elapsed() < Duration::from_secs(9));
        other.join().expect("the thread ends").expect("the receiver was there");
        Ok::<_, io::Error>(())
    });
}

fn a_gathering_loop_sleeps_while_nothing_happens(cx: Cx) {
    cx.run_with(cx.builder().gather(Duration::from_micros(100)), async {
        let before = metrics().enters;
        sleep(Duration::from_millis(200)).await?;
        let enters = metrics().enters - before;
        assert!(enters < 20, "{enters} turns for one sleep");
        Ok::<_, io::Error>(())
    });
}

fn a_polled_queue_takes_submissions_without_system_calls(cx: Cx) {
    let builder = cx.builder().sq_poll(Duration::from_secs(2)).spin(Duration::from_secs(2));
    if !cx.is_uring() || !works(&builder) {
        return;
    }
    cx.run_with(builder, async {
        nop().await?;
        let before = metrics().enters;
        for _ in 0..100 {
            nop().await?;
        }
        let enters = metrics().enters - before;
        assert!(enters < 50, "{enters} system calls for a hundred operations");
        Ok::<_, io::Error>(())
    });
}

fn more_submissions_than_a_polled_queue_has_places_are_all_taken(cx: Cx) {
    let builder = cx.builder().ring_entries(8).sq_poll(Duration::from_millis(1));
    if !works(&builder) {
        return;
    }
    cx.run_with(builder, async {
        for _ in 0..20 {
            let mut all = Vec::new();
            for _ in 0..200 {
                let mut one = Box::pin(nop());
                match one.as_mut().now_or_never() {
                    Some(result) => result?,
                    None => all.push(one),
                }
            }
            drop(all.split_off(all.len() / 2)); // and some are cancelled
            for one in all {
                one.await?;
            }
        }
        Ok::<_, io::Error>(())
    });
}
