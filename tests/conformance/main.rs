//! The conformance suite of the distribution spec: against CNCF distribution directly, and through
//! roadstead in front of it. Distribution itself does not pass everything; what it passes directly
//! has to pass through us.
//!
//! Both tools are built by `go install`, once, into `conformance` of the target folder. Where they
//! cannot be, the test says `skipped: …` and passes; with `CI` set that is a failure if there is Go
//! 1.24, which Debian may not have.

mod support;

use tempfile::TempDir;

use support::distribution::Distribution;
use support::proxy::{MIRROR, PASSWORD, PRIVATE, Roadstead, USERNAME};
use support::suite::{Aim, Suite};
use support::tools::Tools;
use support::verdict::Verdict;

#[tokio::test]
#[ignore = "takes minutes and Go 1.24; ./test runs it"]
async fn what_passes_directly_passes_through_us() {
    let Some(tools) = Tools::ready().await else { return };
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let folder = scratch.path();
    let registry = Distribution::start(folder, &tools.registry).await;
    let fixture = registry.push("library/fixture").await;
    let suite = Suite { program: tools.suite, folder: folder.into() };
    let mut verdict = Verdict::default();

    let pulled = suite
        .run("directly, pulls only", &Aim::pulls(registry.address, "library/fixture", &fixture))
        .await;
    let mirror = Roadstead::start(&folder.join("mirror"), &registry, MIRROR).await;
    let aim = Aim::pulls(mirror.address, "docker.io/library/fixture", &fixture);
    // The second time everything comes from the cache.
    for name in ["mirror, cold", "mirror, warm"] {
        verdict.compare(&pulled, suite.run(name, &aim).await);
    }

    let direct = suite.run("directly", &Aim::everything(registry.address, "direct")).await;
    let private = Roadstead::start(&folder.join("private"), &registry, PRIVATE).await;
    // By the default upstream, and with the upstream in the name.
    for (name, repositories, keeps_tokens) in [
        ("private, tokens kept", "kept", true),
        ("private, a token each", "registry.test/each", false),
    ] {
        let aim = Aim::everything(private.address, repositories).logged_in(
            USERNAME,
            PASSWORD,
            keeps_tokens,
        );
        verdict.compare(&direct, suite.run(name, &aim).await);
    }
    verdict.pronounce(&[(&pulled, 20), (&direct, 600)]);
}
