//! `roadstead serve` and `roadstead check`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;

use crate::support::{Serving, directory, roadstead, run, text};

#[test]
fn check_says_that_a_file_is_valid() {
    let (_directory, file) =
        directory("upstreams: { quay.io: , acme.test: { url: 'https://acme.test' } }\n");
    let output = run(&mut roadstead(&["check", &file.display().to_string()]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = format!(
        "{} is valid: 2 upstreams (quay.io, acme.test), clients at 127.0.0.1:0\n",
        file.display()
    );
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn check_and_serve_tell_every_problem_and_exit_with_64() {
    let (_directory, file) = directory(
        "lisen: x\nupstreams: { quay.io: { credentials: [{ username: u, password: hunter2 }] } }\n",
    );
    let name = file.display().to_string();
    for arguments in [vec!["check", &name], vec!["serve", "--config", &name]] {
        let output = run(&mut roadstead(&arguments));
        assert_eq!(output.status.code(), Some(64));
        let stderr = text(&output.stderr);
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{stderr}");
        assert_eq!(lines[0], format!("{name}:5: lisen: unknown key; did you mean listen?"));
        assert!(
            lines[1].starts_with(&format!("{name}:6: upstreams.quay.io.credentials[0].password: ")),
            "{stderr}"
        );
        assert!(!stderr.contains("hunter2"));
        assert!(!Path::new(&name).with_file_name("cache").exists(), "nothing was started");
    }
}

#[test]
fn a_missing_file_is_a_bad_configuration() {
    let output = run(&mut roadstead(&["serve", "--config", "/nonexistent/config.yaml"]));
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).starts_with("/nonexistent/config.yaml: cannot be read: No such file")
    );
}

#[test]
fn a_port_in_use_is_told_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    for key in ["listen", "admin"] {
        let (_directory, file) = directory("");
        let content = fs::read_to_string(&file)
            .expect("readable")
            .replace(&format!("{key}: 127.0.0.1:0"), &format!("{key}: {address}"));
        fs::write(&file, content).expect("writable");
        let output = run(&mut roadstead(&["serve", "--config", &file.display().to_string()]));
        assert_eq!(output.status.code(), Some(1));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&format!("roadstead: cannot listen on {address}: ")), "{stderr}");
        assert!(
            stderr.contains(&format!("another address as {key} in the configuration")),
            "{stderr}"
        );
        assert!(stderr.contains("Address already in use"), "{stderr}");
    }
}

#[test]
fn an_address_that_the_machine_does_not_have_is_told_as_that() {
    let (_directory, file) = directory("");
    let content = fs::read_to_string(&file).expect("readable");
    // TEST-NET-1 (RFC 5737): nobody's.
    let content = content.replace("listen: 127.0.0.1:0", "listen: 192.0.2.1:5000")
        + "allow_plain_http: true\naccess: { rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }] }\n";
    fs::write(&file, content).expect("writable");
    let output = run(&mut roadstead(&["serve", "--config", &file.display().to_string()]));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot listen on 192.0.2.1:5000: Cannot assign"), "{stderr}");
    assert!(stderr.contains("`ip address`") && !stderr.contains("end the process"), "{stderr}");
}

#[test]
fn serve_says_where_it_is_and_how_to_try_it_and_ends_on_sigterm() {
    let mut serving = Serving::start("upstreams: { quay.io: { tls_verify: false } }\n", &[]);
    let lines = serving.until("tls_verify is false").join("\n");
    let address = lines
        .split_once("clients    http://")
        .expect("the address")
        .1
        .lines()
        .next()
        .expect("a line");
    assert_ne!(
        address.parse::<SocketAddr>().expect("an address").port(),
        0,
        "the port that was bound"
    );
    assert!(
        lines.contains("/metrics")
            && lines.contains("docker pull 127.0.0.1:")
            && lines.contains("curl http://")
    );
    assert!(lines.contains("upstreams  quay.io") && !lines.contains('\u{1b}'), "{lines}");
    assert!(TcpListener::bind(address).is_err(), "it listens there");
    serving.signal(Signal::TERM);
    let (code, rest) = serving.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("SIGTERM"), "{rest}");
    assert!(rest.trim_end().ends_with("stopped"), "the end is told: {rest}");
}

#[test]
fn sigint_ends_it_as_well() {
    let mut serving = Serving::start("", &[]);
    serving.until("serving");
    serving.signal(Signal::INT);
    assert_eq!(serving.end().0, Some(0));
}

#[test]
fn json_lines_are_all_that_machines_read() {
    let mut serving = Serving::start(
        "upstreams: { quay.io: { tls_verify: false } }\n",
        &["--log-format", "json"],
    );
    let mut lines = serving.until("tls_verify is false");
    serving.signal(Signal::TERM);
    lines.extend(serving.end().1.lines().map(str::to_owned));
    for line in &lines {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(
            object["level"].is_string()
                && object["message"].is_string()
                && object["timestamp"].is_string(),
            "{line}"
        );
    }
    assert!(lines.len() >= 3, "{lines:?}");
}

#[test]
fn files_that_a_configuration_names_are_part_of_it() {
    let (directory, file) = directory(
        "access: { users: users, rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }] }\n\
         applications: { myapp: { images: [\"quay.io/acme/**\"] } }\n\
         licences: { issuer: Acme Inc., public_keys: [gone.pub], revoked: revoked }\n",
    );
    fs::write(directory.path().join("users"), "ci:plain\n").expect("writable");
    for command in ["check", "serve"] {
        let arguments = if command == "check" { vec!["check"] } else { vec!["serve", "--config"] };
        let output = run(roadstead(&arguments).arg(&file).current_dir(directory.path()));
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{told}");
        for part in ["users:1: ci: ", "cannot read gone.pub", "cannot read revoked"] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
    }
}

/// htpasswd cuts them in silence, so people have them.
#[test]
fn a_password_that_is_longer_than_bcrypt_looks_is_told_once() {
    let (directory, _) = directory("");
    let users = directory.path().join("users");
    let hash = bcrypt::hash("x".repeat(72), 4).expect("a hash");
    fs::write(&users, format!("ci:{hash}\nops:{hash}\n")).expect("writable");
    let rules = "rules: [{ who: 'user:ci', allow: [pull], images: ['**'] }]";
    let config = format!("access: {{ users: {}, {rules} }}\n", users.display());
    let mut serving = Serving::start(&config, &[]);
    let line = serving.until("clients    http://").pop().expect("the line");
    let address = line.split_once("http://").expect("the address").1.to_owned();
    let login = |user: &str, length: usize| {
        let pair = BASE64_STANDARD.encode(format!("{user}:{}", "x".repeat(length)));
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let request = format!(
            "GET /v2/ HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic {pair}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    for _ in 0..2 {
        assert_eq!([login("ci", 73), login("ci", 72), login("eve", 80)], ["401", "200", "401"]);
        assert_eq!(login("ops", 71), "401", "wrong, and short enough");
    }
    serving.signal(Signal::TERM);
    let said = serving.end().1;
    let told: Vec<&str> = said.lines().filter(|line| line.contains("more than 72 bytes")).collect();
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("ci"), "{said}");
}
