//! What clients missed at sealed upstreams, and the list that would bring it (SEAL-7).

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::control::{ask, command, order};
use crate::support::eventually;
use crate::support::image::{Image, Manifest};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::vendor::{Vendor, basic};

async fn misses(proxy: &Proxy) -> Value {
    let (status, answer) = ask(proxy, "/v1/misses").await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Of each miss: what, how often, and by whom.
fn told(answer: &Value) -> Vec<String> {
    let word = |miss: &Value, key: &str| miss[key].as_str().unwrap_or("-").to_owned();
    let told = |miss: &Value| {
        let by: Vec<String> =
            serde_json::from_value(miss["asked_by"].clone()).expect("a list of words");
        let (name, tag) = (word(miss, "name"), word(miss, "tag"));
        format!("{} {name}:{tag} {} {}", word(miss, "kind"), miss["count"], by.join(","))
    };
    answer["misses"].as_array().expect("a list").iter().map(told).collect()
}

fn lines(answer: &Value) -> Vec<String> {
    serde_json::from_value(answer["list"].clone()).expect("a list of lines")
}

/// In front of a sealed registry.
async fn sealed(origin: &Origin) -> Proxy {
    let mut setup = Setup::of(origin);
    setup.config.upstreams[0].sealed = true;
    setup.start().await
}

/// Seals a proxy that has pulled something.
async fn seal(proxy: &mut Proxy) {
    proxy.setup().config.upstreams[0].sealed = true;
    proxy.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missed_is_told_with_how_often_when_and_by_whom() {
    let origin = Origin::start().await;
    let mut proxy = sealed(&origin).await;
    let image = Image::new(1, &[1000]);
    let begun = proxy.clock().now().unix().as_secs();
    for (method, path) in [
        (Method::HEAD, manifest("library/nginx", "1.27")),
        (Method::GET, manifest("nginx", "1.27")),
        (Method::GET, manifest("a/b", &image.manifest.digest)),
        (Method::GET, blob("a/b", &image.layers[0].digest)),
        // Nobody pulls by these.
        (Method::HEAD, blob("a/b", &image.config.digest)),
        (Method::GET, "/v2/a/b/tags/list".to_owned()),
        (Method::GET, format!("/v2/a/b/referrers/{}", image.manifest.digest)),
        (Method::GET, manifest("a/b", "..")),
        (Method::GET, manifest("unknown.test/a/b", "v1")),
    ] {
        proxy.clock().advance(Duration::from_secs(10));
        assert!(proxy.request(method, &path, &[]).await.status < 500, "{path}");
    }
    let expected = [
        "manifest docker.io/a/b:- 1 anonymous",
        "blob docker.io/a/b:- 1 anonymous",
        "tag docker.io/library/nginx:1.27 2 anonymous",
    ];
    let nginx = "docker.io/library/nginx:1.27".to_owned();
    let listed = [format!("docker.io/a/b@{}", image.manifest.digest), nginx];
    let answer = misses(&proxy).await;
    assert_eq!(
        (told(&answer), lines(&answer)),
        (expected.map(str::to_owned).into(), listed.into())
    );
    let time = |second: u64| {
        let at = roadstead::clock::Timestamp::from_unix(Duration::from_secs(begun + second));
        roadstead::licence::calendar::format(at)
    };
    let nginx = &answer["misses"][2];
    assert_eq!((&nginx["first"], &nginx["last"]), (&json!(time(10)), &json!(time(20))));
    assert_eq!(proxy.metric("roadstead_misses", &[]), 3);
    // What belongs to no image that is known stands in the list as a comment.
    let (code, out, err) = command(&proxy, &["misses", "--as-list"]);
    let comment = format!("# docker.io/a/b@{}: of no image", image.layers[0].digest);
    assert!(code == Some(0) && err.is_empty() && out.contains(&comment), "{out}{err}");
    proxy.stop().await;
    assert_eq!(command(&proxy, &["misses", "--as-list"]).1, out, "without a server");
    proxy.start().await;
    assert_eq!(misses(&proxy).await, answer, "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_part_of_an_image_is_wanted_as_such_and_what_has_come_is_not() {
    let images = [1, 2, 3].map(|seed| Image::new(seed, &[1000]));
    let [here, half, absent] = &images;
    let index = Manifest::index(&[&here.manifest, &half.manifest, &absent.manifest]);
    let origin = Origin::start().await;
    for image in &images {
        origin.push("a/b", "other", image);
    }
    origin.put_manifest("a/b", &index);
    origin.tag("a/b", "v1", &index.digest);
    let mut proxy = Proxy::of(&origin).await;
    let mut paths = vec![manifest("a/b", "v1")];
    paths.extend([here, half].map(|image| manifest("a/b", &image.manifest.digest)));
    paths.extend([&here.config, &here.layers[0], &half.config].map(|it| blob("a/b", &it.digest)));
    for path in &paths {
        assert_eq!(proxy.get(path).await.status, 200, "{path}");
    }
    for part in [&here.config, &here.layers[0], &half.config] {
        eventually("it is kept", || proxy.has_stored(&part.digest)).await;
    }
    seal(&mut proxy).await;
    let wanted = [
        manifest("a/b", &absent.manifest.digest),
        blob("a/b", &half.layers[0].digest),
        blob("a/b", &absent.layers[0].digest),
        manifest("a/b", "v2"),
        manifest("a/b", format!("sha256-{}.sig", index.digest.hex())),
    ];
    for path in &wanted {
        assert_eq!(proxy.get(path).await.status, 404, "{path}");
    }
    let answer = misses(&proxy).await;
    let tagged = format!("docker.io/a/b:v1@{}", index.digest);
    let listed = lines(&answer);
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(listed[0].starts_with("docker.io/a/b:v1@") && listed[0].contains(&tagged));
    assert_eq!(listed[1], "docker.io/a/b:v2");
    assert_eq!(listed[2], format!("docker.io/a/b@{} referrers=true", index.digest));
    // The list is one that other commands read.
    let (_, out, _) = command(&proxy, &["misses", "--as-list"]);
    let list = proxy.directory().join("list");
    std::fs::write(&list, &out).expect("writable");
    let mut read = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"));
    let read = read.arg("list").arg(&list).output().expect("it runs");
    let printed = out.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n"));
    assert_eq!(String::from_utf8_lossy(&read.stdout), printed.collect::<String>());
    // Open, all of it comes; and then nothing is wanted any more.
    proxy.setup().config.upstreams[0].sealed = false;
    proxy.restart().await;
    for image in [half, absent] {
        for path in [
            manifest("a/b", &image.manifest.digest),
            blob("a/b", &image.config.digest),
            blob("a/b", &image.layers[0].digest),
        ] {
            assert_eq!(proxy.get(&path).await.status, 200, "{path}");
        }
        eventually("it is kept", || proxy.has_stored(&image.layers[0].digest)).await;
    }
    let listed = lines(&misses(&proxy).await);
    assert_eq!(
        listed,
        ["docker.io/a/b:v2".to_owned(), format!("docker.io/a/b@{} referrers=true", index.digest)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_can_be_forgotten_and_what_came_later_not() {
    let origin = Origin::start().await;
    let mut proxy = sealed(&origin).await;
    for tag in ["v1", "v2"] {
        proxy.get(&manifest("a/b", tag)).await;
    }
    let until = misses(&proxy).await["until"].clone();
    proxy.clock().advance(Duration::from_secs(1));
    for tag in ["v2", "v3"] {
        proxy.get(&manifest("a/b", tag)).await;
    }
    assert_eq!(order(&proxy, "/v1/misses", &json!({ "clear_until": until })).await.0, 200);
    let listed = ["docker.io/a/b:v2", "docker.io/a/b:v3"];
    assert_eq!(lines(&misses(&proxy).await), listed);
    proxy.restart().await;
    assert_eq!(lines(&misses(&proxy).await), listed);
    let (code, out, _) = command(&proxy, &["misses", "--as-list", "--clear"]);
    assert_eq!((code, out), (Some(0), "docker.io/a/b:v2\ndocker.io/a/b:v3\n".to_owned()));
    assert_eq!(lines(&misses(&proxy).await), [""; 0]);
    proxy.stop().await;
    assert_eq!(command(&proxy, &["misses"]), (Some(0), String::new(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_have_it_misses_nothing() {
    let vendor = Vendor::start_with(|setup| {
        setup.config.upstreams.iter_mut().for_each(|upstream| upstream.sealed = true);
    })
    .await;
    let path = "/v2/registry.test/myapp/worker/manifests/1.0";
    for (who, status) in [
        (basic("", ""), 401),
        (basic("ci", "wrong"), 401),
        (vendor.customer("rival", &["other"]), 404),
    ] {
        assert_eq!(vendor.status(&who, path).await, status);
    }
    assert_eq!(told(&misses(&vendor.proxy).await), [""; 0]);
    for who in [vendor.customer("acme", &["myapp"]), basic("ci", "ci-secret")] {
        assert_eq!(vendor.status(&who, path).await, 404);
    }
    let answer = misses(&vendor.proxy).await;
    assert_eq!(told(&answer), ["tag registry.test/myapp/worker:1.0 2 licence,user"]);
    assert!(!answer.to_string().contains("acme"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_makes_names_up_pushes_out_nobodys_misses() {
    let vendor = Vendor::start_with(|setup| {
        setup.config.upstreams.iter_mut().for_each(|upstream| upstream.sealed = true);
        setup.limits.misses = 100;
    })
    .await;
    let (victim, hostile) =
        (vendor.customer("acme", &["myapp"]), vendor.customer("rival", &["other"]));
    for n in 0..20 {
        let path = format!("/v2/registry.test/myapp/worker/manifests/1.{n}");
        assert_eq!(vendor.status(&victim, &path).await, 404);
    }
    for n in 0..200 {
        let path = format!("/v2/registry.test/other/worker/manifests/{n}");
        assert_eq!(vendor.status(&hostile, &path).await, 404);
    }
    let answer = misses(&vendor.proxy).await;
    let of_victim = told(&answer).into_iter().filter(|told| told.contains("myapp")).count();
    assert_eq!((of_victim, told(&answer).len(), &answer["lost"]), (20, 100, &json!(120)));
    let (code, _, err) = command(&vendor.proxy, &["misses", "--as-list"]);
    assert!(code == Some(0) && err.contains("120 more"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_or_read_stops_nothing() {
    let origin = Origin::start().await;
    let mut proxy = sealed(&origin).await;
    proxy.get(&manifest("a/b", "v1")).await;
    proxy.stop().await;
    let file = proxy.directory().join("cache/misses");
    let mut text = std::fs::read_to_string(&file).expect("it is there");
    text += "{\"name\":\"docker.io/a/b\",\"tag\":\"v2\",\"rec";
    std::fs::write(&file, text).expect("writable");
    proxy.start().await;
    assert_eq!(lines(&misses(&proxy).await), ["docker.io/a/b:v1"], "half a line is passed over");
    proxy.get(&manifest("a/b", "v3")).await;
    proxy.restart().await;
    assert_eq!(lines(&misses(&proxy).await), ["docker.io/a/b:v1", "docker.io/a/b:v3"]);
    proxy.stop().await;
    std::fs::remove_file(&file).expect("it is ours");
    std::fs::create_dir(&file).expect("a folder");
    proxy.start().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 404);
    assert_eq!(lines(&misses(&proxy).await), ["docker.io/a/b:v1"]);
}
