//! Authorities that an upstream's certificate may be from, besides the system's.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::files;

/// The content of a PEM file with at least one certificate, each usable as an authority.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<u8>, String> {
    let pem = files::read_bytes(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let path = path.display();
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("{path} is not PEM: {error}"))?;
        store
            .add(certificate)
            .map_err(|error| format!("{path} holds a certificate that is none: {error}"))?;
    }
    if store.is_empty() { Err(format!("{path} holds no certificate in PEM form")) } else { Ok(pem) }
}
