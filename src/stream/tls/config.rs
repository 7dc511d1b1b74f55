//! Configurations with secure defaults, and certificates and keys from files.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::net::names::to_ascii;
use crate::stream::tls::keys::kernel_send_provider;
use crate::stream::tls::session::tls_error;

/// The cryptography that configurations of this module stand on.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(kernel_send_provider(ring::default_provider()))).clone()
}

/// The certificates of the authorities that this system trusts. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others, as for
/// OpenSSL. Reads files, synchronously.
///
/// # Errors
/// If there are none.
#[doc(alias = "load_default_certs")]
pub fn system_roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::NotFound, format!("this system trusts no certificate authority{why}")))
}

/// A client's configuration: TLS 1.2 and 1.3, the server must show a certificate for its name that one of `roots`
/// vouches for, no certificate of the client. For a certificate of the client, or anything else, build a
/// [`ClientConfig`].
///
/// # Examples
/// ```
/// # fn demo() -> std::io::Result<()> {
/// use proactor::stream::tls::{client_config, system_roots};
///
/// let mut config = client_config(system_roots()?);
/// config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
/// # Ok(()) }
/// ```
#[doc(alias = "create_default_context")]
#[expect(clippy::missing_panics_doc, reason = "this provider has all that TLS 1.2 and 1.3 need")]
pub fn client_config(roots: impl Into<Arc<RootCertStore>>) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has all that TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A server's configuration: TLS 1.2 and 1.3, this certificate (first; then those that vouch for it) and its key, no
/// certificate asked of clients. For more than that, build a [`ServerConfig`].
///
/// # Errors
/// If the key is not one of the certificate.
#[doc(alias = "create_default_context")]
#[expect(clippy::missing_panics_doc, reason = "this provider has all that TLS 1.2 and 1.3 need")]
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> io::Result<ServerConfig> {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has all that TLS 1.2 and 1.3 need")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(tls_error)
}

/// Reads a certificate with those that vouch for it, and its key, from PEM files. Synchronously.
///
/// # Errors
/// If a file cannot be read, or has none in it.
pub fn load_cert_chain(
    certificates: impl AsRef<Path>,
    key: impl AsRef<Path>,
) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let (certificates, key) = (certificates.as_ref(), key.as_ref());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificates).and_then(Iterator::collect::<Result<_, _>>);
    let chain = chain.map_err(|error| pem_error(certificates, error))?;
    if chain.is_empty() {
        return Err(pem_error(certificates, pem::Error::NoItemsFound));
    }
    Ok((chain, PrivateKeyDer::from_pem_file(key).map_err(|error| pem_error(key, error))?))
}

fn pem_error(path: &Path, error: pem::Error) -> io::Error {
    let kind = match &error {
        pem::Error::Io(error) => error.kind(),
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, format!("{}: {error}", path.display()))
}

/// What a client's connections use that were given no configuration. Made once in a process. Reads files.
pub(crate) fn default_client_config() -> io::Result<Arc<ClientConfig>> {
    static DEFAULT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = DEFAULT.get() {
        return Ok(config.clone());
    }
    let config = Arc::new(client_config(system_roots()?));
    Ok(DEFAULT.get_or_init(|| config).clone())
}

/// The name of a server, or its address, to check its certificate against. Names beyond ASCII are translated.
pub(crate) fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    // The dot at the end of a full name is not part of what certificates name.
    let ascii = to_ascii(name.strip_suffix('.').unwrap_or(name).to_owned());
    ascii
        .and_then(|name| ServerName::try_from(name).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no name of a server: {name:?}")))
}
