//! Descriptors of the program: readers and writers, waits, and what becomes of them when a descriptor is closed.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proactor::cancel::move_on_after;
use proactor::compat::{
    AsyncFd, add_reader, add_writer, notify_closing, remove_reader, remove_writer, wait_readable,
    wait_writable,
};
use proactor::sync::Event;
use proactor::{MayBeCancelled, event_loop, metrics, nop, sleep, spawn, yield_now};

use crate::harness::{Cx, Folder, both_drivers, many, needs, patience, tcp_pair, turns, until};

both_drivers!(
    a_reader_is_called_in_each_turn_until_everything_is_read,
    a_reader_that_reads_nothing_starves_nobody,
    a_loop_whose_readers_are_removed_sleeps,
    a_second_reader_takes_the_place_of_the_first,
    removing_says_whether_there_was_one,
    a_descriptor_has_a_reader_and_a_writer_and_the_reader_is_first,
    a_writer_is_called_when_there_is_room_again,
    an_end_or_an_error_is_told_to_reader_and_writer,
    a_callback_may_remove_itself,
    a_callback_that_removes_another_of_the_same_turn_is_obeyed,
    a_callback_that_is_replaced_in_the_turn_of_its_event_is_not_called,
    a_callback_may_add_another,
    a_callback_that_panics_is_called_again,
    what_the_kernel_cannot_watch_is_an_error_that_says_so,
    pipes_datagrams_and_epoll_sets_can_be_watched,
    the_peer_of_a_socket_that_is_closed_while_it_is_watched_sees_the_end,
    no_callback_of_a_closed_descriptor_is_called_for_the_next_file_of_its_number,
    a_number_that_is_used_again_can_be_watched_again,
    a_number_that_is_used_again_in_the_turn_of_an_event_gets_no_old_event,
    removing_after_the_close_leaves_the_next_file_alone,
    a_duplicate_keeps_its_callback_until_that_is_removed,
    a_registration_that_nobody_can_remove_is_got_rid_of,
    ten_thousand_descriptors_are_told_each,
    one_loop_tells_many_that_are_always_ready_in_turn,
    callbacks_are_dropped_when_the_loop_closes,
    a_closed_loop_watches_nothing,
    readers_work_beside_operations_of_the_loop,
    a_wait_ends_when_the_descriptor_is_ready,
    a_second_wait_is_told_that_the_descriptor_is_busy,
    a_wait_and_a_callback_exclude_each_other,
    a_wait_is_told_that_its_descriptor_closes,
    a_wait_that_is_dropped_or_cancelled_is_gone,
    waits_of_a_closed_number_end_when_it_is_used_again,
    an_async_fd_waits_only_when_there_is_nothing,
    an_async_fd_writes_when_there_is_room,
    an_async_fd_whose_operations_always_succeed_starves_nobody,
    an_async_fd_of_a_regular_file_is_an_error,
);

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().expect("a pair");
    a.set_nonblocking(true).expect("an option");
    b.set_nonblocking(true).expect("an option");
    (a, b)
}

/// How often something happened.
#[derive(Clone, Default)]
struct Count(Rc<Cell<usize>>);

impl Count {
    fn get(&self) -> usize {
        self.0.get()
    }

    fn up(&self) -> impl Fn() + use<> {
        let count = self.0.clone();
        move || count.set(count.get() + 1)
    }
}

type Log = Rc<RefCell<Vec<&'static str>>>;

fn note(log: &Log, entry: &'static str) -> impl Fn() + use<> {
    let log = log.clone();
    move || log.borrow_mut().push(entry)
}

/// How often the loop asked the kernel while `future` ran.
async fn enters_during<T>(future: impl Future<Output = T>) -> u64 {
    let before = metrics().enters;
    future.await;
    metrics().enters - before
}

async fn nap() {
    sleep(Duration::from_millis(20)).await.expect("nobody cancels");
}

