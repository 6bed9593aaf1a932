//! Certificates of the measurements, and clients that trust them and offer one cipher, so that
//! every server encrypts alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite::TLS13_AES_128_GCM_SHA256};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// Signs certificates that [`Authority::client`] trusts.
#[derive(Debug)]
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Where a server's certificate and key stand.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    /// Certificate and key in PEM, for a server on 127.0.0.1.
    pub(crate) fn issue(&self) -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The same as files.
    pub(crate) fn pair(&self, folder: &Path) -> anyhow::Result<Pair> {
        let pair = Pair { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
        let (certificate, key) = self.issue()?;
        fs::write(&pair.certificate, certificate)?;
        fs::write(&pair.key, key)?;
        Ok(pair)
    }

    pub(crate) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        let one = CryptoProvider {
            cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
            ..aws_lc_rs::default_provider()
        };
        let builder =
            ClientConfig::builder_with_provider(Arc::new(one)).with_protocol_versions(&[&TLS13])?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}
