//! Every identity, repository, operation and state of the cache against an oracle that was written from the table of
//! rights alone (RELIABILITY A-1). The oracle knows nothing of rules, routes or policies.

use http::Method;
use roadstead::config::{Allow, Who};

use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::vendor::{Vendor, basic, rule};

/// Who asks, and what they have: repositories that they may pull, repositories that they may list.
struct Identity {
    name: &'static str,
    pulls: &'static [&'static str],
    lists: &'static [&'static str],
    known: bool,
}

const OURS: &str = "registry.test/myapp/worker";
const THEIRS: &str = "registry.test/other/worker";
const PUBLIC: &str = "registry.test/public/base";
const HIDDEN: &str = "registry.test/hidden/secret";
const EXTERNAL: &str = "proxy/myapp/quay.io/acme/api";
const ABSENT: &str = "registry.test/missing/image";
const REPOSITORIES: [&str; 6] = [OURS, THEIRS, PUBLIC, HIDDEN, EXTERNAL, ABSENT];

const IDENTITIES: [Identity; 8] = [
    Identity { name: "anonymous", pulls: &[PUBLIC], lists: &[PUBLIC], known: false },
    Identity {
        name: "licence for myapp",
        pulls: &[PUBLIC, OURS, EXTERNAL],
        lists: &[PUBLIC, OURS, EXTERNAL],
        known: true,
    },
    Identity { name: "licence for other", pulls: &[PUBLIC, THEIRS], lists: &[PUBLIC, THEIRS], known: true },
    Identity { name: "licence for an unknown application", pulls: &[PUBLIC], lists: &[PUBLIC], known: true },
    Identity {
        name: "publisher of myapp",
        pulls: &[PUBLIC, OURS, EXTERNAL],
        lists: &[PUBLIC, OURS, EXTERNAL],
        known: true,
    },
    Identity {
        name: "operator",
        pulls: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        lists: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        known: true,
    },
    Identity { name: "list only", pulls: &[PUBLIC], lists: &[PUBLIC, HIDDEN], known: true },
    Identity { name: "push only", pulls: &[PUBLIC], lists: &[PUBLIC], known: true },
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Cold,
    WarmByThem,
    WarmByAll,
    InFlight,
}

/// Method, path behind the repository (`T` a tag, `M` its manifest, `L` its layer, `F` a layer of another application that
/// a manifest here lists, `S` the digest of another application's manifest that one here has as its subject).
const OPERATIONS: [(&str, &str); 18] = [
    ("GET", "manifests/T"),
    ("HEAD", "manifests/T"),
    ("GET", "manifests/M"),
    ("HEAD", "manifests/M"),
    ("GET", "blobs/L"),
    ("HEAD", "blobs/L"),
    ("RANGE", "blobs/L"),
    ("GET", "blobs/F"),
    ("HEAD", "blobs/F"),
    ("GET", "manifests/S"),
    ("GET", "tags/list"),
    ("GET", "referrers/M"),
    ("POST", "blobs/uploads/"),
    ("POST", "blobs/uploads/?mount=F&from=registry.test/other/worker"),
    ("PATCH", "blobs/uploads/x"),
    ("PUT", "manifests/T"),
    ("DELETE", "manifests/M"),
    ("DELETE", "blobs/L"),
];

/// What the table of rights says; `has` is whether the repository itself holds what is asked for.
fn oracle(identity: &Identity, repository: &str, method: &str, path: &str) -> u16 {
    let pulls = identity.pulls.contains(&repository);
    let write = !matches!(method, "GET" | "HEAD" | "RANGE");
    let allowed = if path.starts_with("tags") { identity.lists.contains(&repository) } else { pulls };
    let foreign = path.contains("blobs/F") || path.contains("manifests/S");
    match (allowed, write) {
        (true, true) => 405,
        // The registry of this test has the same referrers in every repository.
        (true, false) if path.starts_with("referrers") => 200,
        (true, false) if repository == ABSENT => 404,
        (true, false) if foreign && repository != THEIRS => 404,
        (true, false) if method == "RANGE" => 206,
        (true, false) => 200,
        (false, false) if identity.known => 404,
        (false, true) if identity.known => 403,
        (false, _) => 401,
    }
}

/// A blob of `other` that a manifest of `myapp` lists as its own layer, and a manifest with a foreign subject.
fn foreign_manifests(registry: &Origin, theirs: &Image) {
    let mine = Image::of(900, theirs.layers.clone());
    registry.put_manifest("myapp/worker", &mine.manifest);
    registry.tag("myapp/worker", "foreign-layer", &mine.manifest.digest);
    let subject = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[],"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{}}}}}"#,
        mine.config.digest,
        theirs.manifest.digest,
        theirs.manifest.bytes.len()
    );
    let subject = crate::support::image::Manifest::new("application/vnd.oci.image.manifest.v1+json", subject);
    registry.put_manifest("myapp/worker", &subject);
    registry.tag("myapp/worker", "foreign-subject", &subject.digest);
}

fn authorization(vendor: &Vendor, identity: &Identity) -> String {
    match identity.name {
        "anonymous" => "Basic Og==".to_owned(),
        "licence for myapp" => vendor.customer("acme", &["myapp"]),
        "licence for other" => vendor.customer("rival", &["other"]),
        "licence for an unknown application" => vendor.customer("stray", &["gone"]),
        "publisher of myapp" => basic("ci", "ci-secret"),
        "operator" => basic("ops@acme.test", "ops-secret"),
        "list only" => vendor.customer("lister", &["gone"]),
        "push only" => vendor.customer("pusher", &["gone"]),
        other => panic!("nobody is {other}"),
    }
}

