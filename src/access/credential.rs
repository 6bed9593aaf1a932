//! What a request presents: the `Authorization` header, read once.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::secret::Secret;

/// Longest header value that is looked at; a licence or a token of ours takes a fraction of it.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A credential as it was presented; nothing of it is verified.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClientCredential {
    None,
    Basic {
        user: String,
        password: Secret,
    },
    Bearer(Secret),
    /// Something else, or not what it claims to be.
    Unreadable,
}

impl ClientCredential {
    /// What the headers present. An empty user with an empty password is no credential (AUTH-8).
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) if value.len() <= HEADER_BYTES_MAX => {
                value.to_str().ok().and_then(Self::parse).unwrap_or(Self::Unreadable)
            }
            (Some(_), _) => Self::Unreadable,
        }
    }

    /// A user and a password, as a form gives them.
    pub(crate) fn basic(user: String, password: String) -> Self {
        if user.is_empty() && password.is_empty() {
            return Self::None;
        }
        Self::Basic { user, password: Secret::new(password) }
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(Secret::new(rest.to_owned())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self::basic(user.to_owned(), password.to_owned()))
    }

    /// The scheme, as a label of metrics.
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic { .. } => "basic",
            Self::Bearer(_) => "bearer",
            Self::Unreadable => "unreadable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> ClientCredential {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().expect("a header value"));
        }
        ClientCredential::of(&headers)
    }

    fn basic(user: &str, password: &str) -> ClientCredential {
        ClientCredential::Basic {
            user: user.to_owned(),
            password: Secret::new(password.to_owned()),
        }
    }

    #[test]
    fn basic_and_bearer_are_read_in_any_case_and_padding() {
        assert_eq!(read(&["Basic YTpi"]), basic("a", "b"));
        assert_eq!(read(&["basic  YTpiYw== "]), basic("a", "bc"));
        assert_eq!(read(&["BASIC YTpiYw"]), basic("a", "bc"));
        assert_eq!(read(&["Basic YTpiOmM="]), basic("a", "b:c"), "only the first colon separates");
        assert_eq!(read(&["Basic YTo="]), basic("a", ""));
        assert_eq!(read(&["Bearer x.y.z"]), ClientCredential::Bearer(Secret::new("x.y.z".into())));
    }

    #[test]
    fn the_longest_licence_and_token_are_read() {
        let token = "a".repeat(15 * 1024);
        let read = read(&[&format!("Bearer {token}")]);
        assert_eq!(read, ClientCredential::Bearer(Secret::new(token)));
        assert_eq!(read.scheme(), "bearer");
    }

    #[test]
    fn nothing_at_all_is_anonymous() {
        assert_eq!(read(&[]), ClientCredential::None);
        assert_eq!(read(&["Basic Og=="]), ClientCredential::None);
        assert_eq!(ClientCredential::basic(String::new(), String::new()), ClientCredential::None);
    }

    #[test]
    fn what_cannot_be_read_is_a_credential_that_nobody_knows() {
        let long = format!("Bearer {}", "a".repeat(HEADER_BYTES_MAX));
        for values in [
            &["Basic"][..],
            &["Basic !"],
            &["Basic /////w=="],
            &["Basic YQ=="],
            &["Digest x"],
            &["", ""],
            &["Basic YTpi", "Basic YTpi"],
            &[long.as_str()],
        ] {
            assert_eq!(read(values), ClientCredential::Unreadable, "{values:?}");
        }
    }
}
