//! Every operation, in every stage in which its future can be dropped.
//!
//! What each one does when it succeeds is in the tests of its resource, and which errno it gives in `contract.rs` (C6);
//! here nothing may be left behind, whatever happens to the future: the harness counts operations, buffers, tasks and
//! descriptors after each case.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use proactor::fs::{self, File};
use proactor::net::{self, TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::thread::to_thread;

use crate::harness::{Cx, Folder, both_drivers, tcp_pair, turns};

both_drivers!(
    each_operation_completes,
    each_operation_may_be_dropped_before_it_was_polled,
    each_operation_may_be_dropped_in_flight,
    each_operation_may_be_dropped_when_it_is_done_and_nobody_fetched_it,
    each_operation_may_be_in_flight_when_the_loop_ends,
);

type Operation = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// What the operations of one case use.
struct Things {
    keep: Rc<Keep>,
    tcp: TcpListener,
    unix: UnixListener,
    /// Has bytes to receive.
    near: Rc<TcpStream>,
    file: Rc<File>,
}

/// What stays until an operation is over.
struct Keep {
    folder: Folder,
    far: TcpStream,
}

impl Things {
    async fn new() -> io::Result<Self> {
        let folder = Folder::new();
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let unix = UnixListener::bind(folder.path("socket")).await?;
        let (near, far) = tcp_pair().await?;
        far.send("bytes for the near end").await?;
        let file = File::create(folder.path("file")).await?;
        file.write_at("contents", 0).await?;
        Ok(Self { keep: Rc::new(Keep { folder, far }), tcp, unix, near: Rc::new(near), file: Rc::new(file) })
    }
}

/// The names of all operations.
const ALL: &[&str] = &[
    "nop",
    "sleep",
    "accept",
    "connect",
    "connect by name",
    "connect to one of several",
    "lookup_host",
    "getnameinfo",
    "unix connect",
    "receive",
    "receive_into",
    "send",
    "send_vectored",
    "write and flush",
    "shutdown_write",
    "close",
    "listener close",
    "into_std",
    "open",
    "create",
    "read_at",
    "write_at",
    "file metadata",
    "file close",
    "metadata",
    "to_thread",
];

/// One operation, ready to be polled; it keeps what it uses.
fn operation(name: &str, things: Things) -> Operation {
    let keep = things.keep.clone();
    let bare = bare_operation(name, things);
    Box::pin(async move {
        let outcome = bare.await;
        drop(keep);
        outcome
    })
}

fn bare_operation(name: &str, things: Things) -> Operation {
    let near = things.near.clone();
    let file = things.file.clone();
    let path = things.keep.folder.path("file");
    match name {
        "nop" => Box::pin(proactor::nop()),
        "sleep" => Box::pin(async { Ok(proactor::sleep(Duration::from_millis(1)).await?) }),
        "accept" => Box::pin(async move {
            let _client = TcpStream::connect(things.tcp.local_addr()?).await?;
            things.tcp.accept().await.map(drop)
        }),
        "connect" => Box::pin(async move { TcpStream::connect(things.tcp.local_addr()?).await.map(drop) }),
        "connect by name" => Box::pin(async move {
            TcpStream::connect(("localhost", things.tcp.local_addr()?.port())).await.map(drop)
        }),
        "connect to one of several" => {
            Box::pin(async move { TcpStream::connect(vec![things.tcp.local_addr()?; 3]).await.map(drop) })
        }
        "lookup_host" => Box::pin(async { net::lookup_host("localhost:1").await.map(drop) }),
        "getnameinfo" => Box::pin(async move { net::getnameinfo(things.tcp.local_addr()?).await.map(drop) }),
        "unix connect" => Box::pin(async move {
            let _listener = things.unix;
            UnixStream::connect(things.keep.folder.path("socket")).await.map(drop)
        }),
        "receive" => Box::pin(async move { near.receive().await.map(|chunk| assert!(chunk.is_some())) }),
        "receive_into" => Box::pin(async move {
            let (count, buf) = near.receive_into(Vec::with_capacity(5)).await?;
            assert_eq!((count, &buf[..]), (5, &b"bytes"[..]));
            Ok(())
        }),
        "send" => Box::pin(async move { Ok(drop(near.send(vec![1_u8; 1 << 20]).await?)) }),
        "send_vectored" => {
            Box::pin(async move { Ok(drop(near.send_vectored(vec![vec![1_u8; 1 << 16]; 4]).await?)) })
        }
        "write and flush" => Box::pin(async move {
            near.write("queued")?;
            near.flush().await
        }),
        "shutdown_write" => Box::pin(async move { near.shutdown_write().await }),
        "close" => Box::pin(async move {
            drop(near);
            Rc::into_inner(things.near).expect("nobody else has it").close().await
        }),
        "listener close" => Box::pin(async move {
            drop(TcpStream::connect(things.tcp.local_addr()?).await?);
            things.tcp.close().await
        }),
        "into_std" => Box::pin(async move {
            drop(near);
            Rc::into_inner(things.near).expect("nobody else has it").into_std().await.map(drop)
        }),
        "open" => Box::pin(async move { File::open(path).await.map(drop) }),
        "create" => Box::pin(async move { File::create(things.keep.folder.path("new")).await.map(drop) }),
        "read_at" => Box::pin(async move {
            let (count, buf) = file.read_at(Vec::with_capacity(64), 3).await?;
            assert_eq!((count, &buf[..]), (5, &b"tents"[..]));
            Ok(())
        }),
        "write_at" => Box::pin(async move {
            assert_eq!(file.write_at("more", 8).await?.0, 4);
            Ok(())
        }),
        "file metadata" => {
            Box::pin(async move { file.metadata().await.map(|found| assert!(found.is_file())) })
        }
        "file close" => Box::pin(async move {
            drop(file);
            Rc::into_inner(things.file).expect("nobody else has it").close().await
        }),
        "metadata" => {
            Box::pin(async move { fs::metadata(path).await.map(|found| assert_eq!(found.len(), 8)) })
        }
        "to_thread" => Box::pin(async move { Ok(to_thread::run_sync(move || drop(path)).await?) }),
        other => panic!("there is no operation {other}"),
    }
}

/// The peer's bytes have come when this is done, so that a receive finds some.
async fn prepared(name: &str) -> io::Result<Operation> {
    let things = Things::new().await?;
    turns(2).await;
    Ok(operation(name, things))
}

/// Polls once; true if that was enough.
async fn poll_once(operation: &mut Operation) -> io::Result<bool> {
    poll_fn(|cx| match operation.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| true)),
        Poll::Pending => Poll::Ready(Ok(false)),
    })
    .await
}

