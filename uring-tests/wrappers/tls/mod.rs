//! TLS: our client with our server, and what each promises; other people's TLS is in `interop`.

mod handshake;
mod interop;
pub(crate) mod kernel;
mod kernel_keys;
mod limits;
mod records;

use std::cell::Cell;
use std::io;
use std::sync::{Arc, OnceLock};

use proactor::stream::ByteStream;
use proactor::stream::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use proactor::stream::tls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use proactor::stream::tls::{HandshakeFailed, TlsStream, client_config, server_config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority, made once, and what it vouches for.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority { issuer: Issuer::new(params, key), certificate }
    })
}

/// A certificate for these names, and its key.
fn identity(names: &[&str]) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).expect("parameters");
    (params.signed_by(&key, &authority().issuer).expect("a certificate"), key)
}

fn chain_and_key(names: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let (certificate, key) = identity(names);
    (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority().certificate.der().clone()).expect("a root");
    roots
}

/// A server that is `localhost` and `127.0.0.1`.
pub(crate) fn server() -> ServerConfig {
    let (chain, key) = chain_and_key(&["localhost", "127.0.0.1"]);
    server_config(chain, key).expect("a configuration")
}

pub(crate) fn client() -> ClientConfig {
    client_config(roots())
}

thread_local! {
    /// Both sides of `wrapped` leave sending to the kernel, if it can.
    static BY_KERNEL: Cell<bool> = const { Cell::new(false) };
}

/// In `test`, connections are made so that the kernel sends, if it can.
pub(crate) fn by_kernel<R>(test: impl FnOnce() -> R) -> R {
    BY_KERNEL.set(true);
    let done = test();
    BY_KERNEL.set(false);
    done
}

pub(crate) fn is_by_kernel() -> bool {
    BY_KERNEL.get()
}

/// Both sides of a TLS connection over these two streams.
fn wrapped<A, B>(
    client_side: A,
    server_side: B,
) -> impl Future<Output = io::Result<(TlsStream<A>, TlsStream<B>)>>
where
    A: ByteStream + 'static,
    B: ByteStream + 'static,
{
    let ours = TlsStream::client(client_side, "localhost").client_config(Arc::new(client()));
    let ours = ours.kernel_send(is_by_kernel()).handshake();
    let theirs = TlsStream::server(server_side, Arc::new(server()));
    let theirs = theirs.kernel_send(is_by_kernel()).handshake();
    async {
        let (ours, theirs) = futures_util::join!(ours, theirs);
        Ok((ours.map_err(error)?, theirs.map_err(error)?))
    }
}

fn error<S>(failed: HandshakeFailed<S>) -> io::Error {
    failed.into()
}

async fn tls_pair() -> io::Result<(TlsStream<proactor::net::TcpStream>, TlsStream<proactor::net::TcpStream>)>
{
    let (ours, theirs) = crate::harness::tcp_pair().await?;
    wrapped(ours, theirs).await
}
