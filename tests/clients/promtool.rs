//! What Prometheus's own tool says of our metrics.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::http_client::client;
use crate::support::process::{Need, ready};
use crate::support::proxy::{Proxy, Settings};

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_a_scrape() {
    if !ready(&[Need::Program("promtool")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let settings = Settings::empty(scratch.path().to_owned(), "~").with_upstream("quay.io:\n");
    let proxy = Proxy::start(&settings).await;
    let get = async |url: String| {
        let answer = client().get(url).send().await.expect("the proxy answers");
        answer.text().await.expect("text")
    };
    get(format!("http://{}/v2/", proxy.clients)).await;
    get(format!("http://{}/v2/nowhere.test/a/tags/list", proxy.clients)).await;
    let scrape = scratch.path().join("scrape");
    fs::write(&scrape, get(format!("http://{}/metrics", proxy.admin)).await).expect("writable");
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::from(File::open(&scrape).expect("just written")))
        .output()
        .expect("promtool runs");
    let told = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&told), "", "{}", output.status);
    assert!(output.status.success());
}
