//! Commands, over the socket of a proxy and as the program gives them.

use std::process::Command;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::proxy::Proxy;

/// Status and document.
pub(crate) async fn ask(proxy: &Proxy, path: &str) -> (u16, Value) {
    send(proxy, &format!("GET {path}"), "").await
}

/// Status and document.
pub(crate) async fn order(proxy: &Proxy, path: &str, order: &Value) -> (u16, Value) {
    send(proxy, &format!("POST {path}"), &order.to_string()).await
}

async fn send(proxy: &Proxy, what: &str, body: &str) -> (u16, Value) {
    let socket = proxy.directory().join("cache/control.sock");
    let mut stream = UnixStream::connect(socket).await.expect("it listens");
    let request = format!(
        "{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, serde_json::from_str(body).expect("JSON"))
}

pub(crate) async fn images(proxy: &Proxy, query: &str) -> Vec<Value> {
    let (status, answer) = ask(proxy, &format!("/v1/images?{query}")).await;
    assert_eq!(status, 200, "{answer}");
    answer["images"].as_array().expect("a list").clone()
}

pub(crate) fn names(images: &[Value]) -> Vec<String> {
    let text = |image: &Value, key: &str| image[key].as_str().unwrap_or("-").to_owned();
    images.iter().map(|image| format!("{}:{}", text(image, "name"), text(image, "tag"))).collect()
}

/// Exit code and what the command says, with a configuration of this cache.
pub(crate) fn command(proxy: &Proxy, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = proxy.directory().join("command.yaml");
    let cache = proxy.directory().join("cache");
    let text = format!("cache: {{ path: '{}' }}\nupstreams: {{ quay.io: }}\n", cache.display());
    std::fs::write(&file, text).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.args(arguments).arg("--config").arg(&file).env_remove("RUST_LOG");
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
