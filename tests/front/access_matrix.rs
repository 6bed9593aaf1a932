//! Every identity, repository, operation and state of the cache against an oracle that was written
//! from the table of rights alone (RELIABILITY A-1). The oracle knows nothing of rules, routes or
//! policies.

use bytes::Bytes;
use http::Method;
use roadstead::config::{Allow, Writes};
use roadstead::identity::Identity;

use crate::support::image::{Image, OCI_MANIFEST};
use crate::support::origin::{Origin, Request};
use crate::support::vendor::{Vendor, basic, rule};

/// Who asks, and what they have: repositories that they may pull, list, push to and delete from.
pub(crate) struct Asker {
    pub(crate) name: &'static str,
    pub(crate) pulls: &'static [&'static str],
    pub(crate) lists: &'static [&'static str],
    pub(crate) pushes: &'static [&'static str],
    pub(crate) deletes: &'static [&'static str],
    pub(crate) known: bool,
}

pub(crate) const OURS: &str = "registry.test/myapp/worker";
pub(crate) const THEIRS: &str = "registry.test/other/worker";
pub(crate) const PUBLIC: &str = "registry.test/public/base";
pub(crate) const HIDDEN: &str = "registry.test/hidden/secret";
pub(crate) const EXTERNAL: &str = "proxy/myapp/quay.io/acme/api";
pub(crate) const ABSENT: &str = "registry.test/missing/image";
pub(crate) const REPOSITORIES: [&str; 6] = [OURS, THEIRS, PUBLIC, HIDDEN, EXTERNAL, ABSENT];

pub(crate) const IDENTITIES: [Asker; 10] = [
    Asker {
        name: "anonymous",
        pulls: &[PUBLIC],
        lists: &[PUBLIC],
        pushes: &[],
        deletes: &[],
        known: false,
    },
    Asker {
        name: "licence for myapp",
        pulls: &[PUBLIC, OURS, EXTERNAL],
        lists: &[PUBLIC, OURS, EXTERNAL],
        pushes: &[],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "licence for other",
        pulls: &[PUBLIC, THEIRS],
        lists: &[PUBLIC, THEIRS],
        pushes: &[],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "licence for an unknown application",
        pulls: &[PUBLIC],
        lists: &[PUBLIC],
        pushes: &[],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "publisher of myapp",
        pulls: &[PUBLIC, OURS, EXTERNAL],
        lists: &[PUBLIC, OURS, EXTERNAL],
        pushes: &[OURS, EXTERNAL],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "operator",
        pulls: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        lists: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        pushes: &[],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "list only",
        pulls: &[PUBLIC],
        lists: &[PUBLIC, HIDDEN],
        pushes: &[],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "push only",
        pulls: &[PUBLIC],
        lists: &[PUBLIC],
        pushes: &[HIDDEN, OURS],
        deletes: &[],
        known: true,
    },
    Asker {
        name: "delete only",
        pulls: &[PUBLIC],
        lists: &[PUBLIC],
        pushes: &[],
        deletes: &[HIDDEN, OURS],
        known: true,
    },
    Asker {
        name: "owner",
        pulls: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        lists: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        pushes: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        deletes: &[PUBLIC, OURS, THEIRS, HIDDEN, ABSENT],
        known: true,
    },
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    Cold,
    WarmByThem,
    WarmByAll,
    InFlight,
}

/// Method, path behind the repository (`T` a tag, `M` its manifest, `L` its layer, `F` a layer of
/// another application that a manifest here lists, `S` the digest of another application's manifest
/// that one here has as its subject, `N` the repository itself).
pub(crate) const READS: [(&str, &str); 12] = [
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
];

pub(crate) const WRITES: [(&str, &str); 11] = [
    ("POST", "blobs/uploads/"),
    ("POST", "blobs/uploads/?mount=F&from=registry.test/other/worker"),
    ("POST", "blobs/uploads/?mount=L&from=N"),
    ("GET", "blobs/uploads/x"),
    ("PATCH", "blobs/uploads/x"),
    ("PUT", "blobs/uploads/x?digest=L"),
    ("DELETE", "blobs/uploads/x"),
    ("PUT", "manifests/T"),
    ("DELETE", "manifests/T"),
    ("DELETE", "manifests/M"),
    ("DELETE", "blobs/L"),
];

/// What the table of rights says of a read.
fn read_oracle(identity: &Asker, repository: &str, method: &str, path: &str) -> u16 {
    // Whoever pushes looks what is there.
    let looks = method == "HEAD" && identity.pushes.contains(&repository) && repository != EXTERNAL;
    let rights = if path.starts_with("tags") { identity.lists } else { identity.pulls };
    let foreign = path.contains("blobs/F") || path.contains("manifests/S");
    match rights.contains(&repository) || looks {
        // The registry of this test has the same referrers in every repository.
        true if path.starts_with("referrers") => 200,
        true if repository == ABSENT => 404,
        true if foreign && repository != THEIRS => 404,
        true if method == "RANGE" => 206,
        true => 200,
        false if identity.known => 404,
        false => 401,
    }
}

