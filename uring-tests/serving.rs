//! `serve`: a task for each connection, whose end is its own.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proactor::net::{ServeError, TcpListener, TcpStream};
use proactor::{spawn, timeout, yield_now};

use crate::harness::{Cx, both_drivers, until};

both_drivers!(
    an_error_of_a_handler_ends_its_connection_only,
    a_panic_of_a_handler_ends_its_connection_only,
    a_handler_that_panics_before_its_future_is_told_too,
    no_more_connections_are_served_than_allowed,
    a_shutdown_lets_open_connections_finish,
    a_shutdown_ends_what_does_not_finish_in_time,
    a_shutdown_refuses_new_connections,
    connections_go_on_when_the_server_is_dropped,
);

async fn listen() -> io::Result<(Rc<TcpListener>, std::net::SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((Rc::new(listener), address))
}

/// Echoes; `e` is answered with an error, `p` with a panic.
async fn touchy(stream: TcpStream) -> Result<(), String> {
    while let Some(chunk) = stream.receive().await.map_err(|e| e.to_string())? {
        match chunk[0] {
            b'e' => return Err("asked to fail".into()),
            b'p' => panic!("asked to panic"),
            _ => drop(stream.send(chunk).await.map_err(|e| e.to_string())?),
        }
    }
    Ok(())
}

/// Serves `touchy` beside a connection that goes on, and gives what `on_error` heard after `bad` was sent.
fn heard_after(cx: Cx, bad: &'static str) -> Vec<String> {
    cx.run(async {
        let (listener, address) = listen().await?;
        let heard = Rc::new(RefCell::new(Vec::new()));
        let (errors, stop) = (heard.clone(), Rc::new(Cell::new(false)));
        let stopped = stop.clone();
        let server = spawn(async move {
            let on_error = move |error: &ServeError| errors.borrow_mut().push(error.to_string());
            listener.serve(touchy).on_error(on_error).until(until(move || stopped.get())).await
        });
        let good = TcpStream::connect(address).await?;
        let victim = TcpStream::connect(address).await?;
        victim.send(bad).await?;
        assert!(victim.receive().await?.is_none(), "its connection is closed");
        good.send("still").await?;
        assert_eq!(&good.receive().await?.expect("bytes")[..], b"still");
        stop.set(true);
        server.await??;
        Ok::<_, io::Error>(Rc::into_inner(heard).expect("the server is gone").into_inner())
    })
}

fn an_error_of_a_handler_ends_its_connection_only(cx: Cx) {
    assert_eq!(heard_after(cx, "e"), ["connection failed: asked to fail"]);
}

fn a_panic_of_a_handler_ends_its_connection_only(cx: Cx) {
    assert_eq!(heard_after(cx, "p"), ["connection handler panicked: asked to panic"]);
}

fn a_handler_that_panics_before_its_future_is_told_too(cx: Cx) {
    cx.run(async {
        let (listener, address) = listen().await?;
        let client = TcpStream::connect(address).await?;
        let told = Rc::new(Cell::new(0));
        let count = told.clone();
        let handler = |stream: TcpStream| {
            assert!(stream.peer_addr().is_err(), "as the test wants it");
            async { Ok::<_, io::Error>(()) }
        };
        let serve = listener.serve(handler).on_error(move |_| count.set(count.get() + 1));
        serve.until(until(|| told.get() == 1)).await?;
        assert!(client.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn no_more_connections_are_served_than_allowed(cx: Cx) {
    cx.run(async {
        let (listener, address) = listen().await?;
        let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (open, peak) = (now.clone(), most.clone());
        let stop = Rc::new(Cell::new(false));
        let stopped = stop.clone();
        let server = spawn(async move {
            let handler = async move |stream: TcpStream| {
                open.set(open.get() + 1);
                peak.set(peak.get().max(open.get()));
                let chunk = stream.receive().await?;
                stream.send(chunk.expect("bytes")).await?;
                yield_now().await;
                open.set(open.get() - 1);
                Ok::<_, io::Error>(())
            };
            listener.serve(handler).max_connections(3).until(until(move || stopped.get())).await
        });
        let clients: Vec<_> = (0..30)
            .map(|_| {
                spawn(async move {
                    let client = TcpStream::connect(address).await?;
                    client.send("x").await?;
                    client.receive().await
                })
            })
            .collect();
        for client in clients {
            assert_eq!(&client.await??.expect("everybody is served in turn")[..], b"x");
        }
        assert_eq!(most.get(), 3);
        stop.set(true);
        server.await?
    });
}

/// Shuts a server down while one connection is open; gives the server's task and the client.
async fn shut_down(
    drain: Duration,
) -> io::Result<(proactor::Task<io::Result<()>>, TcpStream, std::net::SocketAddr)> {
    let (listener, address) = listen().await?;
    let stop = Rc::new(Cell::new(false));
    let stopped = stop.clone();
    let server = spawn(async move {
        listener.serve(touchy).drain(drain).on_error(|_| ()).until(until(move || stopped.get())).await
    });
    let client = TcpStream::connect(address).await?;
    client.send("open").await?;
    assert!(client.receive().await?.is_some());
    stop.set(true);
    Ok((server, client, address))
}

fn a_shutdown_lets_open_connections_finish(cx: Cx) {
    cx.run(async {
        let (mut server, client, _) = shut_down(Duration::from_secs(60)).await?;
        assert!(timeout(Duration::from_millis(30), &mut server).await.is_err(), "it waits");
        client.send("more").await?;
        assert_eq!(&client.receive().await?.expect("bytes")[..], b"more");
        client.close().await?;
        server.await?
    });
}

fn a_shutdown_ends_what_does_not_finish_in_time(cx: Cx) {
    cx.run(async {
        let (server, client, _) = shut_down(Duration::from_millis(20)).await?;
        server.await??;
        assert!(client.receive().await?.is_none(), "the server has closed");
        Ok::<_, io::Error>(())
    });
}

fn a_shutdown_refuses_new_connections(cx: Cx) {
    cx.run(async {
        let (server, client, address) = shut_down(Duration::from_secs(60)).await?;
        // Who was half-way in when it stopped is reset; then everybody is refused.
        let mut refused = false;
        for _ in 0..1000 {
            let outcome = TcpStream::connect(address).await;
            refused = outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if refused {
                break;
            }
        }
        assert!(refused);
        client.close().await?;
        server.await?
    });
}

fn connections_go_on_when_the_server_is_dropped(cx: Cx) {
    cx.run(async {
        let (listener, address) = listen().await?;
        let client = TcpStream::connect(address).await?;
        client.send("one").await?;
        // Dropped by the time-out, after it has begun to serve.
        let serving = listener.serve(touchy).until(pending::<()>());
        assert!(timeout(Duration::from_millis(200), serving).await.is_err());
        assert_eq!(&client.receive().await?.expect("bytes")[..], b"one");
        client.send("two").await?;
        assert_eq!(&client.receive().await?.expect("bytes")[..], b"two");
        Ok::<_, io::Error>(())
    });
}
