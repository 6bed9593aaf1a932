//! Every operation of the access matrix once more, on upstreams that are sealed: who may do what is
//! as ever, nobody is asked, and nothing fails.

use std::collections::HashSet;

use crate::access_matrix::{
    ABSENT, Asker, EXTERNAL, HIDDEN, IDENTITIES, OURS, PUBLIC, READS, REPOSITORIES, State, THEIRS,
    WRITES, authorization, path_of, prepare, send, vendor, write,
};
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::vendor::Vendor;

/// What was pulled whole before the seal.
fn pulled(state: State) -> HashSet<&'static str> {
    match state {
        State::Cold | State::InFlight => HashSet::new(),
        State::WarmByThem => HashSet::from([THEIRS, HIDDEN]),
        State::WarmByAll => HashSet::from([THEIRS, HIDDEN, OURS, PUBLIC, EXTERNAL]),
    }
}

/// What the table of rights says, and then what is here.
fn read_oracle(asker: &Asker, repository: &str, (method, path): (&str, &str), state: State) -> u16 {
    let looks = method == "HEAD" && asker.pushes.contains(&repository) && repository != EXTERNAL;
    let rights = if path.starts_with("tags") { asker.lists } else { asker.pulls };
    if !rights.contains(&repository) && !looks {
        return if asker.known { 404 } else { 401 };
    }
    let is_pulled = pulled(state).contains(repository);
    let foreign = path.contains("blobs/F") || path.contains("manifests/S");
    match path {
        _ if path.starts_with("referrers") => 200,
        // Two manifests were pulled by tag that name what belongs to others.
        "tags/list" if repository == OURS && state != State::Cold => 200,
        _ if !is_pulled || repository == ABSENT => 404,
        _ if foreign && repository != THEIRS => 404,
        _ if method == "RANGE" => 206,
        _ => 200,
    }
}

/// What the table of rights says; and nothing is written.
fn write_oracle(
    asker: &Asker,
    repository: &str,
    (method, path): (&str, &str),
    writable: bool,
) -> u16 {
    let deletes = method == "DELETE" && !path.contains("uploads");
    let may = if deletes { asker.deletes } else { asker.pushes }.contains(&repository);
    if (!writable || repository == EXTERNAL) && (may || asker.pulls.contains(&repository)) {
        return 405;
    }
    if may || asker.known { 403 } else { 401 }
}

/// Requests, connections, and names that were looked up.
fn asked(vendor: &Vendor) -> (usize, usize, usize) {
    let origins = [&vendor.registry, &vendor.quay];
    (
        origins.iter().map(|origin| origin.requests().len()).sum(),
        origins.iter().map(|origin| origin.connections()).sum(),
        vendor.proxy.lookups().len(),
    )
}

async fn seal(vendor: &mut Vendor, images: &[Image], state: State) {
    let of = |repository| REPOSITORIES.iter().position(|other| *other == repository);
    for repository in pulled(state) {
        let image = of(repository).map_or(0, |i| [0, 1, 2, 3, 4, 1][i]);
        let layer = &images[image].layers[0].digest;
        eventually("it is kept", || vendor.proxy.has_stored(layer)).await;
    }
    vendor.proxy.setup().config.upstreams.iter_mut().for_each(|upstream| upstream.sealed = true);
    vendor.proxy.restart().await;
}

async fn check(state: State, writable: bool) -> usize {
    let (mut vendor, images) = vendor(writable).await;
    prepare(&vendor, &images, state).await;
    seal(&mut vendor, &images, state).await;
    let before = asked(&vendor);
    let (own, theirs) = (|i: usize| &images[[0, 1, 2, 3, 4, 1][i]], &images[1]);
    let mut cells = 0;
    for asker in &IDENTITIES {
        let authorization = authorization(&vendor, asker);
        for (i, repository) in REPOSITORIES.into_iter().enumerate() {
            for (method, operation) in READS {
                let path = path_of(repository, operation, own(i), theirs);
                let status = send(&vendor, &authorization, method, &path).await;
                let expected = read_oracle(asker, repository, (method, operation), state);
                let cell = format!("{state:?}: {} {method} {repository}/{operation}", asker.name);
                assert_eq!(status, expected, "{cell}");
                cells += 1;
            }
            for (method, operation) in WRITES {
                let path = path_of(repository, operation, own(i), theirs);
                let status = write(&vendor, &authorization, (method, &path), own(i)).await;
                let expected = write_oracle(asker, repository, (method, operation), writable);
                let cell = format!("{state:?}, writable {writable}: {}", asker.name);
                assert_eq!(status, expected, "{cell} {method} {repository}/{operation}");
                cells += 1;
            }
        }
        for path in ["/v2/", "/v2/_catalog", "/token?service=x"] {
            let status = send(&vendor, &authorization, "GET", path).await;
            assert!(status < 500, "{path}: {status}");
            cells += 1;
        }
    }
    assert_eq!(asked(&vendor), before, "{state:?}, writable {writable}");
    cells
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_matrix_is_answered_from_what_is_here() {
    let mut cells = 0;
    for writable in [false, true] {
        for state in [State::Cold, State::WarmByThem, State::WarmByAll] {
            cells += check(state, writable).await;
        }
    }
    println!("{cells} cells, 0 mismatches, 0 dials");
    assert!(cells > 8_000, "{cells}");
}
