//! Names and connecting: look-ups off the loop, and happy eyeballs over several addresses. Nothing here needs a network.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join;
use futures_util::{FutureExt, poll};
use proactor::cancel::{CancelScope, move_on_after};
use proactor::event_loop::time;
use proactor::net::{
    ConnectFailed, IpVersion, NameError, SocketType, TcpListener, TcpStream, connect_tcp, getaddrinfo,
    getnameinfo, lookup_host,
};
use proactor::{timeout, yield_now};
use socket2::{Domain, Socket, Type};

use crate::harness::{Cx, both_drivers, has_input, open_descriptors, patience, skip, until};

both_drivers!(
    numbers_are_known_at_once,
    a_name_is_looked_up,
    names_beyond_ascii_are_translated,
    the_options_of_a_look_up_count,
    an_error_says_which_name_and_why,
    a_cancelled_look_up_is_not_waited_for,
    an_address_has_a_name,
    the_next_address_is_tried_after_the_delay,
    a_failure_begins_the_next_attempt_at_once,
    an_earlier_attempt_may_still_win,
    the_families_take_turns,
    one_reason_for_all_is_one_error,
    different_reasons_are_all_reported,
    a_connection_comes_from_the_local_address,
    a_time_limit_ends_all_attempts,
    a_cancelled_or_dropped_connect_leaves_no_attempt_behind,
    in_a_cancelled_scope_nobody_is_called,
);

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const DELAY: Duration = Duration::from_millis(250);

/// A socket that is bound and does not listen: its address refuses.
struct Refusing(Socket, SocketAddr);

impl Refusing {
    fn new(ip: IpAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((ip, 0)).into())?;
        let address = socket.local_addr()?.as_socket().expect("it has an IP address");
        Ok(Self(socket, address))
    }
}

/// A listener whose queue is full: whoever connects gets no answer.
struct Silent {
    listener: Refusing,
    _queued: std::net::TcpStream,
}

impl Silent {
    fn new() -> io::Result<Self> {
        let listener = Refusing::new(V4)?;
        // One fits into a queue of length zero.
        listener.0.listen(0)?;
        let queued = std::net::TcpStream::connect(listener.1)?;
        // With a single CPU the client may be connected before its connection is in the queue.
        assert!(has_input(&listener.0, patience(60)), "what connects is queued");
        Ok(Self { listener, _queued: queued })
    }

    fn address(&self) -> SocketAddr {
        self.listener.1
    }
}

/// Runs `main` on a virtual clock.
fn virtually(cx: Cx, main: impl Future<Output = io::Result<()>>) {
    cx.run_with(cx.builder().virtual_clock(true), main);
}

/// How long `future` takes on the clock of the loop.
async fn timed<T>(future: impl Future<Output = T>) -> (Duration, T) {
    let start = time().expect("a loop runs");
    let value = future.await;
    (time().expect("a loop runs") - start, value)
}

fn name_error(error: &io::Error) -> &NameError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.unwrap_or_else(|| panic!("no error of a name: {error}"))
}

fn attempts(error: &io::Error) -> &[(SocketAddr, io::Error)] {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectFailed>());
    inner.unwrap_or_else(|| panic!("not several errors: {error}")).attempts()
}

fn numbers_are_known_at_once(cx: Cx) {
    cx.run(async {
        let at_once = |found: Option<io::Result<Vec<SocketAddr>>>| found.expect("without a thread");
        for (host, ip) in [("127.0.0.1", V4), ("::1", V6), ("１２７.０.０.１", V4)] {
            let found = at_once(lookup_host((host, 80)).now_or_never())?;
            assert_eq!(found, [SocketAddr::from((ip, 80))], "{host}");
        }
        assert_eq!(at_once(lookup_host("[::1]:80").now_or_never())?, [SocketAddr::from((V6, 80))]);
        let zone = at_once(lookup_host(("fe80::1%lo", 80)).now_or_never())?;
        assert!(matches!(zone[..], [SocketAddr::V6(found)] if found.scope_id() > 0), "{zone:?}");
        let found = getaddrinfo("::1", 80).now_or_never().expect("without a thread")?;
        assert!(found.iter().all(|found| found.address == SocketAddr::from((V6, 80))), "{found:?}");
        Ok::<_, io::Error>(())
    });
}

