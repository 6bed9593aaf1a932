//! Images as people and manifests name them: host, repository, tag and digest, of which all but the
//! repository may be left out. They are completed as docker and containerd do (`distribution/
//! reference`, `ParseDockerRef`), so that one image has one text.

use std::fmt;

use super::{CanonicalName, Digest, Repository, Tag, UpstreamName, normal_host};

/// Where an image is that names no registry.
const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// An image by its full name and by a tag, a digest, or both; there is never neither.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageReference(ImageQuery);

/// The same with what was written only: without a tag and a digest it means every one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageQuery {
    name: CanonicalName,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Reads `[host[:port]/]repository[:tag][@digest]`. What is left out is `docker.io`, there
    /// `library/`, and `latest`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut query = ImageQuery::parse(text)?;
        if query.tag.is_none() && query.digest.is_none() {
            query.tag = Some(Tag::parse(DEFAULT_TAG).map_err(|error| error.to_string())?);
        }
        Ok(Self(query))
    }

    pub fn name(&self) -> &CanonicalName {
        &self.0.name
    }

    pub fn tag(&self) -> Option<&Tag> {
        self.0.tag.as_ref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.0.digest.as_ref()
    }
}

impl ImageQuery {
    /// Reads what [`ImageReference::parse`] does, and adds no tag.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err("an image is named without https:// or docker://".to_owned());
        }
        if Digest::parse(text).is_ok() || is_id(text) {
            return Err("is the ID of an image, which does not say where it is to be had; \
                        write NAME@sha256:…"
                .to_owned());
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => {
                (named, Some(Digest::parse(digest).map_err(|error| told(&error))?))
            }
            None => (text, None),
        };
        let last = named.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match named[last..].split_once(':') {
            Some((part, tag)) => {
                (&named[..last + part.len()], Some(Tag::parse(tag).map_err(|error| told(&error))?))
            }
            None => (named, None),
        };
        Ok(Self { name: canonical(path)?, tag, digest })
    }

    /// Whether an image of that name, with this tag and digest, is what is asked for.
    pub fn names(&self, name: &CanonicalName, tag: Option<&Tag>, digest: &Digest) -> bool {
        self.name == *name
            && (self.tag.is_none() || self.tag.as_ref() == tag)
            && self.digest.as_ref().is_none_or(|asked| asked == digest)
    }

    /// Whether `image` is what is asked for.
    pub fn meets(&self, image: &ImageReference) -> bool {
        let ImageReference(image) = image;
        self.name == image.name
            && (self.tag.is_none() || self.tag == image.tag)
            && (self.digest.is_none() || self.digest == image.digest)
    }
}

/// docker takes 64 hex digits for the ID of an image on its machine.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn canonical(path: &str) -> Result<CanonicalName, String> {
    let (host, repository) = match path.split_once('/') {
        Some((first, rest)) if is_host(first) => (normal_host(first), rest),
        Some(_) | None => (DEFAULT_HOST.to_owned(), path),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST.to_owned() } else { host };
    // Without the dot at its end it could be a folder of the default registry.
    let upstream = UpstreamName::parse(&host).ok().filter(|_| is_host(&host));
    let upstream = upstream
        .ok_or("what stands before the first / is not the name of a registry, as docker.io")?;
    let repository = Repository::parse(repository).map_err(|error| told(&error))?;
    let official = host == DEFAULT_HOST && repository.split_first().1.is_none();
    // What is made longer has to be a name still.
    let repository = if official {
        Repository::parse(repository.under("library").as_str()).map_err(|error| told(&error))?
    } else {
        repository
    };
    Ok(CanonicalName { upstream, repository })
}

/// A first part with a dot or a colon, or `localhost`, is a host.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn told(error: &super::ParseError) -> String {
    error.message().to_owned()
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ImageQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_and_containerd_do() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (written, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("a/b", "docker.io/a/b:latest"),
            ("a/b/c:V1", "docker.io/a/b/c:V1"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("Quay.IO/a", "quay.io/a:latest"),
            ("quay.io./a", "quay.io/a:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a:1", "localhost:5000/a:1"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("mirror:5000/a/b", "mirror:5000/a/b:latest"),
            ("mirror/a", "docker.io/mirror/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            (&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}")),
            (&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx:1@{digest}")),
        ] {
            let image = ImageReference::parse(written).expect(written);
            assert_eq!(image.to_string(), full, "{written}");
            assert_eq!(ImageReference::parse(full).as_ref(), Ok(&image), "{full}");
        }
    }

    #[test]
    fn what_names_no_image_is_told_what_would_be_right() {
        let hex = "a".repeat(64);
        for (written, told) in [
            ("", "lower-case"),
            ("nginx:", "a tag is"),
            ("nginx:a:b", "a tag is"),
            ("Nginx", "lower-case"),
            ("quay.io/A", "lower-case"),
            ("quay.io/", "lower-case"),
            ("/a", "lower-case"),
            ("a//b", "lower-case"),
            ("a b", "lower-case"),
            ("MIRROR/a", "lower-case"),
            ("quay./a", "not the name of a registry"),
            ("-x.io/a", "not the name of a registry"),
            ("a:b/c", "not the name of a registry"),
            ("nginx@", "algorithm:hex"),
            ("nginx@md5:00", "sha256 or sha512"),
            ("nginx@sha256:00", "64 lower-case hex digits"),
            ("@sha256:00", "64 lower-case hex digits"),
            ("https://quay.io/a", "without https://"),
            ("docker://nginx", "without https://"),
            (&hex, "the ID of an image"),
            (&format!("sha256:{hex}"), "the ID of an image"),
            (&"a".repeat(250), "lower-case"),
        ] {
            let error = ImageReference::parse(written).expect_err(written);
            assert!(error.contains(told), "{written}: {error}");
        }
    }

    #[test]
    fn a_query_means_all_that_it_does_not_tell_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = ImageReference::parse(&format!("nginx:1@{digest}")).expect("an image");
        let plain = ImageReference::parse("nginx").expect("an image");
        assert_eq!((plain.tag().map(Tag::as_str), plain.digest()), (Some("latest"), None));
        assert_eq!(plain.name().to_string(), "docker.io/library/nginx");
        let at = format!("docker.io/nginx@{digest}");
        for (query, meets) in [
            ("nginx", [true, true]),
            ("nginx:1", [true, false]),
            ("nginx:latest", [false, true]),
            (&at, [true, false]),
            ("quay.io/nginx", [false, false]),
        ] {
            let query = ImageQuery::parse(query).expect(query);
            assert_eq!([&image, &plain].map(|image| query.meets(image)), meets, "{query}");
        }
    }
}
