//! The decision: may this caller do this with this image? Pure, deny by default, and rules only add
//! (ACCESS §3).

use crate::config::{Application, Rule};
use crate::identity::Identity;
use crate::licence::Slug;
use crate::oci::{CanonicalName, Pattern};

use super::caller::Caller;

/// What a request wants with an image. Every endpoint is exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Manifests, blobs and referrers.
    Pull,
    /// Whether a manifest or a blob is there: for those who pull, and for those who push (ACCESS
    /// §3.1).
    Probe,
    /// Tags.
    List,
    /// Uploads and manifests.
    Push,
    Delete,
}

/// The caller may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant<'p> {
    /// The application that the image belongs to, if the right comes from that.
    pub application: Option<&'p Slug>,
}

/// How a caller without a grant is turned away (ACCESS §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// To somebody anonymous: 401 with a challenge, for they may be somebody who is allowed.
    Unauthenticated,
    /// To somebody known, a read: 404, as for an image that does not exist.
    Hidden,
    /// To somebody known, a write: 403 with a sentence. docker push repeats a 404 for tens of
    /// seconds and prints "name unknown".
    Forbidden,
}

/// What the configuration allows.
#[derive(Debug)]
pub(crate) struct Policy {
    rules: Vec<Rule>,
    applications: Vec<Application>,
}

impl Policy {
    pub(crate) fn new(rules: Vec<Rule>, applications: Vec<Application>) -> Self {
        Self { rules, applications }
    }

    /// Whether `caller` may do `action` on the image `name`. Under the name of an `application`,
    /// only rights to that application count, and only for its own images (ACCESS §2.2).
    ///
    /// # Errors
    /// How to turn the caller away.
    pub(crate) fn decide(
        &self,
        caller: &Caller,
        action: Action,
        name: &CanonicalName,
        application: Option<&Slug>,
    ) -> Result<Grant<'_>, Denial> {
        let name = name.to_string();
        // Applications come before plain rules: the access line names the application that a right
        // comes from.
        let mut candidates = self
            .applications
            .iter()
            .filter(|candidate| application.is_none_or(|slug| *slug == candidate.slug))
            .filter(|candidate| matches_any(&candidate.images, &name));
        if let Some(found) =
            candidates.find(|candidate| self.allows_application(caller, action, candidate))
        {
            return Ok(Grant { application: Some(&found.slug) });
        }
        // A rule that names images and not the application gives no right to the application.
        let by_name =
            |rule: &Rule| applies(rule, caller, action) && matches_any(&rule.images, &name);
        if application.is_none() && self.rules.iter().any(by_name) {
            return Ok(Grant { application: None });
        }
        Err(denial(caller, action))
    }

    /// Whether two images belong to exactly the same applications, if to any: only then may a blob
    /// of one be mounted into the other (UPL-7).
    pub(crate) fn are_of_one_application(&self, a: &CanonicalName, b: &CanonicalName) -> bool {
        let (a, b) = (a.to_string(), b.to_string());
        self.applications.iter().all(|application| {
            matches_any(&application.images, &a) == matches_any(&application.images, &b)
        })
    }

    /// How a request for a name that no upstream has is turned away: like one for a name that
    /// nobody may use, so that callers cannot find out which upstreams there are.
    pub(crate) fn denial_of_unknown_name(caller: &Caller, action: Action) -> Denial {
        denial(caller, action)
    }

    /// Whether a rule gives anything at all to somebody at this address without a credential; only
    /// then is there a point in an anonymous token (ACCESS §1.3).
    pub(crate) fn grants_anonymous_anything(&self, caller: &Caller) -> bool {
        let nobody = caller.clone().known_as(Identity::Anonymous, Vec::new());
        self.rules.iter().any(|rule| nobody.is(&rule.who) && is_from_network(rule, &nobody))
    }

    /// Whether this caller may push anything anywhere: such work takes longer than a pull
    /// (AUTH-10).
    pub(crate) fn may_push(&self, caller: &Caller) -> bool {
        let by_rule = self.rules.iter().any(|rule| applies(rule, caller, Action::Push));
        by_rule || self.applications.iter().any(|application| publishes(caller, application))
    }

    /// The first of the caller's certificate names that anything is granted to. A certificate that
    /// nothing is granted to is no identity, so that its bearer is still asked to log in.
    pub(crate) fn certificate_identity(&self, caller: &Caller) -> Option<Identity> {
        let publishers = self.applications.iter().flat_map(|application| &application.publishers);
        let mut named = self.rules.iter().map(|rule| &rule.who).chain(publishers);
        named.find(|who| matches!(who, Identity::Certificate(_)) && caller.is(who)).cloned()
    }

    /// The applications of a licence that are not configured here; they grant nothing.
    pub(crate) fn unknown_applications<'a>(
        &'a self,
        named: &'a [Slug],
    ) -> impl Iterator<Item = &'a Slug> {
        named
            .iter()
            .filter(|slug| !self.applications.iter().any(|application| application.slug == **slug))
    }

    fn allows_application(
        &self,
        caller: &Caller,
        action: Action,
        application: &Application,
    ) -> bool {
        let licensed = is_read(action) && caller.is_licensed_for(&application.slug);
        // Deleting takes a rule, whoever publishes (ACCESS §3.1).
        let published = action != Action::Delete && publishes(caller, application);
        let named = |rule: &Rule| {
            applies(rule, caller, action) && rule.applications.contains(&application.slug)
        };
        licensed || published || self.rules.iter().any(named)
    }
}

