//! Sending files: every byte once and in order, and an exact count however it ends.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek};
use std::net::Shutdown;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, join};
use proactor::fs::File;
use proactor::net::UnixStream;
use proactor::{MayBeCancelled, SendfileNotAvailable, metrics, spawn};

use crate::bulk::{
    KIB, MIB, assert_same, cancelled_after, file_of, full_pair, narrow_pair, pattern, receive_all,
    receive_exactly,
};
use crate::faults::take_all_descriptors;
use crate::harness::{Cx, Folder, Random, both_drivers, needs, open_descriptors, tcp_pair, turns, until};
use crate::processes::child;

both_drivers!(
    files_of_all_sizes_arrive_whole,
    a_part_of_a_file_arrives,
    an_end_that_comes_early_is_told_by_the_count,
    what_was_written_before_goes_first_and_what_comes_after_waits,
    a_file_that_shrinks_meanwhile_ends_the_transfer,
    a_reset_by_the_peer_is_an_error_with_a_count,
    a_slow_reader_gets_every_byte,
    a_cancel_at_any_moment_leaves_an_exact_count_and_a_working_stream,
    a_dropped_future_goes_on_and_a_dropped_stream_ends_it,
    hundreds_of_peers_that_do_not_read_hold_no_pipe_and_stop_nobody,
    without_descriptors_for_pipes_files_are_sent_all_the_same,
    what_the_kernel_cannot_send_falls_back_only_if_allowed,
    a_failure_of_the_file_leaves_the_stream_as_it_was,
    the_position_of_a_file_of_std_is_behind_what_was_sent,
    peers_that_do_not_read_hold_no_thread_of_the_kernel,
    an_offset_that_no_file_has_is_refused,
    a_small_file_that_waits_for_room_is_sent_once_or_not_at_all,
    a_connection_that_is_gone_raises_no_signal,
);

fn files_of_all_sizes_arrive_whole(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let sizes = [0, 1, 4095, 16 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 256 * KIB];
        for len in sizes.into_iter().chain([MIB - 1, MIB, MIB + 1, 3 * MIB + 17]) {
            let path = file_of(&folder, len)?;
            let expected = pattern(len);
            let file = File::open(&path).await?;
            for variant in 0..8 {
                let (counted, fallback, inline) = (variant & 1 != 0, variant & 2 != 0, variant & 4 != 0);
                let mut sending = ours.send_file(&file).fallback(fallback).inline(inline);
                if counted {
                    sending = sending.count(len as u64);
                }
                let (sent, received) = join!(sending, receive_exactly(&theirs, len));
                assert_eq!(sent?, len as u64);
                assert_same(&received?, &expected, &format!("{len} bytes, variant {variant}"));
            }
            file.close().await?;
        }
        if cx.is_uring() {
            let submitted = metrics();
            assert!(submitted.submitted_of("splice") > 0 && submitted.submitted_of("read") > 0);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_part_of_a_file_arrives(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 2 * MIB)?).await?;
        let (ours, theirs) = UnixStream::pair()?;
        for (offset, count) in [(0, 1), (1, 4096), (4097, 64 * KIB), (12_345, MIB + 1), (2 * MIB - 1, 1)] {
            let sending = ours.send_file(&file).offset(offset as u64).count(count as u64);
            let receiving = async {
                let mut all = Vec::new();
                while all.len() < count {
                    all.extend_from_slice(&theirs.receive().await?.expect("bytes"));
                }
                Ok::<_, io::Error>(all)
            };
            let (sent, received) = join!(sending, receiving);
            assert_eq!(sent?, count as u64);
            assert_same(&received?, &pattern(offset + count)[offset..], &format!("{count} from {offset}"));
        }
        assert_eq!(ours.send_file(&file).count(0).await?, 0);
        Ok::<_, io::Error>(())
    });
}

