//! Which keys the kernel is given: those of the connection, at a time when nothing else is to be said with them.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::join;
use proactor::net::TcpStream;
use proactor::stream::tls::TlsStream;
use proactor::stream::tls::rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use proactor::stream::tls::rustls::crypto::ring::default_provider;
use proactor::stream::tls::rustls::pki_types::ServerName;
use proactor::stream::tls::rustls::{
    ClientConfig, ClientConnection, Connection, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection,
};
use proactor::stream::{ByteReceiveStream, ByteSendStream};

use crate::harness::{Cx, both_drivers, tcp_pair};
use crate::wrappers::tls::kernel::{can, close, is_kernels, kernel_version, noting, pair, receive_exactly};
use crate::wrappers::tls::limits::client_with_limit;
use crate::wrappers::tls::{chain_and_key, client, server};

both_drivers!(
    keys_of_other_connections_in_the_handshake_are_not_given_to_the_kernel,
    other_connections_are_worked_on_later_as_if_the_kernel_had_no_keys,
    an_answer_that_is_owed_right_after_the_handshake_is_sent_once,
);

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

fn output(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).expect("a vector takes all");
    }
    bytes
}

fn feed(connection: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).expect("bytes");
        connection.process_new_packets().expect("TLS");
    }
}

/// A server whose keys nobody notes.
fn plain_server() -> ServerConfig {
    let (chain, key) = chain_and_key(&["localhost"]);
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a configuration")
}

/// Two connections speak with each other, from the handshake to the first words.
fn talk_elsewhere(server: ServerConfig) {
    let mut ours: Connection =
        ClientConnection::new(Arc::new(client()), localhost()).expect("a client").into();
    let mut theirs: Connection = ServerConnection::new(Arc::new(server)).expect("a server").into();
    let say = |from: &mut Connection, to: &mut Connection| feed(to, &output(from));
    while ours.is_handshaking() || theirs.is_handshaking() {
        say(&mut ours, &mut theirs);
        say(&mut theirs, &mut ours);
    }
    ours.writer().write_all(b"elsewhere").expect("room");
    say(&mut ours, &mut theirs);
    let mut heard = [0; 9];
    theirs.reader().read_exact(&mut heard).expect("all of it");
    assert_eq!(&heard, b"elsewhere");
}

/// Is told of sessions, and works on other connections each time: in the handshake, or after it.
#[derive(Debug)]
struct Elsewhere {
    in_handshake: bool,
    server: fn() -> ServerConfig,
    times: AtomicUsize,
}

impl Elsewhere {
    fn told(&self, in_handshake: bool) {
        if in_handshake == self.in_handshake {
            talk_elsewhere((self.server)());
            self.times.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ClientSessionStore for Elsewhere {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {
        self.told(true);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {
        self.told(true);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.told(false);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// `config`, and who works elsewhere in its callbacks.
fn elsewhere(
    mut config: ClientConfig,
    in_handshake: bool,
    server: fn() -> ServerConfig,
) -> (ClientConfig, Arc<Elsewhere>) {
    let store = Arc::new(Elsewhere { in_handshake, server, times: AtomicUsize::new(0) });
    config.resumption = Resumption::store(store.clone());
    (config, store)
}

fn keys_of_other_connections_in_the_handshake_are_not_given_to_the_kernel(cx: Cx) {
    if !can() {
        return;
    }
    let with = |version| client_with_limit(version, u64::MAX);
    let [old, new] = [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3];
    // Of the last one's own keys nobody takes note, and there are as many of the other connection as it would have.
    let cases: [(_, _, fn() -> _); 3] = [
        (old, noting(&with(old)), server),
        (new, noting(&with(new)), server),
        (new, with(new), plain_server),
    ];
    for (version, config, theirs) in cases {
        cx.run(async {
            let (config, store) = elsewhere(config, true, theirs);
            let (ours, theirs) = pair(config).await?;
            assert!(store.times.load(Ordering::Relaxed) > 0, "it was not told of the session");
            ours.send("there").await?;
            theirs.send("back").await?;
            assert_eq!(receive_exactly(&theirs, 5).await?, b"there");
            assert_eq!(receive_exactly(&ours, 4).await?, b"back");
            assert!(!is_kernels(&ours) && is_kernels(&theirs), "{version:?}");
            close(&ours, &theirs).await
        });
    }
}

fn other_connections_are_worked_on_later_as_if_the_kernel_had_no_keys(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        let (config, store) = elsewhere(client(), false, server);
        let (ours, theirs) = pair(config).await?;
        assert!(is_kernels(&ours));
        // The tickets come before that.
        theirs.send("back").await?;
        assert_eq!(receive_exactly(&ours, 4).await?, b"back");
        assert!(store.times.load(Ordering::Relaxed) > 0, "there were no tickets");
        if kernel_version() >= (6, 14) {
            // What was noted meanwhile are not the next keys.
            ours.renew_keys()?;
        }
        ours.send("there").await?;
        assert_eq!(receive_exactly(&theirs, 5).await?, b"there");
        close(&ours, &theirs).await
    });
}

/// A client that asks for new keys as soon as it has some: that comes in one piece with the end of its handshake.
async fn hasty_client(tcp: TcpStream) -> io::Result<()> {
    let mut tls: Connection =
        ClientConnection::new(Arc::new(client()), localhost()).expect("a client").into();
    tcp.send(output(&mut tls)).await?;
    while tls.is_handshaking() {
        feed(&mut tls, &tcp.receive().await?.expect("the server's part"));
    }
    tls.refresh_traffic_keys().expect("TLS 1.3");
    tcp.send(output(&mut tls)).await?;
    let mut heard = Vec::new();
    while heard.len() < 5 {
        feed(&mut tls, &tcp.receive().await?.expect("more"));
        let mut part = [0; 5];
        // An error says that there is none for now.
        if let Ok(count) = tls.reader().read(&mut part) {
            heard.extend_from_slice(&part[..count]);
        }
    }
    assert_eq!(heard, b"hello");
    tls.writer().write_all(b"and goodbye")?;
    tls.send_close_notify();
    tcp.send(output(&mut tls)).await?;
    // The server's goodbye is the last it is to hear.
    while let Some(bytes) = tcp.receive().await? {
        feed(&mut tls, &bytes);
    }
    Ok(())
}

fn an_answer_that_is_owed_right_after_the_handshake_is_sent_once(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let serve = async {
            let tls = TlsStream::server(theirs, Arc::new(server())).kernel_send(true).handshake().await?;
            tls.send("hello").await?;
            assert_eq!(receive_exactly(&tls, 11).await?, b"and goodbye");
            assert!(tls.receive().await?.is_none());
            assert!(!is_kernels(&tls), "there was something to be said with the old keys");
            proactor::stream::AsyncResource::aclose(&tls).await
        };
        let (spoken, served) = join!(hasty_client(ours), serve);
        spoken.and(served)
    });
}
