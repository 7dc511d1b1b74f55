//! Errors that may be cancellations, through `?` and out of groups.

use std::error::Error;
use std::io;

use proactor::cancel::{
    CancelScope, ErrorGroup, checkpoint, fail_after, move_on_after, shielded, sleep_forever, task_group,
};
use proactor::net::UnixStream;
use proactor::{Cancelled, Failed, JoinError, MayBeCancelled, TimedOut, sleep, spawn, timeout};

use crate::cancel::{LONG, Log, ms, virtually, yields};
use crate::harness::{Cx, both_drivers};

both_drivers!(
    a_cancellation_travels_as_an_io_error,
    a_cancellation_travels_in_a_box,
    a_cancellation_travels_in_a_box_that_can_be_sent,
    a_cancellation_travels_in_an_enum_of_the_program,
    a_cancellation_travels_with_a_context_around_it,
    a_failed_operation_with_its_buffer_carries_it_too,
    a_timeout_is_no_cancellation,
    a_join_error_of_a_cancelled_task_is_no_cancellation,
    an_error_of_the_same_kind_is_no_cancellation,
    all_errors_reach_the_caller_in_their_order,
    errors_of_the_clean_up_are_among_them,
    an_error_in_a_child_while_another_cleans_up_is_among_them,
    the_error_of_the_body_is_among_them,
    nested_groups_that_fail_at_once_show_all_leaves,
    leaves_see_through_boxes,
    one_error_of_a_group_becomes_itself,
    several_errors_of_a_group_become_one_that_holds_them,
    a_cancelled_group_is_a_cancellation_and_holds_no_errors,
    a_group_that_failed_is_no_cancellation_although_it_was_cancelled_too,
    errors_can_be_taken_out,
    a_group_of_an_enum_of_the_program,
    errors_say_what_happened,
);

/// An error as a program has one.
#[derive(Debug)]
enum Trouble {
    Cancelled(Cancelled),
    Io(io::Error),
    Domain(&'static str),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Domain(text) => f.write_str(text),
        }
    }
}

/// As `#[error(transparent)]` of `thiserror` writes it: the sources of the inner error, not the error itself.
impl Error for Trouble {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cancelled(error) => error.source(),
            Self::Io(error) => error.source(),
            Self::Domain(_) => None,
        }
    }
}

