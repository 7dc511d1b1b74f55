//! The keys that a connection sends with, for the kernel to go on with them.
//!
//! `rustls` gives keys away only together with the whole connection, and here it goes on: it receives, it answers, it
//! counts and renews keys. What it asks of a cipher suite is enough: the suites of [`kernel_send_provider`] do all by
//! those that they stand for, but note the keys and the number of records of a connection that wants that. Once the
//! kernel has the keys, they leave records as they are, and the kernel encrypts what `rustls` still has to say.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage,
    OutboundPlainMessage, PrefixedPayload, Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};

use crate::sys::kernel_tls::{Cipher, Keys, Version};

/// A provider with the same cryptography, whose keys [`kernel_send`](crate::stream::tls::Wrap::kernel_send) can give to
/// the kernel. The configurations of this module have such a one; for others, build them with this. What it says of FIPS is
/// what `provider` says, and not true of what the kernel encrypts.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use proactor::stream::tls::rustls::{ClientConfig, crypto::ring};
/// use proactor::stream::tls::{kernel_send_provider, system_roots};
///
/// # fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let provider = Arc::new(kernel_send_provider(ring::default_provider()));
/// let config = ClientConfig::builder_with_provider(provider)
///     .with_protocol_versions(&[&proactor::stream::tls::rustls::version::TLS13])?
///     .with_root_certificates(system_roots()?)
///     .with_no_client_auth();
/// # let _ = config; Ok(()) }
/// ```
#[must_use]
pub fn kernel_send_provider(mut provider: CryptoProvider) -> CryptoProvider {
    provider.cipher_suites.iter_mut().for_each(|suite| *suite = noting(*suite));
    provider
}

/// Suites, each with the one that notes what it is given. Made once, since a suite lives as long as the process.
static MADE: Mutex<Vec<[SupportedCipherSuite; 2]>> = Mutex::new(Vec::new());

fn made() -> MutexGuard<'static, Vec<[SupportedCipherSuite; 2]>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The suite that notes what `suite` is given.
fn noting(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let Some(cipher) = cipher(suite.suite()) else { return suite };
    let mut made = made();
    // Either one gives the second: what notes already stays as it is.
    if let Some([_, noting]) = made.iter().find(|pair| pair.iter().any(|known| is_same(*known, suite))) {
        return *noting;
    }
    let noting = match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let aead_alg = Box::leak(Box::new(Noting { algorithm: suite.aead_alg, cipher }));
            let (common, prf_provider) = (copy(&suite.common), suite.prf_provider);
            let suite = Tls12CipherSuite { common, prf_provider, kx: suite.kx, sign: suite.sign, aead_alg };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls13(suite) => {
            let aead_alg = Box::leak(Box::new(Noting { algorithm: suite.aead_alg, cipher }));
            let (common, hkdf_provider) = (copy(&suite.common), suite.hkdf_provider);
            let suite = Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: suite.quic };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
    };
    made.push([suite, noting]);
    noting
}

/// Not only of the same name: they may come from different libraries.
fn is_same(one: SupportedCipherSuite, other: SupportedCipherSuite) -> bool {
    match (one, other) {
        (SupportedCipherSuite::Tls12(one), SupportedCipherSuite::Tls12(other)) => std::ptr::eq(one, other),
        (SupportedCipherSuite::Tls13(one), SupportedCipherSuite::Tls13(other)) => std::ptr::eq(one, other),
        _ => false,
    }
}

fn copy(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    }
}

/// What the kernel calls the cipher of a suite that notes its keys. If that of a connection does not, what was noted for it
/// are the keys of another one.
pub(crate) fn noted_cipher(suite: SupportedCipherSuite) -> Option<Cipher> {
    made().iter().find(|[_, noting]| is_same(*noting, suite)).and_then(|_| cipher(suite.suite()))
}

/// What the kernel calls the cipher of a suite, if it can be asked for that.
fn cipher(suite: CipherSuite) -> Option<Cipher> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::Aes256Gcm,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::Chacha20Poly1305,
        _ => return None,
    })
}

