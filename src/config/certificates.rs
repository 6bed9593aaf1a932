//! Certificates in files: the authorities of an upstream, and how good our own is.

use std::ops::Range;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Config;
use crate::clock::Timestamp;
use crate::licence::calendar;

use super::place::Place;

/// The content of the PEM file that the value names, with at least one certificate, each usable as
/// an authority.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn read_authorities(place: &Place<'_>) -> Result<Vec<u8>, String> {
    let pem = place.read_bytes()?;
    let path = place.file()?.display();
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("{path} is not PEM: {error}"))?;
        store
            .add(certificate)
            .map_err(|error| format!("{path} holds a certificate that is none: {error}"))?;
    }
    if store.is_empty() { Err(format!("{path} holds no certificate in PEM form")) } else { Ok(pem) }
}

/// When a certificate is good; the end is the first moment at which it is not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validity(pub(crate) Range<Timestamp>);

impl Validity {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let at = |seconds: i64| {
            Timestamp::from_unix(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        };
        let validity = certificate.validity();
        // The last second is still within (RFC 5280 §4.1.2.5).
        let end = validity.not_after.timestamp().saturating_add(1);
        Self(at(validity.not_before.timestamp())..at(end))
    }

    /// Why it is not good now, as the end of a sentence; none if it is.
    pub(crate) fn flaw(&self, now: Timestamp) -> Option<String> {
        if now >= self.0.end {
            Some(format!("ended on {}", calendar::format(self.0.end)))
        } else if now < self.0.start {
            Some(format!("is not good before {}", calendar::format(self.0.start)))
        } else {
            None
        }
    }
}

/// What clients will not like about our certificate: the key of the configuration that it is about,
/// and a sentence.
pub(crate) fn certificate_flaws(
    leaf: &CertificateDer<'_>,
    config: &Config,
    now: Timestamp,
) -> Vec<(String, String)> {
    const KEY: &str = "tls.certificate";
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let mut flaws: Vec<(String, String)> = Vec::new();
    if let Some(flaw) = Validity::of(&certificate).flaw(now) {
        flaws.push((KEY.to_owned(), format!("the certificate {flaw}; clients refuse it")));
    }
    if certificate.is_ca() {
        let message = "the first certificate is that of an authority; some clients refuse it as a \
                       server's: the server's own has to stand first";
        flaws.push((KEY.to_owned(), message.to_owned()));
    }
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else { return flaws };
    for (key, name) in names_of_ours(config) {
        let named = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(drop);
        if named.and_then(|name| verify_server_name(&parsed, &name).map_err(drop)).is_err() {
            let message =
                format!("the certificate is not for {name} (subjectAltName); clients refuse it");
            flaws.push((key, message));
        }
    }
    flaws
}

/// The names under which clients call us over TLS, each with its key.
fn names_of_ours(config: &Config) -> impl Iterator<Item = (String, String)> {
    let hosts = config.hosts.iter().enumerate().filter(|(_, host)| !host.plain_http);
    let hosts = hosts.map(|(index, host)| (format!("hosts[{index}]"), host.name.clone()));
    let bound = config.upstreams.iter().flat_map(|upstream| {
        let key = format!("upstreams.{}.hosts", upstream.name);
        upstream.hosts.iter().map(move |host| (key.clone(), host.clone()))
    });
    hosts.chain(bound)
}
