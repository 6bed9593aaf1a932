//! The token endpoint: a password or a licence in, a short-lived token out (PROTOCOL §2.1, AUTH-9,
//! AUTH-12).
//!
//! The scope that a client asks for decides nothing: a token says who asks, and each request is
//! decided by itself (ACCESS §5.1). containerd may ask for a scope that names no repository of
//! ours, and a refusal would end its pull.

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use url::form_urlencoded;

use super::error::{Extra, Refusal};
use super::respond::{self, Answer};
use super::whole_body::{BodyTurn, UnreadBody};
use crate::access::{ClientCredential, Issued};
use crate::licence::calendar;
use crate::limits::Limits;
use crate::oci::ErrorCode;

/// Where the challenge sends clients.
pub(super) const TOKEN_PATH: &str = "/token";

/// Bytes of the form of a POST: a password or a licence, and a few names (AUTH-12).
const FORM_BYTES_MAX: usize = 16 * 1024;

/// What a POST asks for; its other fields are ignored.
#[derive(Debug, Default)]
pub(super) struct TokenForm {
    /// The password in the form; none if the credential is in the `Authorization` header.
    pub(super) credential: Option<ClientCredential>,
    /// The scope that was asked for, to be echoed.
    pub(super) scope: String,
}

/// Reads the form of a POST. It may wait for its turn, and has to arrive then, within the time that
/// an answer has. Other methods have none.
///
/// # Errors
/// 405 for a method that is none of ours, 400 for a form that cannot be read, 401 for a grant that
/// we never gave, 503 if others take all memory, or its connection's turns.
pub(super) async fn read_form(
    request: &mut Request<Incoming>,
    limits: &Limits,
) -> Result<TokenForm, Refusal> {
    match *request.method() {
        Method::GET | Method::HEAD => return Ok(TokenForm::default()),
        Method::POST => {}
        _ => {
            let refusal =
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, "GET or POST");
            return Err(refusal.with(Extra::Allow("GET, HEAD, POST")));
        }
    }
    let bad =
        |message: &str| Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message);
    let unread = |unread| match unread {
        UnreadBody::TooLong => bad("the form is too long").with(Extra::Close),
        UnreadBody::BrokenOff => bad("the form cannot be read").with(Extra::Close),
        UnreadBody::NoMemory => Refusal::no_memory(),
    };
    let turn = BodyTurn::wait(request, FORM_BYTES_MAX, limits.body_turn).await.map_err(unread)?;
    let patience = limits.head.saturating_sub(limits.body_turn);
    let form = tokio::time::timeout(patience, turn.read(request)).await;
    let form = form.map_err(|_| bad("the form did not arrive in time"))?.map_err(unread)?;
    parse_form(&form).ok_or_else(|| {
        let message = "this token endpoint gives out no refresh tokens; log in again";
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
    })
}

/// None for a grant other than a password: we give out no refresh tokens that one could be for
/// (AUTH-9).
fn parse_form(bytes: &[u8]) -> Option<TokenForm> {
    let (mut grant, mut user, mut password) = (None, String::new(), String::new());
    let mut form = TokenForm::default();
    for (key, value) in form_urlencoded::parse(bytes) {
        match &*key {
            "grant_type" => grant = Some(value.into_owned()),
            "username" => user = value.into_owned(),
            "password" => password = value.into_owned(),
            "scope" => form.scope = value.into_owned(),
            _ => {}
        }
    }
    match grant.as_deref() {
        None => Some(form),
        Some("password") => {
            Some(TokenForm { credential: Some(ClientCredential::basic(user, password)), ..form })
        }
        Some(_) => None,
    }
}

/// The answer with a token. The specification of the GET form calls the member `token`, that of the
/// POST form `access_token`; clients read either, so both answers have both. `scope` is what a POST
/// asked for, to be echoed.
pub(super) fn answer(issued: &Issued, scope: Option<&str>) -> Answer {
    let token = issued.token.expose();
    let mut document = serde_json::json!({
        "token": token,
        "access_token": token,
        "expires_in": issued.life.as_secs(),
        "issued_at": calendar::format(issued.at),
    });
    if let Some(scope) = scope {
        document["scope"] = scope.into();
        document["token_type"] = "Bearer".into();
    }
    respond::token(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_a_password_or_nothing() {
        let form = parse_form(
            b"grant_type=password&service=x&client_id=y&scope=a%3Ab%3Apull+c&\
              username=ci&password=a%26b",
        );
        let form = form.expect("a password");
        assert_eq!(form.scope, "a:b:pull c");
        assert_eq!(form.credential, Some(ClientCredential::basic("ci".into(), "a&b".into())));
        assert_eq!(parse_form(b"scope=x").expect("no grant").credential, None);
        assert!(parse_form(b"grant_type=refresh_token&refresh_token=x").is_none());
        let empty =
            parse_form(b"grant_type=password&username=&password=").expect("an empty password");
        assert_eq!(empty.credential, Some(ClientCredential::None));
    }
}
