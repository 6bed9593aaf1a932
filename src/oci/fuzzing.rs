//! What has to hold of names, paths, ranges and manifests, whatever somebody writes.

use serde_json::Value;

use super::{
    Algorithm, ChunkRange, ContentRange, Digest, Endpoint, Manifest, MediaType, Part, Pattern,
    RangeRequest, Reference, Repository, Resolved, Tag, Target, UpstreamName, blob_path,
    if_range_matches, manifest_path, none_match, parse_retry_after, referrers_path, tags_path,
    uploads_path,
};

/// The longest wait that a registry can ask for, in seconds.
const HOUR: u64 = 3600;

/// A name is shown as it was read, and can leave neither its path in a URL nor its folder on disk.
pub(crate) fn names(text: &str) {
    if let Ok(repository) = Repository::parse(text) {
        assert_eq!(repository.as_str(), text);
        stays_in_its_path(text);
        let (first, rest) = repository.split_first();
        let joined = rest.map_or_else(|| first.to_owned(), |rest| rest.under(first).to_string());
        assert_eq!(joined, text);
    }
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(reference.as_str(), text);
        stays_in_its_path(text);
    }
    if let Ok(tag) = Tag::parse(text) {
        assert!(!text.contains([':', '/']) && tag.as_str().len() <= 128);
    }
    if let Ok(name) = UpstreamName::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['/', '@', '%', '?', '#', '\\']) && text.is_ascii());
        assert_eq!(text, text.to_ascii_lowercase());
    }
    if let Ok(digest) = Digest::parse(text) {
        let again = match digest.algorithm() {
            Algorithm::Sha256 => Digest::of_hash(Algorithm::Sha256, &digest.hash::<32>()),
            Algorithm::Sha512 => Digest::of_hash(Algorithm::Sha512, &digest.hash::<64>()),
        };
        assert_eq!((again.as_str(), digest.as_str()), (text, text));
        assert!(Tag::parse(Tag::of_referrers(&digest).as_str()).is_ok());
    }
    patterns(text);
}

/// No byte that means something in a URL or to a file system, and no component that climbs.
fn stays_in_its_path(name: &str) {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
    assert!(name.bytes().all(harmless), "{name}");
    assert!(name.split('/').all(|component| !matches!(component, "" | "." | "..")), "{name}");
}

