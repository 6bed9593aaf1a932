//! `listen` and `admin`: the two addresses that the proxy binds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::keys;
use super::place::{Fields, Place};
use super::upstreams;

/// The listeners for clients and for operators; `tls` tells whether clients speak TLS.
pub(super) fn read(
    top: &Fields<'_>,
    allow_plain_http: bool,
    tls: bool,
) -> (SocketAddr, SocketAddr) {
    let listen = top.read("listen", local(5000), address);
    if let Some(place) = top.get("listen").filter(|_| !tls && !allow_plain_http) {
        refuse_exposed(place, listen, "clients would speak plain HTTP", "");
    }
    let admin = admin(top, allow_plain_http);
    if meet(listen, admin) {
        let place = top.get("admin").or(top.get("listen")).unwrap_or(&top.place);
        place.problem(format!("listen and admin need two ports; both are {}", admin.port()));
    }
    (listen, admin)
}

/// An address, or a mapping of it that says by itself whether plain HTTP may be spoken there: an
/// operator's network may be trusted where that of clients is not.
fn admin(top: &Fields<'_>, allow_plain_http: bool) -> SocketAddr {
    const EXPOSED: &str = "metrics and health have neither login nor TLS";
    let Some(place) = top.get("admin") else { return local(5001) };
    if !place.is_mapping() {
        let admin = top.read("admin", local(5001), address);
        if !allow_plain_http {
            let own = format!("admin: {{ listen: \"{admin}\", allow_plain_http: true }}");
            refuse_exposed(place, admin, EXPOSED, &own);
        }
        return admin;
    }
    let fields = place.fields(keys::ADMIN);
    let admin = fields.read("listen", local(5001), address);
    if !fields.read("allow_plain_http", allow_plain_http, Place::flag) {
        refuse_exposed(fields.get("listen").unwrap_or(place), admin, EXPOSED, "");
    }
    admin
}

/// Names that operators give to the admin listener, beside those that DNS has no say in.
pub(super) fn admin_hosts(top: &Fields<'_>) -> Vec<String> {
    let items = top.get("admin_hosts").map(Place::items).unwrap_or_default();
    items.iter().filter_map(|item| item.noted(item.text().and_then(upstreams::host_name))).collect()
}

/// A problem if other machines reach the address; `instead` is another way to allow it.
fn refuse_exposed(place: &Place<'_>, address: SocketAddr, exposed: &str, instead: &str) {
    if is_loopback(address) {
        return;
    }
    let allow = if instead.is_empty() { "allow_plain_http: true" } else { instead };
    place.problem(format!(
        "{address} is reachable from other machines, and {exposed}; listen on 127.0.0.1:{}, or say \
         {allow} if the network in between is trusted",
        address.port()
    ));
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Whether only this machine can reach it.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether binding one keeps the other from being bound. Port 0 is a fresh port each time.
fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && overlap
}

/// An address with a port. Names are not looked up, so that a start does not hang on DNS;
/// `localhost` is 127.0.0.1.
fn address(place: &Place<'_>) -> Result<SocketAddr, String> {
    let text = place.amount()?;
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(local(port));
    }
    text.parse().map_err(|_| {
        let port = text.trim_start_matches(['*', ':']).parse().unwrap_or(5000);
        let example = text.parse::<IpAddr>().map_or(local(port), |ip| SocketAddr::new(ip, port));
        format!(
            "{text:?} is not an IP address with a port; write {example} (every interface: \
            0.0.0.0:{port})"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_meet_on_one_port_of_one_address() {
        for (a, b, expected) in [
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("0.0.0.0:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "[::]:5000", true),
            ("127.0.0.1:5000", "127.0.0.2:5000", false),
            ("127.0.0.1:5000", "127.0.0.1:5001", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(meet(a.parse().expect(a), b.parse().expect(b)), expected, "{a} {b}");
        }
    }

    #[test]
    fn loopback_is_what_only_this_machine_reaches() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("127.8.8.8:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(is_loopback(text.parse().expect(text)), expected, "{text}");
        }
    }
}
