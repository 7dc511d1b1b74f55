//! Waits for a descriptor, and `AsyncFd`.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use proactor::cancel::move_on_after;
use proactor::compat::{AsyncFd, add_reader, remove_reader, wait_readable, wait_writable};
use proactor::{MayBeCancelled, event_loop, nop, sleep, spawn, yield_now};

use crate::compat::{enters_during, is_busy, nap, pair};
use crate::harness::{Cx, Folder, both_drivers, turns};

both_drivers!(
    a_wait_ends_when_the_descriptor_is_ready,
    a_second_wait_is_told_that_the_descriptor_is_busy,
    a_wait_and_a_callback_exclude_each_other,
    a_wait_that_is_dropped_or_cancelled_is_gone,
    an_async_fd_waits_only_when_there_is_nothing,
    an_async_fd_writes_when_there_is_room,
    an_async_fd_whose_operations_always_succeed_starves_nobody,
    an_async_fd_of_a_regular_file_is_an_error,
);

fn a_wait_ends_when_the_descriptor_is_ready(cx: Cx) {
    cx.run(async {
        let (mut ours, mut theirs) = pair();
        let waiting = spawn(wait_readable(&ours));
        turns(5).await;
        assert!(!waiting.is_finished());
        theirs.write_all(b"!")?;
        waiting.await??;
        // Ready already.
        wait_readable(&ours).await?;
        ours.read_exact(&mut [0])?;
        wait_writable(&ours).await?;
        let (reading, writing) = (spawn(wait_readable(&ours)), spawn(wait_writable(&ours)));
        writing.await??;
        assert!(!reading.is_finished());
        drop(theirs);
        reading.await??;
        Ok::<_, io::Error>(())
    });
}

fn a_second_wait_is_told_that_the_descriptor_is_busy(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let first = spawn(wait_readable(&ours));
        turns(2).await;
        let error = wait_readable(&ours).await.expect_err("another waits");
        assert!(is_busy(&error), "{error}");
        assert!(error.to_string().contains("waiting to read from"), "{error}");
        // The other direction is free.
        wait_writable(&ours).await?;
        theirs.write_all(b"!")?;
        first.await??;
        wait_readable(&ours).await?;
        Ok::<_, io::Error>(())
    });
}

fn a_wait_and_a_callback_exclude_each_other(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let waiting = spawn(wait_readable(&ours));
        turns(2).await;
        assert!(is_busy(&add_reader(&ours, || ()).expect_err("a task waits")));
        assert!(!remove_reader(&ours)?, "a wait is no reader");
        theirs.write_all(b"!")?;
        waiting.await??;
        add_reader(&ours, || ())?;
        assert!(is_busy(&wait_readable(&ours).await.expect_err("there is a reader")));
        assert!(remove_reader(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn a_wait_that_is_dropped_or_cancelled_is_gone(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let cut = move_on_after(Duration::from_millis(1), wait_readable(&ours)).await?;
        assert!(cut.is_none(), "nothing came");
        let waiting = spawn(wait_readable(&ours));
        turns(2).await;
        waiting.cancel("enough");
        assert!(waiting.await?.expect_err("it was cancelled").is_cancelled());
        let mut dropped = Box::pin(wait_readable(&ours));
        assert!(futures_util::poll!(dropped.as_mut()).is_pending());
        drop(dropped);
        // Neither is busy, nor does the loop turn for it.
        theirs.write_all(b"!")?;
        turns(3).await;
        let idle = enters_during(nap()).await;
        assert!(idle < 10, "{idle} turns for waits that are gone");
        wait_readable(&ours).await?;
        Ok::<_, io::Error>(())
    });
}

fn an_async_fd_waits_only_when_there_is_nothing(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let ours = AsyncFd::new(ours)?;
        let mut bytes = [0; 3];
        let reading = spawn(async move {
            let count = ours.when_readable(|mut socket| socket.read(&mut bytes)).await?;
            Ok::<_, io::Error>((ours, bytes[..count].to_vec()))
        });
        turns(3).await;
        assert!(!reading.is_finished());
        theirs.write_all(b"abcdef")?;
        let (ours, text) = reading.await??;
        assert_eq!(text, b"abc");
        // Known to be ready, until it is found that it is not.
        let guard = ours.readable().await?;
        assert_eq!(guard.try_io(|mut socket| socket.read(&mut bytes)).expect("ready")?, 3);
        assert_eq!(&bytes, b"def");
        assert!(guard.try_io(|mut socket| socket.read(&mut bytes)).is_err());
        assert!(move_on_after(Duration::from_millis(1), ours.readable()).await?.is_none());
        theirs.write_all(b"g")?;
        let guard = ours.readable().await?;
        guard.clear_ready();
        // It is ready all the same.
        let guard = ours.readable().await?;
        assert_eq!(guard.try_io(|mut socket| socket.read(&mut bytes)).expect("ready")?, 1);
        drop(ours.into_inner());
        assert_eq!(theirs.read(&mut bytes)?, 0);
        Ok::<_, io::Error>(())
    });
}

fn an_async_fd_writes_when_there_is_room(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let ours = AsyncFd::new(ours)?;
        let sender = spawn(async move {
            let mut sent = 0;
            while sent < 1 << 20 {
                sent += ours.when_writable(|mut socket| socket.write(&[1; 8192])).await?;
            }
            Ok::<_, io::Error>(sent)
        });
        let theirs_fd = theirs.try_clone()?;
        let (mut received, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            wait_readable(&theirs_fd).await?;
            match theirs.read(&mut buffer)? {
                0 => break,
                count => received += count,
            }
        }
        assert_eq!(sender.await??, received);
        Ok::<_, io::Error>(())
    });
}

fn an_async_fd_whose_operations_always_succeed_starves_nobody(cx: Cx) {
    cx.run(async {
        let (ours, _theirs) = pair();
        let ours = AsyncFd::new(ours)?;
        let stop = Rc::new(Cell::new(false));
        let flag = stop.clone();
        let stopper = spawn(async move {
            sleep(Duration::from_millis(1)).await?;
            nop().await?;
            flag.set(true);
            Ok::<_, io::Error>(())
        });
        while !stop.get() {
            ours.when_writable(|_| Ok(())).await?;
        }
        stopper.await??;
        Ok::<_, io::Error>(())
    });
}

fn an_async_fd_of_a_regular_file_is_an_error(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let file = std::fs::File::create(folder.path("file"))?;
        let error = AsyncFd::new(file).expect_err("a regular file");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let (ours, _theirs) = pair();
        let ours = AsyncFd::new(OwnedFd::from(ours))?;
        assert!(event_loop::call_soon(|| ()).is_ok());
        assert!(ours.as_raw_fd() > 2);
        yield_now().await;
        Ok::<_, io::Error>(())
    });
}
