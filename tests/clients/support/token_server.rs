//! A token server (distribution's token specification) whose tokens `docker-registry` 2.8 verifies
//! by their `x5c` chain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use roadstead::clock::Clock;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::registry::{PASSWORD, USERNAME};

pub(crate) const SERVICE: &str = "the-registry";
/// How long a token is good for, in seconds.
const LIFE: u64 = 300;
pub(crate) const ISSUER: &str = "the-token-server";

/// Runs until dropped.
#[derive(Debug)]
pub(crate) struct TokenServer {
    pub(crate) address: SocketAddr,
    issued: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl TokenServer {
    /// Starts it and writes its certificate, which the registry trusts, to `certificate`.
    pub(crate) async fn start(certificate: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let issued = Arc::default();
        let signer = Arc::new(Signer::new(certificate, Arc::clone(&issued)));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, signer));
        Self { address, issued, _tasks: tasks }
    }

    /// Every token it gave out.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.issued.lock().expect("no holder panics").clone()
    }
}

async fn accept(listener: TcpListener, signer: Arc<Signer>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&signer)));
    }
}

async fn serve(stream: TcpStream, signer: Arc<Signer>) {
    let service = service_fn(async |request| Ok::<_, Infallible>(signer.answer(&request)));
    // A client that goes away is none of the test's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
    issued: Arc<Mutex<Vec<String>>>,
}

impl Signer {
    fn new(certificate: &Path, issued: Arc<Mutex<Vec<String>>>) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![ISSUER.to_owned()])
            .expect("the name is a valid one");
        std::fs::write(certificate, made.cert.pem()).expect("the folder is the test's own");
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &made.signing_key.serialize_der(),
        );
        Self {
            key: key.expect("rcgen's default is P-256"),
            certificate: STANDARD.encode(made.cert.der()),
            issued,
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let expected = format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{PASSWORD}")));
        let given = request.headers().get(header::AUTHORIZATION);
        if given.is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
            return respond(StatusCode::UNAUTHORIZED, &json!({ "errors": [] }));
        }
        let token = self.token(request.uri().query().unwrap_or_default());
        self.issued.lock().expect("no holder panics").push(token.clone());
        respond(StatusCode::OK, &json!({ "token": token, "expires_in": LIFE }))
    }

    /// A token for what `query` asks: `scope=repository:NAME:ACTIONS`, any number of times.
    fn token(&self, query: &str) -> String {
        let asked = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "scope");
        let access: Vec<_> = asked.filter_map(|(_, scope)| grant(&scope)).collect();
        let now = Clock::system().now().unix();
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": USERNAME, "jti": "1", "access": access,
            "iat": now.as_secs(), "nbf": now.as_secs(), "exp": now.as_secs() + LIFE,
        });
        let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let text = format!("{}.{}", encode(&head), encode(&claims));
        let signature =
            self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("P-256 signs anything");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn grant(scope: &str) -> Option<serde_json::Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<_> = actions.split(',').filter(|action| *action == "pull").collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

fn encode(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    response.body(Full::from(body.to_string())).expect("status and header are valid")
}