fn publishes(caller: &Caller, application: &Application) -> bool {
    application.publishers.iter().any(|who| caller.is(who))
}

/// Whether the rule gives `action` to this caller, on whatever images.
fn applies(rule: &Rule, caller: &Caller, action: Action) -> bool {
    let granted = match action {
        Action::Pull => rule.allow.pull,
        // docker push asks by HEAD which layers are there already.
        Action::Probe => rule.allow.pull || rule.allow.push,
        Action::List => rule.allow.list,
        Action::Push => rule.allow.push,
        Action::Delete => rule.allow.delete,
    };
    granted && caller.is(&rule.who) && is_from_network(rule, caller)
}

/// Whether the caller's address is one that the rule is for. An IPv4 address is the same however
/// the socket shows it.
fn is_from_network(rule: &Rule, caller: &Caller) -> bool {
    let address = caller.address.to_canonical();
    rule.networks.is_empty() || rule.networks.iter().any(|network| network.contains(&address))
}

fn matches_any(images: &[Pattern], name: &str) -> bool {
    images.iter().any(|pattern| pattern.matches(name))
}

fn denial(caller: &Caller, action: Action) -> Denial {
    match action {
        _ if caller.is_anonymous() => Denial::Unauthenticated,
        Action::Pull | Action::Probe | Action::List => Denial::Hidden,
        Action::Push | Action::Delete => Denial::Forbidden,
    }
}

