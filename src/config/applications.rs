//! `applications` and `licences`: what a vendor sells, and to whom it was sold (ACCESS §2.1, §4).

use std::path::PathBuf;

use super::access::{self, IdentitySources};
use super::keys;
use super::place::{Fields, Place};
use super::{Application, Licences, Upstream};
use crate::identity::Identity;
use crate::licence::{APPLICATION_PREFIX, Slug};

pub(super) fn read(
    top: &Fields<'_>,
    upstreams: &[Upstream],
    sources: IdentitySources,
) -> Vec<Application> {
    let mut applications: Vec<Application> = Vec::new();
    for (name, place) in top.get("applications").and_then(Place::entries).unwrap_or_default() {
        let Some(application) = application(&name, &place, upstreams, sources) else { continue };
        for other in &applications {
            disputed(&place, &application, other);
        }
        applications.push(application);
    }
    applications
}

fn application(
    name: &str,
    place: &Place<'_>,
    upstreams: &[Upstream],
    sources: IdentitySources,
) -> Option<Application> {
    let slug = place.noted(slug(name, upstreams));
    let fields = place.fields(keys::APPLICATION);
    let images = fields.list("images", |text| access::image_pattern(text, upstreams));
    if fields.get("images").is_none_or(|images| images.items().is_empty()) {
        place
            .problem(r#"has no images; write which ones it consists of, as images: ["registry.example.com/myapp/**"]"#);
    }
    let publishers = fields.list("publishers", |text| publisher(text, sources));
    Some(Application { slug: slug?, images, publishers })
}

/// The slug, if no upstream has it for its name or an alias.
fn slug(name: &str, upstreams: &[Upstream]) -> Result<Slug, String> {
    let slug = Slug::parse(name)?;
    let taken = |upstream: &&Upstream| {
        upstream.name.as_str() == name
            || upstream.aliases.iter().any(|alias| alias.as_str() == name)
    };
    match upstreams.iter().find(taken) {
        Some(upstream) => Err(format!(
            "{name} stands for the upstream {} already; choose another name",
            upstream.name
        )),
        None if name == APPLICATION_PREFIX => {
            Err("proxy stands before the names of applications; choose another name".to_owned())
        }
        None => Ok(slug),
    }
}

fn publisher(text: &str, sources: IdentitySources) -> Result<Identity, String> {
    match Identity::parse(text)? {
        who @ (Identity::User(_) | Identity::Certificate(_)) => {
            match access::unreachable_identity(&who, sources) {
                None => Ok(who),
                Some(missing) => Err(missing.to_owned()),
            }
        }
        Identity::Anonymous | Identity::Licence(_) => {
            Err(format!("{text:?} cannot publish; name a user or a certificate, as user:ci"))
        }
    }
}

/// Two applications with an image in common have to have the same publishers: otherwise a publisher
/// of one could change what licences for the other pull.
fn disputed(place: &Place<'_>, application: &Application, other: &Application) {
    let same = application.publishers.iter().all(|who| other.publishers.contains(who))
        && other.publishers.iter().all(|who| application.publishers.contains(who));
    let pairs = application
        .images
        .iter()
        .flat_map(|ours| other.images.iter().map(move |theirs| (ours, theirs)));
    let Some((ours, theirs)) =
        pairs.into_iter().find(|(ours, theirs)| ours.overlaps(theirs)).filter(|_| !same)
    else {
        return;
    };
    place.problem(format!(
        "{} overlaps with {} of {}, which has other publishers; give both the same, or make the \
         images distinct",
        ours.as_str(),
        theirs.as_str(),
        other.slug
    ));
}

pub(super) fn licences(top: &Fields<'_>) -> Option<Licences> {
    let fields = top.get("licences")?.fields(keys::LICENCES);
    if fields.get("issuer").is_none() {
        fields.place.problem(
            "has no issuer; write your name as it stands in licences, as issuer: Acme Inc.",
        );
    }
    let public_keys: Vec<PathBuf> = fields.list("public_keys", |text| Ok(PathBuf::from(text)));
    if public_keys.is_empty() {
        fields.place.problem(
            "has no public_keys; make a pair with roadstead licence keygen and list NAME.pub",
        );
    }
    let revoked = fields.optional("revoked", |place| place.text().map(PathBuf::from));
    let issuer = fields.optional("issuer", |place| place.text().map(str::to_owned))?;
    Some(Licences { issuer, public_keys, revoked })
}