fn a_name_is_looked_up(cx: Cx) {
    cx.run(async {
        let found = lookup_host("localhost:80").await?;
        assert!(found.iter().all(|found| found.ip().is_loopback() && found.port() == 80), "{found:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(("localhost", listener.local_addr()?.port())).await?;
        assert_eq!(client.peer_addr()?, listener.local_addr()?);
        Ok::<_, io::Error>(())
    });
}

fn names_beyond_ascii_are_translated(cx: Cx) {
    cx.run(async {
        let found = lookup_host(("ｌｏｃａｌｈｏｓｔ", 80)).await?;
        assert!(found.iter().all(|found| found.ip().is_loopback()), "{found:?}");
        let long = "ü".repeat(64);
        for host in ["nö such host", "ü..example", &long] {
            let error = lookup_host((host, 80)).now_or_never().expect("at once").expect_err(host);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            assert_eq!((name_error(&error).name(), name_error(&error).code()), (host, None));
        }
        Ok::<_, io::Error>(())
    });
}

fn the_options_of_a_look_up_count(cx: Cx) {
    cx.run(async {
        let found = getaddrinfo("127.0.0.1", 53).await?;
        let kinds: Vec<_> = found.iter().map(|found| found.socket_type).collect();
        assert!(kinds.contains(&SocketType::Stream) && kinds.contains(&SocketType::Datagram), "{kinds:?}");
        let found =
            getaddrinfo("127.0.0.1", 53).socket_type(SocketType::Datagram).canonical_name(true).await?;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].socket_type, SocketType::Datagram);
        assert_eq!(found[0].canonical_name.as_deref(), Some("127.0.0.1"));
        let found = getaddrinfo(None, 80).family(IpVersion::V4).passive(true).await?;
        assert!(found.iter().all(|found| found.address == ([0, 0, 0, 0], 80).into()), "{found:?}");
        let found = getaddrinfo(None, 80).family(IpVersion::V6).await?;
        assert!(found.iter().all(|found| found.address == (V6, 80).into()), "{found:?}");
        Ok::<_, io::Error>(())
    });
}

