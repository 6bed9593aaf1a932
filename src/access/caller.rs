//! Who asks.

use std::fmt;
use std::net::IpAddr;

use crate::config::{CertificateName, Who};
use crate::licence::{LicenceId, Slug};

/// The one identity of a request: of its credential, else of its certificate, else none (ACCESS
/// §1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    Anonymous,
    /// A certificate that some rule names.
    Certificate(CertificateName),
    User(String),
    Licence {
        id: LicenceId,
        applications: Vec<Slug>,
    },
}

/// Everything about a request that rules look at.
#[derive(Clone, Debug)]
pub struct Caller {
    pub address: IpAddr,
    pub principal: Principal,
    /// The names in the certificate of the connection; they count beside a credential.
    pub certificate: Vec<CertificateName>,
}

impl Caller {
    /// Whether `who` is, or is among, this caller.
    pub fn is(&self, who: &Who) -> bool {
        match (who, &self.principal) {
            (Who::Anonymous, _) => true,
            (Who::Certificate(name), _) => self.certificate.contains(name),
            (Who::User(name), Principal::User(user)) => name == user,
            (Who::Licence(id), Principal::Licence { id: licence, .. }) => id == licence,
            (Who::User(_) | Who::Licence(_), _) => false,
        }
    }

    /// Whether the caller has a licence for this application.
    pub fn is_licensed_for(&self, application: &Slug) -> bool {
        match &self.principal {
            Principal::Licence { applications, .. } => applications.contains(application),
            Principal::Anonymous | Principal::Certificate(_) | Principal::User(_) => false,
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.principal == Principal::Anonymous
    }
}

/// As rules and log lines write it.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Certificate(name) => write!(f, "certificate:{name}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Licence { id, .. } => write!(f, "licence:{id}"),
        }
    }
}