fn an_end_that_comes_early_is_told_by_the_count(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        for len in [0, 100, 64 * KIB, MIB, MIB + 5] {
            let file = File::open(file_of(&folder, len)?).await?;
            let (ours, theirs) = tcp_pair().await?;
            let sending = async {
                let sent = ours.send_file(&file).count(10 * MIB as u64).await?;
                assert_eq!(
                    ours.send_file(&file).offset(len as u64 + 1).await?,
                    0,
                    "behind the end is nothing"
                );
                ours.shutdown_write().await?;
                Ok::<_, io::Error>(sent)
            };
            let (sent, received) = join!(sending, receive_all(&theirs));
            assert_eq!(sent?, len as u64);
            assert_same(&received?, &pattern(len), "all that there was");
        }
        Ok::<_, io::Error>(())
    });
}

fn what_was_written_before_goes_first_and_what_comes_after_waits(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 2 * MIB)?).await?;
        let small = File::open(file_of(&folder, 1000)?).await?;
        let (ours, theirs) = tcp_pair().await?;
        let sending = async {
            let _ = ours.write("head")?;
            let mut first = Box::pin(ours.send_file(&file));
            assert!(first.as_mut().now_or_never().is_none());
            let _ = ours.write("middle")?;
            let (first, second, third) = join!(first, ours.send_file(&small), ours.send("tail"));
            assert_eq!((first?, second?), (2 * MIB as u64, 1000));
            third?;
            ours.shutdown_write().await
        };
        let (sent, received) = join!(sending, receive_all(&theirs));
        sent?;
        let expected = [b"head", &pattern(2 * MIB)[..], b"middle", &pattern(1000), b"tail"].concat();
        assert_same(&received?, &expected, "in order");
        Ok::<_, io::Error>(())
    });
}

fn a_file_that_shrinks_meanwhile_ends_the_transfer(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = file_of(&folder, 16 * MIB)?;
        let file = File::open(&path).await?;
        let (ours, theirs) = narrow_pair().await?;
        let sending = async {
            let sent = ours.send_file(&file).count(16 * MIB as u64).await?;
            ours.shutdown_write().await?;
            Ok::<_, io::Error>(sent)
        };
        let receiving = async {
            receive_exactly(&theirs, 100 * KIB).await?;
            OpenOptions::new().write(true).open(&path)?.set_len(4 * MIB as u64)?;
            Ok::<_, io::Error>(100 * KIB + receive_all(&theirs).await?.len())
        };
        let (sent, received) = join!(sending, receiving);
        let (sent, received) = (sent?, received?);
        assert_eq!(sent, received as u64);
        assert!((4 * MIB..6 * MIB).contains(&received), "{received}");
        Ok::<_, io::Error>(())
    });
}

