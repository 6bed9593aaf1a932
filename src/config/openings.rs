//! What a changed configuration would open to strangers that was closed. A reload refuses it: a file
//! that somebody is writing may end before a rule's `networks`, and a restart says that it is meant
//! (ACCESS §8).

use ipnet::IpNet;

use super::{Allow, ClientAuth, Config};
use crate::identity::Identity;
use crate::oci::Pattern;

/// What strangers may do with some images, and from where.
struct StrangersRight<'c> {
    allow: Allow,
    images: &'c Pattern,
    /// Empty: any address.
    networks: &'c [IpNet],
}

impl Config {
    /// What strangers may do under `next` and may not under this one, in a sentence each.
    pub fn openings(&self, next: &Self) -> Vec<String> {
        let (before, after) = (self.rights_of_strangers(), next.rights_of_strangers());
        let is_distrusted = |network: &&IpNet| !holds(&next.access.trusted_proxies, network);
        let distrusted: Vec<_> = self.access.trusted_proxies.iter().filter(is_distrusted).collect();
        after.iter().filter_map(|right| opening(&before, right, &distrusted)).collect()
    }

    /// The rights of whoever shows no credential. Where clients have to show a certificate, nobody
    /// is a stranger.
    fn rights_of_strangers(&self) -> Vec<StrangersRight<'_>> {
        let verified =
            |tls: &super::Tls| tls.client_ca.is_some() && tls.client_auth == ClientAuth::Required;
        if self.tls.as_ref().is_some_and(verified) {
            return Vec::new();
        }
        let rules = self.access.rules.iter().filter(|rule| rule.who == Identity::Anonymous);
        let rights = rules.flat_map(|rule| {
            let named =
                |application: &&super::Application| rule.applications.contains(&application.slug);
            let of_applications = self.applications.iter().filter(named);
            let of_applications = of_applications.flat_map(|application| &application.images);
            rule.images.iter().chain(of_applications).map(|images| StrangersRight {
                allow: rule.allow,
                images,
                networks: &rule.networks,
            })
        });
        rights.collect()
    }
}

/// The sentence about a right that the ones before do not hold. `distrusted` are the proxies behind
/// which strangers had addresses of their own, and now have the proxy's.
fn opening(
    before: &[StrangersRight<'_>],
    right: &StrangersRight<'_>,
    distrusted: &[&IpNet],
) -> Option<String> {
    let images = right.images.as_str();
    let missing = given_by(right.allow).find(|(_, is_given)| !is_held(before, right, *is_given));
    if let Some((word, _)) = missing {
        let from = match right.networks {
            [] => "any address".to_owned(),
            networks => networks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" and "),
        };
        return Some(format!("anonymous could {word} {images} from {from}"));
    }
    let is_of_proxy = |network: &&&IpNet| {
        let proxy = ***network;
        right.networks.iter().any(|ours| ours.contains(&proxy) || proxy.contains(ours))
    };
    let proxy = distrusted.iter().find(is_of_proxy)?;
    let everywhere = StrangersRight { networks: &[], ..*right };
    let open = given_by(right.allow).all(|(_, is_given)| is_held(before, &everywhere, is_given));
    (!open).then(|| format!("anonymous behind the proxies in {proxy} could get {images}"))
}

