//! Reloads while clients pull, through the front door (ACCESS §8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup};
use crate::support::tls::{Authority, client, tls};
use crate::support::vendor::basic;

const RELOADS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn reloads_good_and_broken_fail_no_request_and_cut_no_pull() {
    let image = Arc::new(Image::new(1, &[3_000_000]));
    let origin = Origin::with("library/a", "1", &image).await;
    let (mut setup, authority) = (Setup::of(&origin), Arc::new(Authority::new()));
    let ci = format!("ci:{}\n", bcrypt::hash("ci-secret", 4).expect("a hash"));
    setup.config.tls = Some(tls(&setup, &authority, None));
    setup.config.access.users = Some(setup.file("users", &ci));
    let (proxy, stop) = (setup.start().await, Arc::new(AtomicBool::new(false)));
    let mut pulling = JoinSet::new();
    for _ in 0..4 {
        let (image, stop, base) =
            (Arc::clone(&image), Arc::clone(&stop), format!("https://{}", proxy.authority()));
        let authority = Arc::clone(&authority);
        pulling.spawn(async move {
            let mut pulls = 0;
            while !stop.load(Ordering::Relaxed) {
                // Each pull has a connection of its own, and so the certificate of its moment.
                pull(&client(&authority, None, true), &base, &image).await;
                pulls += 1;
            }
            pulls
        });
    }
    for number in 0..RELOADS {
        let (part, broken) = (["users", "tls"][number % 2], number % 10 >= 8);
        let outcome = if broken { "refused" } else { "loaded" };
        let count =
            || proxy.metric("roadstead_reloads_total", &[("part", part), ("outcome", outcome)]);
        let before = count();
        replace(&proxy, &authority, part, (!broken).then_some(&ci), number);
        proxy.reload();
        eventually("the reload is counted", || count() > before).await;
    }
    stop.store(true, Ordering::Relaxed);
    let pulls = pulling.join_all().await;
    assert!(pulls.iter().all(|pulls| *pulls > 0), "{pulls:?}");
}

/// Manifest and layer, as `ci`; both have to be right.
async fn pull(client: &reqwest::Client, base: &str, image: &Image) {
    let layer = &image.layers[0];
    let expected = [
        ("/v2/library/a/manifests/1".to_owned(), image.manifest.bytes.clone()),
        (format!("/v2/library/a/blobs/{}", layer.digest), layer.bytes()),
    ];
    for (path, bytes) in expected {
        let asked =
            client.get(format!("{base}{path}")).header("authorization", basic("ci", "ci-secret"));
        let answer = asked.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.bytes().await.expect("the whole body") == bytes, "{path}");
    }
}

/// Writes what is read next: more users than before, another certificate, or something broken.
fn replace(
    proxy: &Proxy,
    authority: &Authority,
    part: &str,
    users: Option<&String>,
    number: usize,
) {
    let write =
        |name, text: &str| std::fs::write(proxy.directory().join(name), text).expect("writable");
    match (part, users) {
        ("users", Some(users)) => {
            write("users", &format!("{users}{}", users.replace("ci:", &format!("more{number}:"))));
        }
        ("users", None) => write("users", &format!("broken {number}")),
        (_, Some(_)) => {
            let (certificate, key) = authority.issue("registry.test");
            write("tls.crt", &certificate);
            write("tls.key", &key);
        }
        (_, None) => write("tls.crt", &format!("broken {number}")),
    }
}
