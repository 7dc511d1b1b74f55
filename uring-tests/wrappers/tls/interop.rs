//! Other people's TLS: the command line of OpenSSL, and Python's `ssl`. Skipped, loudly, where a program is missing.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use futures_util::join;
use proactor::net::{TcpListener, TcpStream};
use proactor::stream::tls::rustls::ProtocolVersion;
use proactor::stream::tls::{TlsAttribute, TlsStream, Truncated, load_cert_chain, server_config};
use proactor::stream::{
    AsyncResource, ByteReceiveStream, ByteSendStream, ByteStream, TypedAttributeProvider,
};
use proactor::thread::to_thread;

use crate::harness::{Cx, Folder, both_drivers, skip};
use crate::wrappers::is;
use crate::wrappers::tls::{authority, client, identity};

both_drivers!(
    the_client_of_openssl_is_served,
    the_server_of_openssl_is_spoken_to,
    the_client_of_python_is_served,
    the_server_of_python_is_spoken_to_and_start_tls_works,
);

/// Whether the program is there; else the test is skipped.
fn has(program: &str, argument: &str) -> bool {
    let found = Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success());
    if !found {
        skip(&format!("{program} is missing"));
    }
    found
}

/// The files that other programs read: the authority, a certificate for `localhost`, and its key.
struct Files {
    folder: Folder,
}

impl Files {
    fn new() -> Self {
        let folder = Folder::new();
        let (certificate, key) = identity(&["localhost", "127.0.0.1"]);
        let write = |name, text: String| fs::write(folder.path(name), text).expect("a file");
        write("ca.pem", authority().certificate.pem());
        write("cert.pem", certificate.pem());
        write("key.pem", key.serialize_pem());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    fn server(&self) -> Arc<proactor::stream::tls::rustls::ServerConfig> {
        let (chain, key) = load_cert_chain(self.path("cert.pem"), self.path("key.pem")).expect("both");
        Arc::new(server_config(chain, key).expect("a configuration"))
    }
}

/// Runs a program to its end in a thread, with this input.
async fn output(mut command: Command, input: &'static str) -> io::Result<Output> {
    let run = move || {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().expect("a pipe").write_all(input.as_bytes())?;
        child.wait_with_output()
    };
    to_thread::run_sync(run).await.map_err(io::Error::from)?
}

/// A server of others, which is killed in the end.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    /// The server prints its address in a line with this word in front.
    async fn start(mut command: Command, word: &'static str) -> io::Result<Self> {
        let run = move || {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn()?;
            let mut lines = BufReader::new(child.stdout.as_mut().expect("a pipe")).lines();
            let address = lines.find_map(|line| line.ok()?.strip_prefix(word)?.trim().parse().ok());
            Ok::<_, io::Error>(Self { child, address: address.expect("its address") })
        };
        to_thread::run_sync(run).await.map_err(io::Error::from)?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line, with its end.
async fn line(stream: &impl ByteReceiveStream) -> io::Result<String> {
    let mut text = String::new();
    while !text.ends_with('\n') {
        let Some(chunk) = stream.receive().await? else { break };
        text += std::str::from_utf8(&chunk).expect("text");
    }
    Ok(text)
}

fn the_client_of_openssl_is_served(cx: Cx) {
    if !has("openssl", "version") {
        return;
    }
    cx.run(async {
        let files = Files::new();
        for (option, version) in
            [("-tls1_2", ProtocolVersion::TLSv1_2), ("-tls1_3", ProtocolVersion::TLSv1_3)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let mut command = Command::new("openssl");
            let address = listener.local_addr()?.to_string();
            command.args(["s_client", "-quiet", "-verify_return_error", "-servername", "localhost", option]);
            command.args(["-verify_hostname", "localhost", "-alpn", "echo", "-connect", &address, "-CAfile"]);
            command.arg(files.path("ca.pem"));
            let serve = async {
                let mut config = files.server();
                Arc::make_mut(&mut config).alpn_protocols = vec![b"echo".to_vec()];
                let tls = TlsStream::server(listener.accept().await?, config).handshake().await?;
                assert_eq!(tls.extra(TlsAttribute::TLS_VERSION), Ok(version));
                assert_eq!(tls.extra(TlsAttribute::ALPN_PROTOCOL), Ok(b"echo".to_vec()));
                assert_eq!(tls.extra(TlsAttribute::SERVER_NAME).as_deref(), Ok("localhost"));
                tls.send(line(&tls).await?).await?;
                tls.send_eof().await?;
                let end = tls.receive().await;
                drop(tls);
                Ok::<_, io::Error>(end)
            };
            let (served, client) = join!(serve, output(command, "hello, openssl\n"));
            let client = client?;
            let said = String::from_utf8_lossy(&client.stderr).into_owned();
            assert_eq!(String::from_utf8_lossy(&client.stdout), "hello, openssl\n", "{said}");
            assert!(served?.is_ok_and(|end| end.is_none()), "it ends TLS too: {said}");
        }
        Ok::<_, io::Error>(())
    });
}

fn the_server_of_openssl_is_spoken_to(cx: Cx) {
    if !has("openssl", "version") {
        return;
    }
    cx.run(async {
        let files = Files::new();
        for option in ["-tls1_2", "-tls1_3"] {
            let mut command = Command::new("openssl");
            command.args(["s_server", "-accept", "127.0.0.1:0", "-rev", option]);
            command.arg("-cert").arg(files.path("cert.pem")).arg("-key").arg(files.path("key.pem"));
            let server = Running::start(command, "ACCEPT").await?;
            let tcp = TcpStream::connect(server.address).await?;
            let tls =
                TlsStream::client(tcp, "localhost").client_config(Arc::new(client())).handshake().await?;
            tls.send("hello\n").await?;
            assert_eq!(line(&tls).await?, "olleh\n");
            // It does not answer the end of TLS but closes: for the standard that is a connection that was cut off.
            tls.send_eof().await?;
            let end = tls.receive().await;
            assert!(end.as_ref().is_ok_and(Option::is_none) || end.is_err_and(|e| is::<Truncated>(&e)));
            drop(server);
        }
        Ok::<_, io::Error>(())
    });
}

/// Connects, checks the certificate, gets much back that it sends, and ends TLS in order, or not.
const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
port, ca, end = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=ca)
data = bytes(range(256)) * 4096
with socket.create_connection(("127.0.0.1", port)) as raw:
    tls = context.wrap_socket(raw, server_hostname="localhost")
    # Piece by piece in one thread: before 3.13 two threads must not use one connection.
    for start in range(0, len(data), 65536):
        piece, got = data[start:start + 65536], b""
        tls.sendall(piece)
        while len(got) < len(piece):
            more = tls.recv(65536)
            assert more, "the server has ended"
            got += more
        assert got == piece
    print(tls.version(), flush=True)
    if end == "unwrap":
        tls.unwrap()
    tls.detach() if end == "unwrap" else tls.close()
"#;

fn the_client_of_python_is_served(cx: Cx) {
    if !has("python3", "--version") {
        return;
    }
    cx.run(async {
        let files = Files::new();
        for end in ["unwrap", "close"] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let mut command = Command::new("python3");
            command.args(["-c", PYTHON_CLIENT, &listener.local_addr()?.port().to_string()]);
            command.arg(files.path("ca.pem")).arg(end);
            let serve = async {
                let tls = TlsStream::server(listener.accept().await?, files.server()).handshake().await?;
                let end = loop {
                    match tls.receive().await {
                        Ok(Some(chunk)) => drop(tls.send(chunk).await?),
                        end => break end,
                    }
                };
                tls.aclose().await?;
                Ok::<_, io::Error>(end)
            };
            let (served, client) = join!(serve, output(command, ""));
            let client = client?;
            let said = String::from_utf8_lossy(&client.stderr).into_owned();
            assert_eq!(String::from_utf8_lossy(&client.stdout), "TLSv1.3\n", "{said}");
            match served? {
                Ok(None) => assert_eq!(end, "unwrap"),
                Ok(Some(_)) => unreachable!("that goes on"),
                Err(error) => assert!(is::<Truncated>(&error) && end == "close", "{error}"),
            }
        }
        Ok::<_, io::Error>(())
    });
}

