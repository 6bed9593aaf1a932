//! A reload opens nothing to strangers: the rules come with what they are for, a file that is being
//! written does not count, and what was closed stays closed (ACCESS §8).

use std::time::Duration;

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const OPEN: &str = "{ who: anonymous, allow: [pull, list], images: ['**'] }";
const LISTS: &str = "{ who: anonymous, allow: [list], images: ['**'] }";

fn text(origin: &Origin, rules: &[&str]) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("    - {rule}")).collect();
    let rules = rules.join("\n");
    format!(
        "cache: {{ path: CACHE }}\nupstreams: {{ docker.io: {{ url: '{}' }} }}\naccess:\n  rules:\n{rules}\n",
        origin.url()
    )
}

fn reloads(proxy: &Proxy, part: &str, outcome: &str) -> i64 {
    proxy.metric("roadstead_reloads_total", &[("part", part), ("outcome", outcome)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_rules_have_closed_is_not_given() {
    let image = Image::new(1, &[1000, 1000]);
    let [layer, other] = [0, 1].map(|n| image.layers[n].digest.clone());
    let hub = Origin::with("library/a", "1", &image).await;
    let gate = hub.hold_at(&layer, 500);
    let proxy = Setup::written(&text(&hub, &[OPEN])).start().await;
    let (path, missing) = (blob("library/a", &layer), manifest("library/none", 1));
    assert_eq!(proxy.get(&blob("library/a", &other)).await.status, 200);
    let asking = proxy.get(&path);
    let closing = async {
        eventually("the registry is asked", || gate.reached() > 0).await;
        assert_eq!(proxy.reconfigure(&text(&hub, &[LISTS])).await, (1, 0));
        gate.open();
    };
    let (answer, ()) = tokio::join!(asking, closing);
    assert_eq!(answer.status, 404, "as one who may not pull is told");
    assert_eq!(answer.body, proxy.get(&path).await.body);
    assert_eq!(proxy.get(&missing).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_counts_when_it_is_the_same_twice() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let elsewhere = Setup::new();
    let users =
        elsewhere.file("users", &format!("ci:{}\n", bcrypt::hash("hush", 4).expect("a hash")));
    let with_users = |text: String| {
        text.replace("access:\n", &format!("access:\n  users: '{}'\n", users.display()))
    };
    let mut setup = Setup::written(&with_users(text(&hub, &[OPEN])));
    // Nothing but the test makes it look.
    (setup.limits.watch, setup.limits.settle) = (Duration::from_hours(1), Duration::from_hours(1));
    let proxy = setup.start().await;
    let mut looks = 0;
    let mut look = async || {
        proxy.reload();
        looks += 1;
        // Users have not changed, and are read at each look that somebody asks for.
        eventually("a look", || reloads(&proxy, "users", "loaded") == looks).await;
        (reloads(&proxy, "configuration", "loaded"), reloads(&proxy, "configuration", "refused"))
    };
    let whole = with_users(text(&hub, &[LISTS]));
    let status = async || proxy.get(&manifest("library/a", 1)).await.status;
    for end in [whole.len() - 20, whole.len() - 10] {
        std::fs::write(proxy.directory().join("config.yaml"), &whole[..end]).expect("writable");
        assert_eq!(look().await, (0, 0), "not judged");
    }
    assert_eq!(look().await, (0, 1), "nobody goes on writing, so that is what it is");
    proxy.write(&whole);
    assert_eq!((look().await, status().await), ((0, 1), 200));
    assert_eq!((look().await, status().await), ((1, 1), 401));
    assert_eq!(look().await, (2, 1), "whoever asks has it read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_closed_to_strangers_is_opened_by_a_restart_alone() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let near = "{ who: anonymous, networks: [192.0.2.0/24], allow: [pull], images: ['**'] }";
    let proxy = Setup::written(&text(&hub, &[near, LISTS])).start().await;
    let status = async || proxy.get(&manifest("library/a", 1)).await.status;
    assert_eq!(status().await, 404);
    for (opening, refused) in [
        (&[OPEN, LISTS][..], 1),
        (&[&near.replace("networks: [192.0.2.0/24], ", ""), LISTS], 2),
        (&[near, LISTS, &OPEN.replace("**", "docker.io/library/*")], 3),
    ] {
        assert_eq!(proxy.reconfigure(&text(&hub, opening)).await, (0, refused), "{opening:?}");
        assert_eq!(status().await, 404);
    }
    let narrower = near.replace("2.0/24", "2.0/28");
    assert_eq!(proxy.reconfigure(&text(&hub, &[&narrower, LISTS])).await, (1, 3));
}
