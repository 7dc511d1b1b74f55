//! Readers and writers: when they are called, and what they may do.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use proactor::compat::{add_reader, add_writer, remove_reader, remove_writer, wait_readable};

use crate::compat::{Count, Log, note, pair};
use crate::harness::{Cx, Folder, both_drivers, turns, until};

both_drivers!(
    a_reader_is_called_in_each_turn_until_everything_is_read,
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
);

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
