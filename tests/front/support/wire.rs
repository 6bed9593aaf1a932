//! A wire to an origin, with TLS or without, that breaks as no server would break it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How the answer to one GET of a blob goes wrong on its way.
#[derive(Clone, Debug)]
pub(crate) enum Break {
    /// The connection is reset.
    Reset,
    /// It ends, and TLS does not say so.
    End,
    /// It ends, and TLS says so.
    Close,
    /// These bytes come between.
    Insert(Bytes),
    /// These bytes come in place of the rest.
    Instead(Bytes),
    /// These bytes come below TLS, in place of the rest.
    Below(Bytes),
    /// The rest comes later.
    Late(Duration),
    /// Nothing more comes, and the connection stays.
    Silence,
    /// So many bytes are missing.
    Lose(usize),
    /// So many bytes come one by one.
    Drip(usize),
}

/// Where in the answer, counted from the first byte of its head, and how.
type Broken = Arc<Mutex<Option<(usize, Break)>>>;

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    broken: Broken,
}

impl Wire {
    pub(crate) async fn to(server: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, broken) = (listener.local_addr().expect("it is bound"), Broken::default());
        let its = Arc::clone(&broken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, server, tls.clone(), Arc::clone(&its)));
            }
        });
        Self { address, broken }
    }

    /// Breaks the next answer to a GET of a blob.
    pub(crate) fn break_next(&self, at: usize, how: Break) {
        *self.broken.lock().expect("no test panics here") = Some((at, how));
    }

    pub(crate) fn repair(&self) {
        *self.broken.lock().expect("no test panics here") = None;
    }
}

async fn carry(stream: TcpStream, server: SocketAddr, tls: Option<TlsAcceptor>, broken: Broken) {
    let Ok(there) = TcpStream::connect(server).await else { return };
    drop(stream.set_nodelay(true));
    match tls {
        None => drop(pump(stream, |stream| stream, there, &broken).await),
        Some(acceptor) => {
            let Ok(here) = acceptor.accept(stream).await else { return };
            drop(pump(here, |here| here.get_mut().0, there, &broken).await);
        }
    }
}

async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    mut here: S,
    below: fn(&mut S) -> &mut TcpStream,
    mut there: TcpStream,
    broken: &Broken,
) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    // What is left of this answer until it breaks.
    let mut breaks: Option<(usize, Break)> = None;
    loop {
        tokio::select! {
            read = here.read(&mut asked) => {
                let request = &asked[..read?];
                if request.is_empty() {
                    return Ok(());
                }
                if is_blob_get(request) {
                    breaks = broken.lock().expect("no test panics here").take();
                }
                there.write_all(request).await?;
            }
            read = there.read(&mut answered) => {
                let mut answer = &answered[..read?];
                if answer.is_empty() {
                    return here.shutdown().await;
                }
                if let Some((left, how)) = breaks.take() {
                    if answer.len() <= left {
                        breaks = Some((left - answer.len(), how));
                    } else {
                        here.write_all(&answer[..left]).await?;
                        here.flush().await?;
                        answer = &answer[left..];
                        match apply(how, &mut here, below, &mut answer).await? {
                            Goes::On(rest) => breaks = rest,
                            Goes::Nowhere => return Ok(()),
                        }
                    }
                }
                here.write_all(answer).await?;
                here.flush().await?;
            }
        }
    }
}

enum Goes {
    On(Option<(usize, Break)>),
    Nowhere,
}

async fn apply<S: AsyncRead + AsyncWrite + Unpin>(
    how: Break,
    here: &mut S,
    below: fn(&mut S) -> &mut TcpStream,
    answer: &mut &[u8],
) -> std::io::Result<Goes> {
    match how {
        Break::Reset => {
            below(here).set_zero_linger()?;
            return Ok(Goes::Nowhere);
        }
        Break::End => return Ok(Goes::Nowhere),
        Break::Close => {
            here.shutdown().await?;
            return Ok(Goes::Nowhere);
        }
        Break::Instead(bytes) => {
            here.write_all(&bytes).await?;
            here.shutdown().await?;
            return Ok(Goes::Nowhere);
        }
        Break::Below(bytes) => {
            below(here).write_all(&bytes).await?;
            return Ok(Goes::Nowhere);
        }
        Break::Silence => {
            // Until the other side has had enough.
            drop(here.read(&mut [0; 1]).await);
            return Ok(Goes::Nowhere);
        }
        Break::Insert(bytes) => here.write_all(&bytes).await?,
        Break::Late(time) => tokio::time::sleep(time).await,
        Break::Lose(bytes) => {
            let lost = bytes.min(answer.len());
            *answer = &answer[lost..];
            return Ok(Goes::On((bytes > lost).then_some((0, Break::Lose(bytes - lost)))));
        }
        Break::Drip(bytes) => {
            let slow = bytes.min(answer.len());
            for byte in &answer[..slow] {
                here.write_all(&[*byte]).await?;
                here.flush().await?;
            }
            *answer = &answer[slow..];
        }
    }
    Ok(Goes::On(None))
}

fn is_blob_get(request: &[u8]) -> bool {
    let is_blob = |line: &[u8]| line.windows(7).any(|part| part == b"/blobs/");
    request.starts_with(b"GET ") && request.split(|byte| *byte == b'\r').next().is_some_and(is_blob)
}
