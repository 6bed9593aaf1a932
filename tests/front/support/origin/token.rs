//! Who may ask an origin: anyone, a Basic credential, or holders of tokens that its own endpoint gives out.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::reply::Reply;
use super::request::Request;

/// How an origin authenticates.
#[derive(Clone, Debug, Default)]
pub(crate) enum Auth {
    #[default]
    Open,
    Basic(Login),
    Bearer(Bearer),
}

#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) username: &'static str,
    pub(crate) password: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Bearer {
    /// Who gets a token; `None`: anyone.
    pub(crate) login: Option<Login>,
    /// Where the token endpoint is; `None`: at the origin itself.
    pub(crate) realm: Option<String>,
    /// Seconds; `None`: not said.
    pub(crate) expires_in: Option<u64>,
    /// GET is refused with 405.
    pub(crate) post_only: bool,
}

/// The authentication in force and the tokens given out.
#[derive(Debug, Default)]
pub(super) struct Guard {
    auth: Auth,
    tokens: HashSet<(String, String)>,
    issued: usize,
}

impl Guard {
    pub(super) fn set(&mut self, auth: Auth) {
        self.auth = auth;
        self.tokens.clear();
    }

    pub(super) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// What a request without a right gets; `None` if it has it.
    pub(super) fn refuse(&self, request: &Request, authority: &str) -> Option<Reply> {
        let scope = format!("repository:{}:pull", request.repository);
        let given = request.header("authorization").unwrap_or_default();
        let challenge = match &self.auth {
            Auth::Open => return None,
            Auth::Basic(login) if given == login.header() => return None,
            Auth::Basic(_) => "Basic realm=\"Registry Realm\"".to_owned(),
            Auth::Bearer(bearer) => {
                let token = given.strip_prefix("Bearer ").unwrap_or_default().to_owned();
                if self.has(&token, request, &scope) {
                    return None;
                }
                let realm = bearer.realm.clone().unwrap_or_else(|| format!("http://{authority}/token"));
                format!("Bearer realm=\"{realm}\",service=\"scripted\",scope=\"{scope}\"")
            }
        };
        Some(Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
    }

    fn has(&self, token: &str, request: &Request, scope: &str) -> bool {
        if request.repository.is_empty() {
            return self.tokens.iter().any(|(known, _)| known == token);
        }
        self.tokens.contains(&(token.to_owned(), scope.to_owned()))
    }

    /// The token endpoint.
    pub(super) fn token(&mut self, request: &Request) -> Reply {
        let Auth::Bearer(bearer) = &self.auth else { return Reply::error(404, "UNSUPPORTED") };
        if bearer.post_only && request.method == "GET" {
            return Reply::error(405, "UNSUPPORTED");
        }
        if bearer.login.as_ref().is_some_and(|login| !login.fits(request)) {
            return Reply::error(401, "UNAUTHORIZED");
        }
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let scope = request.parameter("scope").or_else(|| field(&form, "scope")).unwrap_or_default();
        self.tokens.insert((token.clone(), scope));
        let mut document = json!({ "token": token });
        if let Some(seconds) = bearer.expires_in {
            document["expires_in"] = seconds.into();
        }
        Reply::typed(200, "application/json", document.to_string())
    }
}

impl Login {
    fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }

    fn fits(&self, request: &Request) -> bool {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let posted = field(&form, "username").as_deref() == Some(self.username)
            && field(&form, "password").as_deref() == Some(self.password);
        posted || request.header("authorization") == Some(&self.header())
    }
}

fn field(form: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(form.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
