//! `ResourceGuard`.

use std::io;

use proactor::spawn;
use proactor::sync::{Event, ResourceGuard};

use super::settle;
use crate::harness::{Cx, both_drivers};

both_drivers!(
    a_second_user_is_told_that_it_is_busy_and_with_what,
    it_says_using_by_default,
    it_is_free_again_when_the_use_ends,
    a_task_that_panics_ends_its_use,
);

// AnyIO, ResourceGuard: BusyResourceError, with the action.
fn a_second_user_is_told_that_it_is_busy_and_with_what(cx: Cx) {
    cx.run(async {
        let guard = ResourceGuard::new("reading from");
        let (over, other) = (Event::new(), guard.clone());
        let end = over.clone();
        let task = spawn(async move {
            let _reading = other.enter()?;
            end.wait().await?;
            Ok::<_, io::Error>(())
        });
        settle().await;
        let busy = guard.enter().expect_err("the task uses it");
        assert_eq!(busy.action(), "reading from");
        assert_eq!(busy.to_string(), "another task is already reading from this object");
        assert_eq!(io::Error::from(busy).kind(), io::ErrorKind::ResourceBusy);
        over.set();
        task.await??;
        drop(guard.enter()?);
        Ok::<_, io::Error>(())
    });
}

// AnyIO, ResourceGuard(action='using').
fn it_says_using_by_default(cx: Cx) {
    cx.run(async {
        let guard = ResourceGuard::default();
        let _in_use = guard.enter()?;
        assert_eq!(guard.enter().map_err(|busy| busy.action()).err(), Some("using"));
        Ok::<_, io::Error>(())
    });
}

fn it_is_free_again_when_the_use_ends(cx: Cx) {
    cx.run(async {
        let guard = ResourceGuard::default();
        let in_use = guard.enter()?;
        assert!(guard.enter().is_err());
        assert!(guard.enter().is_err(), "an error changes nothing");
        drop(in_use);
        drop(guard.enter()?);
        drop(guard.enter()?);
        Ok::<_, io::Error>(())
    });
}

fn a_task_that_panics_ends_its_use(cx: Cx) {
    cx.run(async {
        let guard = ResourceGuard::default();
        let other = guard.clone();
        let task = spawn(async move {
            let _in_use = other.enter();
            panic!("while using it");
        });
        assert!(task.await.is_err());
        drop(guard.enter()?);
        Ok::<_, io::Error>(())
    });
}