/// Speaks plainly, then TLS, then plainly again.
const PYTHON_SERVER: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server = socket.create_server(("127.0.0.1", 0))
print("ACCEPT 127.0.0.1:%d" % server.getsockname()[1], flush=True)
raw, _ = server.accept()
assert raw.recv(100) == b"STARTTLS\n"
raw.sendall(b"READY\n")
tls = context.wrap_socket(raw, server_side=True)
assert tls.recv(100) == b"secret\n"
tls.sendall(b"understood\n")
raw = tls.unwrap()
raw.sendall(b"plain again\n")
raw.recv(100)
"#;

fn the_server_of_python_is_spoken_to_and_start_tls_works(cx: Cx) {
    if !has("python3", "--version") {
        return;
    }
    cx.run(async {
        let files = Files::new();
        let mut command = Command::new("python3");
        command.arg("-c").arg(PYTHON_SERVER).arg(files.path("cert.pem")).arg(files.path("key.pem"));
        let server = Running::start(command, "ACCEPT").await?;
        let tcp = TcpStream::connect(server.address).await?;
        tcp.send("STARTTLS\n").await?;
        assert_eq!(line(&tcp).await?, "READY\n");
        let tls = TlsStream::client(tcp, "localhost").client_config(Arc::new(client())).handshake().await?;
        tls.send("secret\n").await?;
        assert_eq!(line(&tls).await?, "understood\n");
        let (tcp, rest) = tls.unwrap().await?;
        let mut text: Vec<u8> = rest.iter().flat_map(|chunk| chunk.to_vec()).collect();
        if !text.ends_with(b"\n") {
            text.extend(line(&tcp).await?.bytes());
        }
        assert_eq!(text, b"plain again\n");
        drop(server);
        Ok::<_, io::Error>(())
    });
}
