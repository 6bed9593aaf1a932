//! Why a credential is not good, in one vocabulary: the `outcome` of
//! `roadstead_auth_attempts_total` and the `reason` in the access line of a refused login.
//!
//! | word | what it is |
//! |---|---|
//! | `malformed` | an `Authorization` header that cannot be read |
//! | `unknown_user` | a name that is not in the htpasswd file |
//! | `wrong_password` | a user with another password |
//! | `licence_invalid` | a licence that is forged, of another issuer, or not accepted here |
//! | `licence_user_mismatch` | a good licence, but the user name is not its id or e-mail |
//! | `licence_not_yet` | a licence that begins later |
//! | `licence_expired` | a licence that has ended |
//! | `licence_revoked` | a licence that the issuer has taken back |
//! | `token_invalid` | an access token that is forged, of another proxy, or for another host |
//! | `token_expired` | an access token of ours that has run out |
//! | `token_revoked` | a running token whose user or licence key is gone or has changed |
//! | `throttled` | too many wrong passwords of this user from this address; not checked |
//! | `overloaded` | too many logins at once; not checked |
//!
//! Clients hear less (`server::identify`): an unknown user, a wrong password and a licence that is
//! not ours look the same to them.

use std::time::Duration;

use crate::licence::{LicenceId, LicenceRefusal};

/// One reason. [`Display`](std::fmt::Display) is the sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("the Authorization header cannot be read")]
    Malformed,
    #[error("there is no user of this name")]
    UnknownUser,
    #[error("the password is wrong")]
    WrongPassword,
    #[error("licence: {0}")]
    LicenceInvalid(LicenceRefusal),
    #[error("the licence is {0}, and the user name is neither its id nor its e-mail")]
    LicenceUserMismatch(LicenceId),
    #[error("licence {0} is from the future")]
    LicenceNotYet(LicenceId),
    /// The sentence is for the customer, too.
    #[error("{message}")]
    LicenceExpired { message: String },
    /// The sentence is for the customer, too.
    #[error("{message}")]
    LicenceRevoked { message: String },
    #[error("not a token of ours for this name")]
    TokenInvalid,
    #[error("the token has run out")]
    TokenExpired,
    #[error("{what} is gone or has changed since the token was issued")]
    TokenRevoked { what: String },
    #[error(
        "too many failed logins of this user from this address; locked out for {} s",
        retry_after.as_secs()
    )]
    Throttled { retry_after: Duration },
    #[error("too many logins at once")]
    Overloaded { retry_after: Duration },
}

impl Rejection {
    /// The word of the vocabulary.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownUser => "unknown_user",
            Self::WrongPassword => "wrong_password",
            Self::LicenceInvalid(_) => "licence_invalid",
            Self::LicenceUserMismatch(_) => "licence_user_mismatch",
            Self::LicenceNotYet(_) => "licence_not_yet",
            Self::LicenceExpired { .. } => "licence_expired",
            Self::LicenceRevoked { .. } => "licence_revoked",
            Self::TokenInvalid => "token_invalid",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked { .. } => "token_revoked",
            Self::Throttled { .. } => "throttled",
            Self::Overloaded { .. } => "overloaded",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let (message, retry_after) = (String::new(), Duration::ZERO);
        let id = LicenceId::parse("acme-prod").expect("an id");
        let all = [
            Rejection::Malformed,
            Rejection::UnknownUser,
            Rejection::WrongPassword,
            Rejection::LicenceInvalid(LicenceRefusal::Issuer),
            Rejection::LicenceUserMismatch(id.clone()),
            Rejection::LicenceNotYet(id),
            Rejection::LicenceExpired { message: message.clone() },
            Rejection::LicenceRevoked { message: message.clone() },
            Rejection::TokenInvalid,
            Rejection::TokenExpired,
            Rejection::TokenRevoked { what: message },
            Rejection::Throttled { retry_after },
            Rejection::Overloaded { retry_after },
        ];
        let words: HashSet<_> = all.iter().map(Rejection::as_str).collect();
        assert_eq!(words.len(), all.len(), "{words:?}");
    }
}