fn a_reader_is_called_in_each_turn_until_everything_is_read(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"abc")?;
        let (mut socket, log) = (ours.try_clone()?, Rc::new(RefCell::new(Vec::new())));
        let read = log.clone();
        add_reader(&ours, move || {
            let mut byte = [0];
            match socket.read(&mut byte) {
                Ok(1) => read.borrow_mut().push(byte[0]),
                other => panic!("it was called with nothing to read: {other:?}"),
            }
        })?;
        until(|| log.borrow().len() == 3).await;
        assert_eq!(*log.borrow(), *b"abc");
        turns(10).await;
        theirs.write_all(b"d")?;
        until(|| log.borrow().len() == 4).await;
        assert!(remove_reader(&ours)?);
        theirs.write_all(b"e")?;
        turns(10).await;
        assert_eq!(*log.borrow(), *b"abcd");
        Ok::<_, io::Error>(())
    });
}

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

fn a_second_reader_takes_the_place_of_the_first(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let (held, first, second) = (Rc::new(()), Count::default(), Count::default());
        let (mine, up) = (held.clone(), first.up());
        add_reader(&ours, move || (&mine, up()).1)?;
        until(|| first.get() > 1).await;
        add_reader(&ours, second.up())?;
        assert_eq!(Rc::strong_count(&held), 1, "the first is dropped");
        let before = first.get();
        until(|| second.get() > 1).await;
        assert_eq!(first.get(), before);
        assert!(remove_reader(&ours)?);
        assert!(!remove_reader(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn removing_says_whether_there_was_one(cx: Cx) {
    cx.run(async {
        let (ours, _theirs) = pair();
        assert!(!remove_reader(&ours)? && !remove_writer(&ours)?);
        add_reader(&ours, || ())?;
        assert!(!remove_writer(&ours)?);
        assert!(remove_reader(&ours)?);
        add_writer(&ours, || ())?;
        assert!(!remove_reader(&ours)?);
        assert!(remove_writer(&ours)?);
        assert!(!remove_reader(&ours)? && !remove_writer(&ours)?);
        assert!(!remove_reader(&-1)? && !remove_writer(&1_000_000)?);
        Ok::<_, io::Error>(())
    });
}

fn a_descriptor_has_a_reader_and_a_writer_and_the_reader_is_first(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let log = Log::default();
        add_writer(&ours, note(&log, "write"))?;
        add_reader(&ours, note(&log, "read"))?;
        until(|| log.borrow().len() >= 6).await;
        assert!(log.borrow().chunks_exact(2).all(|turn| turn == ["read", "write"]), "{log:?}");
        assert!(remove_reader(&ours)?);
        log.borrow_mut().clear();
        until(|| log.borrow().len() >= 3).await;
        assert!(log.borrow().iter().all(|entry| *entry == "write"));
        assert!(remove_writer(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn a_writer_is_called_when_there_is_room_again(cx: Cx) {
    cx.run(async {
        let (mut ours, mut theirs) = pair();
        let block = [7; 4096];
        while ours.write(&block).is_ok() {}
        let count = Count::default();
        add_writer(&ours, count.up())?;
        turns(10).await;
        assert_eq!(count.get(), 0, "there is no room");
        let mut rest = vec![0; 1 << 20];
        while theirs.read(&mut rest).is_ok() {}
        until(|| count.get() > 2).await;
        assert!(remove_writer(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn an_end_or_an_error_is_told_to_reader_and_writer(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let told = |entry: &'static str| {
            let log = log.clone();
            until(move || log.borrow().contains(&entry))
        };
        // The end of a socket.
        let (ours, theirs) = pair();
        add_reader(&ours, note(&log, "socket, read"))?;
        drop(theirs);
        told("socket, read").await;
        assert!(remove_reader(&ours)?);
        add_writer(&ours, note(&log, "socket, write"))?;
        told("socket, write").await;
        assert!(remove_writer(&ours)?);
        // A pipe without a reader is an error to its writer, one without a writer an end to its reader.
        let (reader, writer) = io::pipe()?;
        drop(reader);
        add_writer(&writer, note(&log, "pipe, write"))?;
        told("pipe, write").await;
        assert!(remove_writer(&writer)?);
        let (reader, writer) = io::pipe()?;
        add_reader(&reader, note(&log, "pipe, read"))?;
        turns(3).await;
        assert!(!log.borrow().contains(&"pipe, read"));
        drop(writer);
        told("pipe, read").await;
        assert!(remove_reader(&reader)?);
        Ok::<_, io::Error>(())
    });
}

fn a_callback_may_remove_itself(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let (count, held) = (Count::default(), Rc::new(()));
        let (up, fd, mine) = (count.up(), ours.as_raw_fd(), held.clone());
        add_reader(&ours, move || {
            up();
            assert!(remove_reader(&fd).expect("a loop runs"));
            assert_eq!(Rc::strong_count(&mine), 2, "what runs is whole");
        })?;
        until(|| count.get() == 1).await;
        turns(10).await;
        assert_eq!((count.get(), Rc::strong_count(&held)), (1, 1));
        Ok::<_, io::Error>(())
    });
}

fn a_callback_that_removes_another_of_the_same_turn_is_obeyed(cx: Cx) {
    cx.run(async {
        // Whichever is called first removes the other.
        let (pairs, called) = ([pair(), pair()], Rc::new(RefCell::new(Vec::new())));
        for (index, (ours, _)) in pairs.iter().enumerate() {
            let (other, called) = (pairs[1 - index].0.as_raw_fd(), called.clone());
            let own = ours.as_raw_fd();
            add_reader(ours, move || {
                called.borrow_mut().push(own);
                remove_reader(&other).expect("a loop runs");
            })?;
        }
        // Both are ready before the loop looks.
        for (_, theirs) in &pairs {
            (&mut &*theirs).write_all(b"!")?;
        }
        until(|| called.borrow().len() >= 3).await;
        let first = called.borrow()[0];
        assert!(called.borrow().iter().all(|fd| *fd == first), "{called:?}");
        assert!(remove_reader(&first)?);
        // The same of one descriptor: the reader removes the writer.
        let log = Log::default();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let (fd, read) = (ours.as_raw_fd(), note(&log, "read"));
        add_reader(&ours, move || {
            read();
            remove_writer(&fd).expect("a loop runs");
        })?;
        add_writer(&ours, note(&log, "write"))?;
        until(|| log.borrow().len() >= 3).await;
        assert!(!log.borrow().contains(&"write"), "{log:?}");
        assert!(remove_reader(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn a_callback_that_is_replaced_in_the_turn_of_its_event_is_not_called(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let (fd, shared) = (ours.as_raw_fd(), log.clone());
        add_reader(&ours, move || {
            shared.borrow_mut().push("read");
            add_writer(&fd, note(&shared, "new writer")).expect("it is open");
        })?;
        add_writer(&ours, note(&log, "old writer"))?;
        until(|| log.borrow().len() >= 3).await;
        // Each turn the reader replaces the writer whose event is on its way.
        assert!(log.borrow().iter().all(|entry| *entry == "read"), "{log:?}");
        assert!(remove_reader(&ours)?);
        until(|| log.borrow().contains(&"new writer")).await;
        assert!(!log.borrow().contains(&"old writer"));
        assert!(remove_writer(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn a_callback_may_add_another(cx: Cx) {
    cx.run(async {
        let (first, mut from_first) = pair();
        let (second, mut from_second) = pair();
        from_first.write_all(b"!")?;
        from_second.write_all(b"!")?;
        let count = Count::default();
        let (one, two, up) = (first.as_raw_fd(), second.as_raw_fd(), count.up());
        let mut up = Some(up);
        add_reader(&first, move || {
            assert!(remove_reader(&one).expect("a loop runs"));
            add_reader(&two, up.take().expect("called once")).expect("it is open");
        })?;
        until(|| count.get() > 2).await;
        assert!(!remove_reader(&first)? && remove_reader(&second)?);
        Ok::<_, io::Error>(())
    });
}

fn a_callback_that_panics_is_called_again(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"!")?;
        let count = Count::default();
        let up = count.up();
        add_reader(&ours, move || {
            up();
            std::panic::resume_unwind(Box::new("on purpose"));
        })?;
        until(|| count.get() >= 3).await;
        assert!(remove_reader(&ours)?);
        Ok::<_, io::Error>(())
    });
}

fn what_the_kernel_cannot_watch_is_an_error_that_says_so(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let file = std::fs::File::create(folder.path("file"))?;
        let adds: [fn(&RawFd) -> io::Result<()>; 2] =
            [|fd| add_reader(fd, || ()), |fd| add_writer(fd, || ())];
        for add in adds {
            let error = add(&file.as_raw_fd()).expect_err("a regular file");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("regular files"), "{error}");
            for closed in [-1, 1_000_000] {
                let error = add(&closed).expect_err("it is not open");
                assert_eq!(error.raw_os_error(), Some(libc::EBADF));
            }
        }
        let error = wait_readable(&file).await.expect_err("a regular file");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(!remove_reader(&file)?, "nothing of it is left");
        Ok::<_, io::Error>(())
    });
}

fn pipes_datagrams_and_epoll_sets_can_be_watched(cx: Cx) {
    cx.run(async {
        let count = Count::default();
        let (reader, mut writer) = io::pipe()?;
        add_reader(&reader, count.up())?;
        writer.write_all(b"!")?;
        until(|| count.get() > 0).await;
        assert!(remove_reader(&reader)?);
        let (receiver, sender) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        let count = Count::default();
        add_reader(&receiver, count.up())?;
        turns(3).await;
        assert_eq!(count.get(), 0);
        sender.send_to(b"!", receiver.local_addr()?)?;
        until(|| count.get() > 0).await;
        assert!(remove_reader(&receiver)?);
        Ok::<_, io::Error>(())
    });
}

fn the_peer_of_a_socket_that_is_closed_while_it_is_watched_sees_the_end(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let fd = ours.as_raw_fd();
        add_reader(&fd, || panic!("a closed socket is told nothing"))?;
        let waiting = spawn(wait_writable(&fd));
        turns(3).await;
        assert!(waiting.is_finished(), "there was room");
        drop(ours);
        assert_eq!(theirs.read(&mut [0])?, 0, "nothing holds the socket open");
        turns(10).await;
        assert!(remove_reader(&fd)?, "there was one");
        Ok::<_, io::Error>(())
    });
}

/// Pairs until the first end of one has this number.
fn pair_with_number(number: RawFd) -> ((UnixStream, UnixStream), Vec<UnixStream>) {
    let mut aside = Vec::new();
    for _ in 0..100 {
        let (a, b) = pair();
        if a.as_raw_fd() == number {
            return ((a, b), aside);
        }
        if b.as_raw_fd() == number {
            return ((b, a), aside);
        }
        aside.extend([a, b]);
    }
    panic!("the number {number} was not used again");
}

fn no_callback_of_a_closed_descriptor_is_called_for_the_next_file_of_its_number(cx: Cx) {
    cx.run(async {
        let (old, mut from_old) = pair();
        let fd = old.as_raw_fd();
        add_reader(&old, || panic!("the reader of another file"))?;
        // Never called: there is no room when it is added, and the socket is closed before there is.
        while (&mut &old).write(&[0; 4096]).is_ok() {}
        add_writer(&old, || panic!("the writer of another file"))?;
        turns(3).await;
        drop(old);
        while from_old.read(&mut [0; 65536]).is_ok_and(|count| count > 0) {}
        let ((new, mut from_new), _aside) = pair_with_number(fd);
        from_new.write_all(b"!")?;
        turns(10).await;
        // And those of the new one are called, and no other.
        let count = Count::default();
        add_reader(&new, count.up())?;
        until(|| count.get() > 2).await;
        assert!(!remove_writer(&new)?, "the old writer went with its file");
        assert!(remove_reader(&new)?);
        Ok::<_, io::Error>(())
    });
}

fn a_number_that_is_used_again_can_be_watched_again(cx: Cx) {
    cx.run(async {
        let (first, from_first) = pair();
        let fd = first.as_raw_fd();
        let mut current = (first, from_first);
        let mut aside = Vec::new();
        let held = Rc::new(());
        for round in 0..20 {
            let count = Count::default();
            let (up, mine) = (count.up(), held.clone());
            current.1.write_all(b"!")?;
            add_reader(&current.0, move || (&mine, up()).1)?;
            assert_eq!(Rc::strong_count(&held), 2, "the callback of the file before is dropped");
            until(|| count.get() > 1).await;
            // Closed without a word.
            drop(current);
            turns(round % 3).await;
            let (next, others) = pair_with_number(fd);
            aside.extend(others);
            current = next;
        }
        assert!(remove_reader(&fd)?);
        Ok::<_, io::Error>(())
    });
}

fn a_number_that_is_used_again_in_the_turn_of_an_event_gets_no_old_event(cx: Cx) {
    cx.run(async {
        // Two that are ready in one turn: whichever is called first closes the other, and watches a new file of its
        // number, to which nothing was sent.
        let pairs = [pair(), pair()];
        let numbers = [pairs[0].0.as_raw_fd(), pairs[1].0.as_raw_fd()];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (a, b) in pairs {
            ours.push(Some(a));
            theirs.push(b);
        }
        let ours = Rc::new(RefCell::new(ours));
        let fresh = Rc::new(RefCell::new(Vec::new()));
        let called = Count::default();
        for index in 0..2 {
            let (ours, fresh, up) = (ours.clone(), fresh.clone(), called.up());
            add_reader(&numbers[index], move || {
                up();
                drop(ours.borrow_mut()[1 - index].take().expect("the first of both"));
                let (new, aside) = pair_with_number(numbers[1 - index]);
                add_reader(&new.0, || panic!("an event of another file")).expect("it is open");
                remove_reader(&numbers[index]).expect("a loop runs");
                fresh.borrow_mut().push((new, aside));
            })?;
        }
        for their in &mut theirs {
            their.write_all(b"!")?;
        }
        until(|| called.get() == 1).await;
        turns(10).await;
        let (new, _aside) = fresh.borrow_mut().pop().expect("one was made");
        assert!(remove_reader(&new.0)?);
        Ok::<_, io::Error>(())
    });
}

fn removing_after_the_close_leaves_the_next_file_alone(cx: Cx) {
    cx.run(async {
        let (old, _from_old) = pair();
        let fd = old.as_raw_fd();
        add_reader(&old, || panic!("nothing comes"))?;
        drop(old);
        let ((new, mut from_new), _aside) = pair_with_number(fd);
        // Of the old file; the new one is not watched.
        assert!(remove_reader(&fd)?);
        assert!(!remove_reader(&fd)?);
        let count = Count::default();
        add_reader(&new, count.up())?;
        from_new.write_all(b"!")?;
        until(|| count.get() > 0).await;
        assert!(remove_reader(&fd)?);
        Ok::<_, io::Error>(())
    });
}

fn a_duplicate_keeps_its_callback_until_that_is_removed(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let (fd, kept, count) = (ours.as_raw_fd(), ours.try_clone()?, Count::default());
        add_reader(&ours, count.up())?;
        drop(ours);
        theirs.write_all(b"!")?;
        until(|| count.get() > 0).await;
        assert!(remove_reader(&fd)?);
        // The kernel's registration cannot be removed by this number any more: nobody is told of it all the same, and
        // the loop comes to rest.
        let before = count.get();
        turns(5).await;
        let idle = enters_during(nap()).await;
        assert!(idle < 10, "{idle} turns for a registration that nobody can remove");
        assert_eq!(count.get(), before);
        drop(kept);
        Ok::<_, io::Error>(())
    });
}

fn a_registration_that_nobody_can_remove_is_got_rid_of(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        let (fd, kept) = (ours.as_raw_fd(), ours.try_clone()?);
        add_reader(&ours, || panic!("it was replaced before anything came"))?;
        let (other, mut from_other) = pair();
        let others = Count::default();
        add_reader(&other, others.up())?;
        turns(2).await;
        drop(ours);
        let ((new, mut from_new), _aside) = pair_with_number(fd);
        let count = Count::default();
        add_reader(&new, count.up())?;
        // An event of the file that lives on as `kept`, under the number of `new`.
        theirs.write_all(b"!")?;
        turns(5).await;
        let idle = enters_during(nap()).await;
        assert!(idle < 10, "{idle} turns for a registration that nobody can remove");
        assert_eq!((count.get(), others.get()), (0, 0));
        // The others are watched as before.
        from_new.write_all(b"!")?;
        from_other.write_all(b"!")?;
        until(|| count.get() > 2 && others.get() > 2).await;
        assert!(remove_reader(&new)? && remove_reader(&other)?);
        drop(kept);
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

fn callbacks_are_dropped_when_the_loop_closes(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let (ours, _theirs) = pair();
    let held = Rc::new(());
    let (reader, writer) = (held.clone(), held.clone());
    event_loop.add_reader(&ours, move || panic!("{reader:?} is never called")).expect("it is open");
    event_loop.add_writer(&ours, move || panic!("{writer:?} is never called")).expect("it is open");
    assert_eq!(Rc::strong_count(&held), 3);
    event_loop.close().expect("it closes");
    assert_eq!(Rc::strong_count(&held), 1);
}

fn a_closed_loop_watches_nothing(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let (ours, _theirs) = pair();
    let waiting = event_loop.run_until_complete(async { spawn(wait_readable(&ours)) }).expect("it runs");
    event_loop.close().expect("it closes");
    drop(waiting);
    let error = event_loop.add_reader(&ours, || ()).expect_err("it is closed");
    assert_eq!(error.to_string(), "the event loop is closed");
    assert!(!event_loop.remove_reader(&ours) && !event_loop.remove_writer(&ours));
    assert!(add_reader(&ours, || ()).is_err() && remove_reader(&ours).is_err());
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

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
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

fn a_wait_is_told_that_its_descriptor_closes(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = pair();
        while (&mut &ours).write(&[0; 4096]).is_ok() {}
        let waits = [spawn(wait_readable(&ours)), spawn(wait_writable(&ours))];
        turns(2).await;
        notify_closing(&ours)?;
        drop(ours);
        for wait in waits {
            let error = wait.await?.expect_err("it was closed");
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (io::ErrorKind::NotConnected, "the descriptor is closed")
            );
        }
        while theirs.read(&mut [0; 65536])? > 0 {}
        // Callbacks are removed.
        let (ours, _theirs) = pair();
        add_reader(&ours, || ())?;
        notify_closing(&ours)?;
        assert!(!remove_reader(&ours)?);
        notify_closing(&ours)?;
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

fn waits_of_a_closed_number_end_when_it_is_used_again(cx: Cx) {
    cx.run(async {
        let (ours, _theirs) = pair();
        let fd = ours.as_raw_fd();
        let waiting = spawn(wait_readable(&ours));
        turns(2).await;
        drop(ours);
        let ((new, mut from_new), _aside) = pair_with_number(fd);
        from_new.write_all(b"!")?;
        turns(5).await;
        assert!(!waiting.is_finished(), "the new file is none of its business");
        wait_readable(&new).await?;
        let error = waiting.await?.expect_err("its file is closed");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
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
