//! Who somebody is, in the one form in which rules name people and log lines write them down:
//! `anonymous`, `user:ci`, `licence:acme-prod`, `certificate:dns:node.example.com` (ACCESS §1.1).
//! Pure.

mod distinguished_name;

use std::borrow::Cow;
use std::fmt;

use crate::licence::LicenceId;

pub(crate) use distinguished_name::AttributeValue;
pub use distinguished_name::DistinguishedName;

/// One identity. In a rule [`Anonymous`](Self::Anonymous) stands for everybody, since a credential
/// never lowers rights; on a request it is somebody who has shown nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    Anonymous,
    /// A name of the htpasswd file.
    User(String),
    Licence(LicenceId),
    Certificate(CertificateName),
}

/// One name out of a client certificate, compared exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateName {
    Dns(String),
    Uri(String),
    Email(String),
    Subject(DistinguishedName),
}

impl Identity {
    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// A sentence that says what an identity looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is nobody that rules know; write anonymous, user:NAME, licence:ID, or \
                 certificate: with dns:, uri:, email: or subject: and the name"
            )
        };
        if text == "anonymous" {
            return Ok(Self::Anonymous);
        }
        let (kind, name) = kind_and_name(text).ok_or_else(wrong)?;
        // Identities are written into log lines and into what uploads are sealed for, both of which
        // separate by line ends.
        if name.chars().any(char::is_control) {
            return Err(wrong());
        }
        match kind {
            // No name of an htpasswd file holds the colon that ends it.
            "user" if !name.contains(':') => Ok(Self::User(name.to_owned())),
            "licence" => LicenceId::parse(name).map(Self::Licence),
            "certificate" if name.starts_with("subject:") => {
                CertificateName::parse(name).map(Self::Certificate).ok_or_else(|| {
                    format!(
                        "{text:?} names no subject; write certificate:subject: and its attributes \
                         in the order of the certificate, as C=DE, O=Acme, CN=node, with a \
                         backslash before , + \" \\ < > and ; in a value"
                    )
                })
            }
            "certificate" => CertificateName::parse(name).map(Self::Certificate).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

impl Identity {
    /// The word with which the written form begins.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User(_) => "user",
            Self::Licence(_) => "licence",
            Self::Certificate(_) => "certificate",
        }
    }

    /// The written form, for logs. Most requests are anonymous and cost no allocation.
    pub(crate) fn label(&self) -> Cow<'static, str> {
        match self {
            Self::Anonymous => Cow::Borrowed("anonymous"),
            Self::User(_) | Self::Licence(_) | Self::Certificate(_) => self.to_string().into(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Licence(id) => write!(f, "licence:{id}"),
            Self::Certificate(name) => write!(f, "certificate:{name}"),
        }
    }
}

impl CertificateName {
    fn parse(text: &str) -> Option<Self> {
        let (kind, name) = kind_and_name(text)?;
        match kind {
            "dns" => Some(Self::Dns(name.to_owned())),
            "uri" => Some(Self::Uri(name.to_owned())),
            "email" => Some(Self::Email(name.to_owned())),
            "subject" => DistinguishedName::parse(name).map(Self::Subject),
            _ => None,
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Uri(name) => write!(f, "uri:{name}"),
            Self::Email(name) => write!(f, "email:{name}"),
            Self::Subject(name) => write!(f, "subject:{name}"),
        }
    }
}

fn kind_and_name(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(_, name)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "anonymous",
            "user:ci",
            "user:ci@example.com",
            "licence:acme-prod",
            "certificate:dns:node.example.com",
            "certificate:uri:spiffe://example.com/node",
            "certificate:email:ci@example.com",
            "certificate:subject:C=DE, O=Acme, CN=node",
        ] {
            assert_eq!(Identity::parse(text).map(|it| it.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn anything_else_is_nobody() {
        for text in [
            "",
            "Anonymous",
            "ci",
            "user:",
            "user:a:b",
            "user:a\nb",
            "licence:Acme",
            "certificate:node",
            "certificate:dns:",
            "certificate:serial:1",
            "group:admins",
        ] {
            assert!(Identity::parse(text).is_err(), "{text:?}");
        }
    }
}
