//! Logins that come from docker credential helpers, which are shell scripts here.

use std::fs;
use std::process::Command;
use std::time::Duration;

use roadstead::limits::Limits;
use roadstead::oci::Repository;
use roadstead::upstream::{ErrorKind, UpstreamClient};
use tokio::time::Instant;

use crate::support::{
    Helper, LOGIN, Origin, Setup, bind, closed_port, manifest, origin, reply, repository, shown,
    tag,
};

/// As a client has it: longer than a helper may take.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(25)
}
const SECRET: &str = "hunter2";
const BASIC: &str = "Basic cm9ib3Q6aHVudGVyMg=="; // robot:hunter2

/// A registry that wants this Basic value.
async fn basic(wanted: &'static str) -> Origin {
    origin(move |seen| match seen.header("authorization") {
        Some(value) if value == wanted => manifest(),
        _ => reply(401, &[("www-authenticate", r#"Basic realm="Registry""#)], ""),
    })
    .await
}

fn setup(origin: &Origin, helper: &Helper) -> Setup {
    Setup::new(&origin.url()).helper("**", helper.program())
}

async fn pull(upstream: &UpstreamClient) -> Result<(), roadstead::upstream::Error> {
    upstream.get_manifest(&repository(), &tag(), soon()).await.map(drop)
}

#[tokio::test]
async fn the_login_of_a_helper_is_used_and_kept_for_five_minutes() {
    let (origin, helper) = (basic(BASIC).await, Helper::new(LOGIN));
    let setup = setup(&origin, &helper);
    let upstream = setup.build();
    for _ in 0..3 {
        pull(&upstream).await.expect("with the login");
    }
    setup.clock.advance(Duration::from_secs(299));
    pull(&upstream).await.expect("still");
    assert_eq!(helper.runs(), ["get acme.test"]);
    setup.clock.advance(Duration::from_secs(2));
    pull(&upstream).await.expect("asked for again");
    assert_eq!(helper.runs().len(), 2);
}

#[tokio::test]
async fn many_requests_run_a_helper_once_even_if_the_first_one_leaves() {
    // Nobody writes to the pipe before all requests are under way.
    let (origin, helper) =
        (basic(BASIC).await, Helper::new(&format!("cat gate > /dev/null\n{LOGIN}")));
    assert!(
        Command::new("mkfifo").arg(helper.path("gate")).status().expect("mkfifo runs").success()
    );
    let upstream = setup(&origin, &helper).build();
    let ask = || {
        let upstream = upstream.clone();
        tokio::spawn(async move { pull(&upstream).await })
    };
    let first = ask();
    while helper.runs().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    let others: Vec<_> = (0..100).map(|_| ask()).collect();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    helper.write("gate", "open");
    for other in others {
        other.await.expect("it runs").expect("with the login");
    }
    assert_eq!(helper.runs().len(), 1);
}

#[tokio::test]
async fn a_rejected_login_is_asked_for_again_once() {
    const NEW: &str = "Basic cm9ib3Q6bmV3"; // robot:new
    let origin = basic(NEW).await;
    let helper = Helper::new(r#"printf '{"Username":"robot","Secret":"%s"}' "$(cat password)""#);
    helper.write("password", SECRET);
    let setup = setup(&origin, &helper);
    let upstream = setup.build();
    for _ in 0..3 {
        let error = pull(&upstream).await.expect_err("the old one");
        assert_eq!(error.kind(), &ErrorKind::CredentialRejected);
    }
    assert_eq!(helper.runs().len(), 2, "it said the same again, and is left alone for a moment");
    helper.write("password", "new");
    setup.clock.advance(Duration::from_secs(5));
    pull(&upstream).await.expect("the new one");
    pull(&upstream).await.expect("is kept");
    assert_eq!(helper.runs().len(), 3);
}

/// A registry with tokens that live for an hour, and whose endpoint takes any login but this one.
async fn tokens(refused: &'static str) -> Origin {
    let bound = bind().await;
    let realm = format!(r#"Bearer realm="{}/token""#, bound.url());
    bound.serve(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", Some(login)) if login != refused => {
            reply(200, &[], r#"{"token":"good","expires_in":3600}"#)
        }
        (_, Some("Bearer good")) => manifest(),
        _ => reply(401, &[("www-authenticate", &realm)], ""),
    })
}

#[tokio::test]
async fn a_new_login_buys_a_new_token_and_the_same_one_does_not() {
    let origin = tokens("none").await;
    let helper = Helper::new(r#"printf '{"Username":"robot","Secret":"%s"}' "$(cat password)""#);
    let setup = setup(&origin, &helper);
    let upstream = setup.build();
    for (runs, (password, tokens)) in
        [("old", 1), ("old", 1), ("new", 2), ("new", 2)].into_iter().enumerate()
    {
        helper.write("password", password);
        pull(&upstream).await.expect("with a token");
        assert_eq!((helper.runs().len(), origin.count("/token")), (runs + 1, tokens));
        setup.clock.advance(Duration::from_secs(301));
    }
}

#[tokio::test]
async fn a_login_that_the_token_endpoint_rejects_is_asked_for_again() {
    let origin = tokens(BASIC).await;
    let helper = Helper::new(&format!(
        r#"[ $(wc -l < runs) = 1 ] && {LOGIN} || echo '{{"Username":"u","Secret":"new"}}'"#
    ));
    pull(&setup(&origin, &helper).build()).await.expect("with the second");
    assert_eq!((helper.runs().len(), origin.count("/token")), (2, 2));
}

#[tokio::test]
async fn without_a_login_the_upstream_is_asked_anonymously() {
    let origin = origin(|_| manifest()).await;
    let helper = Helper::new("echo 'credentials not found in native keychain'; exit 1");
    let upstream = setup(&origin, &helper).build();
    for _ in 0..2 {
        pull(&upstream).await.expect("anonymously");
    }
    assert_eq!((helper.runs().len(), origin.seen().len()), (1, 2));
    assert!(origin.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn a_helper_that_fails_is_a_failure_that_names_it_and_no_secret() {
    let origin = origin(|_| manifest()).await;
    for (script, reason) in [
        ("echo hunter2 >&2; echo hunter2; exit 1", "failed (exit status: 1)"),
        (r#"echo '{"Username":"u","Secret":"hunter2"}'; exit 1"#, "failed (exit status: 1)"),
        ("echo hunter2; kill -9 $$", "failed (signal: 9 (SIGKILL))"),
        ("echo '{\"Username\":\"u\",\"Secret\":\"hunter2\"'", "printed no login"),
        ("echo '{\"Username\":\"hunter2\",\"Secret\":7}'", "printed no login"),
        ("echo '{\"Username\":\"<token>\",\"Secret\":\"hunter2\"}'", "has an identity token"),
        ("yes hunter2", "printed more than 65536 bytes"),
        ("cat gate", "failed"),
    ] {
        let helper = Helper::new(script);
        let setup = setup(&origin, &helper);
        let upstream = setup.build();
        for _ in 0..2 {
            let error = pull(&upstream).await.expect_err(script);
            assert_eq!(error.kind(), &ErrorKind::NoLogin, "{script}");
            let text = shown(&error);
            for part in [
                "acme.test: manifest_get: ",
                "the credential helper docker-credential-test ",
                reason,
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            let all = format!("{text} {upstream:?} {:?}", setup.config);
            assert!(!all.contains(SECRET), "{all}");
        }
        assert_eq!(helper.runs().len(), 1, "{script}: it is left alone for a moment");
        setup.clock.advance(Duration::from_secs(5));
        pull(&upstream).await.expect_err(script);
        assert_eq!(helper.runs().len(), 2, "{script}");
    }
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn a_helper_that_is_gone_is_a_failure() {
    let (origin, helper) = (origin(|_| manifest()).await, Helper::new(LOGIN));
    let upstream = setup(&origin, &helper).build();
    fs::remove_file(helper.program()).expect("removable");
    let error = pull(&upstream).await.expect_err("there is none");
    assert!(
        error.to_string().contains("docker-credential-test cannot be run: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_helper_that_hangs_holds_up_nobody_else_and_does_not_shut_the_upstream() {
    let (origin, helper) = (basic(BASIC).await, Helper::new("sleep 1000"));
    let setup = Setup::new(&origin.url())
        .helper("team/*", helper.program())
        .credential("**", "robot", SECRET);
    let upstream = setup.build();
    let short = Duration::from_millis(50);
    for _ in 0..5 {
        let error = upstream
            .get_manifest(&repository(), &tag(), Instant::now() + short)
            .await
            .expect_err("no login in time");
        assert_eq!(error.kind(), &ErrorKind::Timeout);
    }
    while helper.runs().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(helper.runs().len(), 1);
    let other = Repository::parse("other/app").expect("valid");
    upstream.get_manifest(&other, &tag(), soon()).await.expect("another credential");
    assert!(
        setup.metric(r#"roadstead_upstream_breaker_open{gate="reads",upstream="acme.test"} 0"#)
    );
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_with_all_that_it_has_started() {
    let (origin, helper) =
        (origin(|_| manifest()).await, Helper::new("sleep 1000 & echo $! > pid; wait"));
    let upstream = setup(&origin, &helper).build();
    let waiting = tokio::spawn({
        let upstream = upstream.clone();
        async move { pull(&upstream).await }
    });
    let pid = || fs::read_to_string(helper.path("pid")).unwrap_or_default();
    while !pid().ends_with('\n') {
        tokio::task::yield_now().await;
    }
    // From here on, time passes at once.
    tokio::time::pause();
    let error = waiting.await.expect("it runs").expect_err("it hangs");
    assert_eq!(error.kind(), &ErrorKind::NoLogin);
    assert!(
        error.to_string().contains("docker-credential-test gave no answer within 10 s"),
        "{error}"
    );
    let state = || fs::read_to_string(format!("/proc/{}/stat", pid().trim())).unwrap_or_default();
    let is_gone = || state().is_empty() || state().contains(") Z ");
    for _ in 0..1_000_000 {
        if is_gone() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(is_gone(), "what it has started lives on");
    pull(&upstream).await.expect_err("it is left alone for a moment");
    assert_eq!(helper.runs().len(), 1);
}

#[tokio::test]
async fn nothing_is_dialled_nor_run_while_the_upstream_is_left_alone() {
    let helper = Helper::new(LOGIN);
    let nobody = format!("http://{}", closed_port().await);
    let mut setup = Setup::new(&nobody).helper("**", helper.program());
    setup.limits = Limits { login_life: Duration::from_secs(1), ..setup.limits };
    let upstream = setup.build();
    for _ in 0..3 {
        pull(&upstream).await.expect_err("nobody is there");
    }
    setup.clock.advance(Duration::from_secs(6));
    let before = helper.runs().len();
    pull(&upstream).await.expect_err("left alone");
    assert_eq!(helper.runs().len(), before);
}

#[tokio::test]
async fn a_helper_does_not_see_the_variables_that_hold_other_passwords() {
    // Cargo sets both for this process.
    let names = ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"];
    let (origin, helper) = (basic(BASIC).await, Helper::new(&format!("env > seen; {LOGIN}")));
    let upstream = setup(&origin, &helper).withholding(&names[..1]).build();
    pull(&upstream).await.expect("with the login");
    let seen = fs::read_to_string(helper.path("seen")).expect("the helper wrote it");
    let is_visible = |name: &str| seen.lines().any(|line| line.starts_with(&format!("{name}=")));
    assert_eq!(
        names.map(|name| (std::env::var(name).is_ok(), is_visible(name))),
        [(true, false), (true, true)]
    );
}
