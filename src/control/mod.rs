//! The operator's hand on a running cache: a socket in the cache directory that speaks HTTP/1.1 and
//! JSON, for this user and root alone. Where no server runs, the commands open the directory
//! themselves and are answered by the same code.

mod answers;
mod client;
mod documents;
mod listed_images;
mod purging;
mod socket;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::store::BlobStore;

pub(crate) use client::{ask_and_wait, post_and_wait};

use answers::Answers;
use documents::Unanswered;
use socket::ControlSocket;

/// Commands that are answered at once; more wait.
const CONNECTIONS_MAX: usize = 8;
/// Until a command has read its answer; it gives its place to others then.
const COMMAND_MAX: Duration = Duration::from_mins(10);
/// Bytes of what a command sends: the names of some 100,000 images.
const ORDER_MAX: usize = 16 << 20;
/// Waiting for a request.
const REQUEST_IDLE: Duration = Duration::from_secs(10);

/// Listens for commands.
#[derive(Debug)]
pub(crate) struct Control {
    socket: ControlSocket,
    answers: Arc<Answers>,
}

impl Control {
    /// Makes the socket at `path`, in place of one that an earlier process has left.
    ///
    /// # Errors
    /// Those of the system: a path that is too long for a socket, a file system that takes nothing.
    pub(crate) fn new(path: &Path, store: BlobStore, clock: Clock) -> io::Result<Self> {
        let socket = ControlSocket::bind(path)?;
        Ok(Self { socket, answers: Arc::new(Answers::new(store, clock)) })
    }

    /// Answers until `stop` resolves; commands under way are cut then, and the socket is removed.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let (places, mut tasks) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), JoinSet::new());
        let serve = async {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let Some(stream) = self.socket.accept().await else { continue };
                while tasks.try_join_next().is_some() {}
                let answers = Arc::clone(&self.answers);
                tasks.spawn(async move {
                    // Late or not, it is over.
                    let _late = tokio::time::timeout(COMMAND_MAX, serve(stream, answers)).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = serve => {}
            () = stop => {}
        }
    }
}

async fn serve(stream: UnixStream, answers: Arc<Answers>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answer(&answers, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_IDLE);
    // A command that is interrupted leaves early.
    drop(http.serve_connection(TokioIo::new(stream), answer).await);
}

async fn answer(answers: &Answers, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match Limited::new(body, ORDER_MAX).collect().await {
        Ok(body) => answers.answer(&Request::from_parts(head, body.to_bytes())).await,
        Err(error) => {
            let sentence = format!("this is not read: {error}");
            Unanswered(StatusCode::PAYLOAD_TOO_LARGE, sentence).response()
        }
    }
}
