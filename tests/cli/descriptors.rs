//! File descriptors: as many as the process may have, and given back where they run short.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};

use crate::support::Serving;

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -Sn 100 && ulimit -Hn 300 && exec "$0" serve"#]);
    shell.arg(env!("CARGO_BIN_EXE_roadstead")).env_remove("RUST_LOG");
    let mut serving = Serving::spawn(&mut shell, "");
    serving.until("serving");
    let limits = format!("/proc/{}/limits", serving.id().as_raw_nonzero());
    let limits = fs::read_to_string(limits).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let figures: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(figures, ["300", "300"]);
}

/// Rounds, or as many as `DESCRIPTORS` says: `DESCRIPTORS=500 cargo test --test cli descriptors --
/// --nocapture`
#[test]
fn connections_that_do_nothing_make_room_where_descriptors_run_short() {
    const DESCRIPTORS: u64 = 60;
    let told = std::env::var("DESCRIPTORS").ok();
    let rounds = told.map_or(1, |told| told.parse().expect("DESCRIPTORS is a number"));
    let mut serving = Serving::start("", &[]);
    let lines = serving.until("clients=");
    let line = lines.last().expect("the line with the address");
    let (_, rest) = line.split_once("clients=").expect("it was waited for");
    let address = rest.split_whitespace().next().expect("an address");
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    prlimit(Some(serving.id()), Resource::Nofile, limit).expect("a lower limit is allowed");

    for round in 0..rounds {
        // Half of them have asked once and stay, half never say anything.
        let mut idle = Vec::new();
        for n in 0..2 * DESCRIPTORS {
            let mut stream = TcpStream::connect(address).expect("it listens");
            if n % 2 == 0 {
                let answer = ping(&mut stream);
                assert!(answer.starts_with("HTTP/1.1 200"), "round {round}, client {n}");
            }
            idle.push(stream);
        }
        let mut last = TcpStream::connect(address).expect("it listens");
        assert!(ping(&mut last).starts_with("HTTP/1.1 200"), "round {round}");
    }
    serving.until("cannot accept a connection");
    println!(
        "descriptors: {rounds} rounds of {} connections over {DESCRIPTORS} descriptors, whoever \
         asked was answered",
        2 * DESCRIPTORS
    );
}

/// Asks on a connection that stays open.
fn ping(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}
