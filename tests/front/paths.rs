//! Path confusion (RELIABILITY A-8): however a path is written, it is the image that it says, or
//! none.

use std::collections::BTreeSet;

use roadstead::config::{Allow, Writes};
use roadstead::identity::Identity;
use roadstead::licence::LicenceId;

use crate::support::image::{Image, OCI_MANIFEST};
use crate::support::origin::Request;
use crate::support::vendor::{Vendor, rule};

const ALLOWED: &str = "registry.test/public/base";
const FORBIDDEN: &str = "registry.test/hidden/secret";

/// What may stand for a slash to somebody.
const SLASHES: [&str; 24] = [
    "%2f",
    "%2F",
    "%252f",
    "//",
    "///",
    "/./",
    "/%2e/",
    "/../",
    "/x/../",
    "/%2e%2e/",
    "/%2E%2e/",
    "/.%2e/",
    "\\",
    "%5c",
    "%5C",
    "/\\",
    ";/",
    "/;/",
    "/;x=y/",
    "/%00/",
    "%00/",
    "/%20/",
    "%ef%bc%8f",
    "%c0%af",
];

/// What may be cut off at the end by somebody.
const SUFFIXES: [&str; 22] = [
    ".", "..", "/", "/.", "/..", "%00", "%00.json", ";", ";x=y", "%20", "%09", "%0a", "%0d%0a",
    "%23", "%3f", "?", "#x", "\\", "%5c", "%", "%2", "%zz",
];

/// Ways from the allowed image to the forbidden one, in front of what is asked of it.
const TRAVERSALS: [&str; 14] = [
    "public/base/../../hidden/secret",
    "public/base/%2e%2e/%2e%2e/hidden/secret",
    "public/base/..%2f..%2fhidden/secret",
    "public/base%2f..%2f..%2fhidden%2fsecret",
    "public/base/..;/..;/hidden/secret",
    "public/base\\..\\..\\hidden\\secret",
    "public/..%5chidden/secret",
    "public/base/manifests/1.0/../../../../hidden/secret",
    "./hidden/secret",
    "/hidden/secret",
    "hidden//secret",
    "public/base%00/../hidden/secret",
    "public/base?/../../hidden/secret",
    "public/base#/../../hidden/secret",
];

/// Every way of writing `path` that this knows. `name` is the part of it that is the image.
fn variants(path: &str, name: &str) -> BTreeSet<String> {
    let mut variants = BTreeSet::new();
    let at = path.find(name).expect("the path has the name");
    for (i, letter) in path.char_indices().skip(1) {
        let (before, after) = (&path[..i], &path[i + 1..]);
        let mut with = |text: &str| {
            variants.insert(format!("{before}{text}{after}"));
        };
        if letter == '/' {
            SLASHES.into_iter().for_each(with);
        } else if i < at + name.len() || i + 2 > path.len() {
            let code = u32::from(letter);
            with(&format!("%{code:02x}"));
            with(&format!("%{code:02X}"));
            with(&format!("%25{code:02x}"));
            // The same in two bytes, which UTF-8 does not allow; as a full-width letter; as the
            // other case.
            with(&format!("%c{:x}%{:02x}", code >> 6, 0x80 | (code & 0x3f)));
            let wide = char::from_u32(code + 0xfee0)
                .expect("there is one for every visible ASCII character");
            with(&wide.to_string());
            with(&letter.to_ascii_uppercase().to_string());
        }
    }
    variants.extend(SUFFIXES.iter().map(|end| format!("{path}{end}")));
    variants.extend(SUFFIXES.iter().map(|end| path.replace(name, &format!("{name}{end}"))));
    variants.remove(path);
    variants
}

