//! How connections end: what is on its way still, what is called, and who hears of what goes wrong.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use proactor::buf::Chunk;
use proactor::event_loop::{ExceptionContext, ExceptionKind};
use proactor::net::TcpStream;
use proactor::transport::{
    Protocol, Server, StreamReader, Transport, connect_accepted_socket, create_server,
};
use proactor::{EventLoop, spawn};

use crate::harness::{Cx, both_drivers, tcp_pair, turns, until};

both_drivers!(
    a_send_that_goes_on_by_itself_is_done_before_the_end_of_writing,
    a_send_that_goes_on_by_itself_is_done_before_the_close,
    nothing_is_written_or_called_in_connection_lost,
    the_exception_handler_is_given_what_it_is_about,
    the_debug_mode_tells_of_a_protocol_that_keeps_the_loop_waiting,
    a_connection_that_is_given_up_before_it_is_made_is_closed,
    an_error_whose_text_uses_the_reader_may_do_so,
);

const BIG: usize = 8 << 20;

#[derive(Default)]
struct Quiet {
    lost: Cell<u32>,
    failed: Cell<bool>,
}

impl Protocol for Quiet {
    fn connection_lost(&self, error: Option<io::Error>) {
        self.lost.set(self.lost.get() + 1);
        self.failed.set(error.is_some());
    }
}

async fn count_to_end(stream: &TcpStream) -> io::Result<usize> {
    let mut count = 0;
    while let Some(chunk) = stream.receive().await? {
        count += chunk.len();
    }
    Ok(count)
}

/// A connection with a big send that nobody waits for any more.
async fn with_orphan() -> io::Result<(TcpStream, TcpStream)> {
    let (ours, theirs) = tcp_pair().await?;
    {
        let mut send = pin!(ours.send(vec![7_u8; BIG]));
        assert!(send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it does not fit");
    }
    Ok((ours, theirs))
}

fn a_send_that_goes_on_by_itself_is_done_before_the_end_of_writing(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = with_orphan().await?;
        let (transport, protocol) = connect_accepted_socket(Quiet::default, ours).await?;
        transport.write_eof()?;
        assert_eq!(count_to_end(&theirs).await?, BIG);
        transport.close();
        until(|| protocol.lost.get() == 1).await;
        assert!(!protocol.failed.get());
        Ok::<_, io::Error>(())
    });
}

fn a_send_that_goes_on_by_itself_is_done_before_the_close(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = with_orphan().await?;
        let (transport, protocol) = connect_accepted_socket(Quiet::default, ours).await?;
        transport.close();
        turns(3).await;
        assert_eq!(protocol.lost.get(), 0, "it is sent still");
        assert_eq!(count_to_end(&theirs).await?, BIG);
        until(|| protocol.lost.get() == 1).await;
        assert!(!protocol.failed.get());
        Ok::<_, io::Error>(())
    });
}

/// Writes when it is over.
#[derive(Default)]
struct Late {
    transport: OnceCell<Transport>,
    calls: RefCell<Vec<&'static str>>,
}

impl Protocol for Late {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn connection_lost(&self, _: Option<io::Error>) {
        self.calls.borrow_mut().push("lost");
        let transport = self.transport.get().expect("made");
        transport.write(vec![0; BIG]).expect("it does nothing");
        assert_eq!(transport.write_buffer_size(), 0);
        transport.abort();
        transport.close();
    }
    fn pause_writing(&self) {
        self.calls.borrow_mut().push("pause");
    }
    fn resume_writing(&self) {
        self.calls.borrow_mut().push("resume");
    }
}

fn nothing_is_written_or_called_in_connection_lost(cx: Cx) {
    cx.run(async {
        // Once with something to be sent before, once without.
        for (before, expected) in [(0, &["lost"][..]), (BIG, &["pause", "resume", "lost"])] {
            let (ours, theirs) = tcp_pair().await?;
            let (transport, protocol) = connect_accepted_socket(Late::default, ours).await?;
            transport.write(vec![0; before])?;
            transport.close();
            assert_eq!(count_to_end(&theirs).await?, before);
            until(|| transport.protocol().is_none()).await;
            turns(3).await;
            assert_eq!(*protocol.calls.borrow(), expected);
        }
        Ok::<_, io::Error>(())
    });
}

