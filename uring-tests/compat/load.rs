//! Many callbacks, and those that do not take what there is: nobody is starved.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proactor::compat::{add_reader, remove_reader};
use proactor::sync::Event;
use proactor::{sleep, spawn, yield_now};

use crate::compat::{Count, enters_during, pair};
use crate::harness::{Cx, both_drivers, many, needs, patience, tcp_pair, turns, until};

both_drivers!(
    a_reader_that_reads_nothing_starves_nobody,
    a_loop_whose_readers_are_removed_sleeps,
    ten_thousand_descriptors_are_told_each,
    one_loop_tells_many_that_are_always_ready_in_turn,
    readers_work_beside_operations_of_the_loop,
);

fn a_reader_that_reads_nothing_starves_nobody(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let count = Count::default();
        add_reader(&ours, count.up())?;
        let (client, server) = tcp_pair().await?;
        let mut task_turns = 0;
        let before = count.get();
        for _ in 0..50 {
            client.send("ping").await?;
            server.send(server.receive().await?.expect("bytes")).await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
            yield_now().await;
            task_turns += 1;
        }
        sleep(Duration::from_millis(2)).await?;
        assert_eq!(task_turns, 50);
        assert!(count.get() > before, "it was called meanwhile");
        assert!(remove_reader(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn a_loop_whose_readers_are_removed_sleeps(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let count = Count::default();
        add_reader(&ours, count.up())?;
        until(|| count.get() > 3).await;
        // A longer nap has more turns only if the loop does not sleep: as long as a slow machine needs for many.
        let mut long = Duration::from_millis(20);
        while enters_during(sleep(long)).await <= 100 {
            long *= 2;
            assert!(long < patience(20), "called in each turn");
        }
        assert!(remove_reader(&ours)?);
        turns(3).await;
        let idle = enters_during(sleep(long)).await;
        assert!(idle < 10, "{idle} turns while nobody is to be told");
        // Nor does it turn for one that has nothing to be told.
        add_reader(&theirs, || panic!("nothing comes"))?;
        turns(3).await;
        let idle = enters_during(sleep(long)).await;
        assert!(idle < 10, "{idle} turns while nothing happens");
        assert!(remove_reader(&theirs)?);
        Ok::<_, io::Error>(())
    });
}

/// A socket that receives what it sends: a descriptor where a pair would take two.
fn to_itself() -> UnixDatagram {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("proactor-{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name).expect("a name");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    socket.connect_addr(&address).expect("to itself");
    socket
}

fn ten_thousand_descriptors_are_told_each(cx: Cx) {
    let all = many(10_000);
    if !needs(all + 50, 200) {
        return;
    }
    cx.run(async {
        let sockets: Vec<_> = (0..all).map(|_| Rc::new(to_itself())).collect();
        let (total, done) = (Count::default(), Event::new());
        for ours in &sockets {
            let (socket, up, total, done) = (ours.clone(), total.up(), total.clone(), done.clone());
            add_reader(&ours.as_raw_fd(), move || {
                assert_eq!(socket.recv(&mut [0; 8]).expect("it is ready"), 1);
                up();
                if total.get() % all == 0 {
                    done.set();
                }
            })?;
        }
        for round in 1..=3 {
            for socket in &sockets {
                socket.send(b"!")?;
            }
            done.wait().await?;
            done.clear();
            assert_eq!(total.get(), round * all);
        }
        for ours in &sockets {
            assert!(remove_reader(&**ours)?);
        }
        Ok::<_, io::Error>(())
    });
}

fn one_loop_tells_many_that_are_always_ready_in_turn(cx: Cx) {
    let all = many(3000);
    if !needs(2 * all + 50, 100) {
        return;
    }
    cx.run(async {
        let pairs: Vec<_> = (0..all).map(|_| pair()).collect();
        let calls = Rc::new(RefCell::new(vec![0; all]));
        for (index, (ours, theirs)) in pairs.iter().enumerate() {
            (&mut &*theirs).write_all(b"!")?;
            let calls = calls.clone();
            add_reader(ours, move || calls.borrow_mut()[index] += 1)?;
        }
        // More than fit into one look at the kernel: nobody has two turns more than another.
        until(|| calls.borrow().iter().all(|count| *count >= 3)).await;
        let (least, most) =
            (*calls.borrow().iter().min().expect("some"), *calls.borrow().iter().max().expect("some"));
        assert!(most <= least + 2, "between {least} and {most} calls");
        for (ours, _) in &pairs {
            assert!(remove_reader(ours)?);
        }
        Ok::<_, io::Error>(())
    });
}

fn readers_work_beside_operations_of_the_loop(cx: Cx) {
    cx.run(async {
        // Callbacks are added and removed while tasks do I/O, in random turns.
        let (client, server) = tcp_pair().await?;
        let echo = spawn(async move {
            while let Some(bytes) = server.receive().await? {
                server.send(bytes).await?;
            }
            Ok::<_, io::Error>(())
        });
        let (ours, mut theirs) = pair();
        let count = Count::default();
        for round in 0..200 {
            let (mut socket, up) = (ours.try_clone()?, count.up());
            add_reader(&ours, move || {
                if socket.read(&mut [0; 8]).is_ok() {
                    up();
                }
            })?;
            theirs.write_all(b"!")?;
            client.send("ping").await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
            until(|| count.get() == round + 1).await;
            assert!(remove_reader(&ours)?);
        }
        drop(client);
        echo.await?
    });
}