fn an_error_says_which_name_and_why(cx: Cx) {
    cx.run(async {
        // Whether there is a name server or not: there is no such name.
        let error = lookup_host(("nowhere.invalid", 80)).await.expect_err("no such name");
        assert_eq!(name_error(&error).name(), "nowhere.invalid");
        assert_eq!(name_error(&error).is_temporary(), name_error(&error).code() == Some(libc::EAI_AGAIN));
        assert!(error.to_string().starts_with("cannot look up nowhere.invalid: "), "{error}");
        let error = lookup_host(("", 80)).await.expect_err("no name");
        assert_eq!(
            (error.kind(), name_error(&error).code()),
            (io::ErrorKind::NotFound, Some(libc::EAI_NONAME))
        );
        let error = getaddrinfo("127.0.0.1", "no such service").await.expect_err("no such service");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        let error = getaddrinfo("127.0.0.1", 80).family(IpVersion::V6).await.expect_err("it is IPv4");
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        let error = lookup_host(("with\0zero", 80)).await.expect_err("no text of C");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        let error = lookup_host("neither").await.expect_err("no port");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_look_up_is_not_waited_for(cx: Cx) {
    let descriptors = open_descriptors();
    cx.run(async {
        let scope = CancelScope::new();
        scope.cancel();
        let before = proactor::metrics().in_flight;
        let found = scope.run(lookup_host("localhost:80")).await?;
        assert_eq!((found, proactor::metrics().in_flight), (None, before), "nobody was asked");
        yield_now().await;
        let scope = CancelScope::new();
        let mut look_up = pin!(scope.run(lookup_host("localhost:80")));
        assert!(poll!(&mut look_up).is_pending());
        scope.cancel();
        assert!(matches!(poll!(look_up), Poll::Ready(Ok(None))));
        Ok::<_, io::Error>(())
    });
    // The thread goes on by itself, and closes what it reads a little later.
    let end = Instant::now() + patience(20);
    while open_descriptors() > descriptors && Instant::now() < end {
        std::thread::yield_now();
    }
}

fn an_address_has_a_name(cx: Cx) {
    cx.run(async {
        let address = SocketAddr::from((V6, 80));
        let numbers = getnameinfo(address).numeric_host(true).numeric_service(true);
        let numbers = numbers.now_or_never().expect("without a thread")?;
        assert_eq!(numbers, ("::1".to_owned(), "80".to_owned()));
        let (host, port) = getnameinfo((V4, 80).into()).numeric_service(true).await?;
        assert!(!host.is_empty() && port == "80", "{host} {port}");
        let (host, service) = getnameinfo((V4, 80).into()).numeric_host(true).datagram(true).await?;
        assert!(host == "127.0.0.1" && !service.is_empty(), "{host} {service}");
        let required = getnameinfo((V4, 80).into()).name_required(true).numeric_host(true);
        let error = required.numeric_service(true).await.expect_err("a name and no name");
        assert_eq!(name_error(&error).name(), "127.0.0.1:80");
        Ok::<_, io::Error>(())
    });
}

fn the_next_address_is_tried_after_the_delay(cx: Cx) {
    virtually(cx, async {
        let (a, b) = (Silent::new()?, Silent::new()?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let good = listener.local_addr()?;
        for silent in [vec![], vec![a.address()], vec![a.address(), b.address()]] {
            let count = silent.len() as u32;
            let addresses = [silent, vec![good, a.address()]].concat();
            let (elapsed, client) = timed(TcpStream::connect(addresses.clone())).await;
            assert_eq!((elapsed, client?.peer_addr()?), (DELAY * count, good));
            let delay = Duration::from_secs(3);
            let (elapsed, client) = timed(connect_tcp(addresses).attempt_delay(delay)).await;
            assert_eq!((elapsed, client?.peer_addr()?), (delay * count, good));
        }
        Ok(())
    });
}

fn a_failure_begins_the_next_attempt_at_once(cx: Cx) {
    virtually(cx, async {
        let (silent, refusing) = (Silent::new()?, Refusing::new(V4)?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let good = listener.local_addr()?;
        let (elapsed, client) = timed(TcpStream::connect(vec![refusing.1, refusing.1, good])).await;
        assert_eq!((elapsed, client?.peer_addr()?), (Duration::ZERO, good));
        // The second one fails when it is begun.
        let (elapsed, client) = timed(TcpStream::connect(vec![silent.address(), refusing.1, good])).await;
        assert_eq!((elapsed, client?.peer_addr()?), (DELAY, good));
        // One after the other.
        let one_by_one = connect_tcp(vec![refusing.1, good]).attempt_delay(Duration::MAX);
        assert_eq!(one_by_one.await?.peer_addr()?, good);
        Ok(())
    });
}

fn an_earlier_attempt_may_still_win(cx: Cx) {
    cx.run(async {
        let (first, second) = (Silent::new()?, Silent::new()?);
        let addresses = vec![first.address(), second.address()];
        let before = proactor::metrics().in_flight;
        let connect = connect_tcp(addresses).attempt_delay(Duration::from_millis(1));
        let make_room = async {
            until(|| proactor::metrics().in_flight >= before + 2).await;
            // The kernel knocks again after a second.
            first.listener.0.accept().expect("one is queued");
        };
        let (client, ()) = join(connect, make_room).await;
        assert_eq!(client?.peer_addr()?, first.address());
        Ok::<_, io::Error>(())
    });
}

fn the_families_take_turns(cx: Cx) {
    cx.run(async {
        // Without a local address of their version those of IPv6 fail before anything is sent.
        let [a, b, c] = [Refusing::new(V4)?, Refusing::new(V4)?, Refusing::new(V4)?];
        let [a, b, c, x, y] = [a.1, b.1, c.1, (V6, 1).into(), (V6, 2).into()];
        let given = vec![a, b, c, x, y];
        let orders = [[a, b, c, x, y], [a, x, b, y, c], [a, b, x, c, y], [a, b, c, x, y]];
        for (first_count, expected) in orders.into_iter().enumerate() {
            let connect = connect_tcp(given.clone()).local_addr((V4, 0)).interleave(first_count);
            let error = connect.await.expect_err("nobody listens");
            let order: Vec<_> = attempts(&error).iter().map(|(address, _)| *address).collect();
            assert_eq!(order, expected, "{first_count}");
        }
        let error = connect_tcp(vec![x, y, a, b]).local_addr((V4, 0)).await.expect_err("nobody listens");
        let order: Vec<_> = attempts(&error).iter().map(|(address, _)| *address).collect();
        assert_eq!(order, [x, a, y, b], "the first one's family comes first");
        Ok::<_, io::Error>(())
    });
}

fn one_reason_for_all_is_one_error(cx: Cx) {
    cx.run(async {
        let mut refusing = vec![Refusing::new(V4)?, Refusing::new(V4)?];
        match Refusing::new(V6) {
            Ok(v6) => refusing.push(v6),
            Err(error) => skip(&format!("no IPv6: {error}")),
        }
        for count in 1..=refusing.len() {
            let addresses: Vec<_> = refusing[..count].iter().map(|refusing| refusing.1).collect();
            let error = TcpStream::connect(addresses).await.expect_err("nobody listens");
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
        }
        Ok::<_, io::Error>(())
    });
}

fn different_reasons_are_all_reported(cx: Cx) {
    cx.run(async {
        let refusing = Refusing::new(V4)?;
        let far = SocketAddr::from((V6, 1));
        let connect = connect_tcp(vec![far, refusing.1]).local_addr((V4, 0));
        let error = connect.await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "that of the last one");
        let kinds: Vec<_> =
            attempts(&error).iter().map(|(address, error)| (*address, error.kind())).collect();
        let expected =
            [(far, io::ErrorKind::AddrNotAvailable), (refusing.1, io::ErrorKind::ConnectionRefused)];
        assert_eq!(kinds, expected);
        let text = error.to_string();
        assert!(text.contains("[::1]:1: ") && text.contains(&refusing.1.to_string()), "{text}");
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(libc::ECONNREFUSED));
        Ok::<_, io::Error>(())
    });
}

fn a_connection_comes_from_the_local_address(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = Ipv4Addr::new(127, 0, 0, 2);
        // Those of the other version, and those that cannot be bound, are passed over.
        let taken = Refusing::new(V4)?;
        let local = vec![(V6, 0).into(), taken.1, (near, 0).into()];
        let client = connect_tcp(listener.local_addr()?).local_addr(local).await?;
        assert_eq!(client.local_addr()?.ip(), near);
        assert_eq!(listener.accept().await?.peer_addr()?, client.local_addr()?);
        let error = connect_tcp(listener.local_addr()?).local_addr(taken.1).await.expect_err("it is taken");
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{error}");
        let error = connect_tcp(listener.local_addr()?).local_addr((V6, 0)).await.expect_err("it is IPv6");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
        Ok::<_, io::Error>(())
    });
}

fn a_time_limit_ends_all_attempts(cx: Cx) {
    virtually(cx, async {
        let (a, b) = (Silent::new()?, Silent::new()?);
        let limit = Duration::from_secs(3);
        for addresses in [vec![a.address()], vec![a.address(), b.address()], vec![a.address(); 20]] {
            let (elapsed, client) = timed(connect_tcp(addresses).time_limit(limit)).await;
            let error = client.map(drop).expect_err("nobody answers");
            assert_eq!((elapsed, error.kind()), (limit, io::ErrorKind::TimedOut));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        connect_tcp(listener.local_addr()?).time_limit(limit).await?;
        Ok(())
    });
}

fn a_cancelled_or_dropped_connect_leaves_no_attempt_behind(cx: Cx) {
    virtually(cx, async {
        let (a, b) = (Silent::new()?, Silent::new()?);
        let addresses = vec![a.address(), b.address(), a.address()];
        // While one, two and three are under way.
        for millis in [100, 300, 3000] {
            let limit = Duration::from_millis(millis);
            let (elapsed, client) = timed(move_on_after(limit, TcpStream::connect(addresses.clone()))).await;
            assert!(matches!(client, Ok(None)), "{client:?}");
            assert_eq!(elapsed, limit);
            let (elapsed, client) = timed(timeout(limit, TcpStream::connect(addresses.clone()))).await;
            assert!(client.is_err(), "{client:?}");
            assert_eq!(elapsed, limit);
        }
        Ok(())
    });
}

fn in_a_cancelled_scope_nobody_is_called(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let scope = CancelScope::new();
        scope.cancel();
        let client = scope.run(TcpStream::connect(vec![listener.local_addr()?; 3])).await?;
        assert!(client.is_none());
        assert!(listener.accept().now_or_never().is_none());
        Ok::<_, io::Error>(())
    });
}