/// What it says of a write, to a registry that takes writes or to a mirror.
fn write_oracle(
    identity: &Asker,
    repository: &str,
    (method, path): (&str, &str),
    writable: bool,
) -> u16 {
    let deletes = method == "DELETE" && !path.contains("uploads");
    let may = if deletes { identity.deletes } else { identity.pushes }.contains(&repository);
    let pulls = identity.pulls.contains(&repository);
    if (!writable || repository == EXTERNAL) && (may || pulls) {
        return 405;
    }
    if !may {
        return if identity.known { 403 } else { 401 };
    }
    match (method, path) {
        // It has none of the blobs that it would need.
        _ if repository == ABSENT && (deletes || method == "PUT") => 404,
        ("DELETE", _) if deletes => 202,
        // No address that we gave.
        (_, path) if path.contains("uploads/x") => 404,
        ("PUT", _) => 201,
        // Mounted from where one may pull, within one application.
        (_, path) if path.contains("mount=L") && pulls && repository != ABSENT => 201,
        (_, path) if path.contains("mount=F") && repository == THEIRS => 201,
        _ => 202,
    }
}

/// A blob of `other` that a manifest of `myapp` lists as its own layer, and a manifest with a
/// foreign subject.
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
    let subject =
        crate::support::image::Manifest::new("application/vnd.oci.image.manifest.v1+json", subject);
    registry.put_manifest("myapp/worker", &subject);
    registry.tag("myapp/worker", "foreign-subject", &subject.digest);
}

pub(crate) fn authorization(vendor: &Vendor, identity: &Asker) -> String {
    match identity.name {
        "anonymous" => "Basic Og==".to_owned(),
        "licence for myapp" => vendor.customer("acme", &["myapp"]),
        "licence for other" => vendor.customer("rival", &["other"]),
        "licence for an unknown application" => vendor.customer("stray", &["gone"]),
        "publisher of myapp" => basic("ci", "ci-secret"),
        "operator" => basic("ops@acme.test", "ops-secret"),
        "list only" => vendor.customer("lister", &["gone"]),
        "push only" => vendor.customer("pusher", &["gone"]),
        "delete only" => vendor.customer("deleter", &["gone"]),
        "owner" => vendor.customer("owner", &["gone"]),
        other => panic!("nobody is {other}"),
    }
}

