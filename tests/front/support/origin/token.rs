//! Who may ask an origin: anyone, a Basic credential, or holders of tokens that its own endpoint
//! gives out.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::reply::Reply;
use super::request::{Kind, Request};

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
        let given = request.header("authorization").unwrap_or_default();
        let challenge = match &self.auth {
            Auth::Open => return None,
            Auth::Basic(login) if given == login.header() => return None,
            Auth::Basic(_) => "Basic realm=\"Registry Realm\"".to_owned(),
            Auth::Bearer(bearer) => {
                let token = given.strip_prefix("Bearer ").unwrap_or_default();
                let wanted = wanted(request);
                if self.has(token, &wanted) {
                    return None;
                }
                let realm =
                    bearer.realm.clone().unwrap_or_else(|| format!("http://{authority}/token"));
                let wanted =
                    wanted.iter().map(|(name, actions)| format!("repository:{name}:{actions}"));
                let scope = wanted.collect::<Vec<_>>().join(" ");
                format!("Bearer realm=\"{realm}\",service=\"scripted\",scope=\"{scope}\"")
            }
        };
        Some(Reply::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
    }

    /// Whether the token is for all of that; the ping wants any token.
    fn has(&self, token: &str, wanted: &[(String, &str)]) -> bool {
        let granted: Vec<&str> =
            self.tokens.iter().filter(|(known, _)| known == token).map(|(_, s)| &**s).collect();
        let allows = |name: &str, action: &str| {
            granted.iter().flat_map(|scope| scope.split(' ')).any(|scope| {
                let rest = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
                rest.is_some_and(|(of, actions)| {
                    of == name && actions.split(',').any(|given| given == action)
                })
            })
        };
        !granted.is_empty()
            && wanted
                .iter()
                .all(|(name, actions)| actions.split(',').all(|action| allows(name, action)))
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
        let mut scopes = request.parameters("scope");
        scopes.extend(field(&form, "scope"));
        self.tokens.insert((token.clone(), scopes.join(" ")));
        let mut document = json!({ "token": token });
        if let Some(seconds) = bearer.expires_in {
            document["expires_in"] = seconds.into();
        }
        Reply::typed(200, "application/json", document.to_string())
    }
}

/// The repositories that a request is about, and the actions that distribution wants a token for.
fn wanted(request: &Request) -> Vec<(String, &'static str)> {
    if request.repository.is_empty() {
        return Vec::new();
    }
    let actions = match request.method.as_str() {
        "POST" | "PATCH" | "PUT" => "pull,push",
        "DELETE" => "delete",
        _ => "pull",
    };
    let from = request.parameter("from").filter(|_| request.kind == Kind::Upload);
    from.map(|from| (from, "pull"))
        .into_iter()
        .chain([(request.repository.clone(), actions)])
        .collect()
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
    url::form_urlencoded::parse(form.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