impl From<Cancelled> for Trouble {
    fn from(error: Cancelled) -> Self {
        Self::Cancelled(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl MayBeCancelled for Trouble {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

/// DESIGN §4: `Cancelled` converts into an `io::Error` of kind `Other`, never `Interrupted`.
fn a_cancellation_travels_as_an_io_error(cx: Cx) {
    virtually(cx, async {
        let outcome = move_on_after(ms(1), async {
            let error: io::Error = sleep(LONG).await.expect_err("cancelled").into();
            assert_eq!(error.kind(), io::ErrorKind::Other);
            assert!(error.is_cancelled());
            Err::<(), _>(error)
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// The same, in `Box<dyn Error>`.
fn a_cancellation_travels_in_a_box(cx: Cx) {
    virtually(cx, async {
        for wrapped in [false, true] {
            let outcome = move_on_after(ms(1), async {
                let slept = sleep(LONG).await;
                if wrapped {
                    slept.map_err(io::Error::from)?
                } else {
                    slept?
                }
                Ok::<_, Box<dyn Error>>(())
            });
            assert!(outcome.await.expect("caught").is_none());
        }
        let passed = move_on_after(ms(1), async { Err::<(), Box<dyn Error>>("a text".into()) }).await;
        assert_eq!(passed.expect_err("its own error").to_string(), "a text");
        Ok::<_, io::Error>(())
    });
}

/// The same, in a box that may go to other threads.
fn a_cancellation_travels_in_a_box_that_can_be_sent(cx: Cx) {
    virtually(cx, async {
        let outcome = move_on_after(ms(1), async {
            sleep(LONG).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
        assert!(outcome.await.expect("caught").is_none());
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4: "one line for a user's enum"; `transparent` variants hide the error, but not its sources.
fn a_cancellation_travels_in_an_enum_of_the_program(cx: Cx) {
    virtually(cx, async {
        let direct = move_on_after(ms(1), async { Ok::<_, Trouble>(sleep(LONG).await?) });
        assert!(direct.await.expect("caught").is_none());
        let through_io = move_on_after(ms(1), async {
            sleep(LONG).await.map_err(io::Error::from)?;
            Ok::<_, Trouble>(())
        });
        assert!(through_io.await.expect("caught").is_none());
        let failed = move_on_after(ms(1), async {
            let _ = sleep(LONG).await;
            Err::<(), _>(Trouble::Domain("no such user"))
        });
        assert_eq!(failed.await.expect_err("its own error").to_string(), "no such user");
        Ok::<_, io::Error>(())
    });
}

/// The trait's documentation: along `source`.
fn a_cancellation_travels_with_a_context_around_it(cx: Cx) {
    #[derive(Debug)]
    struct Context(Box<dyn Error + Send + Sync>);
    impl std::fmt::Display for Context {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("while it slept")
        }
    }
    impl Error for Context {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }
    virtually(cx, async {
        let outcome = move_on_after(ms(1), async {
            let slept = sleep(LONG).await.map_err(io::Error::from);
            slept.map_err(|error| io::Error::other(Context(Box::new(Context(error.into())))))
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §7: errors with an owned buffer convert with `?`.
fn a_failed_operation_with_its_buffer_carries_it_too(cx: Cx) {
    cx.run(async {
        let (a, _b) = UnixStream::pair()?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel_with("enough");
            let failed: Failed<Vec<u8>> = a.receive_into(vec![7; 3]).await.expect_err("cancelled");
            assert!(failed.error.is_cancelled());
            assert_eq!((failed.buf.capacity(), failed.done), (3, 0));
            Err::<(), io::Error>(failed.into())
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// PARITY X1 and X2: two outcomes.
fn a_timeout_is_no_cancellation(cx: Cx) {
    virtually(cx, async {
        let inner = CancelScope::new();
        let outcome = inner.run(async {
            let limited = fail_after(ms(1), async { Ok::<_, io::Error>(sleep_forever().await.map(drop)?) });
            let error = limited.await.expect_err("timed out");
            assert!(!error.is_cancelled());
            inner.cancel();
            Err::<(), _>(error)
        });
        assert_eq!(outcome.await.expect_err("it passes").kind(), io::ErrorKind::TimedOut);
        assert_eq!(timeout(ms(1), sleep(LONG)).await, Err(TimedOut::default()));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 7.
fn a_join_error_of_a_cancelled_task_is_no_cancellation(cx: Cx) {
    cx.run(async {
        let task = spawn(std::future::pending::<()>());
        task.cancel("stop");
        let error = task.await.expect_err("cancelled");
        assert!(matches!(error, JoinError::Cancelled(_)));
        assert!(!io::Error::from(error).is_cancelled());
        Ok::<_, io::Error>(())
    });
}

/// Told by the type, not by kind or text.
fn an_error_of_the_same_kind_is_no_cancellation(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            Err::<(), _>(io::Error::other("cancelled"))
        });
        assert_eq!(outcome.await.expect_err("it passes").to_string(), "cancelled");
        let os = io::Error::from_raw_os_error(libc::ECANCELED);
        assert!(!os.is_cancelled());
        Ok::<_, io::Error>(())
    });
}

/// PARITY S3 and X11: all errors reach the caller.
fn all_errors_reach_the_caller_in_their_order(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            for number in 0..5 {
                group.start_soon(async move { Err(io::Error::other(format!("error {number}"))) });
            }
            Ok::<_, io::Error>(())
        });
        let error = failed.await.expect_err("five errors");
        let texts: Vec<_> = error.errors().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["error 0", "error 1", "error 2", "error 3", "error 4"]);
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, "Task groups": what the remaining tasks raise is combined with it.
fn errors_of_the_clean_up_are_among_them(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            group.start_soon(async {
                let _ = sleep(LONG).await;
                shielded(yields(3)).await;
                Err(io::Error::other("clean-up"))
            });
            group.start_soon(async {
                checkpoint().await?;
                Err(io::Error::other("cause"))
            });
            Ok::<_, io::Error>(())
        });
        let error = failed.await.expect_err("two errors");
        let texts: Vec<_> = error.errors().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["cause", "clean-up"]);
        Ok::<_, io::Error>(())
    });
}

/// The same, from somebody who neither failed first nor cleans up longest.
fn an_error_in_a_child_while_another_cleans_up_is_among_them(cx: Cx) {
    cx.run(async {
        let log = Log::default();
        let failed = task_group(async |group| {
            let notes = log.clone();
            group.start_soon(async move {
                let slept = sleep(LONG).await;
                shielded(yields(20)).await;
                notes.note("long clean-up");
                Ok(slept?)
            });
            group.start_soon(async {
                let _ = sleep(LONG).await;
                shielded(yields(5)).await;
                Err(io::Error::other("meanwhile"))
            });
            group.start_soon(async { Err(io::Error::other("cause")) });
            Ok::<_, io::Error>(())
        });
        assert_eq!(failed.await.expect_err("two errors").errors().len(), 2);
        log.expect(&["long clean-up"]);
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs: the host task's exception and those of the children, in one group.
fn the_error_of_the_body_is_among_them(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            group.start_soon(async { Err(io::Error::other("child")) });
            let _ = sleep(LONG).await;
            Err::<(), _>(io::Error::other("body"))
        });
        let error = failed.await.expect_err("two errors");
        assert_eq!(error.to_string(), "2 errors in a task group: child; body");
        Ok::<_, io::Error>(())
    });
}

/// AnyIO docs, "Handling multiple errors in a task group": groups within groups.
fn nested_groups_that_fail_at_once_show_all_leaves(cx: Cx) {
    async fn inner(name: &'static str) -> io::Result<()> {
        let group = task_group(async |group| {
            for number in 0..2 {
                group.start_soon(async move { Err(io::Error::other(format!("{name}{number}"))) });
            }
            Ok::<_, io::Error>(())
        });
        Ok(group.await.map(drop)?)
    }
    cx.run(async {
        let failed = task_group(async |group| {
            group.start_soon(inner("a"));
            group.start_soon(inner("b"));
            group.start_soon(async { Err(io::Error::other("c")) });
            Ok::<_, io::Error>(())
        });
        let error = failed.await.expect_err("errors");
        let mut texts: Vec<_> = error.leaves().iter().map(ToString::to_string).collect();
        texts.sort();
        assert_eq!(texts, ["a0", "a1", "b0", "b1", "c"]);
        Ok::<_, io::Error>(())
    });
}

/// PARITY X11: "one error that can be walked".
fn leaves_see_through_boxes(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |outer| {
            outer.start_soon(async {
                task_group(async |inner| {
                    inner.start_soon(async { Err("one".into()) });
                    inner.start_soon(async { Err("two".into()) });
                    Ok::<_, Box<dyn Error>>(())
                })
                .await?;
                Ok(())
            });
            Ok::<_, Box<dyn Error>>(())
        });
        let error = failed.await.expect_err("errors");
        let texts: Vec<_> = error.leaves().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["one", "two"]);
        Ok::<_, io::Error>(())
    });
}

fn failed_with(texts: &'static [&'static str]) -> impl Future<Output = ErrorGroup<io::Error>> {
    async move {
        let group = task_group(async |group| {
            for text in texts {
                group.start_soon(async { Err(io::Error::new(io::ErrorKind::AddrInUse, *text)) });
            }
            Ok::<_, io::Error>(())
        });
        group.await.expect_err("a failure")
    }
}

/// The documentation of `ErrorGroup`: "one error into itself".
fn one_error_of_a_group_becomes_itself(cx: Cx) {
    cx.run(async {
        let error = io::Error::from(failed_with(&["taken"]).await);
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::AddrInUse, "taken"));
        Ok::<_, io::Error>(())
    });
}

/// The same: "several into one that holds them all".
fn several_errors_of_a_group_become_one_that_holds_them(cx: Cx) {
    cx.run(async {
        let error = io::Error::from(failed_with(&["one", "two", "three"]).await);
        assert_eq!(error.to_string(), "3 errors in a task group: one; two; three");
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ErrorGroup<io::Error>>());
        assert_eq!(inner.expect("the group").errors().len(), 3);
        assert!(!error.is_cancelled());
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4: only what was cut short from outside.
fn a_cancelled_group_is_a_cancellation_and_holds_no_errors(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel_with("why");
            let error = task_group(async |_| Ok::<_, io::Error>(checkpoint().await?)).await.expect_err("cut");
            assert!(error.is_cancelled() && error.errors().is_empty() && error.leaves().is_empty());
            let source = error.source().and_then(|source| source.downcast_ref::<Cancelled>());
            assert_eq!(source.and_then(Cancelled::message), Some("why"));
            let error = io::Error::from(error);
            assert!(error.is_cancelled());
            Err::<(), _>(error)
        });
        assert!(outcome.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, "Task groups": real errors win over a cancellation from outside.
fn a_group_that_failed_is_no_cancellation_although_it_was_cancelled_too(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let group = task_group(async |group| {
                group.start_soon(async {
                    let _ = sleep(LONG).await;
                    Err(io::Error::other("broke while it was cancelled"))
                });
                Ok::<_, io::Error>(checkpoint().await?)
            });
            scope.cancel();
            Ok::<_, io::Error>(group.await?)
        });
        assert_eq!(outcome.await.expect_err("it passes").to_string(), "broke while it was cancelled");
        assert!(scope.cancel_called() && !scope.cancelled_caught());
        Ok::<_, io::Error>(())
    });
}

/// PARITY X11.
fn errors_can_be_taken_out(cx: Cx) {
    cx.run(async {
        let errors = failed_with(&["one", "two"]).await.into_errors();
        assert!(errors.iter().all(|error| error.kind() == io::ErrorKind::AddrInUse));
        assert_eq!(errors.len(), 2);
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4, for a group: a child's cancellation in the program's own type is no failure, its other errors are.
fn a_group_of_an_enum_of_the_program(cx: Cx) {
    cx.run(async {
        let failed = task_group(async |group| {
            group.start_soon(async { Ok(sleep(LONG).await?) });
            group.start_soon(async {
                checkpoint().await?;
                Err(Trouble::Domain("domain"))
            });
            Ok::<_, Trouble>(())
        });
        let error = failed.await.expect_err("a failure");
        assert!(matches!(error.errors(), [Trouble::Domain("domain")]), "{error:?}");
        Ok::<_, io::Error>(())
    });
}

/// What a person reads.
fn errors_say_what_happened(cx: Cx) {
    cx.run(async {
        let error = failed_with(&["one", "two"]).await;
        assert_eq!(error.to_string(), "2 errors in a task group: one; two");
        assert!(format!("{error:?}").contains("\"two\""), "{error:?}");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("one"));
        assert_eq!(Cancelled::default().to_string(), "cancelled");
        Ok::<_, io::Error>(())
    });
}