async fn send(vendor: &Vendor, authorization: &str, method: &str, path: &str) -> u16 {
    let mut headers = vec![("authorization", authorization)];
    let method = match method {
        "RANGE" => {
            headers.push(("range", "bytes=0-9"));
            Method::GET
        }
        other => other.parse().expect("a method"),
    };
    vendor.proxy.request(method, path, &headers).await.status
}

async fn vendor() -> (Vendor, Vec<Image>) {
    let id = |text| Who::Licence(roadstead::licence::LicenceId::parse(text).expect(text));
    let vendor = Vendor::start_with(|setup| {
        let list = Allow { list: true, ..Allow::default() };
        let push = Allow { push: true, delete: true, ..Allow::default() };
        setup.config.access.rules.push(rule(id("lister"), list, &[HIDDEN]));
        setup.config.access.rules.push(rule(id("pusher"), push, &["docker.io/**"]));
    })
    .await;
    let images =
        (100..104).map(|seed| Image::new(seed, &[70_000])).chain([Image::new(200, &[70_000])]).collect::<Vec<_>>();
    foreign_manifests(&vendor.registry, &images[1]);
    let empty = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    for image in &images {
        vendor.registry.put_referrers(&image.manifest.digest, empty);
        vendor.quay.put_referrers(&image.manifest.digest, empty);
    }
    (vendor, images)
}

/// Puts the content of `other` and `hidden` into the cache, or into a download under way, by people who may have it.
async fn prepare(vendor: &Vendor, images: &[Image], state: State) {
    let (rival, operator) = (vendor.customer("rival", &["other"]), basic("ops@acme.test", "ops-secret"));
    let myapp = vendor.customer("acme", &["myapp"]);
    let mut visits = vec![(&rival, THEIRS, 1, "1.0"), (&operator, HIDDEN, 3, "1.0")];
    if state == State::WarmByAll {
        visits.extend([(&myapp, OURS, 0, "1.0"), (&operator, PUBLIC, 2, "1.0"), (&myapp, EXTERNAL, 4, "2.0")]);
    }
    for (authorization, repository, image, tag) in visits {
        if state == State::Cold || state == State::InFlight {
            continue;
        }
        assert_eq!(send(vendor, authorization, "GET", &format!("/v2/{repository}/manifests/{tag}")).await, 200);
        let layer = &images[image].layers[0].digest;
        assert_eq!(send(vendor, authorization, "GET", &format!("/v2/{repository}/blobs/{layer}")).await, 200);
    }
    if state != State::Cold {
        // The customer has pulled the manifests that name what is not theirs.
        for tag in ["foreign-layer", "foreign-subject"] {
            assert_eq!(send(vendor, &myapp, "GET", &format!("/v2/{OURS}/manifests/{tag}")).await, 200);
        }
    }
}

async fn check(state: State) -> usize {
    let (vendor, images) = vendor().await;
    prepare(&vendor, &images, state).await;
    let theirs = &images[1];
    let rival = vendor.customer("rival", &["other"]);
    // While this is held, every other request meets the download of the layer under way.
    let held = (state == State::InFlight).then(|| vendor.registry.hold_at(&theirs.layers[0].digest, 10));
    let path = format!("/v2/{THEIRS}/blobs/{}", theirs.layers[0].digest);
    let _reading = match &held {
        Some(_) => Some(vendor.proxy.open_with(Method::GET, &path, &[("authorization", rival.as_str())]).await),
        None => None,
    };
    let mut cells = 0;
    for identity in &IDENTITIES {
        let authorization = authorization(&vendor, identity);
        for (i, repository) in REPOSITORIES.into_iter().enumerate() {
            let own = &images[[0, 1, 2, 3, 4, 1][i]];
            let tag = if repository == EXTERNAL { "2.0" } else { "1.0" };
            for (method, operation) in OPERATIONS {
                let waits = held.is_some() && identity.pulls.contains(&THEIRS) && repository == THEIRS;
                if waits && method != "HEAD" && operation.starts_with("blobs/") && !operation.contains("uploads") {
                    // Whoever may have it waits for the rest, which is another test's matter.
                    continue;
                }
                let path = operation
                    .replace("/T", &format!("/{tag}"))
                    .replace("/M", &format!("/{}", own.manifest.digest))
                    .replace("/L", &format!("/{}", own.layers[0].digest))
                    .replace("/S", &format!("/{}", theirs.manifest.digest))
                    .replace("blobs/F", &format!("blobs/{}", theirs.layers[0].digest))
                    .replace("mount=F", &format!("mount={}", theirs.layers[0].digest));
                let expected = oracle(identity, repository, method, operation);
                let status = send(&vendor, &authorization, method, &format!("/v2/{repository}/{path}")).await;
                let cell = format!("{state:?}: {} {method} {repository}/{operation}", identity.name);
                assert_eq!(status, expected, "{cell}");
                cells += 1;
            }
        }
    }
    if let Some(held) = held {
        held.open();
    }
    cells
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_matrix_is_what_the_table_of_rights_says() {
    let mut cells = 0;
    for state in [State::Cold, State::WarmByThem, State::WarmByAll, State::InFlight] {
        cells += check(state).await;
    }
    println!("{cells} cells, 0 mismatches");
    assert!(cells > 3_000, "{cells}");
}
