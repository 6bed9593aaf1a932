//! What an answer without content says about the thing that was asked for, and whether it is a
//! registry's word at all (UP-10). Pure.
//!
//! Where a registry is gone, whatever stands in front of it answers in its place: an ingress with a
//! page of its own, a login page, a status of its own. None of that says that content is gone.

use http::HeaderMap;

use super::error::{ErrorKind, Operation};
use crate::oci::headers::DOCKER_API_VERSION;

/// An answer without content to a read, whose status is none of a login or of a rate limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedRead<'a> {
    pub(super) operation: Operation,
    pub(super) status: u16,
    pub(super) headers: &'a HeaderMap,
    /// The text of the answer; a HEAD has none.
    pub(super) text: &'a [u8],
    /// A redirect to another origin has led to it.
    pub(super) left_origin: bool,
}

impl FailedRead<'_> {
    /// What it means. Only a registry's own 404 or 410 is an absence.
    pub(super) fn kind(&self) -> ErrorKind {
        match self.status {
            404 | 410 if self.is_registrys_word() => ErrorKind::NotFound,
            404 => ErrorKind::UnconfirmedAbsence,
            status @ 500.. => ErrorKind::ServerError(status),
            _ => ErrorKind::Protocol,
        }
    }

    /// Whether a registry has answered: it says so by the header that all of the family of Docker
    /// Registry send, or by the error document of the specification.
    fn is_registrys_word(&self) -> bool {
        // What storage says of a blob is not the registry's word. Where manifests are redirected,
        // it is to another registry, as registry.k8s.io does.
        let is_storage = self.left_origin && self.operation.is_of_blob();
        !is_storage
            && (self.headers.contains_key(DOCKER_API_VERSION) || is_error_document(self.text))
    }
}

/// Whether `text` is `{"errors":[{"code":"…"}]}`, whichever the code: registries have codes of
/// their own (distribution-spec, "Error Codes").
fn is_error_document(text: &[u8]) -> bool {
    let document: Option<serde_json::Value> = serde_json::from_slice(text).ok();
    document.is_some_and(|document| document["errors"][0]["code"].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}"#;

    fn kind(operation: Operation, status: u16, text: &str, left_origin: bool) -> ErrorKind {
        let headers = HeaderMap::new();
        FailedRead { operation, status, headers: &headers, text: text.as_bytes(), left_origin }
            .kind()
    }

    #[test]
    fn only_a_registrys_404_or_410_is_an_absence() {
        let get = |status, text| kind(Operation::ManifestGet, status, text, false);
        for document in [DOCUMENT, r#"{"errors":[{"code":"NOT_OURS"}]}"#] {
            assert_eq!(get(404, document), ErrorKind::NotFound, "{document}");
            assert_eq!(get(410, document), ErrorKind::NotFound, "{document}");
        }
        for page in [
            "404 page not found\n",
            "<html><h1>404 Not Found</h1></html>",
            "",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"errors":[{"status":404,"message":"File not found."}]}"#,
            r#"{"message":"no Route matched with those values"}"#,
            r#"[{"code":"MANIFEST_UNKNOWN"}]"#,
        ] {
            assert_eq!(get(404, page), ErrorKind::UnconfirmedAbsence, "{page}");
            assert_eq!(get(410, page), ErrorKind::Protocol, "{page}");
        }
    }

    #[test]
    fn the_api_version_header_is_enough_for_a_head() {
        let headers = HeaderMap::from_iter([(
            DOCKER_API_VERSION,
            http::HeaderValue::from_static("registry/2.0"),
        )]);
        let head = FailedRead {
            operation: Operation::ManifestHead,
            status: 404,
            headers: &headers,
            text: b"",
            left_origin: false,
        };
        assert_eq!(head.kind(), ErrorKind::NotFound);
        let storage = FailedRead { operation: Operation::BlobGet, left_origin: true, ..head };
        assert_eq!(storage.kind(), ErrorKind::UnconfirmedAbsence);
    }

    #[test]
    fn storage_does_not_speak_for_the_registry_and_another_registry_does() {
        for operation in [Operation::BlobGet, Operation::BlobHead] {
            assert_eq!(kind(operation, 404, DOCUMENT, true), ErrorKind::UnconfirmedAbsence);
            assert_eq!(kind(operation, 404, DOCUMENT, false), ErrorKind::NotFound);
        }
        assert_eq!(kind(Operation::ManifestGet, 404, DOCUMENT, true), ErrorKind::NotFound);
    }

    #[test]
    fn no_other_status_says_anything_about_content() {
        for status in [400, 402, 405, 406, 408, 409, 412, 418, 423, 425, 451, 499] {
            let kind = kind(Operation::BlobGet, status, DOCUMENT, false);
            assert_eq!(kind, ErrorKind::Protocol, "{status}");
        }
        for status in [500, 501, 507, 520, 530] {
            let kind = kind(Operation::BlobGet, status, DOCUMENT, false);
            assert_eq!(kind, ErrorKind::ServerError(status));
        }
    }
}
