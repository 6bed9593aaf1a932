//! Pulls with nothing but a licence file: the binary as docker's credential helper, for every
//! client that knows helpers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::process::{PATIENCE, Process, ready, run};
use crate::support::proxy::BINARY;
use crate::support::registry::{Auth, Registry};
use crate::support::sandbox::Sandbox;
use crate::support::tools::{Client, Docker, Podman, Skopeo};
use crate::support::vendor::{APP, EXTERNAL, Vendor, in_seconds};

#[tokio::test]
async fn docker_pulls_with_a_licence_file_and_from_elsewhere_without() {
    pulls_by_helper::<Docker>(name_for_each_host).await;
}

#[tokio::test]
async fn skopeo_pulls_with_a_licence_file_and_from_elsewhere_without() {
    pulls_by_helper::<Skopeo>(name_for_each_host).await;
}

#[tokio::test]
async fn podman_pulls_with_a_licence_file_and_from_elsewhere_without() {
    pulls_by_helper::<Podman>(name_for_all_hosts).await;
}

/// Tells a client to ask the helper about two hosts.
type Configure<C> = fn(&C, &Sandbox, [&str; 2]);

async fn pulls_by_helper<C: Client>(configure: Configure<C>) {
    if !ready(C::NEEDS) {
        return;
    }
    let vendor = Vendor::open().await;
    let folder = vendor.folder("client");
    let public =
        Registry::holding(&folder, Auth::Anonymous, &[("acme/tools", &vendor.external)]).await;
    let elsewhere = public.address.to_string();
    let licence = vendor.issue("acme-prod").await;
    // What it leads to changes, the client does not.
    let given = folder.join("licence");
    let sandbox = with_helper(&vendor.sandbox, &folder).with("ROADSTEAD_LICENCE", &given);
    let client = C::start(&sandbox, &folder).await;
    sandbox.trust_plain_http(&elsewhere);
    configure(&client, &sandbox, [&vendor.host(), &elsewhere]);

    for target in [licence.file.clone(), with_useless_ones(&folder, &licence.file)] {
        let _ = fs::remove_file(&given);
        symlink(target, &given).expect("the folder is the test's own");
        for (name, image) in [
            (vendor.name(APP), &vendor.app),
            (vendor.name(EXTERNAL), &vendor.external),
            (format!("{elsewhere}/acme/tools:1"), &vendor.external),
        ] {
            run("pull", &folder, client.pull(&name)).await;
            client.holds(&name, image).await;
        }
    }

    // What the helper says about the end, the clients print.
    let ending = vendor.issue_until("acme-soon", in_seconds(10 * 86_400));
    let _ = fs::remove_file(&given);
    symlink(ending.file, &given).expect("the folder is the test's own");
    let mut process = Process::start("notice", &folder, client.pull(&vendor.name(APP)));
    assert!(process.exit(PATIENCE).await.success(), "the licence is still good");
    assert!(process.err().contains("licence acme-soon ends in "), "{}", process.err());
}

fn with_helper(sandbox: &Sandbox, folder: &Path) -> Sandbox {
    let programs = folder.join("bin");
    fs::create_dir(&programs).expect("the folder is the test's own");
    symlink(BINARY, programs.join("docker-credential-roadstead"))
        .expect("the folder is the test's own");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&path)));
    sandbox.clone().with("PATH", path.expect("no colon is in the names of temporary folders"))
}

/// A folder with the licence, a file that is none, and one that cannot be read.
fn with_useless_ones(folder: &Path, licence: &Path) -> PathBuf {
    let all = folder.join("licences");
    fs::create_dir(&all).expect("the folder is the test's own");
    fs::write(all.join("a.licence"), "hosts: [\"\0").expect("the folder is the test's own");
    symlink("/nowhere", all.join("b.licence")).expect("the folder is the test's own");
    fs::copy(licence, all.join("c.licence")).expect("the folder is the test's own");
    all
}

/// The host that no licence names is asked about as well.
fn name_for_each_host(client: &impl Client, _: &Sandbox, hosts: [&str; 2]) {
    let helpers: serde_json::Map<_, _> =
        hosts.into_iter().map(|host| (host.to_owned(), "roadstead".into())).collect();
    let text = serde_json::json!({ "credHelpers": helpers }).to_string();
    fs::write(client.logins(), text).expect("the folder is the test's own");
}

/// podman wants the file of logins to be there.
fn name_for_all_hosts(client: &impl Client, sandbox: &Sandbox, _: [&str; 2]) {
    let file = sandbox.etc("containers/registries.conf");
    fs::write(client.logins(), "{}").expect("the folder is the test's own");
    let text = fs::read_to_string(&file).expect("it was written");
    fs::write(file, format!("credential-helpers = [\"roadstead\"]\n{text}"))
        .expect("the folder is the test's own");
}
