//! What functions over the traits can rely on, statically and through trait objects; typed attributes; listeners.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use proactor::buf::Chunk;
use proactor::cancel::task_group;
use proactor::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::stream::{
    AsyncResource, Attribute, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, DynByteStream,
    DynListener, DynObjectReceiveStream, DynObjectSendStream, Listener, MultiListener, ObjectReceiveStream,
    ObjectSendStream, SocketAttribute, TypedAttributeProvider, memory_object_stream,
};
use proactor::{EventLoop, metrics, spawn};
use socket2::Domain;

use crate::harness::{Cx, Folder, both_drivers, tcp_pair};
use crate::wrappers::{Script, is};

both_drivers!(
    one_function_serves_every_byte_stream,
    the_receive_of_the_trait_copies_nothing,
    a_buffer_comes_back_through_a_trait_object_also_with_an_error,
    memory_streams_are_object_streams,
    sockets_tell_what_they_are,
    a_listener_serves_in_a_group_whose_error_ends_it,
    a_listener_that_runs_out_of_something_goes_on_serving,
    listeners_of_different_kinds_serve_as_one,
    no_listener_of_many_is_starved,
);

/// Sends a greeting, ends, and gives what comes back.
async fn talk(stream: &impl ByteStream) -> io::Result<Vec<u8>> {
    assert_eq!(&stream.send(Bytes::from_static(b"hello")).await?[..], b"hello");
    stream.send_eof().await?;
    let mut all = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        all.extend_from_slice(&chunk);
    }
    stream.aclose().await?;
    Ok(all)
}

async fn echo(stream: impl ByteStream) -> io::Result<()> {
    while let Some(chunk) = stream.receive().await? {
        stream.send(chunk).await?;
    }
    stream.aclose().await
}

fn one_function_serves_every_byte_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let task = spawn(echo(theirs));
        assert_eq!(talk(&ours).await?, b"hello");
        task.await??;

        let folder = Folder::new();
        let listener = UnixListener::bind(folder.path("socket")).await?;
        let ours = UnixStream::connect(folder.path("socket")).await?;
        let task = spawn(echo(listener.accept().await?));
        assert_eq!(talk(&ours).await?, b"hello");
        task.await??;

        let (ours, theirs) = tcp_pair().await?;
        let (ours, theirs): (Box<dyn DynByteStream>, Box<dyn DynByteStream>) =
            (Box::new(ours), Box::new(theirs));
        let task = spawn(echo(theirs));
        assert_eq!(talk(&ours).await?, b"hello");
        task.await??;

        let script = Script::new(["hel", "lo"]);
        assert_eq!(talk(&script).await?, b"hello");
        assert_eq!((&script.sent.borrow()[..], script.closed.get()), (&b"hello"[..], 1));
        Ok::<_, io::Error>(())
    });
}

fn the_receive_of_the_trait_copies_nothing(cx: Cx) {
    async fn receive(stream: &impl ByteReceiveStream) -> io::Result<Chunk> {
        Ok(stream.receive().await?.expect("bytes"))
    }
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        theirs.send(vec![7; 2000]).await?;
        let stream: Box<dyn DynByteStream> = Box::new(ours);
        let chunk = receive(&stream).await?;
        assert_eq!(metrics().buffers_in_use, 1, "the chunk is the kernel's buffer");
        drop(chunk);
        assert_eq!(metrics().buffers_in_use, 0);
        Ok::<_, io::Error>(())
    });
}

fn a_buffer_comes_back_through_a_trait_object_also_with_an_error(cx: Cx) {
    cx.run(async {
        let stream: Box<dyn DynByteStream> = Box::new(Script::default());
        let buf = vec![1, 2, 3];
        let address = buf.as_ptr();
        let buf = stream.send(buf).await?;
        assert_eq!((buf.as_ptr(), &buf[..]), (address, &[1, 2, 3][..]), "the very same");
        stream.send_eof().await?;
        let failed = stream.send(buf).await.expect_err("it was ended");
        assert_eq!((failed.buf.as_ptr(), failed.error.kind()), (address, io::ErrorKind::BrokenPipe));
        Ok::<_, io::Error>(())
    });
}