fn is_read(action: Action) -> bool {
    match action {
        Action::Pull | Action::Probe | Action::List => true,
        Action::Push | Action::Delete => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Allow;
    use crate::identity::CertificateName;
    use crate::licence::LicenceId;
    use crate::oci::{Repository, UpstreamName};

    const PULL: Allow = Allow { pull: true, list: false, push: false, delete: false };
    const LIST: Allow = Allow { pull: false, list: true, push: false, delete: false };
    const ALL: Allow = Allow { pull: true, list: true, push: true, delete: true };
    const ACTIONS: [Action; 5] =
        [Action::Pull, Action::Probe, Action::List, Action::Push, Action::Delete];

    fn slug(text: &str) -> Slug {
        Slug::parse(text).expect(text)
    }

    fn globs(images: &[&str]) -> Vec<Pattern> {
        images.iter().map(|text| Pattern::parse(text).expect(text)).collect()
    }

    fn rule(who: Identity, allow: Allow, images: &[&str]) -> Rule {
        Rule { who, networks: vec![], allow, images: globs(images), applications: vec![] }
    }

    fn near(networks: &[&str], rule: Rule) -> Rule {
        Rule { networks: networks.iter().map(|text| text.parse().expect(text)).collect(), ..rule }
    }

    fn application(name: &str, images: &[&str], publishers: &[Identity]) -> Application {
        Application { slug: slug(name), images: globs(images), publishers: publishers.to_vec() }
    }

    fn user(name: &str) -> Identity {
        Identity::User(name.to_owned())
    }

    fn dns(name: &str) -> CertificateName {
        CertificateName::Dns(name.to_owned())
    }

    fn name(text: &str) -> CanonicalName {
        let (upstream, repository) = text.split_once('/').expect("upstream/repository");
        let upstream = UpstreamName::parse(upstream).expect(text);
        CanonicalName { upstream, repository: Repository::parse(repository).expect(text) }
    }

    fn caller(identity: Identity) -> Caller {
        anonymous_at("127.0.0.1").known_as(identity, vec![])
    }

    fn anonymous_at(address: &str) -> Caller {
        Caller::anonymous(address.parse().expect(address), vec![])
    }

    fn licence(id: &str, applications: &[&str]) -> Caller {
        let identity = Identity::Licence(LicenceId::parse(id).expect(id));
        let applications = applications.iter().map(|name| slug(name)).collect();
        anonymous_at("127.0.0.1").known_as(identity, applications)
    }

    fn allows(policy: &Policy, caller: &Caller, action: Action) -> bool {
        policy.decide(caller, action, &name("docker.io/library/nginx"), None).is_ok()
    }

    #[test]
    fn without_a_matching_rule_everything_is_denied() {
        let nothing_granted = rule(Identity::Anonymous, Allow::default(), &["**"]);
        let no_image = rule(Identity::Anonymous, ALL, &[]);
        let other_image =
            rule(Identity::Anonymous, ALL, &["quay.io/**", "docker.io/*", "docker.io/library"]);
        let other_user = rule(user("eve"), ALL, &["**"]);
        for rules in
            [vec![], vec![nothing_granted], vec![no_image], vec![other_image], vec![other_user]]
        {
            let policy = Policy::new(rules, vec![]);
            for action in ACTIONS {
                assert!(!allows(&policy, &anonymous_at("127.0.0.1"), action), "{policy:?}");
            }
        }
    }

    #[test]
    fn an_action_is_granted_by_itself() {
        for granted in [Action::Pull, Action::List, Action::Push, Action::Delete] {
            let is = |action| granted == action;
            let allow = Allow {
                pull: is(Action::Pull),
                list: is(Action::List),
                push: is(Action::Push),
                delete: is(Action::Delete),
            };
            let policy =
                Policy::new(vec![rule(Identity::Anonymous, allow, &["docker.io/**"])], vec![]);
            for action in ACTIONS {
                let probe = action == Action::Probe && (allow.pull || allow.push);
                let expected = probe || is(action);
                assert_eq!(
                    allows(&policy, &anonymous_at("::1"), action),
                    expected,
                    "{granted:?} {action:?}"
                );
            }
        }
    }

    #[test]
    fn a_network_holds_an_address_however_the_socket_shows_it() {
        for (network, peer, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:11.0.0.1", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "10.0.0.1", false),
            ("::/0", "::ffff:10.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
        ] {
            let rule = near(&["192.0.2.1/32", network], rule(Identity::Anonymous, PULL, &["**"]));
            let policy = Policy::new(vec![rule], vec![]);
            assert_eq!(
                allows(&policy, &anonymous_at(peer), Action::Pull),
                expected,
                "{peer} in {network}"
            );
            assert_eq!(
                policy.grants_anonymous_anything(&anonymous_at(peer)),
                expected,
                "{peer} in {network}"
            );
        }
    }

    #[test]
    fn rules_add_and_never_take_away_or_mix() {
        let local = near(&["127.0.0.0/8"], rule(Identity::Anonymous, PULL, &["**"]));
        let policy = Policy::new(vec![local, rule(user("ci"), LIST, &["docker.io/**"])], vec![]);
        let ci = caller(Identity::User("ci".into()));
        assert!(allows(&policy, &ci, Action::Pull) && allows(&policy, &ci, Action::List));
        let far = Caller { address: "192.0.2.1".parse().expect("an address"), ..ci.clone() };
        assert!(!allows(&policy, &far, Action::Pull), "the second rule grants no pull");
        assert!(policy.decide(&ci, Action::List, &name("quay.io/a/b"), None).is_err());
    }

    #[test]
    fn whom_a_rule_names_is_compared_exactly() {
        let policy = |who| Policy::new(vec![rule(who, PULL, &["**"])], vec![]);
        let ci = caller(Identity::User("ci".into()));
        let acme = licence("ci", &[]);
        assert!(allows(&policy(user("ci")), &ci, Action::Pull));
        for who in
            [user("CI"), user("ci2"), Identity::Licence(LicenceId::parse("ci").expect("an id"))]
        {
            assert!(!allows(&policy(who), &ci, Action::Pull));
        }
        assert!(allows(
            &policy(Identity::Licence(LicenceId::parse("ci").expect("an id"))),
            &acme,
            Action::Pull
        ));
        assert!(
            !allows(&policy(user("ci")), &acme, Action::Pull),
            "a licence is not the user of that name"
        );
    }

    #[test]
    fn certificate_names_count_beside_a_credential() {
        let policy =
            Policy::new(vec![rule(Identity::Certificate(dns("node.test")), PULL, &["**"])], vec![]);
        let node = |identity| Caller {
            certificate_names: vec![dns("a.test"), dns("node.test")],
            ..caller(identity)
        };
        assert!(allows(&policy, &node(Identity::Anonymous), Action::Pull));
        assert!(allows(&policy, &node(Identity::User("ci".into())), Action::Pull));
        assert!(!allows(&policy, &caller(Identity::User("node.test".into())), Action::Pull));
        let found = policy.certificate_identity(&node(Identity::Anonymous));
        assert_eq!(found, Some(Identity::Certificate(dns("node.test"))));
        let stranger =
            Caller { certificate_names: vec![dns("other.test")], ..caller(Identity::Anonymous) };
        assert_eq!(policy.certificate_identity(&stranger), None);
    }

    /// Two applications, one of whose images is the other's too.
    fn vendor() -> Policy {
        let myapp =
            application("myapp", &["registry.test/myapp/**", "quay.io/acme/*"], &[user("ci")]);
        let other = application("other", &["registry.test/other/**", "quay.io/acme/shared"], &[]);
        Policy::new(vec![], vec![myapp, other])
    }

    fn granted<'p>(
        policy: &'p Policy,
        caller: &Caller,
        image: &str,
        application: Option<&str>,
    ) -> Option<&'p str> {
        let application = application.map(slug);
        let grant = policy.decide(caller, Action::Pull, &name(image), application.as_ref()).ok()?;
        grant.application.map(Slug::as_str)
    }

    #[test]
    fn a_licence_reads_the_images_of_its_applications_and_nothing_else() {
        let policy = vendor();
        let customer = licence("acme", &["myapp", "unknown"]);
        for (image, expected) in [
            ("registry.test/myapp/worker", Some("myapp")),
            ("quay.io/acme/shared", Some("myapp")),
            ("registry.test/other/worker", None),
            ("registry.test/myapp", None),
            ("registry.test/myapplication/worker", None),
            ("docker.io/library/nginx", None),
        ] {
            assert_eq!(granted(&policy, &customer, image, None), expected, "{image}");
        }
        let image = name("registry.test/myapp/worker");
        let may = |action| policy.decide(&customer, action, &image, None).is_ok();
        assert_eq!(ACTIONS.map(may), [true, true, true, false, false]);
        let unknown = [slug("myapp"), slug("unknown")];
        assert_eq!(policy.unknown_applications(&unknown).collect::<Vec<_>>(), [&unknown[1]]);
    }

    #[test]
    fn under_an_applications_name_only_rights_to_it_and_only_its_images_count() {
        let mut policy = vendor();
        policy.rules.push(rule(user("root"), ALL, &["**"]));
        let both = licence("acme", &["myapp", "other"]);
        let other = licence("acme", &["other"]);
        let root = caller(Identity::User("root".into()));
        for (caller, image, application, expected) in [
            (&both, "quay.io/acme/api", "myapp", Some("myapp")),
            (&both, "quay.io/acme/api", "other", None),
            (&both, "quay.io/acme/shared", "other", Some("other")),
            (&other, "quay.io/acme/shared", "other", Some("other")),
            (&other, "quay.io/acme/shared", "myapp", None),
            (&root, "quay.io/acme/api", "myapp", None),
        ] {
            assert_eq!(
                granted(&policy, caller, image, Some(application)),
                expected,
                "{image} of {application}"
            );
        }
        policy
            .rules
            .push(Rule { applications: vec![slug("myapp")], ..rule(user("root"), PULL, &[]) });
        assert_eq!(granted(&policy, &root, "quay.io/acme/api", Some("myapp")), Some("myapp"));
        assert_eq!(granted(&policy, &root, "quay.io/acme/api", Some("other")), None);
    }

    #[test]
    fn publishers_push_their_applications_images_and_delete_nothing() {
        let policy = vendor();
        let ci = caller(Identity::User("ci".into()));
        let may =
            |action| policy.decide(&ci, action, &name("registry.test/myapp/worker"), None).is_ok();
        assert_eq!(ACTIONS.map(may), [true, true, true, true, false]);
        assert!(
            policy.decide(&ci, Action::Push, &name("registry.test/other/worker"), None).is_err()
        );
        assert!(policy.may_push(&ci) && !policy.may_push(&caller(Identity::User("eve".into()))));
    }

    #[test]
    fn an_anonymous_token_has_a_point_where_a_rule_is_for_everybody() {
        let named = near(&["10.0.0.0/8"], rule(user("ci"), ALL, &["**"]));
        let elsewhere = near(&["192.0.2.0/24"], rule(Identity::Anonymous, ALL, &["**"]));
        let policy = Policy::new(vec![named, elsewhere], vec![]);
        let has_a_point = |address| policy.grants_anonymous_anything(&anonymous_at(address));
        assert!(!has_a_point("10.0.0.1") && has_a_point("192.0.2.1"));
    }

    #[test]
    fn blobs_are_mounted_between_images_of_the_same_applications_only() {
        let policy = vendor();
        let same = |a, b| policy.are_of_one_application(&name(a), &name(b));
        for (a, b, expected) in [
            ("registry.test/myapp/api", "quay.io/acme/worker", true),
            ("registry.test/myapp/api", "registry.test/other/api", false),
            ("registry.test/myapp/api", "quay.io/acme/shared", false),
            ("registry.test/myapp/api", "registry.test/base", false),
            ("registry.test/base", "registry.test/tools", true),
        ] {
            assert_eq!((same(a, b), same(b, a)), (expected, expected), "{a} and {b}");
        }
    }

    #[test]
    fn strangers_are_asked_who_they_are_and_the_known_see_nothing() {
        let policy = vendor();
        let known = licence("acme", &["myapp"]);
        for action in ACTIONS {
            let image = name("registry.test/other/worker");
            let stranger = anonymous_at("127.0.0.1");
            assert_eq!(
                policy.decide(&stranger, action, &image, None),
                Err(Denial::Unauthenticated)
            );
            let read = matches!(action, Action::Pull | Action::Probe | Action::List);
            let expected = if read { Denial::Hidden } else { Denial::Forbidden };
            assert_eq!(policy.decide(&known, action, &image, None), Err(expected));
            assert_eq!(Policy::denial_of_unknown_name(&known, action), expected);
        }
    }
}