pub(crate) async fn send(vendor: &Vendor, authorization: &str, method: &str, path: &str) -> u16 {
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

pub(crate) async fn vendor(writable: bool) -> (Vendor, Vec<Image>) {
    let id = |text| Identity::Licence(roadstead::licence::LicenceId::parse(text).expect(text));
    let vendor = Vendor::start_with(|setup| {
        let list = Allow { list: true, ..Allow::default() };
        let push = Allow { push: true, ..Allow::default() };
        let delete = Allow { delete: true, ..Allow::default() };
        let all = Allow { pull: true, list: true, push: true, delete: true };
        let rules = [
            ("lister", list, &[HIDDEN][..]),
            ("pusher", push, &[HIDDEN, OURS]),
            ("deleter", delete, &[HIDDEN, OURS]),
            ("owner", all, &["registry.test/**"]),
        ];
        setup
            .config
            .access
            .rules
            .extend(rules.map(|(who, allow, images)| rule(id(who), allow, images)));
        if writable {
            setup.config.upstreams[0].writes = Writes::Kept;
        }
    })
    .await;
    let images = (100..104)
        .map(|seed| Image::new(seed, &[70_000]))
        .chain([Image::new(200, &[70_000])])
        .collect::<Vec<_>>();
    foreign_manifests(&vendor.registry, &images[1]);
    let empty = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    for image in &images {
        vendor.registry.put_referrers(&image.manifest.digest, empty);
        vendor.quay.put_referrers(&image.manifest.digest, empty);
    }
    (vendor, images)
}

/// Puts the content of `other` and `hidden` into the cache, or into a download under way, by people
/// who may have it.
pub(crate) async fn prepare(vendor: &Vendor, images: &[Image], state: State) {
    let (rival, operator) =
        (vendor.customer("rival", &["other"]), basic("ops@acme.test", "ops-secret"));
    let myapp = vendor.customer("acme", &["myapp"]);
    let mut visits = vec![(&rival, THEIRS, 1, "1.0"), (&operator, HIDDEN, 3, "1.0")];
    if state == State::WarmByAll {
        visits.extend([
            (&myapp, OURS, 0, "1.0"),
            (&operator, PUBLIC, 2, "1.0"),
            (&myapp, EXTERNAL, 4, "2.0"),
        ]);
    }
    for (authorization, repository, image, tag) in visits {
        if state == State::Cold || state == State::InFlight {
            continue;
        }
        assert_eq!(
            send(vendor, authorization, "GET", &format!("/v2/{repository}/manifests/{tag}")).await,
            200
        );
        let layer = &images[image].layers[0].digest;
        assert_eq!(
            send(vendor, authorization, "GET", &format!("/v2/{repository}/blobs/{layer}")).await,
            200
        );
    }
    if state != State::Cold {
        // The customer has pulled the manifests that name what is not theirs.
        for tag in ["foreign-layer", "foreign-subject"] {
            assert_eq!(
                send(vendor, &myapp, "GET", &format!("/v2/{OURS}/manifests/{tag}")).await,
                200
            );
        }
    }
}

/// Everything is at the registry, whatever has been deleted.
fn restore(vendor: &Vendor, images: &[Image]) {
    let repositories = ["myapp/worker", "other/worker", "public/base", "hidden/secret"];
    repositories
        .iter()
        .zip(images)
        .for_each(|(repository, image)| vendor.registry.push(repository, "1.0", image));
}

/// The path of an operation on a repository that has, or would have, this image.
pub(crate) fn path_of(repository: &str, operation: &str, own: &Image, theirs: &Image) -> String {
    let tag = if repository == EXTERNAL { "/2.0" } else { "/1.0" };
    let path = operation
        .replace("/T", tag)
        .replace("/M", &format!("/{}", own.manifest.digest))
        .replace("/S", &format!("/{}", theirs.manifest.digest))
        .replace("/F", &format!("/{}", theirs.layers[0].digest))
        .replace("/L", &format!("/{}", own.layers[0].digest))
        .replace("=F", &format!("={}", theirs.layers[0].digest))
        .replace("=L", &format!("={}", own.layers[0].digest))
        .replace("=N", &format!("={repository}"));
    format!("/v2/{repository}/{path}")
}

pub(crate) async fn write(
    vendor: &Vendor,
    authorization: &str,
    (method, path): (&str, &str),
    own: &Image,
) -> u16 {
    let body = if method == "PUT" { own.manifest.bytes.clone() } else { Bytes::new() };
    let headers = [("authorization", authorization), ("content-type", OCI_MANIFEST)];
    vendor.proxy.send(method.parse().expect("a method"), path, &headers, body).await.status
}

async fn check(state: State, writable: bool) -> usize {
    let (vendor, images) = vendor(writable).await;
    prepare(&vendor, &images, state).await;
    let theirs = &images[1];
    let rival = vendor.customer("rival", &["other"]);
    // While this is held, every other request meets the download of the layer under way.
    let held =
        (state == State::InFlight).then(|| vendor.registry.hold_at(&theirs.layers[0].digest, 10));
    let path = format!("/v2/{THEIRS}/blobs/{}", theirs.layers[0].digest);
    let _reading = match &held {
        Some(_) => Some(
            vendor.proxy.open_with(Method::GET, &path, &[("authorization", rival.as_str())]).await,
        ),
        None => None,
    };
    let own = |i: usize| &images[[0, 1, 2, 3, 4, 1][i]];
    let identities: Vec<_> =
        IDENTITIES.iter().map(|identity| (identity, authorization(&vendor, identity))).collect();
    let mut cells = 0;
    for (identity, authorization) in &identities {
        for (i, repository) in REPOSITORIES.into_iter().enumerate() {
            for (method, operation) in READS {
                let waits =
                    held.is_some() && identity.pulls.contains(&THEIRS) && repository == THEIRS;
                if waits && method != "HEAD" && operation.starts_with("blobs/") {
                    // Whoever may have it waits for the rest, which is another test's matter.
                    continue;
                }
                let expected = read_oracle(identity, repository, method, operation);
                let path = path_of(repository, operation, own(i), theirs);
                let status = send(&vendor, authorization, method, &path).await;
                let cell =
                    format!("{state:?}: {} {method} {repository}/{operation}", identity.name);
                assert_eq!(status, expected, "{cell}");
                cells += 1;
            }
        }
    }
    for (identity, authorization) in &identities {
        for (i, repository) in REPOSITORIES.into_iter().enumerate() {
            for (method, operation) in WRITES {
                let expected = write_oracle(identity, repository, (method, operation), writable);
                let path = path_of(repository, operation, own(i), theirs);
                let status = write(&vendor, authorization, (method, &path), own(i)).await;
                let cell = format!(
                    "{state:?}, writable {writable}: {} {method} {repository}/{operation}",
                    identity.name
                );
                assert_eq!(status, expected, "{cell}");
                restore(&vendor, &images);
                cells += 1;
            }
        }
    }
    assert_eq!(vendor.quay.count(Request::is_write), 0, "a mirror is never written to");
    if let Some(held) = held {
        held.open();
    }
    cells
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_matrix_is_what_the_table_of_rights_says() {
    let mut cells = 0;
    for writable in [false, true] {
        for state in [State::Cold, State::WarmByThem, State::WarmByAll, State::InFlight] {
            cells += check(state, writable).await;
        }
    }
    println!("{cells} cells, 0 mismatches");
    assert!(cells > 10_000, "{cells}");
}