fn memory_streams_are_object_streams(cx: Cx) {
    async fn count(stream: impl ObjectReceiveStream<Item = u32>) -> io::Result<Vec<u32>> {
        let mut all = Vec::new();
        while let Some(item) = stream.receive().await? {
            all.push(item);
        }
        Ok(all)
    }
    async fn produce(stream: impl ObjectSendStream<Item = u32>) -> io::Result<()> {
        for item in 0..3 {
            stream.send(item).await?;
        }
        stream.aclose().await?;
        stream.aclose().await?;
        let refused = stream.send(9).await.expect_err("it is closed");
        assert_eq!(refused.item, 9);
        Ok(())
    }
    cx.run(async {
        let (sender, receiver) = memory_object_stream(0);
        let task = spawn(produce(sender));
        assert_eq!(count(receiver).await?, [0, 1, 2]);
        task.await??;

        let (sender, receiver) = memory_object_stream(0);
        let sender: Box<dyn DynObjectSendStream<u32>> = Box::new(sender);
        let receiver: Box<dyn DynObjectReceiveStream<u32>> = Box::new(receiver);
        let task = spawn(produce(sender));
        assert_eq!(count(receiver).await?, [0, 1, 2]);
        task.await?
    });
}

fn sockets_tell_what_they_are(cx: Cx) {
    const WEIGHT: Attribute<u8> = Attribute::new("test::WEIGHT");
    struct Wrapped(TcpStream);
    impl TypedAttributeProvider for Wrapped {
        fn extra_attributes(&self) -> Attributes<'_> {
            let inner = self.0.extra_attributes();
            inner.with(WEIGHT, || Some(3)).with(SocketAttribute::REMOTE_PORT, || Some(1))
        }
    }
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        assert_eq!(listener.extra(SocketAttribute::LOCAL_PORT), Ok(address.port()));
        assert!(listener.extra(SocketAttribute::REMOTE_PORT).is_err());
        let stream = TcpStream::connect(address).await?;
        assert_eq!(stream.extra(SocketAttribute::FAMILY), Ok(Domain::IPV4));
        assert_eq!(stream.extra(SocketAttribute::REMOTE_PORT), Ok(address.port()));
        let local = stream.extra(SocketAttribute::LOCAL_ADDRESS).expect("an address");
        assert_eq!(local.as_socket(), Some(stream.local_addr()?));
        let remote = stream.extra(SocketAttribute::REMOTE_ADDRESS).expect("an address");
        assert_eq!(remote.as_socket(), Some(address));
        assert!(stream.extra(SocketAttribute::RAW_SOCKET).is_ok_and(|number| number >= 0));
        let missing = stream.extra(WEIGHT).expect_err("nobody has it");
        assert_eq!(missing.attribute(), "test::WEIGHT");

        let wrapped = Wrapped(stream);
        assert_eq!(wrapped.extra(WEIGHT), Ok(3));
        assert_eq!(wrapped.extra(SocketAttribute::REMOTE_PORT), Ok(1), "the wrapper's own counts");
        assert_eq!(wrapped.extra(SocketAttribute::FAMILY), Ok(Domain::IPV4));
        assert!(wrapped.extra(Attribute::<String>::new("test::WEIGHT")).is_err(), "another type");

        let folder = Folder::new();
        let unix = UnixListener::bind(folder.path("socket")).await?;
        let stream = UnixStream::connect(folder.path("socket")).await?;
        assert_eq!(stream.extra(SocketAttribute::FAMILY), Ok(Domain::UNIX));
        assert!(stream.extra(SocketAttribute::LOCAL_PORT).is_err());
        let remote = stream.extra(SocketAttribute::REMOTE_ADDRESS).expect("an address");
        assert_eq!(remote.as_pathname(), Some(&*folder.path("socket")));
        drop(unix);
        Ok::<_, io::Error>(())
    });
}

/// Brings what is in the list, and then is closed.
struct Scripted(RefCell<VecDeque<io::Result<Script>>>);

impl AsyncResource for Scripted {
    async fn aclose(&self) -> io::Result<()> {
        Ok(())
    }
}

impl TypedAttributeProvider for Scripted {}

impl Listener for Scripted {
    type Stream = Script;

    async fn accept(&self) -> io::Result<Script> {
        let next = self.0.borrow_mut().pop_front();
        next.unwrap_or_else(|| Err(proactor::Closed::new("the script").into()))
    }
}

