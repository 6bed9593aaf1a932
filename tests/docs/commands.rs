//! The commands of the documents, as they stand there, with the binary. `tests/clients` runs those
//! that need other programs.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::blocks::{blocks, marked};
use crate::folder::{Folder, Said};
use crate::marks::{first_config, is_toml};

/// Runs a block, which has to succeed.
fn run(folder: &Folder, code: &str) -> Said {
    let said = folder.shell(code);
    assert!(said.success, "{code}\n{said:?}");
    said
}

#[test]
fn the_readmes_mirror_is_checked_and_served() {
    let folder = Folder::of_a_vendor();
    let config = first_config("README.md");
    assert!(config.contains("listen: 0.0.0.0:443\n"), "{config}");
    let config = config.replace("0.0.0.0:443", "127.0.0.1:0") + "admin: 127.0.0.1:0\n";
    folder.write_config(&config);
    for block in marked("README.md", "the_readmes_mirror_is_checked_and_served") {
        let mut command = folder.command(&block.code);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut shell = command.spawn().expect("there is a shell");
        let group = Pid::from_child(&shell);
        let mut lines = BufReader::new(shell.stderr.take().expect("it is piped")).lines();
        let serving = lines.any(|line| line.expect("text").contains("serving"));
        kill_process_group(group, Signal::TERM).expect("it runs");
        shell.wait().expect("it ends");
        let mut out = String::new();
        let stdout = shell.stdout.as_mut().expect("it is piped");
        stdout.read_to_string(&mut out).expect("text");
        assert!(serving && out.contains("config.yaml is valid: 15 upstreams"), "{out}");
    }
}

#[test]
fn the_readmes_licence_is_issued() {
    let folder = Folder::empty();
    for block in marked("README.md", "the_readmes_licence_is_issued") {
        run(&folder, &block.code);
    }
    let mut configs = blocks("README.md").into_iter();
    let config = configs.find(|block| block.code.contains("public_keys: [licence.pub]"));
    folder.write("config.yaml", &config.expect("the vendor's configuration").code);
    run(&folder, "roadstead check config.yaml");
    let shown = run(&folder, "roadstead licence show customer.licence --config config.yaml");
    assert!(shown.out.starts_with("licence       customer-prod\n"), "{shown:?}");
}

#[test]
fn mistakes_are_listed_as_the_configuration_page_says() {
    let folder = Folder::empty();
    let blocks =
        marked("docs/configuration.md", "mistakes_are_listed_as_the_configuration_page_says");
    let of = |language: &str| {
        let block = blocks.iter().find(|block| block.language == language);
        &block.unwrap_or_else(|| panic!("there is no {language} block")).code
    };
    folder.write("config.yaml", of("yaml"));
    let said = folder.shell(of("sh"));
    assert_eq!((said.code, &said.err), (Some(64), of("text")));
}

#[test]
fn customers_use_a_licence_as_its_page_says() {
    let folder = Folder::of_a_vendor();
    run(&folder, "cp licences/customer-prod.licence .");
    let blocks = marked("docs/licences.md", "customers_use_a_licence_as_its_page_says");
    let said: String = blocks.iter().map(|block| run(&folder, &block.code).out).collect();
    let login = said.lines().next().expect("the helper answers first");
    let login: serde_json::Value = serde_json::from_str(login).expect("JSON");
    assert_eq!(login["Username"], "customer-prod");
    assert!(said.contains("applications  myapp\n") && said.contains(" days left)\n"), "{said}");

    let secret = folder.read("secret.yaml");
    let secret: serde_yaml::Value = serde_yaml::from_str(&secret).expect("YAML");
    assert_eq!(secret["metadata"]["name"], "roadstead-licence");
    let hosts = folder.read("hosts.toml");
    let place = "# /etc/containerd/certs.d/registry.example.com/hosts.toml\n";
    assert!(hosts.starts_with(place) && hosts.lines().all(is_toml), "{hosts}");
    let config: serde_json::Value =
        serde_json::from_str(&folder.read("config.json")).expect("JSON");
    assert!(config["auths"]["registry.example.com"]["auth"].is_string());
}

#[test]
fn vendors_manage_licences_as_their_page_says() {
    let folder = Folder::of_a_vendor();
    folder.write_config(&first_config("docs/vendors.md"));
    run(&folder, "rm licence-2027.pub");
    for block in marked("docs/licences.md", "vendors_manage_licences_as_their_page_says") {
        // A page that revokes, and issues nothing in its place, shows what was revoked.
        let ends = block.code.contains("licence revoke") && !block.code.contains("licence issue");
        let said = folder.shell(&block.code);
        assert_eq!(said.code, Some(i32::from(ends)), "{}: {said:?}", block.place);
        let state = if ends { "(revoked on " } else { " days left)\n" };
        if block.code.contains("licence show") {
            assert!(said.out.contains("signature     good, by key"), "{}: {said:?}", block.place);
            assert!(said.out.contains(state), "{}: {said:?}", block.place);
        }
    }
    let show = |file: &str| {
        folder.shell(&format!("roadstead licence show {file} --config config.yaml")).out
    };
    for (file, state) in [
        ("customer-prod.licence", "(revoked on "),
        ("customer-prod-2.licence", "(revoked on "),
        ("customer-prod-3.licence", " days left)\n"),
        ("customer-prod-hosts.licence", "hosts         registry.example.com, images.example.com\n"),
        ("customer-prod-tools.licence", "applications  myapp, tools\n"),
    ] {
        assert!(show(file).contains(state), "{file}: {}", show(file));
    }
}

#[test]
fn every_command_of_the_control_page_has_help() {
    let folder = Folder::empty();
    let blocks = marked("docs/control.md", "every_command_of_the_control_page_has_help");
    for line in blocks.iter().flat_map(|block| block.code.lines()) {
        assert!(run(&folder, line).out.contains("Usage: roadstead"), "{line}");
    }
}

#[test]
fn every_command_of_the_operations_page_has_help() {
    let folder = Folder::empty();
    let blocks = marked("docs/operations.md", "every_command_of_the_operations_page_has_help");
    for line in blocks.iter().flat_map(|block| block.code.lines()) {
        assert!(run(&folder, line).out.contains("Usage: roadstead"), "{line}");
    }
}
