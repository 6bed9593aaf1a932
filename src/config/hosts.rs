//! `hosts`: the names under which clients call the proxy, and `tls`.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use super::keys;
use super::place::{Fields, Place};
use super::upstreams;
use super::{ClientAuth, Host, Tls, UnknownCredentials};
use crate::oci::split_port;

/// Each name once.
pub(super) fn read(top: &Fields<'_>, allow_plain_http: bool) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    for item in top.get("hosts").map(Place::items).unwrap_or_default() {
        let Some(host) = item.noted(host(&item, allow_plain_http)) else { continue };
        if hosts.iter().any(|other| other.name == host.name) {
            item.problem(format!("{} is listed already; keep one", host.name));
        }
        hosts.push(host);
    }
    hosts
}

fn host(place: &Place<'_>, allow_plain_http: bool) -> Result<Host, String> {
    if !place.is_mapping() {
        return named(place.text()?, UnknownCredentials::Refused, allow_plain_http);
    }
    let fields = place.fields(keys::HOST);
    let unknown = fields.read("unknown_credentials", UnknownCredentials::Refused, |place| {
        match place.text()? {
            "refused" => Ok(UnknownCredentials::Refused),
            "anonymous" => Ok(UnknownCredentials::Anonymous),
            other => Err(format!("{other:?} is no choice; write refused or anonymous")),
        }
    });
    match fields.get("name") {
        Some(name) => named(name.text()?, unknown, allow_plain_http),
        None => {
            Err("has no name; write { name: mirror.example.com, unknown_credentials: anonymous }"
                .to_owned())
        }
    }
}

fn named(
    text: &str,
    unknown_credentials: UnknownCredentials,
    allow_plain_http: bool,
) -> Result<Host, String> {
    let (plain_http, text) =
        text.strip_prefix("http://").map_or((false, text), |rest| (true, rest));
    let (name, port) = name_and_port(text).ok_or_else(|| {
        format!(
            "{text:?} is no host name; write it without scheme or path, as mirror.example.com or \
             mirror.example.com:8443"
        )
    })?;
    if plain_http && !allow_plain_http && !is_loopback(&name) {
        return Err(format!(
            "passwords for {name} would travel in clear; leave out http:// if something in front \
             adds TLS, or say \
             allow_plain_http: true if the network in between is trusted"
        ));
    }
    Ok(Host { name, port, plain_http, unknown_credentials })
}

/// A name of ours, and the port that is written with it.
fn name_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if upstreams::is_bare_ipv6(text) { (text, None) } else { split_port(text) };
    let port = port.map(str::parse::<NonZeroU16>).transpose().ok()?;
    Some((upstreams::host_name(host).ok()?, port.map(NonZeroU16::get)))
}

/// Whether the name can only mean this machine.
fn is_loopback(name: &str) -> bool {
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    let address = address.is_ok_and(|address| address.is_loopback());
    address || name == "localhost" || name.ends_with(".localhost")
}

pub(super) fn tls(top: &Fields<'_>) -> Option<Tls> {
    let fields = top.get("tls")?.fields(keys::TLS);
    for key in ["certificate", "key"] {
        if fields.get(key).is_none() {
            fields.place.problem(format!(
                "has no {key}; write tls: {{ certificate: FILE, key: FILE }}, both PEM"
            ));
        }
    }
    let path = |place: &Place<'_>| place.text().map(PathBuf::from);
    let client_ca = fields.optional("client_ca", path);
    let client_auth =
        fields.read("client_auth", ClientAuth::Optional, |place| match place.text()? {
            "optional" => Ok(ClientAuth::Optional),
            "required" => Ok(ClientAuth::Required),
            other => Err(format!("{other:?} is no choice; write optional or required")),
        });
    if let Some(place) = fields.get("client_auth")
        && fields.get("client_ca").is_none()
    {
        place.problem("nobody has signed client certificates; add client_ca: FILE");
    }
    let (certificate, key) = (fields.optional("certificate", path)?, fields.optional("key", path)?);
    Some(Tls { certificate, key, client_ca, client_auth })
}