fn a_listener_that_runs_out_of_something_goes_on_serving(cx: Cx) {
    cx.run(async {
        let heard = Rc::new(Cell::new(0));
        let count = heard.clone();
        EventLoop::running()?.set_exception_handler(Some(Rc::new(move |context| {
            let error = context.error.as_ref().and_then(|error| error.downcast_ref::<io::Error>());
            assert_eq!(error.and_then(io::Error::raw_os_error), Some(24), "EMFILE");
            count.set(count.get() + 1);
        })));
        let full = || Err(io::Error::from_raw_os_error(24));
        let script = [full(), full(), Ok(Script::new(["one"])), full(), Ok(Script::new(["two"]))];
        let listener = Scripted(RefCell::new(script.into_iter().collect()));
        let served = Rc::new(RefCell::new(Vec::new()));
        let log = served.clone();
        let outcome = task_group(async |group| {
            let serve = async move |stream: Script| {
                let received = stream.receive().await?.expect("bytes");
                log.borrow_mut().push(received.to_vec());
                Ok::<_, io::Error>(())
            };
            listener.serve_in(group, serve).await
        });
        let error = outcome.await.expect_err("it is closed in the end");
        assert!(error.errors().iter().any(is::<proactor::Closed>), "{error}");
        assert_eq!((heard.get(), served.borrow().len()), (3, 2));
        EventLoop::running()?.set_exception_handler(None);
        Ok::<_, io::Error>(())
    });
}

fn a_listener_serves_in_a_group_whose_error_ends_it(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let outcome = task_group(async |group| {
            let tasks = group.clone();
            group.start_soon(async move {
                let refuse_x = async |stream: TcpStream| match stream.receive().await? {
                    Some(chunk) if &chunk[..] == b"x" => Err(io::Error::other("an x")),
                    Some(chunk) => stream.send(chunk).await.map(drop).map_err(Into::into),
                    None => Ok(()),
                };
                listener.serve_in(&tasks, refuse_x).await
            });
            for text in ["a", "b", "x"] {
                let stream = TcpStream::connect(address).await?;
                stream.send(text).await?;
                // The group's end cuts the last wait short.
                assert_eq!(&stream.receive().await?.expect("an answer")[..], text.as_bytes());
            }
            Ok::<_, io::Error>(())
        });
        assert_eq!(outcome.await.expect_err("the handler failed").to_string(), "an x");
        Ok::<_, io::Error>(())
    });
}

fn listeners_of_different_kinds_serve_as_one(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let unix = UnixListener::bind(folder.path("socket")).await?;
        let listeners: [Box<dyn DynListener>; 2] = [Box::new(unix), Box::new(tcp)];
        let both = MultiListener::new(listeners);
        assert_eq!(both.extra(SocketAttribute::LOCAL_PORT), Ok(address.port()));
        assert_eq!(both.extra(SocketAttribute::FAMILY), Ok(Domain::IPV4), "of the last one that has it");
        let outcome = task_group(async |group| {
            let tasks = group.clone();
            group.start_soon(async move {
                let served = both.serve_in(&tasks, async |stream| echo(stream).await).await;
                both.aclose().await?;
                served
            });
            assert_eq!(talk(&TcpStream::connect(address).await?).await?, b"hello");
            assert_eq!(talk(&UnixStream::connect(folder.path("socket")).await?).await?, b"hello");
            group.cancel_scope().cancel();
            Ok::<_, io::Error>(())
        });
        outcome.await?;
        Ok::<_, io::Error>(())
    });
}

fn no_listener_of_many_is_starved(cx: Cx) {
    cx.run(async {
        let (first, second) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let addresses = [first.local_addr()?, second.local_addr()?];
        let mut clients = Vec::new();
        for _ in 0..4 {
            for address in addresses {
                clients.push(TcpStream::connect(address).await?);
            }
        }
        let both = MultiListener::new([first, second]);
        let mut from = Vec::new();
        for _ in 0..8 {
            from.push(both.accept().await?.local_addr()?);
        }
        for address in addresses {
            assert!(from[..4].contains(&address), "it has its turn while the other has more");
            assert_eq!(from.iter().filter(|other| **other == address).count(), 4);
        }
        Ok::<_, io::Error>(())
    });
}