fn a_reset_by_the_peer_is_an_error_with_a_count(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 16 * MIB)?).await?;
        for inline in [false, true] {
            let (ours, theirs) = narrow_pair().await?;
            let reset = async {
                receive_exactly(&theirs, 200 * KIB).await?;
                theirs.set_linger(Some(Duration::ZERO))?;
                theirs.close().await
            };
            let (sent, closed) = join!(ours.send_file(&file).inline(inline), reset);
            closed?;
            let failed = sent.expect_err("a reset");
            assert_eq!(failed.error.kind(), io::ErrorKind::ConnectionReset, "{failed}");
            assert!((200 * KIB..16 * MIB).contains(&failed.done), "{failed}");
            assert!(ours.send_file(&file).await.is_err(), "it stays broken");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_slow_reader_gets_every_byte(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 4 * MIB)?).await?;
        let expected = pattern(4 * MIB);
        for inline in [false, true] {
            let (ours, theirs) = narrow_pair().await?;
            let mut random = Random(7);
            let slowly = async {
                let mut all = Vec::new();
                while all.len() < 4 * MIB {
                    turns(random.below(5)).await;
                    let (_, bytes) =
                        theirs.receive_into(Vec::with_capacity(1 + random.below(99_999))).await?;
                    all.extend_from_slice(&bytes);
                }
                Ok::<_, io::Error>(all)
            };
            let (sent, received) = join!(ours.send_file(&file).inline(inline), slowly);
            assert_eq!(sent?, 4 * MIB as u64);
            assert_same(&received?, &expected, "slowly");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_cancel_at_any_moment_leaves_an_exact_count_and_a_working_stream(cx: Cx) {
    const LEN: usize = 3 * MIB;
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, LEN)?).await?;
        let expected = pattern(LEN);
        let (mut random, mut stopped) = (Random(1), 0);
        for round in 0..24 {
            let (ours, theirs) = if round % 2 == 0 { tcp_pair().await? } else { narrow_pair().await? };
            let receiver = spawn(async move { receive_all(&theirs).await });
            let sending = ours.send_file(&file).inline(round % 4 > 1).count(LEN as u64);
            let (sent, was_stopped) = cancelled_after(random.below(100), sending).await?;
            stopped += usize::from(was_stopped);
            ours.send("and on").await?;
            ours.shutdown_write().await?;
            let received = receiver.await??;
            assert_same(&received, &[&expected[..sent], b"and on"].concat(), &format!("round {round}"));
        }
        assert!(stopped > 4, "only {stopped} were stopped on their way");
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_future_goes_on_and_a_dropped_stream_ends_it(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 4 * MIB)?).await?;
        for inline in [false, true] {
            let (ours, theirs) = narrow_pair().await?;
            let mut sending = ours.send_file(&file).inline(inline);
            assert_eq!(sending.sent(), 0);
            assert!((&mut sending).now_or_never().is_none());
            turns(5).await;
            until(|| sending.sent() > 0).await;
            drop(sending);
            let _ = ours.write("then this")?;
            let whole = receive_exactly(&theirs, 4 * MIB + 9).await?;
            assert_same(&whole, &[&pattern(4 * MIB)[..], b"then this"].concat(), "all of it");

            let mut sending = Box::pin(ours.send_file(&file).inline(inline));
            assert!(sending.as_mut().now_or_never().is_none());
            turns(5).await;
            drop(sending);
            drop(ours);
            let rest = receive_all(&theirs).await.unwrap_or_default();
            assert!(rest.len() < 4 * MIB, "{} bytes came", rest.len());
        }
        // Not begun, nothing is sent.
        let (ours, theirs) = tcp_pair().await?;
        drop(ours.send_file(&file));
        ours.send("x").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"x");
        Ok::<_, io::Error>(())
    });
}

fn hundreds_of_peers_that_do_not_read_hold_no_pipe_and_stop_nobody(cx: Cx) {
    const PEERS: usize = 100;
    if !needs(2 * PEERS + 100, 100) {
        return;
    }
    let folder = Folder::new();
    cx.run(async {
        let len = MIB / 4;
        let file = Rc::new(File::open(file_of(&folder, len)?).await?);
        let before = open_descriptors();
        let (mut peers, mut senders) = (Vec::new(), Vec::new());
        for _ in 0..PEERS {
            let (ours, theirs) = narrow_pair().await?;
            let file = file.clone();
            senders.push(spawn(async move { ours.send_file(&*file).count(len as u64).await }));
            peers.push(theirs);
        }
        turns(200).await;
        let held = open_descriptors() - before - 2 * PEERS;
        assert!(held <= 64, "{held} descriptors of pipes for {PEERS} transfers that wait");
        // More transfers wait than the ring has threads for splices, and one more goes through.
        let (ours, theirs) = tcp_pair().await?;
        let (sent, received) = join!(ours.send_file(&*file), receive_exactly(&theirs, len));
        assert_eq!(sent?, len as u64);
        let expected = pattern(len);
        assert_same(&received?, &expected, "the one that reads");
        for theirs in peers {
            assert_same(&receive_exactly(&theirs, len).await?, &expected, "late, but whole");
        }
        for sender in senders {
            assert_eq!(sender.await??, len as u64);
        }
        Ok::<_, io::Error>(())
    });
}

