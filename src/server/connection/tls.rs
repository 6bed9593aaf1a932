//! TLS for clients: 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, client certificates (ACCESS §8).

use std::ops::Range;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::asn1_rs::ToDer;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate};

use crate::clock::Timestamp;
use crate::config::{ClientAuth, Validity};
use crate::identity::{AttributeValue, CertificateName, DistinguishedName};
use crate::server::error::Refusal;

/// ALPN protocol names (RFC 7301 §6).
const ALPN_HTTP_2: &[u8] = b"h2";
const ALPN_HTTP_1: &[u8] = b"http/1.1";

/// The certificate, keys and client authority that new connections use; a reload makes another.
///
/// Session tickets are of one context: no session is resumed across a reload, so that a client
/// whose authority is trusted no more has to show its certificate again.
#[derive(Clone, Debug)]
pub(crate) struct TlsContext {
    config: Arc<ServerConfig>,
    /// The certificate itself, the first of its chain.
    leaf: CertificateDer<'static>,
    /// Who vouches for the certificates of clients; none: they are not asked for one.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Clients without a certificate are not served.
    certificate_required: bool,
}

/// A client's certificate that rustls has verified.
#[derive(Clone, Debug)]
pub(in crate::server) struct ClientCertificate {
    names: Vec<CertificateName>,
    /// The end is the first moment at which it is not valid any more.
    validity: Range<Timestamp>,
    /// Without a valid certificate the client is not served.
    required: bool,
}

impl TlsContext {
    /// A context from PEM: the certificate chain, its private key and, where clients may show
    /// certificates, the authorities that those are verified against.
    ///
    /// # Errors
    /// A sentence that names the key of the configuration whose file cannot be used, and why.
    pub(crate) fn new(
        certificate: &str,
        key: &str,
        client_ca: Option<&str>,
        client_auth: ClientAuth,
    ) -> Result<Self, String> {
        let chain =
            certificates(certificate).map_err(|message| format!("tls.certificate {message}"))?;
        let leaf = chain.first().cloned().ok_or("tls.certificate holds no certificate in PEM")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| format!("tls.key holds no private key in PEM: {error}"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?;
        let verifier = client_ca.map(|pem| client_verifier(pem, client_auth, provider));
        let verifier = verifier.transpose()?;
        let builder = match verifier.clone() {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            format!("tls.certificate and tls.key do not belong together: {error}")
        })?;
        config.alpn_protocols = vec![ALPN_HTTP_2.to_vec(), ALPN_HTTP_1.to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
        let certificate_required = client_ca.is_some() && client_auth == ClientAuth::Required;
        Ok(Self { config: Arc::new(config), leaf, verifier, certificate_required })
    }

    /// The certificate itself, the first of its chain.
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// When the certificate is good, as far as it can be read.
    pub(crate) fn validity(&self) -> Option<Validity> {
        let (_, certificate) = X509Certificate::from_der(&self.leaf).ok()?;
        Some(Validity::of(&certificate))
    }

    /// Whether its authorities vouch for a client's certificate at `now`.
    pub(in crate::server) fn vouches_for(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> bool {
        let (Some(verifier), Some((leaf, others))) = (&self.verifier, chain.split_first()) else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(now.unix());
        verifier.verify_client_cert(leaf, others, now).is_ok()
    }

    pub(in crate::server) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The certificate that a client has shown, in this handshake or in the one whose session it
    /// resumes; rustls verified it then.
    pub(in crate::server) fn client_certificate(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
    ) -> Option<ClientCertificate> {
        let (_, certificate) = X509Certificate::from_der(chain?.first()?).ok()?;
        let Validity(validity) = Validity::of(&certificate);
        let names = names_in(&certificate);
        Some(ClientCertificate { names, validity, required: self.certificate_required })
    }
}

/// The names in a connection's client certificate, or none if there is none or it is not valid at
/// `now` (ACCESS §1.1).
///
/// Each request asks: a client that keeps its connection or resumes a session shows its certificate
/// only once, and it may end in between.
///
/// # Errors
/// 403 if the certificate is not valid and one is required.
pub(in crate::server) fn certificate_names(
    certificate: Option<&ClientCertificate>,
    now: Timestamp,
) -> Result<&[CertificateName], Refusal> {
    match certificate {
        Some(certificate) if certificate.validity.contains(&now) => Ok(&certificate.names),
        Some(certificate) if certificate.required => Err(Refusal::certificate_ended()),
        Some(_) | None => Ok(&[]),
    }
}

/// Verifies clients against the authorities in `pem`.
fn client_verifier(
    pem: &str,
    client_auth: ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = authorities(pem).map_err(|message| format!("tls.client_ca {message}"))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = match client_auth {
        ClientAuth::Optional => verifier.allow_unauthenticated(),
        ClientAuth::Required => verifier,
    };
    verifier.build().map_err(|error| error.to_string())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("is not PEM: {error}")),
    }
}

fn authorities(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that is none: {error}"))?;
    }
    Ok(roots)
}

/// Whether a handshake has agreed on HTTP/2. A client without ALPN speaks HTTP/1.1.
pub(in crate::server) fn is_http_2(alpn: Option<&[u8]>) -> bool {
    alpn == Some(ALPN_HTTP_2)
}

/// The names in a certificate that rules can be written for: DNS, URI, e-mail and the subject.
/// Names with control characters are left out, since names are written to the log.
fn names_in(certificate: &X509Certificate<'_>) -> Vec<CertificateName> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|names| &names.value.general_names);
    let mut names: Vec<CertificateName> = alternatives
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(CertificateName::Dns((*name).to_owned())),
            GeneralName::URI(name) => Some(CertificateName::Uri((*name).to_owned())),
            GeneralName::RFC822Name(name) => Some(CertificateName::Email((*name).to_owned())),
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        })
        .collect();
    names.extend(subject(certificate).map(CertificateName::Subject));
    names.retain(|name| !name.to_string().chars().any(char::is_control));
    names
}

/// None: it holds what cannot be written.
fn subject(certificate: &X509Certificate<'_>) -> Option<DistinguishedName> {
    let sets = certificate.subject().iter().map(|set| set.iter().map(attribute).collect());
    Some(DistinguishedName::new(sets.collect::<Option<Vec<_>>>()?))
}

/// The short name of the type, or its number where none is known.
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<(String, AttributeValue)> {
    let oid = attribute.attr_type();
    let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    let value = match attribute.as_str() {
        Ok(text) => AttributeValue::Text(text.to_owned()),
        Err(_) => AttributeValue::encoded(&attribute.attr_value().to_der_vec().ok()?),
    };
    Some((kind, value))
}