fn hear() -> io::Result<Rc<RefCell<Vec<ExceptionContext>>>> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let log = heard.clone();
    EventLoop::running()?
        .set_exception_handler(Some(Rc::new(move |context| log.borrow_mut().push(context.clone()))));
    Ok(heard)
}

/// Does something when data comes.
struct At(fn());

impl Protocol for At {
    fn data_received(&self, _: Chunk) {
        (self.0)();
    }
}

fn panics() {
    std::panic::resume_unwind(Box::new("as it was asked"));
}

fn the_exception_handler_is_given_what_it_is_about(cx: Cx) {
    cx.run(async {
        let heard = hear()?;
        let (ours, theirs) = tcp_pair().await?;
        let (transport, _) = connect_accepted_socket(|| At(panics), ours).await?;
        theirs.send("something").await?;
        until(|| transport.protocol().is_none()).await;
        let context = heard.borrow_mut().pop().expect("it heard");
        let about = context.about.expect("it is about something");
        assert_eq!(about.downcast_ref::<Transport>(), Some(&transport));
        let server = create_server(
            || {
                panics();
                At(|| ())
            },
            "127.0.0.1:0",
        );
        let server = server.await?;
        let client = TcpStream::connect(server.sockets()[0].as_ip().expect("TCP")).await?;
        assert!(client.receive().await.ok().flatten().is_none());
        let context = heard.borrow_mut().pop().expect("it heard");
        assert_eq!(context.message, "the protocol factory of a server failed");
        assert!(context.about.is_some_and(|about| about.is::<Server>()));
        server.close();
        server.wait_closed().await?;
        assert!(heard.borrow().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn the_debug_mode_tells_of_a_protocol_that_keeps_the_loop_waiting(cx: Cx) {
    const LONG: Duration = Duration::from_millis(20);
    fn toil() {
        let end = Instant::now() + LONG;
        while Instant::now() < end {}
    }
    cx.run(async {
        let event_loop = EventLoop::running()?;
        event_loop.set_debug(true);
        event_loop.set_slow_callback_duration(LONG);
        let heard = hear()?;
        let (ours, theirs) = tcp_pair().await?;
        let (transport, _) = connect_accepted_socket(|| At(toil), ours).await?;
        spawn(async move { theirs.send("something").await.map(drop) });
        until(|| transport.protocol().is_none()).await;
        let is_slow = |context: &ExceptionContext| {
            context.kind == ExceptionKind::Slow && context.duration.is_some_and(|duration| duration >= LONG)
        };
        assert!(heard.borrow().iter().any(is_slow), "{heard:?}");
        event_loop.set_slow_callback_duration(Duration::from_secs(100));
        Ok::<_, io::Error>(())
    });
}

fn a_connection_that_is_given_up_before_it_is_made_is_closed(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        {
            let mut attach = pin!(connect_accepted_socket(Quiet::default, ours));
            assert!(attach.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(count_to_end(&theirs).await?, 0);
        Ok::<_, io::Error>(())
    });
}

thread_local! {
    static READER: StreamReader = StreamReader::new(10);
}

/// An error whose text sets another error.
#[derive(Debug)]
struct Nosy;

impl std::fmt::Display for Nosy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        READER.with(|reader| reader.set_exception(io::ErrorKind::TimedOut.into()));
        f.write_str("it asked")
    }
}

impl std::error::Error for Nosy {}

fn an_error_whose_text_uses_the_reader_may_do_so(cx: Cx) {
    cx.run(async {
        let reader = READER.with(Clone::clone);
        reader.set_exception(io::Error::other(Nosy));
        assert_eq!(reader.read(1).await.expect_err("the first one").to_string(), "it asked");
        assert_eq!(reader.read(1).await.expect_err("the second one").kind(), io::ErrorKind::TimedOut);
        Ok::<_, io::Error>(())
    });
}
