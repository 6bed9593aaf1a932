//! The spec's error codes and error document.

use std::fmt;

/// Error codes of the distribution spec, and the four that CNCF distribution adds (PROTOCOL §3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    PaginationNumberInvalid,
    RangeInvalid,
    Unavailable,
    Unknown,
}

impl ErrorCode {
    const ALL: [Self; 18] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::SizeInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::PaginationNumberInvalid,
        Self::RangeInvalid,
        Self::Unavailable,
        Self::Unknown,
    ];

    /// The code as it stands in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The first code of an error document that is one of the spec's.
    pub fn of_document(document: &[u8]) -> Option<Self> {
        let document: serde_json::Value = serde_json::from_slice(document).ok()?;
        let code = document["errors"][0]["code"].as_str()?;
        Self::ALL.into_iter().find(|known| known.as_str() == code)
    }
}

/// Characters of a registry's message that are passed on.
const MESSAGE_MAX: usize = 300;

/// The first message of an error document: one line, without control characters and what hides or
/// turns text, and no longer than people read.
pub fn message_of_document(document: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    let text = document["errors"][0]["message"].as_str()?;
    let visible = |c: char| if is_invisible(c) { ' ' } else { c };
    let text: String = text.chars().take(8 * MESSAGE_MAX).map(visible).collect();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut message: String = line.chars().take(MESSAGE_MAX).collect();
    if message.len() < line.len() {
        message.push('…');
    }
    (!message.is_empty()).then_some(message)
}

/// Control characters, characters of no width, and those that change the direction of writing.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The error document: `{"errors":[{"code":…,"message":…}]}` (distribution-spec, "Error Codes").
pub fn error_document(code: ErrorCode, message: &str) -> String {
    serde_json::json!({ "errors": [{ "code": code.as_str(), "message": message }] }).to_string()
}

/// What was wrong with a client's text, and the code it is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    code: ErrorCode,
    message: String,
}

impl ParseError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        let message =
            |text: &str| message_of_document(error_document(ErrorCode::Denied, text).as_bytes());
        assert_eq!(message("quota is full"), Some("quota is full".into()));
        assert_eq!(message(" a\r\nb\u{1b}[31m\u{202e}c\0 "), Some("a b [31m c".into()));
        assert_eq!(message("\u{200b}\n"), None);
        let long = message(&"ä".repeat(100_000)).expect("a message");
        assert_eq!(long.chars().count(), MESSAGE_MAX + 1);
        for other in
            ["", "quota", "{}", r#"{"errors":[{"code":"X"}]}"#, r#"{"errors":[{"message":1}]}"#]
        {
            assert_eq!(message_of_document(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_code_is_found_in_the_document_that_it_was_written_to() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::of_document(error_document(code, "x").as_bytes()), Some(code));
        }
        for other in ["", "{}", r#"{"errors":[]}"#, r#"{"errors":[{"code":"X"}]}"#, "<html>"] {
            assert_eq!(ErrorCode::of_document(other.as_bytes()), None, "{other}");
        }
    }
}
