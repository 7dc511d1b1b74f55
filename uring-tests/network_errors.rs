//! What the network says of datagrams that nobody took.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::poll;
use proactor::cancel::move_on_after;
use proactor::net::{ErrorOrigin, NetworkError, UdpSocket};
use proactor::stream::AsyncResource;
use proactor::{Closed, metrics, spawn};

use crate::harness::{Cx, both_drivers, skip, turns, until};
use crate::wrappers::is;

both_drivers!(
    an_unconnected_socket_is_told_whom_an_error_concerns,
    errors_disturb_neither_receives_nor_sends,
    a_connected_socket_is_told_there_and_nowhere_else,
    a_cancelled_or_dropped_wait_loses_no_error,
    one_task_waits_and_another_is_told_so,
    who_does_not_ask_is_not_told,
    closing_tells_who_waits_for_errors,
);

/// An address that nobody listens at.
async fn nobody(any: &str) -> io::Result<SocketAddr> {
    let gone = UdpSocket::bind(any).await?;
    let address = gone.local_addr()?;
    gone.close().await?;
    Ok(address)
}

#[track_caller]
fn assert_refused(error: &NetworkError, destination: SocketAddr, payload: &[u8]) {
    assert_eq!((error.errno, error.destination), (libc::ECONNREFUSED, destination), "{error:?}");
    let (icmp, icmp_v6) = (ErrorOrigin::Icmp { kind: 3, code: 3 }, ErrorOrigin::IcmpV6 { kind: 1, code: 4 });
    assert_eq!(error.origin, if destination.is_ipv4() { icmp } else { icmp_v6 });
    assert_eq!(error.reporter, Some(destination.ip()));
    assert_eq!((&error.payload[..], error.mtu), (payload, None));
    assert_eq!(error.to_io_error().kind(), io::ErrorKind::ConnectionRefused);
}

fn an_unconnected_socket_is_told_whom_an_error_concerns(cx: Cx) {
    cx.run(async {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let socket = match UdpSocket::bind(any).await {
                Ok(socket) => socket,
                Err(error) if any.starts_with('[') => {
                    skip(&format!("there is no IPv6 here: {error}"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            socket.set_receive_errors(true)?;
            let gone = [nobody(any).await?, nobody(any).await?, nobody(any).await?];
            for (number, address) in gone.iter().enumerate() {
                socket.send_to(vec![number as u8; 10 + number], *address).await?;
            }
            for (number, address) in gone.iter().enumerate() {
                assert_refused(&socket.receive_error().await?, *address, &vec![number as u8; 10 + number]);
            }
        }
        Ok::<_, io::Error>(())
    });
}

fn errors_disturb_neither_receives_nor_sends(cx: Cx) {
    cx.run(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await?);
        socket.set_receive_errors(true)?;
        let (gone, friend) = (nobody("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
        let ours = socket.clone();
        let receiver = spawn(async move {
            for round in 0..20_u8 {
                let came = match round % 2 {
                    0 => ours.receive_from().await?.0.to_vec(),
                    _ => ours.receive_into(Vec::with_capacity(8)).await?.1,
                };
                assert_eq!(came, [round]);
            }
            Ok::<_, io::Error>(())
        });
        for round in 0..20_u8 {
            socket.send_to("lost", gone).await?;
            if round % 3 == 0 {
                turns(2).await;
            }
            // The error of the datagram before is not this one's.
            socket.send_to(vec![round], friend.local_addr()?).await?;
            let (bytes, source) = friend.receive_from().await?;
            friend.send_to(bytes, source).await?;
            assert_refused(&socket.receive_error().await?, gone, b"lost");
        }
        receiver.await?
    });
}

fn a_connected_socket_is_told_there_and_nowhere_else(cx: Cx) {
    cx.run(async {
        let gone = nobody("127.0.0.1:0").await?;
        let socket = UdpSocket::connect(gone).await?;
        socket.set_receive_errors(true)?;
        socket.send("anybody?").await?;
        assert_refused(&socket.receive_error().await?, gone, b"anybody?");
        assert!(poll!(pin!(socket.receive())).is_pending());
        turns(3).await;
        assert!(poll!(pin!(socket.receive())).is_pending());
        // Off, receives are told again.
        socket.set_receive_errors(false)?;
        until(|| metrics().in_flight == 1).await;
        let off = socket.receive_error().await.expect_err("off");
        assert_eq!(off.kind(), io::ErrorKind::InvalidInput);
        socket.send("anybody?").await?;
        let told = socket.receive().await.expect_err("nobody");
        assert_eq!(told.kind(), io::ErrorKind::ConnectionRefused);
        // On at once after off, it reads on.
        socket.set_receive_errors(true)?;
        socket.set_receive_errors(false)?;
        socket.set_receive_errors(true)?;
        socket.send("anybody?").await?;
        assert_refused(&socket.receive_error().await?, gone, b"anybody?");
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_or_dropped_wait_loses_no_error(cx: Cx) {
    cx.run(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.set_receive_errors(true)?;
        let gone = nobody("127.0.0.1:0").await?;
        for round in 0..10_u8 {
            let mut waiting = Box::pin(socket.receive_error());
            assert!(poll!(&mut waiting).is_pending());
            if round % 2 == 0 {
                let limited = move_on_after(Duration::ZERO, &mut waiting).await?;
                assert!(limited.is_none());
            }
            socket.send_to(vec![round], gone).await?;
            turns(2).await;
            drop(waiting);
            assert_refused(&socket.receive_error().await?, gone, &[round]);
        }
        Ok::<_, io::Error>(())
    });
}

fn one_task_waits_and_another_is_told_so(cx: Cx) {
    cx.run(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.set_receive_errors(true)?;
        let mut first = pin!(socket.receive_error());
        assert!(poll!(&mut first).is_pending());
        let busy = socket.receive_error().await.expect_err("one waits already");
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        let gone = nobody("127.0.0.1:0").await?;
        socket.send_to("x", gone).await?;
        assert_refused(&first.await?, gone, b"x");
        Ok::<_, io::Error>(())
    });
}

fn who_does_not_ask_is_not_told(cx: Cx) {
    cx.run(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        assert!(socket.receive_error().await.is_err());
        socket.send_to("x", nobody("127.0.0.1:0").await?).await?;
        turns(5).await;
        assert!(poll!(pin!(socket.receive())).is_pending());
        socket.send_to("y", socket.local_addr()?).await?;
        assert_eq!(&socket.receive().await?[..], b"y");
        Ok::<_, io::Error>(())
    });
}

fn closing_tells_who_waits_for_errors(cx: Cx) {
    cx.run(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await?);
        socket.set_receive_errors(true)?;
        let ours = socket.clone();
        let waiting = spawn(async move { ours.receive_error().await });
        turns(2).await;
        socket.aclose().await?;
        assert!(is::<Closed>(&waiting.await?.expect_err("closed")));
        assert!(is::<Closed>(&socket.set_receive_errors(true).expect_err("closed")));
        Ok::<_, io::Error>(())
    });
}
