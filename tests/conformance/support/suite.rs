//! One run of the suite, and what came of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use roadstead::oci::Digest;

use super::distribution::Fixture;
use super::process::Process;

/// Directly it takes 10 s of an idle machine.
const RUN: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
}

/// What a run is for: the suite's settings.
#[derive(Debug)]
pub(crate) struct Aim(Vec<(&'static str, String)>);

/// Results of the tests by name. The suite gives one name to several, in no order that could be
/// relied on.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) name: &'static str,
    pub(crate) tests: BTreeMap<String, Tally>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Aim {
    /// All of the spec, below `path`.
    pub(crate) fn everything(address: SocketAddr, path: &str) -> Self {
        Self(vec![
            ("OCI_REGISTRY", address.to_string()),
            ("OCI_REPO1", format!("{path}/one")),
            ("OCI_REPO2", format!("{path}/two")),
        ])
    }

    /// What can be asked of a repository that holds `fixture` and takes no writes. The suite would
    /// delete what it is told of, so that is switched off.
    pub(crate) fn pulls(address: SocketAddr, repository: &str, fixture: &Fixture) -> Self {
        let texts =
            |digests: &[Digest]| digests.iter().map(Digest::as_str).collect::<Vec<_>>().join(" ");
        let off = [
            "OCI_API_PUSH",
            "OCI_API_BLOBS_DELETE",
            "OCI_API_MANIFESTS_DELETE",
            "OCI_API_TAGS_DELETE",
            // It looks for this header where it has not kept the answer's.
            "OCI_API_MANIFESTS_DIGEST_HEADER",
        ];
        let mut settings = vec![
            ("OCI_REGISTRY", address.to_string()),
            ("OCI_REPO1", repository.to_owned()),
            ("OCI_RO_DATA_TAGS", fixture.tags.join(" ")),
            ("OCI_RO_DATA_MANIFESTS", texts(&fixture.manifests)),
            ("OCI_RO_DATA_BLOBS", texts(&fixture.blobs)),
            ("OCI_RO_DATA_REFERRERS", fixture.subject.to_string()),
        ];
        settings.extend(off.map(|setting| (setting, "false".to_owned())));
        Self(settings)
    }

    /// As somebody, who keeps tokens or gets one for every request.
    pub(crate) fn logged_in(mut self, username: &str, password: &str, keeps_tokens: bool) -> Self {
        self.0
            .extend([("OCI_USERNAME", username.to_owned()), ("OCI_PASSWORD", password.to_owned())]);
        self.0.push(("OCI_CACHE_AUTH", keeps_tokens.to_string()));
        self
    }
}

impl Suite {
    pub(crate) async fn run(&self, name: &'static str, aim: &Aim) -> Results {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).expect("each run has its own name");
        // Away from any configuration file of the suite.
        let mut command = Command::new(&self.program);
        command.current_dir(&folder);
        for (key, _) in
            std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("OCI_"))
        {
            command.env_remove(key);
        }
        command.env("OCI_VERSION", "dev").env("OCI_TLS", "disabled").env("OCI_LOG", "error");
        command.env("OCI_RESULTS_DIR", &folder).envs(aim.0.iter().map(|(key, value)| (key, value)));
        let mut process = Process::start("suite", &folder, command);
        // Its status is 1 after any failure, and 0 if it could not even begin; without pushes it
        // falls over once it has reported, before it writes files. So only what it prints tells.
        process.exit(RUN).await;
        Results { name, tests: tests(&process.out()).expect("a run ends with a whole report") }
    }
}

impl Results {
    pub(crate) fn total(&self) -> Tally {
        self.tests.values().fold(Tally::default(), |sum, tally| Tally {
            passed: sum.passed + tally.passed,
            failed: sum.failed + tally.failed,
            skipped: sum.skipped + tally.skipped,
        })
    }
}

/// The tests of a report, which lists each with those below it; `None` if it is not whole.
fn tests(report: &str) -> Option<BTreeMap<String, Tally>> {
    let (list, _) = report.split_once("\nAPI conformance:")?;
    let listed = list.lines().filter_map(|line| {
        let name = line.trim_start();
        name.starts_with("OCI Conformance Test").then(|| name.rsplit_once(": ")).flatten()
    });
    let listed: Vec<_> = listed.collect();
    let mut tests = BTreeMap::<String, Tally>::new();
    for (at, (name, status)) in listed.iter().enumerate() {
        let below = listed.get(at + 1).and_then(|(next, _)| next.strip_prefix(name));
        if below.is_some_and(|rest| rest.starts_with('/')) {
            continue;
        }
        let tally = tests.entry((*name).to_owned()).or_default();
        match *status {
            "Pass" => tally.passed += 1,
            "Skip" | "Disabled" => tally.skipped += 1,
            _ => tally.failed += 1,
        }
    }
    Some(tests)
}
