//! Names, ports and IPv6 addresses, wherever one may stand.

use super::{only, problem, valid};

#[test]
fn an_ipv6_address_may_stand_wherever_a_name_may() {
    let config = valid(
        "hosts: ['[::1]', 'fd00::1', 'http://[::1:2]:5000']\nallow_plain_http: true\n\
         upstreams: { '[fd00::5]:5000': { aliases: [acme], hosts: ['[FD00:0::7]'], token_hosts: ['[fd00::6]:443'], blob_hosts: ['[fd00::8]'] } }\n\
         access: { rules: [{ who: anonymous, allow: [pull], images: ['[fd00::5]:5000/**'] }] }\n",
    );
    let hosts: Vec<_> =
        config.hosts.iter().map(|host| (host.name.as_str(), host.port, host.plain_http)).collect();
    assert_eq!(
        hosts,
        [("[::1]", None, false), ("[fd00::1]", None, false), ("[::1:2]", Some(5000), true)]
    );
    let upstream = only(&config);
    assert_eq!(upstream.url.as_str(), "https://[fd00::5]:5000/");
    assert_eq!(upstream.hosts, ["[fd00::7]"]);
    assert_eq!(
        (&upstream.token_hosts[0], &upstream.blob_hosts[0]),
        (&"[fd00::6]:443".to_owned(), &"[fd00::8]".to_owned())
    );
    assert!(config.access.rules[0].images[0].matches("[fd00::5]:5000/app"));
    let elsewhere = valid("upstreams: { acme.test: { url: 'https://[fd00::5]:5000' } }");
    assert_eq!(only(&elsewhere).url.host_str(), Some("[fd00::5]"));
}

#[test]
fn a_name_may_bring_the_port_that_clients_call() {
    let config = valid(
        "hosts: ['registry.example.com:8443', { name: 'Mirror.example.com:443', unknown_credentials: anonymous }, 'http://localhost:80', plain.example.com]",
    );
    let hosts: Vec<_> = config.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect();
    assert_eq!(
        hosts,
        [
            ("registry.example.com", Some(8443)),
            ("mirror.example.com", Some(443)),
            ("localhost", Some(80)),
            ("plain.example.com", None)
        ]
    );
}

#[test]
fn the_admin_listener_has_names_of_its_own() {
    let names = valid("admin_hosts: [Metrics.Example.com., roadstead]\n").admin_hosts;
    assert_eq!(names, ["metrics.example.com", "roadstead"]);
    assert!(problem("admin_hosts: ['http://a']\n").contains("is no host name"));
    assert!(problem("admin_hosts: ['http://a']\n").contains("is no host name"));
}

#[test]
fn admin_may_be_in_clear_where_clients_may_not() {
    let tls = "listen: 0.0.0.0:443\ntls: { certificate: a, key: b }\n\
               access: { rules: [{ who: anonymous, allow: [pull], images: ['**'] }] }\n";
    for (admin, expected) in [
        ("admin: { listen: 0.0.0.0:9000, allow_plain_http: true }", "0.0.0.0:9000"),
        ("admin: { listen: \"[::]:9000\", allow_plain_http: true }", "[::]:9000"),
        ("admin: { listen: 127.0.0.1:9000 }", "127.0.0.1:9000"),
        ("admin: { allow_plain_http: true }", "127.0.0.1:5001"),
        ("admin: localhost:9000", "127.0.0.1:9000"),
        ("allow_plain_http: true\nadmin: 0.0.0.0:9000", "0.0.0.0:9000"),
        ("allow_plain_http: true\nadmin: { listen: 0.0.0.0:9000 }", "0.0.0.0:9000"),
    ] {
        assert_eq!(valid(&format!("{tls}{admin}\n")).admin.to_string(), expected, "{admin}");
    }
}