/// Two globs and a name, a line each: what is said of globs agrees with what they match.
fn patterns(text: &str) {
    let mut lines = text.lines();
    let (Some(one), Some(other), Some(name)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let (Ok(one), Ok(other)) = (Pattern::parse(one), Pattern::parse(other)) else { return };
    assert!(one.covers(&one) && one.overlaps(&one));
    assert_eq!(one.overlaps(&other), other.overlaps(&one));
    if name.split('/').any(str::is_empty) {
        return;
    }
    let (matched, also) = (one.matches(name), other.matches(name));
    assert!(!(matched && also) || one.overlaps(&other), "both match {name}");
    assert!(!also || matched || !one.covers(&other), "covered, and not {name}");
    assert!(!matched || one.within(name).iter().any(|glob| glob.matches(name)));
}

/// A path and its query, as hyper lets them through: what is read is written the same again, and
/// asks an upstream for nothing else.
pub(crate) fn endpoints(text: &str) {
    let Ok(target) = text.parse::<http::uri::PathAndQuery>() else { return };
    let Ok(target) = Target::parse(target.path(), target.query()) else { return };
    let prefix = target.prefix.as_ref().map_or_else(String::new, |prefix| format!("/{prefix}"));
    // `/V2/v2/a` names a prefix that nobody can have: written in lower case it is the version.
    if prefix == "/v2" {
        return;
    }
    let Some((path, stable)) = written(&target.endpoint) else { return };
    let (bare, query) =
        path.split_once('?').map_or((&*path, None), |(bare, query)| (bare, Some(query)));
    // What stands in a query leads nowhere.
    assert!(bare.starts_with("/v2/") && !bare.contains("/../") && !path.contains('#'), "{path}");
    stays_in_its_path(bare.trim_start_matches('/').trim_end_matches('/'));
    let again = Target::parse(&format!("{prefix}{bare}"), query).expect("what was written is read");
    assert_eq!(again.prefix, target.prefix);
    assert!(!stable || again.endpoint == target.endpoint, "{again:?} is not {target:?}");
}

/// The path that is asked upstream, and whether it says all that the endpoint does.
fn written(endpoint: &Endpoint) -> Option<(String, bool)> {
    Some(match endpoint {
        Endpoint::Ping | Endpoint::Catalog => return None,
        Endpoint::Manifest { repository, reference } => {
            (manifest_path(repository, reference), true)
        }
        Endpoint::Blob { repository, digest } => (blob_path(repository, digest), true),
        Endpoint::Tags { repository, page } => (tags_path(repository, page), true),
        Endpoint::Referrers { repository, digest, page } => {
            (referrers_path(repository, digest, page), true)
        }
        // The session is sealed, and its query is not passed on as it came.
        Endpoint::Upload { repository, .. } => (uploads_path(repository), false),
    })
}

/// Eight bytes of a size, and a header: no range lies outside the blob, and none is empty.
pub(crate) fn ranges(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk::<8>() else { return };
    let Ok(header) = str::from_utf8(header) else { return };
    // Small sizes are where the edges are.
    let size = u64::from_le_bytes(*size);
    for size in [size, size % 16] {
        if let Resolved::Part(span) = RangeRequest::parse(Some(header)).resolve(size) {
            assert!(span.first() <= span.last() && span.last() < size, "{span:?} of {size}");
            assert_eq!(span.len(), span.last() - span.first() + 1);
            assert!(Part::From(span.first()).is_met_by(span) && Part::Span(span).is_met_by(span));
            let asked = Part::Span(span).to_string();
            assert_eq!(RangeRequest::parse(Some(&asked)).resolve(size), Resolved::Part(span));
        }
    }
    if let Some(range) = ContentRange::parse(header) {
        assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
        if let ContentRange::Part { span, total: Some(total) } = range {
            assert!(span.last() < total, "{header}");
        }
    }
    assert!(ChunkRange::parse(header).is_none_or(|chunk| chunk.first <= chunk.last));
    let now = std::time::Duration::from_secs(size % (HOUR << 20));
    let wait = parse_retry_after(header, now);
    assert!(wait.is_none_or(|wait| (1..=HOUR).contains(&wait.as_secs())), "{wait:?}");
    validators(header);
}

/// A header that does not name the digest never holds for it.
fn validators(header: &str) {
    let digest = Digest::of(Algorithm::Sha256, b"");
    let named = header.contains(digest.as_str());
    assert!(named || !if_range_matches(header, &digest), "{header}");
    assert!(named || header.contains('*') || !none_match(header, &digest), "{header}");
}

/// A line with the media type, and the body behind it: what is taken for a manifest can be read in
/// one way only, and everything it lists stands in it.
pub(crate) fn manifests(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(0);
    let Ok(header) = str::from_utf8(&data[..end]) else { return };
    let Some(media_type) = MediaType::parse(header) else { return };
    assert_eq!(MediaType::parse(media_type.as_str()).as_ref(), Some(&media_type));
    let body = &data[end..];
    let Ok(manifest) = Manifest::inspect(body, &media_type) else { return };
    let text = str::from_utf8(body).expect("a manifest is text");
    serde_json::from_str::<serde::de::IgnoredAny>(text).expect("a manifest is JSON");
    // Numbers that no type holds, and halves of surrogate pairs, are JSON that has no value.
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let fields = value.as_object().expect("a manifest is an object");
    assert!(depth(&value) <= 32);
    let has = |name: &str| fields.get(name).is_some_and(|field| !field.is_null());
    assert!(!(has("manifests") && (has("layers") || has("config"))), "two things at once");
    assert_ne!(fields.get("schemaVersion").and_then(Value::as_u64), Some(1));
    let own = fields.get("mediaType").and_then(Value::as_str);
    assert!(own.is_none_or(|own| MediaType::parse(own).as_ref() == Some(&media_type)));
    let listed = manifest.descriptors().iter().map(|descriptor| descriptor.digest.as_str());
    let known = digests(&value);
    for digest in listed.chain(manifest.subject().map(Digest::as_str)) {
        assert!(known.iter().any(|text| text == digest), "{digest} came from nowhere");
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Every text under a key `digest`.
fn digests(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(digests).collect(),
        Value::Object(fields) => {
            let own = fields.get("digest").and_then(Value::as_str).map(str::to_owned);
            fields.values().flat_map(digests).chain(own).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}
