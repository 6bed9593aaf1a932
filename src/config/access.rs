//! `access`: who may pull what. Deny by default, except for a proxy that only its own machine can
//! reach.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::keys;
use super::listen::is_loopback;
use super::place::{Fields, Place, closest};
use super::{Access, Allow, Application, Rule, Upstream, Writes};
use crate::identity::Identity;
use crate::licence::Slug;
use crate::oci::{Pattern, UpstreamName};

/// Which kinds of identities a client can have: whether there is a file of users, licences are
/// accepted, and clients are asked for certificates.
#[derive(Clone, Copy)]
pub(super) struct IdentitySources {
    pub(super) users: bool,
    pub(super) licences: bool,
    pub(super) client_ca: bool,
}

/// The other sections that rules refer to.
pub(super) struct RuleContext<'a> {
    pub(super) listen: SocketAddr,
    pub(super) upstreams: &'a [Upstream],
    pub(super) applications: &'a [Application],
    pub(super) sources: IdentitySources,
}

/// The section, or what holds without it.
pub(super) fn read(
    top: &Fields<'_>,
    section: Option<&Fields<'_>>,
    context: &RuleContext<'_>,
) -> Access {
    let Some(fields) = section else { return without_section(top, context) };
    let path = |place: &Place<'_>| place.text().map(PathBuf::from);
    Access {
        given: true,
        users: fields.optional("users", path),
        key_file: fields.optional("key_file", path),
        trusted_proxies: trusted_proxies(fields),
        rules: rules(fields, context),
    }
}

/// Anyone may pull anything, which is refused unless only this machine reaches the listener. Where
/// applications are sold, the default is no rule at all: only licences and publishers have rights.
fn without_section(top: &Fields<'_>, context: &RuleContext<'_>) -> Access {
    let sells = context.sources.licences || !context.applications.is_empty();
    let rules = if sells { Vec::new() } else { open_to_all(top, context.listen) };
    if context.applications.is_empty()
        && let Some(place) = top.get("licences")
    {
        place.problem(
            "there is no application to have a licence for; \
             add applications: { NAME: { images: […] } }",
        );
    }
    Access { given: false, users: None, key_file: None, trusted_proxies: Vec::new(), rules }
}

fn rules(fields: &Fields<'_>, context: &RuleContext<'_>) -> Vec<Rule> {
    let items = fields.get("rules").map(Place::items).unwrap_or_default();
    // Publishers and licences have rights without a rule.
    let given = context.sources.licences
        || context.applications.iter().any(|application| !application.publishers.is_empty());
    if items.is_empty() && !given {
        fields
            .place
            .problem(format!("has no rules, so nobody may pull anything; write {}", example()));
    }
    let read = |item: &Place<'_>| {
        let rule = rule(&item.fields(keys::RULE), context)?;
        if let Some(missing) = unreachable_identity(&rule.who, context.sources) {
            item.problem(missing);
        }
        Some(rule)
    };
    items.iter().filter_map(read).collect()
}

/// Why no client can ever have this identity; none if one can.
pub(super) fn unreachable_identity(
    who: &Identity,
    sources: IdentitySources,
) -> Option<&'static str> {
    match who {
        Identity::User(_) if !sources.users => {
            Some("nobody can log in as a user; add users: FILE under access")
        }
        Identity::Licence(_) if !sources.licences => {
            Some("no licence is accepted; add licences: { issuer: …, public_keys: […] }")
        }
        Identity::Certificate(_) if !sources.client_ca => {
            Some("clients are not asked for certificates; add client_ca: FILE under tls")
        }
        Identity::Anonymous
        | Identity::User(_)
        | Identity::Licence(_)
        | Identity::Certificate(_) => None,
    }
}

/// The one rule of a proxy without `access`; a problem if other machines reach it.
fn open_to_all(top: &Fields<'_>, listen: SocketAddr) -> Vec<Rule> {
    if !is_loopback(listen) {
        let place = top.get("listen").unwrap_or(&top.place);
        place.problem(format!(
            "other machines reach {listen}, so say who may pull; write {}",
            example()
        ));
    }
    let everything = Pattern::parse("**").expect("** is a pattern");
    let allow = Allow { pull: true, list: true, ..Allow::default() };
    let (networks, applications) = (Vec::new(), Vec::new());
    vec![Rule { who: Identity::Anonymous, networks, allow, images: vec![everything], applications }]
}

/// One line of YAML that can be pasted and is valid.
fn example() -> &'static str {
    r#"access: { rules: [{ who: anonymous, networks: [10.0.0.0/8], allow: [pull, list], images: ["**"] }] }"#
}