/// One thing that a rule may give, and the word for it.
type NamedRight = (&'static str, fn(&Allow) -> bool);

const ALL_RIGHTS: [NamedRight; 4] = [
    ("pull", |allow| allow.pull),
    ("list", |allow| allow.list),
    ("push", |allow| allow.push),
    ("delete", |allow| allow.delete),
];

fn given_by(allow: Allow) -> impl Iterator<Item = NamedRight> {
    ALL_RIGHTS.into_iter().filter(move |(_, is_given)| is_given(&allow))
}

/// Whether for each network some right before gave this, on all of these images.
fn is_held(
    before: &[StrangersRight<'_>],
    right: &StrangersRight<'_>,
    is_given: fn(&Allow) -> bool,
) -> bool {
    let gives =
        |known: &&StrangersRight<'_>| is_given(&known.allow) && known.images.covers(right.images);
    let mut known = before.iter().filter(gives);
    match right.networks {
        [] => known.any(|known| known.networks.is_empty()),
        networks => {
            let known: Vec<_> = known.collect();
            let from = |network: &IpNet| {
                known
                    .iter()
                    .any(|known| known.networks.is_empty() || holds(known.networks, network))
            };
            networks.iter().all(from)
        }
    }
}

fn holds(networks: &[IpNet], network: &IpNet) -> bool {
    networks.iter().any(|wider| wider.contains(network))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config::{Draft, Surroundings};

    fn config(access: &str, tls: &str) -> Config {
        let text = format!(
            "cache: {{ path: /c }}\n{tls}upstreams: {{ quay.io: {{}}, docker.io: {{}} }}\n{access}"
        );
        let around = Surroundings::of_process(Timestamp::from_unix(std::time::Duration::ZERO));
        let draft = Draft::parse(&text, Path::new("test.yaml"), &around).expect("YAML");
        draft.finish().unwrap_or_else(|problems| panic!("{problems}")).0
    }

    fn rules(rules: &[&str]) -> String {
        let rules: Vec<String> = rules.iter().map(|rule| format!("    - {{ {rule} }}")).collect();
        format!("access:\n  users: /u\n  rules:\n{}\n", rules.join("\n"))
    }

    #[test]
    fn what_strangers_get_that_was_closed_is_an_opening() {
        let all = "who: anonymous, allow: [pull, list], images: ['**']";
        let hub = "who: anonymous, allow: [pull], images: ['docker.io/**']";
        let near =
            "who: anonymous, networks: [10.0.0.0/8], allow: [pull], images: ['docker.io/**']";
        let nearer = "who: anonymous, networks: [10.1.0.0/16, 10.2.0.0/16], allow: [pull], images: ['docker.io/library/*']";
        let list = "who: anonymous, allow: [list], images: ['docker.io/**']";
        let user = "who: 'user:ci', allow: [pull, list, push], images: ['**']";
        for (before, after, open) in [
            (&[user][..], &[user, all][..], true),
            (&[user, all], &[user, hub, list], false),
            (&[hub], &[hub, user], false),
            (&[near], &[hub], true),
            (&[hub], &[near], false),
            (&[near], &[nearer], false),
            (&[nearer], &[near], true),
            (&[hub], &[list], true),
            (&[hub, list], &[near, nearer, list], false),
        ] {
            let openings = config(&rules(before), "").openings(&config(&rules(after), ""));
            assert_eq!(!openings.is_empty(), open, "{before:?} {after:?}: {openings:?}");
        }
        let none = config("", "");
        assert_eq!(none.openings(&config(&rules(&[all]), "")), [""; 0], "it was open");
        let openings = config(&rules(&[near]), "").openings(&config(&rules(&[hub]), ""));
        assert_eq!(openings, ["anonymous could pull docker.io/** from any address"]);
    }

    #[test]
    fn strangers_behind_a_proxy_or_without_a_certificate_are_strangers() {
        let near = "who: anonymous, networks: [127.0.0.0/8], allow: [pull], images: ['**']";
        let all = "who: anonymous, allow: [pull], images: ['**']";
        let behind = |rule: &str, proxies: &str| {
            config(&format!("{}  trusted_proxies: [{proxies}]\n", rules(&[rule])), "")
        };
        for (before, after, open) in [
            (behind(near, "127.0.0.1/32"), behind(near, ""), true),
            (behind(near, "127.0.0.1/32"), behind(near, "127.0.0.0/8"), false),
            (behind(near, "192.0.2.0/24"), behind(near, ""), false),
            (behind(all, "127.0.0.1/32"), behind(near, ""), false),
        ] {
            let openings = before.openings(&after);
            assert_eq!(!openings.is_empty(), open, "{openings:?}");
        }
        let tls = |auth: &str| {
            let tls = format!("tls: {{ certificate: /c, key: /k, client_ca: /a{auth} }}\n");
            config(&rules(&[all]), &tls)
        };
        let (required, optional) = (tls(", client_auth: required"), tls(""));
        assert_eq!(required.openings(&optional).len(), 1);
        assert_eq!(optional.openings(&required), [""; 0]);
    }
}
