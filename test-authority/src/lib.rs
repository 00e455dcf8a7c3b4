//! A certificate authority of one's own, and what it signs. For tests.
//!
//! It depends on no other room, so that the tests of all can have it, also of those on which the others stand.

#![allow(clippy::unwrap_used)]

use std::{ops::Range, sync::Arc, time::SystemTime};

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::CertificateDer};

/// Vouches for servers, and has no end.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A server's certificate, and its key.
#[derive(Debug)]
pub struct Certified {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    /// Another one each time.
    pub fn generate() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// For clients that trust it and nobody else.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Says that a server is `host`, a name or an address, within `validity`, whose seconds count.
    pub fn certify(&self, host: &str, validity: Range<SystemTime>) -> Certified {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = validity.start.into();
        params.not_after = validity.end.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified { certificate, key }
    }
}

impl Certified {
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A server that has it.
    pub fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = self.key.serialize_der().try_into().unwrap();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key)
            .unwrap();
        Arc::new(server)
    }
}