/// Requests about an image: method, path and status if it is allowed, status if it is not.
fn requests(name: &str, image: &Image) -> [(&'static str, String, [u16; 2]); 8] {
    let (manifest, layer) = (&image.manifest.digest, &image.layers[0].digest);
    [
        ("GET", format!("/v2/{name}/manifests/1.0"), [200, 404]),
        ("HEAD", format!("/v2/{name}/manifests/{manifest}"), [200, 404]),
        ("GET", format!("/v2/{name}/blobs/{layer}"), [200, 404]),
        ("GET", format!("/v2/{name}/tags/list"), [200, 404]),
        ("POST", format!("/v2/{name}/blobs/uploads/"), [202, 403]),
        ("PUT", format!("/v2/{name}/manifests/1.0"), [201, 403]),
        ("DELETE", format!("/v2/{name}/manifests/1.0"), [202, 403]),
        ("DELETE", format!("/v2/{name}/blobs/{layer}"), [202, 403]),
    ]
}

async fn vendor() -> (Vendor, String) {
    let vendor = Vendor::start_with(|setup| {
        setup.config.upstreams[0].writes = Writes::Kept;
        let all = Allow { pull: true, list: true, push: true, delete: true };
        let who = Identity::Licence(LicenceId::parse("owner").expect("an id"));
        setup.config.access.rules.push(rule(who, all, &["registry.test/public/**"]));
    })
    .await;
    let owner = vendor.customer("owner", &["gone"]);
    (vendor, owner)
}

async fn status(vendor: &Vendor, owner: &str, (method, path): (&str, &str), body: &str) -> u16 {
    let body = if method == "PUT" { body } else { "" };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {owner}\r\nContent-Type: {OCI_MANIFEST}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let answer = vendor.proxy.raw(request.as_bytes()).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{method} {path}: {answer:?}"))
}

/// Whether a request has to do with the forbidden image, however it is written.
fn is_forbidden(request: &Request) -> bool {
    let text = format!("{}?{}", request.path, request.query).to_ascii_lowercase();
    ["hidden", "secret", "/..", "%"].iter().any(|part| text.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_a_path_is_decided_like_the_path_or_is_none() {
    let (vendor, owner) = vendor().await;
    let images =
        [(ALLOWED, Image::new(102, &[70_000]), 0), (FORBIDDEN, Image::new(103, &[70_000]), 1)];
    let restore = || vendor.registry.push("public/base", "1.0", &images[0].1);
    let (mut tried, mut refused) = (0, 0);
    for (name, image, right) in &images {
        let body = std::str::from_utf8(&image.manifest.bytes).expect("JSON is text");
        for (method, path, statuses) in requests(name, image) {
            let canonical = status(&vendor, &owner, (method, &path), body).await;
            restore();
            assert_eq!(canonical, statuses[*right], "{method} {path}");
            let climbs = TRAVERSALS
                .iter()
                .map(|climb| path.replace(name, &format!("registry.test/{climb}")));
            for variant in variants(&path, name).into_iter().chain(climbs) {
                let decided = status(&vendor, &owner, (method, &variant), body).await;
                // A path to the allowed image may have become one to another, which nobody may use.
                let hidden = statuses[1];
                assert!(
                    [canonical, hidden, 400, 404].contains(&decided),
                    "{method} {variant}: {decided}"
                );
                refused += usize::from(decided == 400 || decided == 404);
                tried += 1;
                if method != "GET" && method != "HEAD" {
                    restore();
                }
            }
        }
    }
    let reached: Vec<_> = vendor.registry.requests().into_iter().filter(is_forbidden).collect();
    assert!(reached.is_empty(), "{reached:?}");
    assert_eq!(vendor.quay.connections(), 0);
    println!("{tried} variants, {refused} of them unknown, 0 at the forbidden image");
    assert!(tried > 2_000, "{tried}");
}

/// A mount names an image in a query, where encoding is allowed: it is decided like any other name.
#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_where_to_mount_from_is_decided_like_the_name() {
    let (vendor, owner) = vendor().await;
    let layer = &Image::new(103, &[70_000]).layers[0].digest;
    let mut tried = 0;
    for variant in variants(FORBIDDEN, FORBIDDEN)
        .into_iter()
        .filter(|variant| !variant.contains(['#', '&', '\\']))
    {
        let path = format!("/v2/{ALLOWED}/blobs/uploads/?mount={layer}&from={variant}");
        let decided = status(&vendor, &owner, ("POST", &path), "").await;
        assert!([202, 400].contains(&decided), "{path}: {decided}");
        tried += 1;
    }
    assert_eq!(
        vendor.registry.count(|request| is_forbidden(request) || request.query.contains("mount")),
        0
    );
    println!("{tried} variants of a mount");
    assert!(tried > 150, "{tried}");
}
