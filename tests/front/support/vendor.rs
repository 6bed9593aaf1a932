//! A vendor: a private registry, a private account on Quay, two applications, users and licences.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use roadstead::clock::Timestamp;
use roadstead::config::{Allow, Application, Host, Licences, Rule, UnknownCredentials};
use roadstead::identity::Identity;
use roadstead::licence::{Licence, LicenceId, PrivateKey, Slug};
use roadstead::oci::Pattern;

use super::image::Image;
use super::origin::Origin;
use super::proxy::{Proxy, Setup};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// The vendor's side, and the proxy in front of it.
pub(crate) struct Vendor {
    pub(crate) registry: Origin,
    pub(crate) quay: Origin,
    pub(crate) proxy: Proxy,
    key: PrivateKey,
}

pub(crate) fn slug(text: &str) -> Slug {
    Slug::parse(text).expect(text)
}

pub(crate) fn globs(images: &[&str]) -> Vec<Pattern> {
    images.iter().map(|image| Pattern::parse(image).expect(image)).collect()
}

/// The value of an `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

impl Vendor {
    /// `myapp` and `other`, each with a repository in the private registry and one on Quay;
    /// `public/**` for everybody.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(edit: impl FnOnce(&mut Setup)) -> Self {
        let (registry, quay) = (Origin::start().await, Origin::start().await);
        for (i, repository) in
            ["myapp/worker", "other/worker", "public/base", "hidden/secret"].into_iter().enumerate()
        {
            registry.push(repository, "1.0", &Image::new(100 + i as u64, &[70_000]));
        }
        quay.push("acme/api", "2.0", &Image::new(200, &[70_000]));
        let key = PrivateKey::generate().expect("randomness");
        let mut setup = Setup::new();
        setup.upstream("registry.test", &registry);
        setup.upstream("quay.io", &quay);
        let hash = |password| bcrypt::hash(password, 4).expect("a hash");
        let users = format!("ci:{}\nops@acme.test:{}\n", hash("ci-secret"), hash("ops-secret"));
        let (users, revoked) = (setup.file("users", &users), setup.file("revoked", ""));
        let public_keys = vec![setup.file("licence.pub", &key.public().to_pem())];
        let config = &mut setup.config;
        config.hosts = vec![Host {
            name: "127.0.0.1".to_owned(),
            port: None,
            plain_http: true,
            unknown_credentials: UnknownCredentials::Refused,
        }];
        config.access.users = Some(users);
        let everybody = Allow { pull: true, list: true, ..Allow::default() };
        config.access.rules = vec![
            rule(Identity::Anonymous, everybody, &["registry.test/public/**"]),
            rule(Identity::User("ops@acme.test".to_owned()), everybody, &["registry.test/**"]),
        ];
        let application = |name, images: &[&str], publishers| Application {
            slug: slug(name),
            images: globs(images),
            publishers,
        };
        config.applications = vec![
            application(
                "myapp",
                &["registry.test/myapp/**", "quay.io/acme/api"],
                vec![Identity::User("ci".to_owned())],
            ),
            application("other", &["registry.test/other/**"], vec![]),
        ];
        let issuer = "Acme Inc.".to_owned();
        config.licences = Some(Licences { issuer, public_keys, revoked: Some(revoked) });
        edit(&mut setup);
        Self { registry, quay, proxy: setup.start().await, key }
    }

    /// A licence that began a day ago.
    pub(crate) fn licence(&self, id: &str, applications: &[&str], good_for: Duration) -> Licence {
        let now =
            Timestamp::from_unix(Duration::from_secs(self.proxy.clock().now().unix().as_secs()));
        let yesterday = Timestamp::from_unix(now.unix().saturating_sub(DAY));
        Licence {
            id: LicenceId::parse(id).expect(id),
            issuer: "Acme Inc.".to_owned(),
            customer: "Customer GmbH".to_owned(),
            email: Some("it@customer.test".to_owned()),
            applications: applications.iter().map(|name| slug(name)).collect(),
            hosts: vec!["127.0.0.1".to_owned()],
            issued: yesterday,
            not_before: yesterday,
            expires: now.plus(good_for),
        }
    }

    pub(crate) fn sign(&self, licence: &Licence) -> String {
        self.key.sign(licence).expect("a licence")
    }

    /// The header of a customer with a fresh licence for these applications.
    pub(crate) fn customer(&self, id: &str, applications: &[&str]) -> String {
        basic(id, &self.sign(&self.licence(id, applications, 90 * DAY)))
    }

    /// Status of a GET with this header.
    pub(crate) async fn status(&self, authorization: &str, path: &str) -> u16 {
        self.proxy
            .request(http::Method::GET, path, &[("authorization", authorization)])
            .await
            .status
    }
}

pub(crate) fn rule(who: Identity, allow: Allow, images: &[&str]) -> Rule {
    Rule { who, networks: vec![], allow, images: globs(images), applications: vec![] }
}
