//! A network's proxy in this process: it connects to names that only it knows, or says otherwise as
//! the test wants, and remembers what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// One request that came to the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `CONNECT host:port`, or a method and the whole URL.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
}

/// What it says instead of connecting.
#[derive(Clone, Debug, Default)]
pub(crate) enum Says {
    #[default]
    Connects,
    /// This status, as a page.
    Status(u16),
    Nothing,
}

#[derive(Default)]
struct State {
    names: HashMap<String, SocketAddr>,
    /// The `Proxy-Authorization` that it wants.
    login: Option<String>,
    says: Says,
    asked: Vec<Asked>,
    connections: usize,
}

/// The proxy; its connections end with the test's runtime.
#[derive(Clone)]
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Forward {
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    /// It speaks TLS with its clients.
    pub(crate) async fn with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let forward = Self { address, state: Arc::default() };
        tokio::spawn(accept(listener, tls, forward.clone()));
        forward
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It connects whoever asks for `host:port` to this address.
    pub(crate) fn knows(&self, name: &str, address: SocketAddr) {
        self.state(|state| state.names.insert(name.to_owned(), address));
    }

    pub(crate) fn wants(&self, authorization: &str) {
        self.state(|state| state.login = Some(authorization.to_owned()));
    }

    pub(crate) fn says(&self, says: Says) {
        self.state(|state| state.says = says);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state(|state| state.asked.clone())
    }

    pub(crate) fn connections(&self) -> usize {
        self.state(|state| state.connections)
    }

    /// What was asked of it, each line once, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.asked().into_iter().map(|asked| asked.line).collect();
        lines.dedup();
        lines
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let line = format!("{} {}", request.method(), request.uri());
        let headers = request.headers().clone();
        let given = headers.get("proxy-authorization").map(|value| value.as_bytes().to_vec());
        let (says, login) = self.state(|state| {
            state.asked.push(Asked { line, headers });
            (state.says.clone(), state.login.clone())
        });
        if login.is_some_and(|login| given.as_deref() != Some(login.as_bytes())) {
            return Ok(page(407));
        }
        match says {
            Says::Status(status) => Ok(page(status)),
            Says::Nothing => std::future::pending().await,
            Says::Connects if request.method() == Method::CONNECT => {
                Ok(self.connect(request).await)
            }
            Says::Connects => Ok(self.forward(request).await),
        }
    }

    async fn connect(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let target = request.uri().to_string();
        let Some(address) = self.state(|state| state.names.get(&target).copied()) else {
            return page(502);
        };
        let Ok(mut there) = TcpStream::connect(address).await else { return page(502) };
        tokio::spawn(async move {
            let here = hyper::upgrade::on(request).await.expect("a CONNECT becomes a tunnel");
            let _ended = copy_bidirectional(&mut TokioIo::new(here), &mut there).await;
        });
        Response::new(Full::default())
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, _) = request.into_parts();
        let authority = parts.uri.authority().expect("the whole URL").to_string();
        let Some(address) = self.state(|state| state.names.get(&authority).copied()) else {
            return page(502);
        };
        let path = parts.uri.path_and_query().expect("a path");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let sent = client
            .request(parts.method, format!("http://{address}{path}"))
            .headers(parts.headers)
            .send();
        let answer = sent.await.expect("the origin answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = answer.bytes().await.expect("a whole body");
        let mut response = Response::new(Full::new(bytes));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

fn page(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("<html>the proxy says so</html>"));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    let html = "text/html; charset=utf-8".parse().expect("a type");
    response.headers_mut().insert("content-type", html);
    response
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, forward: Forward) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        forward.state(|state| state.connections += 1);
        let (tls, forward) = (tls.clone(), forward.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, forward).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, forward).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, forward: Forward) {
    let service = service_fn(move |request| forward.clone().answer(request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ended = connection.with_upgrades().await;
}
