//! Commands over the control socket, spoken by hand.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::proxy::Proxy;
use super::soon;

/// An answer in lines, at the test's pace. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) status: u16,
    stream: BufReader<UnixStream>,
    is_chunked: bool,
}

impl Answering {
    /// Posts a command.
    pub(crate) async fn to(proxy: &Proxy, path: &str, order: &Value) -> Self {
        let socket = proxy.directory().join("cache/control.sock");
        let mut stream = UnixStream::connect(socket).await.expect("it listens");
        let body = order.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
        let mut answering = Self { status: 0, stream: BufReader::new(stream), is_chunked: false };
        let status = answering.text_line().await;
        answering.status = status.split(' ').nth(1).expect("a status").parse().expect("a number");
        loop {
            let line = answering.text_line().await.to_ascii_lowercase();
            answering.is_chunked |= line.starts_with("transfer-encoding: chunked");
            if line.is_empty() {
                return answering;
            }
        }
    }

    async fn text_line(&mut self) -> String {
        let mut line = String::new();
        soon("a line", self.stream.read_line(&mut line)).await.expect("text");
        line.trim_end().to_owned()
    }

    /// The next object; none at the end, also where it is cut.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        if !self.is_chunked {
            let mut rest = String::new();
            soon("the document", self.stream.read_to_string(&mut rest)).await.expect("text");
            return serde_json::from_str(&rest).ok();
        }
        // Each line is a chunk of its own.
        let size = usize::from_str_radix(&self.text_line().await, 16).ok()?;
        let mut chunk = vec![0; size + 2];
        soon("a chunk", self.stream.read_exact(&mut chunk)).await.ok()?;
        serde_json::from_slice(&chunk).ok()
    }

    /// The next object that has this key, without those before it.
    pub(crate) async fn next_with(&mut self, key: &str) -> Value {
        loop {
            let mut line = self.next().await.unwrap_or_else(|| panic!("it ends without {key}"));
            assert!(key == "error" || line.get("error").is_none(), "{line}");
            if let Some(found) = line.get_mut(key) {
                return found.take();
            }
        }
    }
}