fn rule(fields: &Fields<'_>, context: &RuleContext<'_>) -> Option<Rule> {
    let applications = fields.get("applications").is_some();
    for (key, what) in [
        ("who", "who: anonymous, or user:NAME"),
        ("allow", "allow: [pull, list]"),
        ("images", r#"images: ["docker.io/**"], or ["**"] for all"#),
    ] {
        if fields.get(key).is_none() && !(key == "images" && applications) {
            fields.place.problem(format!("has no {key}; write {what}"));
        }
    }
    let who = fields.optional("who", |place| Identity::parse(place.text()?));
    let actions = fields.list("allow", action);
    let images = fields.list("images", |text| image_pattern(text, context.upstreams));
    let slugs = fields.list("applications", |text| application(text, context.applications));
    for (key, empty) in [
        ("allow", actions.is_empty()),
        ("images", images.is_empty()),
        ("applications", slugs.is_empty()),
    ] {
        let nothing = |place: &&Place<'_>| empty && place.items().is_empty();
        if let Some(place) = fields.get(key).filter(nothing) {
            place.problem("is an empty list, so the rule allows nothing");
        }
    }
    let has = |action| actions.contains(&action);
    let allow = Allow {
        pull: has(RuleAction::Pull),
        list: has(RuleAction::List),
        push: has(RuleAction::Push),
        delete: has(RuleAction::Delete),
    };
    let rule = Rule { who: who?, networks: networks(fields)?, allow, images, applications: slugs };
    if (allow.push || allow.delete)
        && let Some(place) = fields.get("allow")
        && let Some(refusing) = upstream_without_pushes(&rule, context)
    {
        place.warning(format!(
            "nothing can be pushed to or deleted from {refusing}; add push: true under \
             upstreams.{refusing}"
        ));
    }
    Some(rule)
}

/// The first of the upstreams that a rule is about, if none of them takes pushes.
fn upstream_without_pushes<'c>(rule: &Rule, context: &RuleContext<'c>) -> Option<&'c UpstreamName> {
    let of_applications = context
        .applications
        .iter()
        .filter(|application| rule.applications.contains(&application.slug))
        .flat_map(|application| &application.images);
    let globs: Vec<&Pattern> = rule.images.iter().chain(of_applications).collect();
    let meant = |upstream: &&Upstream| {
        globs.iter().any(|glob| {
            let first = glob.as_str().split('/').next();
            first.is_some_and(|first| ["*", "**", upstream.name.as_str()].contains(&first))
        })
    };
    let mut meant = context.upstreams.iter().filter(meant).peekable();
    let first = meant.peek().map(|upstream| &upstream.name);
    first.filter(|_| meant.all(|upstream| upstream.writes == Writes::Refused))
}

fn application(text: &str, applications: &[Application]) -> Result<Slug, String> {
    let found = applications.iter().find(|application| application.slug.as_str() == text);
    found.map(|application| application.slug.clone()).ok_or_else(|| {
        let names: Vec<&str> =
            applications.iter().map(|application| application.slug.as_str()).collect();
        let names = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
        format!("{text:?} is not among the applications: {names}")
    })
}

#[derive(PartialEq)]
enum RuleAction {
    Pull,
    List,
    Push,
    Delete,
}

fn action(text: &str) -> Result<RuleAction, String> {
    match text {
        "pull" => Ok(RuleAction::Pull),
        "list" => Ok(RuleAction::List),
        "push" => Ok(RuleAction::Push),
        "delete" => Ok(RuleAction::Delete),
        _ => Err(format!("{text:?} is no action; there are pull, list, push and delete")),
    }
}

/// None if one of them is wrong: fewer networks must never come to mean any network.
fn networks(fields: &Fields<'_>) -> Option<Vec<IpNet>> {
    let Some(place) = fields.get("networks") else { return Some(Vec::new()) };
    let items = place.items();
    if items.is_empty() {
        place.problem("is an empty list; leave the key out to allow any address");
    }
    items.iter().map(network).collect()
}

/// Networks of balancers; a wrong one is left out.
fn trusted_proxies(fields: &Fields<'_>) -> Vec<IpNet> {
    let items = fields.get("trusted_proxies").map(Place::items).unwrap_or_default();
    items.iter().filter_map(network).collect()
}

/// One network of a list. Bits behind its prefix count for nothing, so that whoever writes an
/// address and a length gets more addresses than they may think.
fn network(item: &Place<'_>) -> Option<IpNet> {
    let network = item.noted(item.text().and_then(parse_network))?;
    if network.addr() != network.network() {
        item.warning(format!(
            "{network} means the whole of {}; write that, or {} for the one address",
            network.trunc(),
            IpNet::from(network.addr())
        ));
    }
    Some(network)
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().map_err(|_| match text.parse::<IpAddr>() {
        Ok(ip) => format!("{text:?} is an address, not a network; write {}", IpNet::from(ip)),
        Err(_) => {
            format!("{text:?} is no network; write an address and a prefix length, as 10.0.0.0/8")
        }
    })
}

/// A glob over canonical names, whose first component is an upstream.
pub(super) fn image_pattern(text: &str, upstreams: &[Upstream]) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    let (first, rest) =
        text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let names = || upstreams.iter().map(|upstream| upstream.name.as_str());
    if first == "**" || (rest.is_some() && (first == "*" || names().any(|name| name == first))) {
        return Ok(pattern);
    }
    let owner =
        upstreams.iter().find(|upstream| upstream.aliases.iter().any(|alias| alias == first));
    let meant = owner.map(|upstream| upstream.name.as_str()).or_else(|| closest(first, names()));
    Err(match (rest, meant) {
        (None, _) if names().any(|name| name == first) => {
            format!("{text:?} matches no image; write {first}/**")
        }
        (Some(rest), Some(meant)) => format!("{text:?} matches no image; write {meant}/{rest}"),
        (_, _) => format!(
            "{text:?} matches no image: the first component is an upstream, as in \
             docker.io/library/*"
        ),
    })
}
