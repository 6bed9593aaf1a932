//! Who asks, and everything else about a request that rules look at.

use std::net::IpAddr;

use crate::identity::{CertificateName, Identity};
use crate::licence::Slug;

/// The asker of one request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub address: IpAddr,
    /// The one identity of the request: of its credential, else of its certificate, else none
    /// (ACCESS §1.1).
    pub identity: Identity,
    /// What the caller's licence is for; empty for everybody else.
    pub applications: Vec<Slug>,
    /// The names in the certificate of the connection; they count beside a credential.
    pub certificate_names: Vec<CertificateName>,
}

impl Caller {
    /// Somebody who has presented no credential yet.
    pub(crate) fn anonymous(address: IpAddr, certificate_names: Vec<CertificateName>) -> Self {
        let (identity, applications) = (Identity::Anonymous, Vec::new());
        Self { address, identity, applications, certificate_names }
    }

    /// The same caller, known by `identity`.
    #[must_use]
    pub(crate) fn known_as(self, identity: Identity, applications: Vec<Slug>) -> Self {
        Self { identity, applications, ..self }
    }

    /// Whether `who` is this caller, or one of the things that the caller is.
    pub(crate) fn is(&self, who: &Identity) -> bool {
        match who {
            Identity::Anonymous => true,
            Identity::Certificate(name) => self.certificate_names.contains(name),
            Identity::User(_) | Identity::Licence(_) => *who == self.identity,
        }
    }

    /// Whether the caller has a licence for this application.
    pub(crate) fn is_licensed_for(&self, application: &Slug) -> bool {
        self.applications.contains(application)
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.identity == Identity::Anonymous
    }
}
