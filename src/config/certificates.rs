//! Authorities that an upstream's certificate may be from, besides the system's.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::place::Place;

/// The content of the PEM file that the value names, with at least one certificate, each usable as an authority.
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
