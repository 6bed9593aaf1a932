//! `access`: who may pull what. Deny by default, except for a proxy that only its own machine can reach.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::check::is_loopback;
use super::keys;
use super::place::{Fields, Place, closest};
use super::{Access, Allow, Rule, Upstream, Who};
use crate::oci::Pattern;

/// What the section says; without one, everything for anyone, on a loopback listener only.
pub(super) fn read(top: &Fields<'_>, listen: SocketAddr, upstreams: &[Upstream]) -> Access {
    let Some(section) = top.get("access") else { return with_rules(open(top, listen)) };
    let items = section.fields(keys::ACCESS).get("rules").map(Place::items);
    if items.as_ref().is_none_or(Vec::is_empty) {
        section.problem(format!("has no rules, so nobody may pull anything; write {}", example()));
    }
    with_rules(items.unwrap_or_default().iter().filter_map(|item| rule(&item.fields(keys::RULE), upstreams)).collect())
}

fn with_rules(rules: Vec<Rule>) -> Access {
    Access { users: None, key_file: None, trusted_proxies: Vec::new(), rules }
}

fn open(top: &Fields<'_>, listen: SocketAddr) -> Vec<Rule> {
    if !is_loopback(listen) {
        let place = top.get("listen").unwrap_or(&top.place);
        place.problem(format!("other machines reach {listen}, so say who may pull; write {}", example()));
    }
    let everything = Pattern::parse("**").expect("** is a pattern");
    let allow = Allow { pull: true, list: true, ..Allow::default() };
    vec![Rule { who: Who::Anonymous, networks: Vec::new(), allow, images: vec![everything], applications: Vec::new() }]
}

/// One line of YAML that can be pasted and is valid.
fn example() -> &'static str {
    r#"access: { rules: [{ who: anonymous, networks: [10.0.0.0/8], allow: [pull, list], images: ["**"] }] }"#
}

fn rule(fields: &Fields<'_>, upstreams: &[Upstream]) -> Option<Rule> {
    for (key, what) in [
        ("who", "who: anonymous"),
        ("allow", "allow: [pull, list]"),
        ("images", r#"images: ["docker.io/**"], or ["**"] for all"#),
    ] {
        if fields.get(key).is_none() {
            fields.place.problem(format!("has no {key}; write {what}"));
        }
    }
    fields.optional("who", |place| match place.text()? {
        "anonymous" => Ok(()),
        other => Err(format!("{other:?} is nobody that rules know; write anonymous")),
    });
    let allow = fields.list("allow", action);
    let images = fields.list("images", |text| image_pattern(text, upstreams));
    for (key, empty) in [("allow", allow.is_empty()), ("images", images.is_empty())] {
        let nothing = |place: &&Place<'_>| empty && place.items().is_empty();
        if let Some(place) = fields.get(key).filter(nothing) {
            place.problem("is an empty list, so the rule allows nothing");
        }
    }
    let allow = Allow { pull: allow.contains(&Action::Pull), list: allow.contains(&Action::List), ..Allow::default() };
    Some(Rule { who: Who::Anonymous, networks: networks(fields)?, allow, images, applications: Vec::new() })
}

#[derive(PartialEq)]
enum Action {
    Pull,
    List,
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "pull" => Ok(Action::Pull),
        "list" => Ok(Action::List),
        _ => Err(format!("{text:?} is no action; there are pull and list")),
    }
}

/// None if one of them is wrong: fewer networks must never come to mean any network.
fn networks(fields: &Fields<'_>) -> Option<Vec<IpNet>> {
    let Some(place) = fields.get("networks") else { return Some(Vec::new()) };
    let items = place.items();
    if items.is_empty() {
        place.problem("is an empty list; leave the key out to allow any address");
    }
    items.iter().map(|item| item.noted(item.text().and_then(network))).collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().map_err(|_| match text.parse::<IpAddr>() {
        Ok(ip) => format!("{text:?} is an address, not a network; write {}", IpNet::from(ip)),
        Err(_) => format!("{text:?} is no network; write an address and a prefix length, as 10.0.0.0/8"),
    })
}

/// A glob over canonical names, whose first component is an upstream.
fn image_pattern(text: &str, upstreams: &[Upstream]) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    let (first, rest) = text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let names = || upstreams.iter().map(|upstream| upstream.name.as_str());
    if first == "**" || (rest.is_some() && (first == "*" || names().any(|name| name == first))) {
        return Ok(pattern);
    }
    let owner = upstreams.iter().find(|upstream| upstream.aliases.iter().any(|alias| alias == first));
    let meant = owner.map(|upstream| upstream.name.as_str()).or_else(|| closest(first, names()));
    Err(match (rest, meant) {
        (None, _) if names().any(|name| name == first) => format!("{text:?} matches no image; write {first}/**"),
        (Some(rest), Some(meant)) => format!("{text:?} matches no image; write {meant}/{rest}"),
        (_, _) => format!("{text:?} matches no image: the first component is an upstream, as in docker.io/library/*"),
    })
}
