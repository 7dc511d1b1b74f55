//! Sending files that are not in memory: they arrive, and the loop does not wait for the disk.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use futures_util::join;
use proactor::fs::File;
use proactor::{spawn, yield_now};

use crate::bulk::{KIB, MIB, assert_same, pattern, receive_exactly};
use crate::harness::{Cx, Folder, both_drivers, skip, tcp_pair};

both_drivers!(a_file_that_is_not_cached_arrives, a_file_that_is_not_cached_never_stops_the_loop,);

fn a_file_that_is_not_cached_arrives(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let len = 3 * MIB;
        let path = folder.path("cold");
        let mut file = fs::File::create(&path)?;
        file.write_all(&pattern(len))?;
        file.sync_all()?;
        for inline in [false, true] {
            crate::faults::forget_cached(file.as_raw_fd());
            let cold = File::open(&path).await?;
            let (ours, theirs) = tcp_pair().await?;
            let (sent, received) =
                join!(ours.send_file(&cold).inline(inline).count(len as u64), receive_exactly(&theirs, len));
            assert_eq!(sent?, len as u64);
            assert_same(&received?, &pattern(len), "from the disk");
        }
        Ok::<_, io::Error>(())
    });
}

/// How often this thread had to wait in the kernel.
fn waits_of_this_thread() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a number")
}

fn a_file_that_is_not_cached_never_stops_the_loop(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let len = 16 * MIB;
        // The loop has something to do all the time, so it never waits for anything by itself.
        let over = Rc::new(Cell::new(false));
        let ends = over.clone();
        let busy = spawn(async move {
            while !ends.get() {
                yield_now().await;
            }
        });
        for inline in [false, true] {
            let path = folder.path(&format!("cold-{inline}"));
            let mut file = fs::File::create(&path)?;
            file.write_all(&pattern(len))?;
            file.sync_all()?;
            crate::faults::forget_cached(file.as_raw_fd());
            let source = fs::File::open(&path)?;
            crate::faults::read_nothing_ahead(&source);
            if crate::faults::is_cached(&source, len as i64 / 2) {
                skip("this file system keeps everything in memory");
                break;
            }
            let (ours, theirs) = tcp_pair().await?;
            let source = File::from_std(source);
            let transfer = async |piece: usize| {
                let sending = async {
                    for at in (0..len).step_by(piece) {
                        let sending = ours.send_file(&source).inline(inline).offset(at as u64);
                        assert_eq!(sending.count(piece as u64).await?, piece as u64);
                    }
                    Ok::<_, io::Error>(())
                };
                let receiving = async {
                    let mut left = len;
                    while left > 0 {
                        left -= theirs.receive().await?.expect("bytes").len();
                    }
                    Ok::<_, io::Error>(())
                };
                let before = waits_of_this_thread();
                let (sent, received) = join!(sending, receiving);
                sent?;
                received?;
                Ok::<_, io::Error>(waits_of_this_thread() - before)
            };
            // In one piece, and in small ones, each of which finds the file as it is by then.
            for piece in [len, 16 * KIB] {
                let (cold, warm) = (transfer(piece).await?, transfer(piece).await?);
                // It would wait for the disk 256 times, once for each 64 KiB. A lock that is taken just then may cost a
                // wait here and there.
                assert!(cold <= warm + 100, "inline: {inline}: {cold} waits, {warm} when the file is cached");
                crate::faults::forget_cached(file.as_raw_fd());
            }
        }
        over.set(true);
        busy.await?;
        Ok::<_, io::Error>(())
    });
}
