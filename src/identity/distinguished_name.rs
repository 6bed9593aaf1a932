//! The subject of a certificate as text, in which no value can pass for another attribute.

use std::fmt;

/// Attributes in the order of the certificate, as `C=DE, O=Acme, CN=node`; those of one set are
/// joined by `+`. Values are escaped as RFC 4514 §2.4 says, and written in one way only, so that
/// equal text means equal attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DistinguishedName(String);

impl DistinguishedName {
    /// From a certificate's relative names, each a set of types and values.
    pub(crate) fn new(
        relative_names: impl IntoIterator<Item = Vec<(String, AttributeValue)>>,
    ) -> Self {
        let written = |(kind, value): &(String, AttributeValue)| format!("{kind}={value}");
        let set = |attributes: Vec<(String, AttributeValue)>| {
            let mut attributes: Vec<String> = attributes.iter().map(written).collect();
            attributes.sort();
            attributes.join("+")
        };
        Self(relative_names.into_iter().map(set).collect::<Vec<_>>().join(", "))
    }

    /// Reads it as an operator writes it. None: it is no such name, or a character that has to be
    /// escaped is not.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let set = |text| split(text, '+').into_iter().map(attribute).collect::<Option<Vec<_>>>();
        let sets: Option<Vec<_>> = split(text, ',').into_iter().map(set).collect();
        sets.map(Self::new)
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    Text(String),
    /// What is no text: the hexadecimal digits of its encoding.
    Encoded(String),
}

impl AttributeValue {
    pub(crate) fn encoded(der: &[u8]) -> Self {
        let digits = der.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Self::Encoded(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect())
    }
}

impl fmt::Display for AttributeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Encoded(digits) => return write!(f, "#{digits}"),
            Self::Text(text) => text,
        };
        let end = text.chars().count().saturating_sub(1);
        for (at, char) in text.chars().enumerate() {
            let first_or_last =
                (at == 0 && matches!(char, ' ' | '#')) || (at == end && char == ' ');
            if first_or_last || is_special(char) {
                f.write_str("\\")?;
            }
            write!(f, "{char}")?;
        }
        Ok(())
    }
}

/// Characters that stand for themselves only behind a backslash (RFC 4514 §2.4).
fn is_special(char: char) -> bool {
    matches!(char, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
}

/// The pieces between separators that no backslash stands before.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|char| {
        let splits = char == separator && !escaped;
        escaped = char == '\\' && !escaped;
        splits
    })
    .collect()
}

/// `TYPE=value`, with blanks around both. A type is a short name or a dotted number.
fn attribute(text: &str) -> Option<(String, AttributeValue)> {
    let (kind, value) = text.split_once('=')?;
    let kind = kind.trim();
    let named =
        kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let value = trim(value);
    let value = match value.strip_prefix('#') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            AttributeValue::Encoded(digits.to_ascii_lowercase())
        }
        Some(_) => return None,
        None => AttributeValue::Text(unescaped(value)?),
    };
    (named && !kind.is_empty()).then(|| (kind.to_owned(), value))
}

/// Without the blanks around it; one behind a backslash belongs to the value.
fn trim(value: &str) -> &str {
    let value = value.trim_start_matches(' ');
    let trimmed = value.trim_end_matches(' ');
    let backslashes = trimmed.bytes().rev().take_while(|byte| *byte == b'\\').count();
    let keeps_one = backslashes % 2 == 1 && trimmed.len() < value.len();
    &value[..trimmed.len() + usize::from(keeps_one)]
}

/// A backslash stands before the character that is meant, or before two digits of its byte.
fn unescaped(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        let char = match char {
            '\\' => {
                let char = chars.next()?;
                if let Some(high) = char.to_digit(16) {
                    let low = chars.next()?.to_digit(16)?;
                    bytes.push(u8::try_from(high * 16 + low).ok()?);
                    continue;
                }
                char
            }
            char if is_special(char) => return None,
            char => char,
        };
        bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: &str, value: &str) -> (String, AttributeValue) {
        (kind.to_owned(), AttributeValue::Text(value.to_owned()))
    }

    #[test]
    fn no_value_passes_for_another_attribute() {
        let forged = DistinguishedName::new([vec![text("O", "Acme, CN=node")]]);
        let honest = DistinguishedName::new([vec![text("O", "Acme")], vec![text("CN", "node")]]);
        assert_eq!(honest.to_string(), "O=Acme, CN=node");
        assert_eq!(forged.to_string(), "O=Acme\\, CN=node");
        let joined = DistinguishedName::new([vec![text("O", "Acme+CN=node")]]);
        let set = DistinguishedName::new([vec![text("O", "Acme"), text("CN", "node")]]);
        assert_ne!(joined, set);
        let digits = DistinguishedName::new([vec![text("O", "#0500")]]);
        let encoded = vec![("O".to_owned(), AttributeValue::Encoded("0500".to_owned()))];
        assert_ne!(digits, DistinguishedName::new([encoded]));
    }

    #[test]
    fn every_value_is_read_back() {
        for value in
            ["", "a", " a ", " ", "#a", "a#", "a,b+c=d", "\"<;>\"", "\\", "\\ ", "ä, 日", "a\\2Cb"]
        {
            let name = DistinguishedName::new([vec![text("O", value)], vec![text("CN", "x")]]);
            let read = DistinguishedName::parse(&name.to_string());
            assert_eq!(read, Some(name), "{value:?}");
        }
    }

    #[test]
    fn one_name_may_be_written_in_many_ways() {
        for (written, expected) in [
            ("C=DE,O=Acme,CN=node", Some("C=DE, O=Acme, CN=node")),
            (" C = DE ,  O= Acme ", Some("C=DE, O=Acme")),
            ("O=Acme\\2C Inc.", Some("O=Acme\\, Inc.")),
            ("O=A\\c3\\a4", Some("O=Aä")),
            ("O=A=B", Some("O=A=B")),
            ("OU=b + O=a", Some("O=a+OU=b")),
            ("2.5.4.3=#0C026162", Some("2.5.4.3=#0c026162")),
            ("O=\"Acme\"", None),
            ("O=Acme\\", None),
            ("O=\\c3", None),
            ("O=#zz", None),
            ("Acme", None),
            ("O=Acme,", None),
            ("=a", None),
            ("", None),
        ] {
            let read = DistinguishedName::parse(written).map(|name| name.to_string());
            assert_eq!(read.as_deref(), expected, "{written:?}");
        }
    }
}
