//! Reading what a configuration points to. Only at start, and never without a bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Secret;

/// Far above any configuration, certificate bundle or password.
const LARGEST: u64 = 4 << 20;

/// The whole file.
///
/// # Errors
/// Those of the system, and `InvalidData` above 4 MiB.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// The whole file as text.
///
/// # Errors
/// Those of [`read`], and `InvalidData` if it is not UTF-8.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// A password: the file's text without the line ends that editors add.
pub(super) fn secret(path: &str) -> Result<Secret, String> {
    let text = read_text(Path::new(path)).map_err(|error| cannot_read(path, &error))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() { Err(format!("{path} is empty")) } else { Ok(Secret::new(password.to_owned())) }
}

/// PEM with at least one certificate, each usable as an authority.
pub(super) fn authority(path: &str) -> Result<Vec<u8>, String> {
    let pem = read(Path::new(path)).map_err(|error| cannot_read(path, &error))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("{path} is not PEM: {error}"))?;
        store.add(certificate).map_err(|error| format!("{path} holds a certificate that is none: {error}"))?;
    }
    if store.is_empty() { Err(format!("{path} holds no certificate in PEM form")) } else { Ok(pem) }
}

pub(super) fn cannot_read(path: &str, error: &io::Error) -> String {
    format!("cannot read {path}: {error}")
}