/// Runs one case for each operation, each in a loop of its own.
fn for_each(cx: Cx, case: impl AsyncFn(&str) -> io::Result<()>) {
    for name in ALL {
        cx.run(async { case(name).await.map_err(|error| format!("{name}: {error}")) });
    }
}

fn each_operation_completes(cx: Cx) {
    for_each(cx, async |name| {
        let things = Things::new().await?;
        // Somebody reads what the near end sends.
        let keep = things.keep.clone();
        let reader = proactor::spawn(async move { while let Ok(Some(_)) = keep.far.receive().await {} });
        operation(name, things).await?;
        Ok(reader.await?)
    });
}

fn each_operation_may_be_dropped_before_it_was_polled(cx: Cx) {
    for_each(cx, async |name| Ok(drop(prepared(name).await?)));
}

fn each_operation_may_be_dropped_in_flight(cx: Cx) {
    for polls in 1..6 {
        for_each(cx, async |name| {
            let mut operation = prepared(name).await?;
            for _ in 0..polls {
                if poll_once(&mut operation).await? {
                    break;
                }
                if polls > 1 {
                    turns(1).await;
                }
            }
            Ok(())
        });
    }
}

fn each_operation_may_be_dropped_when_it_is_done_and_nobody_fetched_it(cx: Cx) {
    for_each(cx, async |name| {
        let mut operation = prepared(name).await?;
        if !poll_once(&mut operation).await? {
            // Long enough for the kernel and for the pool, as a rule; if not, it is dropped in flight.
            turns(200).await;
        }
        Ok(())
    });
}

fn each_operation_may_be_in_flight_when_the_loop_ends(cx: Cx) {
    for polls in 1..4 {
        for name in ALL {
            let event_loop = cx.builder().build().expect("a loop");
            let mut left = None;
            let outcome = event_loop.run_until_complete(async {
                let mut operation = prepared(name).await?;
                for _ in 0..polls {
                    if poll_once(&mut operation).await? {
                        return Ok(());
                    }
                    turns(1).await;
                }
                left = Some(operation);
                Ok::<_, io::Error>(())
            });
            outcome.expect("the loop runs").unwrap_or_else(|error| panic!("{name}: {error}"));
            event_loop.close().expect("the loop closes");
            // The future of a loop that is gone: dropping it is as good as ever.
            drop(left);
        }
    }
}
