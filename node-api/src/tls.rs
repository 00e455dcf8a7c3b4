//! TLS of the node's daemons to servers outside: certificates are judged by what is known about the
//! time (see [`crate::clock`]), which on a node with a dead clock battery is only that it is not
//! before the floor.
//!
//! A certificate that has ended before the floor is refused always. Whether one has begun is not
//! asked until the clock is set: a real certificate was made in the past, and one made for the
//! future would need its authority's help.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime as TlsTime},
};

use crate::clock::{Clock, UnixTime};

/// Says what is known about the time at the moment of a handshake.
pub type KnownTime = Arc<dyn Fn() -> Clock + Send + Sync>;

/// Certificates of a chain whose beginnings may lie behind one another, each of which is one more
/// verification: longer chains are not built by `rustls` either.
const LONGEST_CHAIN: usize = 8;

/// The authorities that browsers trust, as of this build.
pub fn public_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// How the daemons speak TLS: certificates below `roots`, judged by `time`.
///
/// # Errors
///
/// `roots` is empty.
pub fn client_config(roots: RootCertStore, time: KnownTime) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = KnownTimeVerifier::new(roots, &provider, time)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

struct KnownTimeVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    time: KnownTime,
}

impl KnownTimeVerifier {
    fn new(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
        time: KnownTime,
    ) -> Result<Self, Error> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { webpki, time })
    }
}

impl std::fmt::Debug for KnownTimeVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownTimeVerifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for KnownTimeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        kernel: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        let clock = (self.time)();
        let mut at = tls_time(clock.for_ends(UnixTime(kernel.as_secs())));
        for _ in 0..LONGEST_CHAIN {
            let verified = self.webpki.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                at,
            );
            match &verified {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before,
                    ..
                })) if !clock.set && not_before.as_secs() > at.as_secs() => at = *not_before,
                _ => return verified,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn tls_time(time: UnixTime) -> TlsTime {
    TlsTime::since_unix_epoch(time.since_epoch())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use loam_test_authority::Authority;

    use super::*;

    const HOST: &str = "time.example";

    const YEAR: u64 = 365 * 24 * 3600;
    /// 2020-01-01 and later, in years.
    fn year(n: u64) -> UnixTime {
        UnixTime(1_577_836_800 + n * YEAR)
    }

    fn leaf(authority: &Authority, from: UnixTime, until: UnixTime) -> CertificateDer<'static> {
        let at = |time: UnixTime| UNIX_EPOCH + time.since_epoch();
        authority.certify(HOST, at(from)..at(until)).der()
    }

    /// By whom trusts the authority alone.
    fn verify(
        authority: &Authority,
        leaf: &CertificateDer<'_>,
        clock: &Clock,
        kernel: UnixTime,
    ) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let known = clock.clone();
        let time: KnownTime = Arc::new(move || known.clone());
        let verifier = KnownTimeVerifier::new(authority.roots(), &provider, time)?;
        let name = ServerName::try_from(HOST).unwrap();
        verifier
            .verify_server_cert(leaf, &[], &name, &[], tls_time(kernel))
            .map(drop)
    }

    fn assert_expired(refused: &Result<(), Error>) {
        assert!(
            matches!(
                refused,
                Err(Error::InvalidCertificate(
                    CertificateError::ExpiredContext { .. }
                ))
            ),
            "{refused:?}"
        );
    }

    fn floor(floor: UnixTime, set: bool) -> Clock {
        Clock {
            floor,
            set,
            ..Clock::default()
        }
    }

    #[test]
    fn until_the_clock_is_set_a_beginning_is_not_judged() {
        let authority = Authority::generate();
        let leaf = leaf(&authority, year(5), year(6));
        // A stick made in year 3, and a clock battery that died.
        verify(&authority, &leaf, &floor(year(3), false), UnixTime(0)).unwrap();
        // Set, the same certificate has not begun.
        let refused = verify(&authority, &leaf, &floor(year(3), true), year(4));
        assert!(
            matches!(
                refused,
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidYetContext { .. }
                ))
            ),
            "{refused:?}"
        );
        verify(
            &authority,
            &leaf,
            &floor(year(3), true),
            UnixTime(year(5).0 + 1),
        )
        .unwrap();
    }

    #[test]
    fn an_end_before_the_floor_is_refused_whatever_the_kernel_believes() {
        let authority = Authority::generate();
        let leaf = leaf(&authority, year(1), year(2));
        for set in [false, true] {
            let refused = verify(
                &authority,
                &leaf,
                &floor(year(3), set),
                UnixTime(year(1).0 + 1),
            );
            assert_expired(&refused);
        }
        // A kernel's clock that runs ahead and was not set by anybody spoils nothing.
        verify(&authority, &leaf, &floor(year(1), false), year(20)).unwrap();
        verify(&authority, &leaf, &floor(year(1), true), year(20)).unwrap_err();
    }

    #[test]
    fn a_floor_beyond_all_calendars_refuses_and_does_no_more_harm() {
        let authority = Authority::generate();
        let leaf = leaf(&authority, year(1), year(2));
        for set in [false, true] {
            let clock = floor(UnixTime(u64::MAX), set);
            let refused = verify(&authority, &leaf, &clock, year(1));
            assert_expired(&refused);
        }
    }

    #[test]
    fn a_certificate_of_nobody_we_know_stays_refused() {
        let authority = Authority::generate();
        let stranger = Authority::generate();
        let leaf = leaf(&stranger, year(5), year(6));
        verify(&authority, &leaf, &floor(year(3), false), UnixTime(0)).unwrap_err();
    }
}
