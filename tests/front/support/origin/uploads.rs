//! What is written to an origin: uploads, manifests, deletes, as CNCF distribution takes it.

use std::collections::HashMap;

use roadstead::oci::{Algorithm, Digest};
use serde_json::Value;

use super::body::Received;
use super::registry::Registry;
use super::reply::Reply;
use super::request::{Kind, Request};
use crate::support::content::{Blob, Content};
use crate::support::image::Manifest;

/// What registries do differently about writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialect {
    /// Before the path in the `Location` of an upload: scheme and host, or nothing.
    pub(crate) location: String,
    /// Says `OCI-Subject`.
    pub(crate) subject: bool,
    /// Knows the parameter `tag`, and says `OCI-Tag`.
    pub(crate) tags: bool,
    /// A blob may come in the request that begins its upload.
    pub(crate) whole: bool,
}

/// Uploads under way.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: HashMap<String, Upload>,
    begun: usize,
    pub(super) dialect: Dialect,
}

#[derive(Debug)]
struct Upload {
    repository: String,
    received: Received,
    step: usize,
}

impl Upload {
    /// Changes with every step, and holds what a careless proxy would write otherwise.
    fn state(&self) -> String {
        format!("_state=aB%2f%2B+c~*{}%3d%3D==&x=%20%c3%BC&empty=&b", self.step)
    }
}

impl Registry {
    /// What the body of `request` goes on from.
    pub(super) fn received_before(&self, request: &Request) -> Received {
        let told = request.parameter("digest").and_then(|digest| Digest::parse(&digest).ok());
        let asked =
            self.uploads.open.get(&request.reference).map(|upload| upload.received.algorithm());
        let algorithm =
            told.map(|digest| digest.algorithm()).or(asked).unwrap_or(Algorithm::Sha256);
        let open = self.uploads.open.get(&request.reference);
        let open = open.filter(|upload| request.kind == Kind::Upload && upload.received.length > 0);
        open.map_or_else(|| Received::new(algorithm), |upload| upload.received.clone())
    }

    /// The answer to a write.
    pub(super) fn write(&mut self, request: &Request, received: Received) -> Reply {
        match (request.method.as_str(), request.kind) {
            ("POST", Kind::Upload) if request.reference.is_empty() => {
                self.begin(request, &received)
            }
            (_, Kind::Upload) => self.go_on(request, received),
            ("PUT", Kind::Manifest) => self.take_manifest(request),
            ("DELETE", Kind::Manifest) => self.delete_manifest(request),
            ("DELETE", Kind::Blob) => {
                let gone = self.repository(&request.repository).blobs.remove(&request.reference);
                if gone { Reply::empty(202) } else { Reply::error(404, "BLOB_UNKNOWN") }
            }
            _ => Reply::error(405, "UNSUPPORTED"),
        }
    }

    fn begin(&mut self, request: &Request, received: &Received) -> Reply {
        if let (Some(digest), Some(from)) = (request.parameter("mount"), request.parameter("from"))
            && self.repository(&from).blobs.contains(&digest)
        {
            self.repository(&request.repository).blobs.insert(digest.clone());
            return created(&request.repository, &digest);
        }
        if self.uploads.dialect.whole && request.parameter("digest").is_some() {
            return self.end(request, received);
        }
        let algorithm =
            request.parameter("digest-algorithm").and_then(|name| Algorithm::from_name(&name));
        self.uploads.begun += 1;
        let id = format!("upload-{}", self.uploads.begun);
        let received = Received::new(algorithm.unwrap_or(Algorithm::Sha256));
        let upload = Upload { repository: request.repository.clone(), received, step: 0 };
        self.uploads.open.insert(id.clone(), upload);
        self.progress(&id, 202)
    }

    fn go_on(&mut self, request: &Request, received: Received) -> Reply {
        let id = request.reference.clone();
        let Some(upload) =
            self.uploads.open.get(&id).filter(|upload| upload.repository == request.repository)
        else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        // Byte for byte; the digest comes behind it.
        let rest = request.query.strip_prefix(&upload.state());
        let ends = request.method == "PUT";
        if !rest
            .is_some_and(|rest| if ends { rest.starts_with("&digest=") } else { rest.is_empty() })
        {
            return Reply::error(404, "BLOB_UPLOAD_INVALID");
        }
        let (had, has) = (upload.received.length, received.length);
        let follows = request
            .header("content-range")
            .is_none_or(|range| range == format!("{had}-{}", has - 1));
        match request.method.as_str() {
            "PATCH" | "PUT" if !follows => Reply::error(416, "RANGE_INVALID"),
            "PATCH" => {
                self.uploads.open.get_mut(&id).expect("it is open").received = received;
                self.progress(&id, 202)
            }
            "PUT" => {
                let reply = self.end(request, &received);
                if reply.status() == 201 {
                    self.uploads.open.remove(&id);
                }
                reply
            }
            "GET" => self.progress(&id, 204),
            "DELETE" => {
                self.uploads.open.remove(&id);
                Reply::empty(204)
            }
            _ => Reply::error(405, "UNSUPPORTED"),
        }
    }

