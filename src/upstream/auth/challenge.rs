//! `WWW-Authenticate` (RFC 9110 §11.6.1): parsing it, bounded and forgiving. Pure.
//!
//! A comma separates challenges as well as the parameters of one. So a token that stands alone
//! begins a challenge, and one with `=` behind it is a parameter of the challenge before.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Lines that are read, and challenges that are taken from them. More than any registry sends; the
/// rest is ignored.
const CHALLENGES_MAX: usize = 8;
/// Bytes of a line; a longer one is ignored.
const LINE_MAX: usize = 8 * 1024;

/// One challenge: a scheme and its parameters, names in lower case (RFC 9110 §11.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(in crate::upstream) fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The first parameter of that name.
    pub(in crate::upstream) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The header that says this and nothing else.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in crate::upstream) fn written(&self) -> String {
        let quoted = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"");
        let parameters = self.parameters.iter();
        let all: Vec<String> =
            parameters.map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
        format!("{} {}", self.scheme, all.join(", "))
    }
}

/// The challenges of all `WWW-Authenticate` lines, in order.
pub(in crate::upstream) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
    lines
        .take(CHALLENGES_MAX)
        .filter(|line| line.len() <= LINE_MAX)
        .flat_map(parse)
        .take(CHALLENGES_MAX)
        .collect()
}

/// Reads one line up to what it cannot make sense of.
fn parse(line: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = Rest(line);
    while let Some(word) = rest.next_word() {
        match rest.value() {
            Some(value) => match found.last_mut() {
                Some(challenge) => challenge.parameters.push((word.to_ascii_lowercase(), value)),
                // A parameter before any scheme: this is no challenge.
                None => return found,
            },
            None if found.len() == CHALLENGES_MAX => return found,
            None => found.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() }),
        }
    }
    found
}

/// The part of a line that is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Skips blanks and commas, then takes a token: a scheme, or the name of a parameter.
    fn next_word(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
        self.token()
    }

    /// Takes `= value`, the value bare or quoted; `None` if the token before stood alone. The
    /// padding of a token68, which looks like the start of one, is skipped.
    fn value(&mut self) -> Option<String> {
        let after = self
            .0
            .trim_start_matches([' ', '\t'])
            .strip_prefix('=')?
            .trim_start_matches([' ', '\t']);
        let padding = after.trim_start_matches('=');
        if padding.len() < after.len() || padding.is_empty() || padding.starts_with(',') {
            self.0 = padding;
            return Some(String::new());
        }
        self.0 = after;
        Some(match after.strip_prefix('"') {
            Some(quoted) => self.quoted(quoted),
            None => self.token().unwrap_or_default().to_owned(),
        })
    }

    /// Takes a quoted string after its opening quote; an unclosed one ends the line.
    fn quoted(&mut self, text: &'a str) -> String {
        let mut value = String::new();
        let mut characters = text.chars();
        loop {
            match characters.next() {
                Some('"') => break,
                Some('\\') => value.extend(characters.next()),
                Some(character) => value.push(character),
                // Where the quote should have closed is anybody's guess.
                None => {
                    self.0 = "";
                    return String::new();
                }
            }
        }
        self.0 = characters.as_str();
        value
    }

    /// Takes a token. `/` and `:` are allowed beyond RFC 9110 §5.6.2, for realms without quotes.
    fn token(&mut self) -> Option<&'a str> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c);
        let end = self.0.find(|c| !is_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, line.parse().expect("a header value"));
        }
        challenges(&headers)
    }

    #[test]
    fn the_usual_bearer_challenge_is_read_whole() {
        let line = concat!(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io","#,
            r#"scope="repository:a/b:pull,push registry:catalog:*",error="invalid_token""#
        );
        let [challenge] = &of(&[line])[..] else { panic!("one challenge") };
        assert!(challenge.is("bearer"));
        assert_eq!(challenge.parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenge.parameter("service"), Some("registry.docker.io"));
        assert_eq!(
            challenge.parameter("scope"),
            Some("repository:a/b:pull,push registry:catalog:*")
        );
        assert_eq!(challenge.parameter("error"), Some("invalid_token"));
    }

    #[test]
    fn several_schemes_come_in_one_line_or_in_many() {
        let one =
            of(&[r#"Negotiate, Basic realm="a, b", Bearer Realm = "https://x/y" , service=svc"#]);
        assert_eq!(
            one.iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(),
            ["Negotiate", "Basic", "Bearer"]
        );
        assert_eq!(one[1].parameter("realm"), Some("a, b"));
        assert_eq!(one[2].parameter("realm"), Some("https://x/y"));
        assert_eq!(one[2].parameter("service"), Some("svc"));
        let two = of(&[r#"BASIC realm="a""#, r#"bearer realm="b""#]);
        assert!(two[0].is("basic") && two[1].is("Bearer"));
    }

    #[test]
    fn quoted_pairs_and_token68_are_understood() {
        let found =
            of(&[r#"Bearer realm="a\"b\\c",service="""#, r#"Negotiate YWJj==, Basic realm="x""#]);
        assert_eq!(found[0].parameter("realm"), Some(r#"a"b\c"#));
        assert_eq!(found[0].parameter("service"), Some(""));
        let basic = found.iter().find(|c| c.is("basic")).expect("found after the token68");
        assert_eq!(basic.parameter("realm"), Some("x"));
    }

    #[test]
    fn nonsense_yields_nothing_and_many_are_bounded() {
        for line in ["", ",,,", "=", "=x", "\"", r#""Bearer""#] {
            assert_eq!(of(&[line]), [], "{line:?}");
        }
        let unclosed = of(&[r#"Bearer realm="https://x"#]);
        assert_eq!(unclosed[0].parameter("realm"), Some(""));
        let fifty = vec![r#"Bearer realm="https://x/""#; 50];
        assert_eq!(of(&[&fifty.join(", ")]).len(), CHALLENGES_MAX);
        assert_eq!(of(&fifty).len(), CHALLENGES_MAX);
        let long = format!(r#"Bearer realm="{}""#, "x".repeat(LINE_MAX));
        assert_eq!(of(&[&long]), []);
    }

    proptest::proptest! {
        #[test]
        fn any_line_ends_in_a_bounded_number_of_challenges(line in "[ -~]{0,200}") {
            proptest::prop_assert!(parse(&line).len() <= CHALLENGES_MAX);
        }
    }
}
