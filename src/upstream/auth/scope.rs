//! What a token has to allow: in our words, or in those of a challenge (token.md, PROTOCOL §2.3).
//! Pure.
//!
//! We know a repository by the name that it is asked for. A registry behind a front that rewrites
//! names knows it by another (Artifactory, Harbor's projects), and some have a single scope for
//! everything (ECR Public's `aws`). So the challenge that answers a request counts before our own
//! scope, if it could be about what was asked for (UP-2).

use std::collections::BTreeSet;

use crate::upstream::error::Direction;

/// Bytes of a scope that is taken from a challenge; a longer one counts as none.
const SCOPE_MAX: usize = 1024;

/// A scope that a challenge names, with single blanks; `None` if there is nothing in it that could
/// be asked for.
pub(super) fn named(scope: &str) -> Option<String> {
    let is_sound =
        scope.len() <= SCOPE_MAX && scope.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let words: Vec<&str> = scope.split(' ').filter(|word| !word.is_empty()).collect();
    (is_sound && !words.is_empty()).then(|| words.join(" "))
}

/// The scopes to ask a token for, the likelier first. What is not about the repository that was
/// asked for, or allows less, is a placeholder more often than a rewritten name, so it comes last.
pub(super) fn candidates(own: &str, named: Option<String>) -> Vec<String> {
    match named {
        Some(named) if is_same(&named, own) => vec![own.to_owned()],
        Some(named) if covers(&named, own) => vec![named, own.to_owned()],
        Some(named) => vec![own.to_owned(), named],
        None => vec![own.to_owned()],
    }
}

/// The scopes to ask for when a token of the scope `ended` was refused that had been good: the same
/// again, unless the registry's word, which is first where it counts, is another by now.
pub(super) fn renewing(mut candidates: Vec<String>, own: &str, ended: &str) -> Vec<String> {
    if candidates.first().is_some_and(|first| first == own) {
        candidates.retain(|scope| scope != ended);
        candidates.insert(0, ended.to_owned());
    }
    candidates
}

/// The scopes that are left when a token that was issued just now for `refused` was refused.
pub(super) fn other_than(mut candidates: Vec<String>, refused: &str) -> Vec<String> {
    candidates.retain(|scope| !is_same(scope, refused));
    candidates
}

/// Whether a token of this scope is for writing. A scope that is no repository's tells nothing, and
/// counts as one for reading.
pub(super) fn direction(scope: &str) -> Direction {
    let is_write = |part: &str| {
        let actions = repository(part).into_iter().flat_map(|(_, actions)| actions.split(','));
        actions.into_iter().any(|action| !matches!(action, "pull" | ""))
    };
    if scope.split(' ').any(is_write) { Direction::Write } else { Direction::Read }
}

/// Whether two scopes say the same, in whatever order.
fn is_same(one: &str, other: &str) -> bool {
    one == other || parts(one) == parts(other)
}

fn parts(scope: &str) -> BTreeSet<(&str, BTreeSet<&str>)> {
    scope.split(' ').map(resource_and_actions).collect()
}

fn resource_and_actions(part: &str) -> (&str, BTreeSet<&str>) {
    let (resource, actions) = part.rsplit_once(':').unwrap_or((part, ""));
    (resource, actions.split(',').collect())
}

/// Whether each part of our scope is allowed by some part of the named one.
fn covers(named: &str, own: &str) -> bool {
    own.split(' ').all(|wanted| named.split(' ').any(|given| allows(given, wanted)))
}

fn allows(given: &str, wanted: &str) -> bool {
    // What is no repository's scope is the registry's own way to allow what it likes.
    let (Some(given), Some(wanted)) = (repository(given), repository(wanted)) else { return true };
    let allowed: BTreeSet<&str> = given.1.split(',').collect();
    is_same_place(given.0, wanted.0)
        && (allowed.contains("*") || wanted.1.split(',').all(|action| allowed.contains(action)))
}

/// Name and actions of `repository:acme/app:pull,push`.
fn repository(scope: &str) -> Option<(&str, &str)> {
    scope.strip_prefix("repository:")?.rsplit_once(':')
}

/// Whether two names may be of one repository: the same, or one with something put in front.
fn is_same_place(one: &str, other: &str) -> bool {
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|front| front.is_empty() || front.ends_with('/'))
    };
    ends(one, other) || ends(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "repository:library/app:pull";

    fn order(named_scope: &str) -> Vec<String> {
        candidates(OWN, named(named_scope))
    }

    #[test]
    fn the_registrys_word_comes_first_where_it_may_be_about_what_was_asked_for() {
        for scope in [
            "repository:tenant/library/app:pull",
            "repository:app:pull",
            "repository:library/app:pull,push",
            "repository:library/app:*",
            "repository:library/app:pull repository:other:pull",
            "aws",
            "*",
        ] {
            assert_eq!(order(scope), [scope, OWN], "{scope}");
        }
    }

    #[test]
    fn placeholders_and_lesser_rights_come_last() {
        for scope in
            ["repository:user/image:pull", "repository:library/app:push", "repository:xapp:pull"]
        {
            assert_eq!(order(scope), [OWN, scope], "{scope}");
        }
        let two = "repository:a:pull repository:b:pull,push";
        let one = "repository:b:pull,push";
        assert_eq!(candidates(two, named(one)), [two, one]);
    }

    #[test]
    fn what_says_the_same_or_nothing_is_asked_for_in_our_words() {
        let long = "x".repeat(SCOPE_MAX + 1);
        for scope in [OWN, " repository:library/app:pull ", "", "  ", "aws\t", "a\u{e9}", &long] {
            assert_eq!(order(scope), [OWN], "{scope:?}");
        }
        let (own, turned) = (
            "repository:a:pull,push repository:b:pull",
            "repository:b:pull repository:a:push,pull",
        );
        assert_eq!(candidates(own, named(turned)), [own]);
    }
}