    fn progress(&mut self, id: &str, status: u16) -> Reply {
        let location = self.uploads.dialect.location.clone();
        let upload = self.uploads.open.get_mut(id).expect("it is open");
        upload.step += 1;
        let path = format!("/v2/{}/blobs/uploads/{id}?{}", upload.repository, upload.state());
        Reply::empty(status)
            .with("Location", format!("{location}{path}"))
            .with("Range", format!("0-{}", upload.received.length.saturating_sub(1)))
            .with("Docker-Upload-UUID", id)
    }

    fn end(&mut self, request: &Request, received: &Received) -> Reply {
        let digest = received.digest();
        if request.parameter("digest").as_deref() != Some(digest.as_str()) {
            return Reply::error(400, "DIGEST_INVALID");
        }
        match received.bytes() {
            Some(bytes) => {
                self.put_blob(
                    &request.repository,
                    &Blob { digest: digest.clone(), content: Content::given(bytes) },
                );
            }
            None => {
                self.repository(&request.repository).blobs.insert(digest.to_string());
            }
        }
        created(&request.repository, digest.as_str())
    }

    fn take_manifest(&mut self, request: &Request) -> Reply {
        let by_digest = Digest::parse(&request.reference).ok();
        let algorithm = by_digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &request.body);
        if by_digest.as_ref().is_some_and(|asked| *asked != digest) {
            return Reply::error(400, "DIGEST_INVALID");
        }
        let Ok(document) = serde_json::from_slice::<Value>(&request.body) else {
            return Reply::error(400, "MANIFEST_INVALID");
        };
        let lacks = listed(&document)
            .any(|blob| !self.repository(&request.repository).blobs.contains(&blob));
        if lacks {
            return Reply::error(404, "MANIFEST_BLOB_UNKNOWN");
        }
        let media_type = request.header("content-type").unwrap_or_default().to_owned();
        let manifest = Manifest { bytes: request.body.clone(), media_type, digest: digest.clone() };
        self.put_manifest(&request.repository, &manifest);
        let further =
            if self.uploads.dialect.tags { request.parameters("tag") } else { Vec::new() };
        let own = by_digest.is_none().then(|| request.reference.clone());
        for tag in own.iter().chain(&further) {
            self.tag(&request.repository, tag, &digest);
        }
        let path = format!("/v2/{}/manifests/{digest}", request.repository);
        let mut reply =
            Reply::empty(201).with("Location", path).with("Docker-Content-Digest", digest.as_str());
        if let Some(subject) =
            document["subject"]["digest"].as_str().filter(|_| self.uploads.dialect.subject)
        {
            reply = reply.with("OCI-Subject", subject);
        }
        further.into_iter().fold(reply, |reply, tag| reply.and("OCI-Tag", tag))
    }

    fn delete_manifest(&mut self, request: &Request) -> Reply {
        let reference = request.reference.clone();
        let repository = self.repository(&request.repository);
        let gone = if reference.contains(':') {
            repository.tags.retain(|_, digest| *digest != reference);
            repository.manifests.remove(&reference).is_some()
        } else {
            repository.tags.remove(&reference).is_some()
        };
        if gone { Reply::empty(202) } else { Reply::error(404, "MANIFEST_UNKNOWN") }
    }
}

/// The blobs that a manifest lists.
fn listed(document: &Value) -> impl Iterator<Item = String> + '_ {
    let layers = document["layers"].as_array().into_iter().flatten();
    let blobs = layers.chain([&document["config"]]);
    blobs.filter_map(|blob| blob["digest"].as_str().map(str::to_owned))
}

fn created(repository: &str, digest: &str) -> Reply {
    let location = format!("/v2/{repository}/blobs/{digest}");
    Reply::empty(201).with("Location", location).with("Docker-Content-Digest", digest)
}
