//! What becomes of callbacks and waits when a descriptor or the loop is closed.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use proactor::compat::{
    add_reader, add_writer, notify_closing, remove_reader, remove_writer, wait_readable, wait_writable,
};
use proactor::spawn;

use crate::compat::{Count, enters_during, nap, pair, pair_with_number};
use crate::harness::{Cx, both_drivers, turns, until};

both_drivers!(
    the_peer_of_a_socket_that_is_closed_while_it_is_watched_sees_the_end,
    no_callback_of_a_closed_descriptor_is_called_for_the_next_file_of_its_number,
    a_number_that_is_used_again_can_be_watched_again,
    a_number_that_is_used_again_in_the_turn_of_an_event_gets_no_old_event,
    removing_after_the_close_leaves_the_next_file_alone,
    a_duplicate_keeps_its_callback_until_that_is_removed,
    a_registration_that_nobody_can_remove_is_got_rid_of,
    callbacks_are_dropped_when_the_loop_closes,
    a_closed_loop_watches_nothing,
    a_wait_is_told_that_its_descriptor_closes,
    waits_of_a_closed_number_end_when_it_is_used_again,
);

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
