//! The operator's hand on a running cache: a socket in the cache directory that speaks HTTP/1.1 and
//! JSON, for this user and root alone. Where no server runs, the commands open the directory
//! themselves and are answered by the same code.

mod answers;
mod checking;
mod client;
mod documents;
mod exchange;
mod importing;
mod lines;
mod listed_images;
mod missed;
mod parts;
mod pinning;
mod purging;
mod receiving;
mod sealing;
mod session;
mod socket;
mod warming;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Either};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use checking::{finding_as_json, totals_as_json};
pub(crate) use client::{Order, ask_and_wait, follow_and_wait, post_and_wait};
pub(crate) use parts::ControlParts;
pub(crate) use session::{Absent, Session};

use answers::Answers;
use socket::ControlSocket;

/// Commands that are answered at once; more wait.
const CONNECTIONS_MAX: usize = 8;
/// Until a command has read its answer, taken the next line of one, or sent the next piece of
/// content: it gives its place to others then.
const COMMAND_MAX: Duration = Duration::from_mins(10);
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
    pub(crate) fn new(path: &Path, parts: ControlParts) -> io::Result<Self> {
        Ok(Self { socket: ControlSocket::bind(path)?, answers: Arc::new(Answers::new(parts)) })
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
                    serve(stream, answers).await;
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
    let (taken, mut reader) = watch::channel(());
    let answer = service_fn(move |request: Request<Incoming>| {
        let (answers, taken) = (Arc::clone(&answers), taken.clone());
        async move {
            let coming = taken.clone();
            let request = request.map(|body| {
                body.map_frame(move |frame| {
                    coming.send_replace(());
                    frame
                })
            });
            let response = answers.answer(request).await;
            let body = response.map(|body| match body {
                Either::Left(document) => Either::Left(document),
                Either::Right(lines) => Either::Right(lines.map_frame(move |frame| {
                    taken.send_replace(());
                    frame
                })),
            });
            Ok::<_, Infallible>(body)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_IDLE);
    let serving = http.serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        // A command that is interrupted leaves early.
        _ = serving => {}
        () = async { while timeout(COMMAND_MAX, reader.changed()).await.is_ok() {} } => {}
    }
}
