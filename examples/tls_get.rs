//! Asks an HTTPS server for a page: `cargo run --release --features tls --example tls_get -- HOST PORT PATH`.

#[path = "common/args.rs"]
mod args;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use args::{Args, Program, Trouble};
use proactor::net::connect_tcp;
use proactor::stream::tls::rustls::RootCertStore;
use proactor::stream::tls::rustls::pki_types::CertificateDer;
use proactor::stream::tls::rustls::pki_types::pem::PemObject;
use proactor::stream::tls::{TlsStream, client_config};
use proactor::stream::{AsyncResource, ByteReceiveStream, ByteSendStream};

const PROGRAM: Program = Program {
    name: "tls_get",
    about: "Asks a server for a page by HTTP/1.0 over TLS, and prints what it answers.",
    listen: "",
    operands: &[
        ("HOST", "the name of the server, for which its certificate must be"),
        ("PORT", "its port"),
        ("PATH", "the page"),
    ],
    options: &[(
        "--ca",
        "FILE",
        "",
        "PEM file with the authorities to trust, instead of those of this system",
    )],
};

fn main() -> ExitCode {
    PROGRAM.run(|args| args.event_loop()?.run_until_complete(get(args))?)
}

fn operand(args: &Args, index: usize) -> Result<&str, Trouble> {
    let text = args.operand(index).and_then(OsStr::to_str);
    text.ok_or(Trouble::Usage("HOST, PORT and PATH are needed, as text".to_owned()))
}

/// The authorities of a file.
fn roots(path: &str) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    let unreadable = |error| Trouble::Usage(format!("cannot read {path}: {error}"));
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|error| Trouble::Usage(format!("{path}: {error}")))?;
    }
    Ok(roots)
}

async fn get(args: &Args) -> Result<(), Trouble> {
    let (host, port, path) = (operand(args, 0)?, operand(args, 1)?, operand(args, 2)?);
    let port: u16 = port.parse().map_err(|_| Trouble::Usage(format!("{port} is no port")))?;
    let tcp = connect_tcp((host, port)).await?;
    // A server of HTTP may close without ending TLS: the length says what is missing.
    let mut wrap = TlsStream::client(tcp, host).standard_compatible(false);
    if !args.value("--ca").is_empty() {
        wrap = wrap.client_config(Arc::new(client_config(roots(args.value("--ca"))?)));
    }
    let tls = wrap.handshake().await.map_err(io::Error::from)?;
    tls.send(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")).await.map_err(io::Error::from)?;
    while let Some(chunk) = tls.receive().await? {
        io::stdout().write_all(&chunk)?;
    }
    Ok(tls.aclose().await?)
}