/// What is known of the keys that a connection sends with.
#[derive(Default)]
pub(crate) struct SendKeys(Mutex<State>);

#[derive(Default)]
struct State {
    /// The latest, and how many records were sent with them.
    keys: Option<Box<Keys>>,
    records: u64,
    /// How often there were new ones.
    changes: u32,
    /// The kernel encrypts.
    is_kernels: bool,
    /// The peer was just told that there are new ones.
    is_announced: bool,
    /// For the kernel, each from the next change of keys on.
    next: VecDeque<Box<Keys>>,
}

impl SendKeys {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on records stay as they are: the kernel encrypts them, with these keys. `None` if none are known.
    ///
    /// Or if they did not change as often as a handshake changes them: a verifier or a resolver may have worked on another
    /// connection, whose keys are none of ours.
    pub(crate) fn give_away(&self, changes: u32) -> Option<Box<Keys>> {
        let mut state = self.state();
        let mut keys = state.keys.take()?;
        if state.changes != changes {
            return None;
        }
        keys.set_sequence(state.records);
        state.is_kernels = true;
        Some(keys)
    }

    /// The kernel does not get them, so they are no longer kept here.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        (state.keys, state.is_kernels) = (None, false);
    }

    /// The keys that follow those which the kernel has.
    pub(crate) fn next(&self) -> Option<Box<Keys>> {
        self.state().next.pop_front()
    }

    /// Whether these may be keys of this connection. Before the kernel has any, [`give_away`](Self::give_away) counts them;
    /// later a message to the peer comes right before each, and others are of a connection that some callback works on.
    fn note(&self, keys: impl FnOnce() -> Option<Box<Keys>>) -> bool {
        let mut state = self.state();
        if !state.is_kernels {
            (state.keys, state.records) = (keys(), 0);
            state.changes += 1;
            return true;
        }
        let is_ours = std::mem::take(&mut state.is_announced);
        if is_ours {
            state.next.extend(keys());
        }
        is_ours
    }
}

thread_local! {
    /// Of the connection that is being worked on.
    static CURRENT: Cell<Option<Arc<SendKeys>>> = const { Cell::new(None) };
}

/// Works on a connection. Keys that it gets meanwhile are noted in `keys`.
pub(crate) fn noted_in<R>(keys: Option<&Arc<SendKeys>>, work: impl FnOnce() -> R) -> R {
    /// Verifiers and resolvers are called in here, which may work on other connections, or panic.
    struct Restore(Option<Arc<SendKeys>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(keys.cloned()));
    work()
}

fn current() -> Option<Arc<SendKeys>> {
    let keys = CURRENT.take();
    CURRENT.set(keys.clone());
    keys
}

/// An algorithm, and a note of the keys that it sends with.
struct Noting<A: ?Sized + 'static> {
    algorithm: &'static A,
    cipher: Cipher,
}

/// Notes new keys for the connection that is being worked on, if it wants them.
fn note(keys: impl FnOnce() -> Option<Box<Keys>>) -> Option<Arc<SendKeys>> {
    current().filter(|connection| connection.note(keys))
}

/// What encrypts with keys that were `noted`.
fn counting(encrypter: Box<dyn MessageEncrypter>, noted: Option<Arc<SendKeys>>) -> Box<dyn MessageEncrypter> {
    match noted {
        Some(noted) => Box::new(Counting { encrypter, noted }),
        None => encrypter,
    }
}

impl Tls13AeadAlgorithm for Noting<dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let nonce = iv.as_ref().first_chunk();
        let noted = note(|| Keys::new(Version::Tls13, self.cipher, key.as_ref(), nonce?));
        counting(self.algorithm.encrypter(key, iv), noted)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.algorithm.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.algorithm.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.algorithm.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

