//! `listen` and `admin`: the two addresses that the proxy binds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::place::{Fields, Place};

/// The listeners for clients and for operators; `tls` tells whether clients speak TLS.
pub(super) fn read(
    top: &Fields<'_>,
    allow_plain_http: bool,
    tls: bool,
) -> (SocketAddr, SocketAddr) {
    let listen = top.read("listen", local(5000), address);
    let admin = top.read("admin", local(5001), address);
    for (key, address, exposed) in [
        ("listen", listen, "clients would speak plain HTTP"),
        ("admin", admin, "metrics and health have neither login nor TLS"),
    ] {
        if let Some(place) = top.get(key)
            && !is_loopback(address)
            && !allow_plain_http
            && !(tls && key == "listen")
        {
            place.problem(format!(
                "{address} is reachable from other machines, and {exposed}; listen on \
                 127.0.0.1:{}, or say \
                 allow_plain_http: true if the network in between is trusted",
                address.port()
            ));
        }
    }
    if meet(listen, admin) {
        let place = top.get("admin").or(top.get("listen")).unwrap_or(&top.place);
        place.problem(format!("listen and admin need two ports; both are {}", admin.port()));
    }
    (listen, admin)
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