fn without_descriptors_for_pipes_files_are_sent_all_the_same(cx: Cx) {
    child(cx, "send-file-without-pipes");
}

pub(crate) fn without_pipes(cx: Cx) -> Result<(), String> {
    let folder = Folder::new();
    cx.run(async {
        let len = 3 * MIB;
        let file = File::open(file_of(&folder, len)?).await?;
        let (ours, theirs) = tcp_pair().await?;
        let taken = take_all_descriptors()?;
        let (sent, received) = join!(ours.send_file(&file).count(len as u64), receive_exactly(&theirs, len));
        assert_eq!(sent?, len as u64);
        assert_same(&received?, &pattern(len), "without pipes");
        assert_eq!(metrics().submitted_of("splice"), 0);
        drop(taken);
        Ok::<_, io::Error>(())
    });
    Ok(())
}

/// A file that has no splice: its file system only knows read(2).
const NO_SPLICE: &str = "/proc/self/environ";

fn what_the_kernel_cannot_send_falls_back_only_if_allowed(cx: Cx) {
    cx.run(async {
        let expected = fs::read(NO_SPLICE)?;
        let file = File::open(NO_SPLICE).await?;
        let (ours, theirs) = tcp_pair().await?;
        let refused = ours.send_file(&file).fallback(false).await.expect_err("no splice");
        assert_eq!(refused.done, 0);
        assert_eq!(refused.error.kind(), io::ErrorKind::Unsupported);
        let inner = refused.error.get_ref().and_then(|e| e.downcast_ref::<SendfileNotAvailable>());
        assert_eq!(inner.expect("the reason").os_error().raw_os_error(), Some(libc::EINVAL));
        for count in [None, Some(1 << 20)] {
            let mut sending = ours.send_file(&file);
            if let Some(count) = count {
                sending = sending.count(count);
            }
            let (sent, received) = join!(sending, receive_exactly(&theirs, expected.len()));
            assert_eq!(sent?, expected.len() as u64);
            assert_same(&received?, &expected, "by reading");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_failure_of_the_file_leaves_the_stream_as_it_was(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let folder = File::open(".").await?;
        for count in [10, 10 << 20] {
            let failed = ours.send_file(&folder).count(count).await.expect_err("a folder");
            assert_eq!((failed.error.raw_os_error(), failed.done), (Some(libc::EISDIR), 0));
            assert!(!failed.error.is_cancelled());
        }
        ours.send("well").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"well");
        Ok::<_, io::Error>(())
    });
}

fn the_position_of_a_file_of_std_is_behind_what_was_sent(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let mut file = fs::File::open(file_of(&folder, 4 * MIB)?)?;
        let (ours, theirs) = narrow_pair().await?;
        let (sent, received) =
            join!(ours.send_file(&file).offset(5).count(MIB as u64), receive_exactly(&theirs, MIB));
        assert_eq!(sent?, MIB as u64);
        assert_same(&received?, &pattern(5 + MIB)[5..], "of a file of std");
        assert_eq!(file.stream_position()?, MIB as u64 + 5);

        let reset = async {
            receive_exactly(&theirs, KIB).await?;
            theirs.set_linger(Some(Duration::ZERO))?;
            theirs.close().await
        };
        let (sent, closed) = join!(ours.send_file(&file), reset);
        closed?;
        let failed = sent.expect_err("a reset");
        assert_eq!(file.stream_position()?, failed.done as u64);
        Ok::<_, io::Error>(())
    });
}

/// What the threads of the ring wait in, of those that do not wait for work.
fn threads_at_work() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc is mounted").flatten();
    let of = |task: &PathBuf, name| fs::read_to_string(task.join(name)).unwrap_or_default();
    let workers = tasks.map(|entry| entry.path()).filter(|task| of(task, "comm").starts_with("iou-wrk"));
    // Without symbols the kernel says 0, and nothing is known.
    let rests = |place: &String| matches!(&place[..], "" | "0") || place.starts_with("io_wq");
    workers.map(|task| of(&task, "wchan")).filter(|place| !rests(place)).collect()
}

