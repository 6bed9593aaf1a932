//! Registries that everybody uses: what an upstream of that name means if its keys are left out.

/// What is known about one registry.
#[derive(Debug)]
pub(super) struct Preset {
    pub(super) name: &'static str,
    pub(super) url: &'static str,
    pub(super) aliases: &'static [&'static str],
    /// Where its challenges send clients for a token, if that is another host (PROTOCOL §2.3).
    pub(super) token_hosts: &'static [&'static str],
    pub(super) page_limit: Option<u32>,
    /// One-component names get `library/` (SEL-6).
    pub(super) library: bool,
}

/// In the order in which they are listed at start; the first is the default upstream.
pub(super) const PRESETS: &[Preset] = &[
    Preset {
        aliases: &["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"],
        token_hosts: &["auth.docker.io"],
        library: true,
        ..plain("docker.io", "https://registry-1.docker.io")
    },
    Preset { page_limit: Some(100), ..plain("quay.io", "https://quay.io") },
    plain("ghcr.io", "https://ghcr.io"),
    plain("registry.k8s.io", "https://registry.k8s.io"),
    plain("gcr.io", "https://gcr.io"),
    plain("mcr.microsoft.com", "https://mcr.microsoft.com"),
    plain("public.ecr.aws", "https://public.ecr.aws"),
    Preset {
        token_hosts: &["gitlab.com"],
        ..plain("registry.gitlab.com", "https://registry.gitlab.com")
    },
    Preset { token_hosts: &["ghcr.io"], ..plain("lscr.io", "https://lscr.io") },
    plain("nvcr.io", "https://nvcr.io"),
    Preset {
        token_hosts: &["docker-auth.elastic.co"],
        ..plain("docker.elastic.co", "https://docker.elastic.co")
    },
    plain("cgr.dev", "https://cgr.dev"),
    plain("registry.access.redhat.com", "https://registry.access.redhat.com"),
    plain("registry.suse.com", "https://registry.suse.com"),
    plain("container-registry.oracle.com", "https://container-registry.oracle.com"),
];

pub(super) fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

const fn plain(name: &'static str, url: &'static str) -> Preset {
    Preset { name, url, aliases: &[], token_hosts: &[], page_limit: None, library: false }
}
