//! Globs over image names.

use std::fmt;

/// A glob: `*` is one whole component, `**` stands last and is one or more components.
///
/// A component may end in `*` only as a whole; that keeps the overlap of two globs decidable.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a glob.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let components: Vec<&str> = text.split('/').collect();
        for (i, component) in components.iter().enumerate() {
            let last = i + 1 == components.len();
            match *component {
                "" => return Err(format!("{text:?} has an empty component")),
                "*" => {}
                "**" if last => {}
                "**" => return Err(format!("in {text:?}, ** may stand only at the end")),
                part if part.contains('*') => {
                    return Err(format!(
                        "in {text:?}, * stands for a whole component, as in acme/*"
                    ));
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let mut components = name.split('/');
        for part in self.0.split('/') {
            let Some(component) = components.next() else { return false };
            match part {
                "**" => return true,
                "*" => {}
                part if part == component => {}
                _ => return false,
            }
        }
        components.next().is_none()
    }

    /// Whether some name matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) | (Some("**"), Some(_)) | (Some(_), Some("**")) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(a), Some(b)) if a == b => {}
                (Some(_) | None, Some(_)) | (Some(_), None) => return false,
            }
        }
    }

    /// Whether every name that `other` matches is matched by this glob, too.
    pub fn covers(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) | (Some("**"), Some(_)) => return true,
                (Some(_) | None, Some("**")) => return false,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                (Some(_) | None, Some(_)) | (Some(_), None) => return false,
            }
        }
    }

    /// The globs that match what this one does, of the repository `name` and of everything below
    /// it.
    #[must_use]
    pub fn within(&self, name: &str) -> Vec<Self> {
        let mut ours = self.0.split('/');
        for component in name.split('/') {
            match ours.next() {
                Some("**") => return vec![Self(name.into()), Self(format!("{name}/**").into())],
                Some("*") => {}
                Some(part) if part == component => {}
                Some(_) | None => return Vec::new(),
            }
        }
        let rest: String = ours.flat_map(|part| ["/", part]).collect();
        vec![Self(format!("{name}{rest}").into())]
    }

    /// How specific the glob is: of two that match, the one with the longer text names more (DESIGN
    /// §8).
    pub fn specificity(&self) -> usize {
        self.0.len()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_component_and_two_are_the_rest() {
        for (glob, name, expected) in [
            ("docker.io/**", "docker.io/library/nginx", true),
            ("docker.io/**", "docker.io", false),
            ("docker.io/*", "docker.io/library/nginx", false),
            ("docker.io/*/nginx", "docker.io/library/nginx", true),
            ("acme/*", "acme/api", true),
            ("acme/*", "acme", false),
            ("**", "anything/at/all", true),
            ("acme/api", "acme/api", true),
            ("acme/api", "acme/api/v2", false),
            ("acme", "acmeother", false),
        ] {
            assert_eq!(
                Pattern::parse(glob).expect(glob).matches(name),
                expected,
                "{glob} on {name}"
            );
        }
    }

    #[test]
    fn two_globs_overlap_if_a_name_matches_both_and_one_covers_what_it_matches_all_of() {
        let parts = ["a", "b", "*"];
        let mut globs: Vec<String> = vec!["**".to_owned()];
        for x in parts {
            globs.push(x.to_owned());
            globs.push(format!("{x}/**"));
            for y in parts {
                globs.extend([format!("{x}/{y}"), format!("{x}/{y}/**"), format!("{x}/{y}/a")]);
            }
        }
        let component = ["a", "b", "c"];
        let mut names: Vec<String> = component.map(str::to_owned).into();
        for _ in 0..3 {
            let longer =
                names.iter().flat_map(|name| component.map(|part| format!("{name}/{part}")));
            names = names.iter().cloned().chain(longer.collect::<Vec<_>>()).collect();
        }
        names.sort();
        names.dedup();
        let parsed: Vec<Pattern> =
            globs.iter().map(|glob| Pattern::parse(glob).expect(glob)).collect();
        for a in &parsed {
            for b in &parsed {
                let both = names.iter().any(|name| a.matches(name) && b.matches(name));
                assert_eq!(a.overlaps(b), both, "{a:?} {b:?}");
                let all = names.iter().all(|name| a.matches(name) || !b.matches(name));
                assert_eq!(a.covers(b), all, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_glob_within_a_repository_matches_no_more_than_both() {
        for (glob, name, expected) in [
            ("**", "acme", &["acme", "acme/**"][..]),
            ("**", "acme/team", &["acme/team", "acme/team/**"]),
            ("acme/**", "acme/team", &["acme/team", "acme/team/**"]),
            ("acme/**", "acme", &["acme/**"]),
            ("acme/app", "acme", &["acme/app"]),
            ("*/app", "acme", &["acme/app"]),
            ("acme/team/**", "acme", &["acme/team/**"]),
            ("acme", "acme", &["acme"]),
            ("*", "acme", &["acme"]),
            ("acme", "acme/team", &[]),
            ("other/**", "acme", &[]),
        ] {
            let globs = Pattern::parse(glob).expect(glob).within(name);
            let globs: Vec<&str> = globs.iter().map(Pattern::as_str).collect();
            assert_eq!(globs, expected, "{glob} within {name}");
        }
    }

    #[test]
    fn globs_that_could_surprise_are_refused() {
        for glob in ["", "a//b", "/a", "a/", "**/a", "a*", "a/b*/c"] {
            assert!(Pattern::parse(glob).is_err(), "{glob}");
        }
    }
}
