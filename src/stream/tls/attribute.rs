//! What a TLS connection knows about itself.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, Connection, ProtocolVersion};

use crate::stream::tls::session::Session;
use crate::stream::{Attribute, Attributes};

/// What TLS streams know, beside what the stream below does.
#[doc(alias = "TLSAttribute")]
#[derive(Debug)]
pub enum TlsAttribute {}

impl TlsAttribute {
    /// The version of TLS.
    pub const TLS_VERSION: Attribute<ProtocolVersion> = Attribute::new("TlsAttribute::TLS_VERSION");
    /// The cipher suite.
    pub const CIPHER: Attribute<CipherSuite> = Attribute::new("TlsAttribute::CIPHER");
    /// The protocol that was agreed on by ALPN, if any was.
    pub const ALPN_PROTOCOL: Attribute<Vec<u8>> = Attribute::new("TlsAttribute::ALPN_PROTOCOL");
    /// The certificate of the peer, if it showed one.
    #[doc(alias = "peer_certificate_binary")]
    pub const PEER_CERTIFICATE: Attribute<CertificateDer<'static>> =
        Attribute::new("TlsAttribute::PEER_CERTIFICATE");
    /// That certificate, and those that the peer sent with it.
    pub const PEER_CERTIFICATES: Attribute<Vec<CertificateDer<'static>>> =
        Attribute::new("TlsAttribute::PEER_CERTIFICATES");
    /// The name that the client asked for (SNI), on the side of the server.
    pub const SERVER_NAME: Attribute<String> = Attribute::new("TlsAttribute::SERVER_NAME");
    /// Whether this side is the server.
    pub const SERVER_SIDE: Attribute<bool> = Attribute::new("TlsAttribute::SERVER_SIDE");
    /// Whether the end of TLS is told and required.
    pub const STANDARD_COMPATIBLE: Attribute<bool> = Attribute::new("TlsAttribute::STANDARD_COMPATIBLE");
    /// Whether the kernel encrypts what is sent, where that was [asked for](crate::stream::tls::Wrap::kernel_send).
    pub const KERNEL_SEND: Attribute<bool> = Attribute::new("TlsAttribute::KERNEL_SEND");
}

/// The attributes of a session, and those of what is below it.
pub(crate) fn of_session<'a>(
    below: Attributes<'a>,
    session: &'a RefCell<Session>,
    standard_compatible: bool,
    kernel_send: bool,
) -> Attributes<'a> {
    let peer = |session: &Session| session.connection().peer_certificates().map(|chain| own(chain));
    below
        .with(TlsAttribute::TLS_VERSION, || session.borrow().connection().protocol_version())
        .with(TlsAttribute::CIPHER, || {
            session.borrow().connection().negotiated_cipher_suite().map(|suite| suite.suite())
        })
        .with(TlsAttribute::ALPN_PROTOCOL, || {
            session.borrow().connection().alpn_protocol().map(<[u8]>::to_vec)
        })
        .with(TlsAttribute::PEER_CERTIFICATE, move || {
            peer(&session.borrow()).and_then(|chain| chain.into_iter().next())
        })
        .with(TlsAttribute::PEER_CERTIFICATES, move || peer(&session.borrow()))
        .with(TlsAttribute::SERVER_NAME, || match session.borrow().connection() {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        })
        .with(TlsAttribute::SERVER_SIDE, || Some(session.borrow().is_server()))
        .with(TlsAttribute::STANDARD_COMPATIBLE, move || Some(standard_compatible))
        .with(TlsAttribute::KERNEL_SEND, move || Some(kernel_send))
}

fn own(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
}