impl Tls12AeadAlgorithm for Noting<dyn Tls12AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        let nonce = nonce_12(iv, extra);
        let noted = note(|| Keys::new(Version::Tls12, self.cipher, key.as_ref(), &nonce?));
        counting(self.algorithm.encrypter(key, iv, extra), noted)
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.algorithm.decrypter(key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.algorithm.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.algorithm.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

/// The nonce that the kernel begins with in TLS 1.2, where AES-GCM tells its nonces with the records. `rustls` mixes
/// `extra` with the number of the record, the kernel adds one each time: begun where the other one ends, it might
/// come to a nonce that was used, and two records with one nonce give away what they say. So it begins half-way around,
/// where nobody comes from either side.
fn nonce_12(iv: &[u8], extra: &[u8]) -> Option<[u8; 12]> {
    let mut nonce: [u8; 12] = [iv, extra].concat().try_into().ok()?;
    if !extra.is_empty() {
        nonce[iv.len()] ^= 0x80;
    }
    Some(nonce)
}

/// Encrypts, and counts; or leaves it to the kernel.
struct Counting {
    encrypter: Box<dyn MessageEncrypter>,
    noted: Arc<SendKeys>,
}

impl MessageEncrypter for Counting {
    fn encrypt(
        &mut self,
        record: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        {
            let mut state = self.noted.state();
            if state.is_kernels {
                // After the handshake it is all that is said of keys: there are new ones, from the next record on.
                state.is_announced = record.typ == ContentType::Handshake;
                let mut payload = PrefixedPayload::with_capacity(record.payload.len());
                payload.extend_from_chunks(&record.payload);
                return Ok(OutboundOpaqueMessage::new(record.typ, record.version, payload));
            }
            state.records = sequence + 1;
        }
        self.encrypter.encrypt(record, sequence)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.encrypter.encrypted_payload_len(payload_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_begins_where_no_nonce_was_used() {
        for extra in [[0; 8], [0xff; 8], [0, 0, 0, 0, 0, 0, 0, 1], [0x80, 0, 0, 0, 0, 0, 0, 0]] {
            let nonce = nonce_12(&[7; 4], &extra).expect("twelve bytes");
            assert_eq!(nonce[..4], [7; 4]);
            let (extra, begin) =
                (u64::from_be_bytes(extra), u64::from_be_bytes(*nonce.last_chunk().expect("eight")));
            for record in 0..16 {
                // So many records of the kernel come before it.
                assert!((extra ^ record).wrapping_sub(begin) > 1 << 60);
            }
        }
        assert_eq!(nonce_12(&[7; 12], &[]), Some([7; 12]));
        assert_eq!(nonce_12(&[7; 5], &[]), None);
    }

    #[test]
    fn keys_that_the_peer_was_not_told_of_are_not_for_the_kernel() {
        let keys = |byte| move || Keys::new(Version::Tls13, Cipher::Aes128Gcm, &[byte; 16], &[byte; 12]);
        let (given, kept) = (SendKeys::default(), SendKeys::default());
        assert!(given.note(keys(1)) && given.note(keys(2)));
        assert!(given.give_away(2).is_some() && given.give_away(2).is_none());
        assert!(!given.note(keys(3)) && given.next().is_none());
        given.state().is_announced = true;
        assert!(given.note(keys(4)) && !given.note(keys(5)));
        assert!(given.next().is_some() && given.next().is_none());
        // More than there should be are of more than one connection.
        assert!(kept.note(keys(1)) && kept.note(keys(2)) && kept.note(keys(3)));
        assert!(kept.give_away(2).is_none());
        assert!(kept.state().keys.is_none(), "they are of no use any more");
        kept.note(keys(4));
        kept.forget();
        assert!(kept.state().keys.is_none());
    }

    #[test]
    fn a_suite_is_made_once_and_not_of_itself() {
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let made = noting(suite);
        assert!(!is_same(suite, made));
        assert!(is_same(made, noting(suite)));
        assert!(is_same(made, noting(made)));
        assert!(noted_cipher(suite).is_none() && noted_cipher(made).is_some());
    }
}