fn peers_that_do_not_read_hold_no_thread_of_the_kernel(cx: Cx) {
    const PEERS: usize = 16;
    let folder = Folder::new();
    cx.run(async {
        let len = MIB;
        let file = Rc::new(File::open(file_of(&folder, len)?).await?);
        let (mut peers, mut senders) = (Vec::new(), Vec::new());
        for number in 0..PEERS {
            let (ours, theirs) = narrow_pair().await?;
            let file = file.clone();
            let inline = number % 2 == 0;
            senders.push(spawn(async move { ours.send_file(&*file).inline(inline).count(len as u64).await }));
            peers.push(theirs);
        }
        turns(100).await;
        // What has been given to a thread just now is over soon.
        until(|| threads_at_work().is_empty()).await;
        assert!(senders.iter().all(|sender| !sender.is_finished()));
        assert_eq!(metrics().in_flight, PEERS, "each waits until its peer takes more");
        for (theirs, sender) in peers.iter().zip(senders) {
            assert_same(&receive_exactly(theirs, len).await?, &pattern(len), "late, but whole");
            assert_eq!(sender.await??, len as u64);
        }
        Ok::<_, io::Error>(())
    });
}

fn an_offset_that_no_file_has_is_refused(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 10)?).await?;
        let (ours, theirs) = tcp_pair().await?;
        // To the kernel this would mean "from where you are".
        let failed = ours.send_file(&file).offset(u64::MAX).count(5).await.expect_err("no offset");
        assert_eq!(failed.error.kind(), io::ErrorKind::InvalidInput);
        until(|| metrics().in_flight <= 1).await;
        ours.shutdown_write().await?;
        assert!(theirs.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_small_file_that_waits_for_room_is_sent_once_or_not_at_all(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, 20 * KIB)?).await?;
        for variant in 0..4 {
            let (inline, counted) = (variant & 1 != 0, variant & 2 != 0);
            let (ours, theirs) = full_pair().await?;
            let send = || {
                let sending = ours.send_file(&file).inline(inline);
                if counted { sending.count(20 * KIB as u64) } else { sending }
            };
            assert_eq!(cancelled_after(10, send()).await?, (0, true), "nobody reads");
            let sending = async {
                let sent = send().await?;
                ours.shutdown_write().await?;
                Ok::<_, io::Error>(sent)
            };
            let (sent, received) = join!(sending, receive_all(&theirs));
            assert_eq!(sent?, 20 * KIB as u64);
            let received = received?;
            let before = received.len() - 20 * KIB;
            assert!(received[..before].iter().all(|byte| *byte == 0), "what was there before");
            assert_same(&received[before..], &pattern(20 * KIB), "behind it");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_connection_that_is_gone_raises_no_signal(cx: Cx) {
    child(cx, "send-file-without-signal");
}

/// In a process that the signal would end, as it does in programs that are not Rust's.
pub(crate) fn without_signal(cx: Cx) -> Result<(), String> {
    let folder = Folder::new();
    cx.run(async {
        let file = File::open(file_of(&folder, MIB)?).await?;
        crate::faults::let_broken_pipes_kill();
        for count in [1, 4 * KIB, 16 * KIB, MIB] {
            for inline in [false, true] {
                let (ours, _theirs) = tcp_pair().await?;
                // Behind the back of the stream, so that only the kernel knows.
                ours.with_socket(|socket| socket.shutdown(Shutdown::Write))?;
                let failed =
                    ours.send_file(&file).inline(inline).count(count as u64).await.expect_err("it is gone");
                assert_eq!((failed.error.kind(), failed.done), (io::ErrorKind::BrokenPipe, 0), "{failed}");
            }
        }
        Ok::<_, io::Error>(())
    });
    Ok(())
}
