//! Why there is no connection, or why it broke: read from the errors of sockets, resolver and TLS,
//! in one place for everybody who asks. Pure.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

use rustls::{CertificateError, InvalidMessage};
use tokio::time::error::Elapsed;

use crate::shortage::is_shortage;

/// What kept us from an answer. A closed set: it is a metric label, and clients are told the
/// clause, which holds no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody listens there.
    Refused,
    /// No route, or a firewall that says so.
    NoRoute,
    NameNotFound,
    /// The resolver gave no answer: the name may exist.
    NameFailed,
    UnknownAuthority,
    WrongName,
    /// Or not valid yet.
    Expired,
    /// Any other fault of a certificate.
    BadCertificate,
    /// Something else than TLS answers, mostly plain HTTP.
    NotTls,
    /// Both speak TLS and do not agree.
    TlsFailed,
    Reset,
    TimedOut,
    /// The proxy in between cannot be reached.
    ProxyUnreachable,
    /// The proxy wants a login, or another (407).
    ProxyLogin,
    /// The proxy does not let us go there (403).
    ProxyForbids,
    /// The proxy cannot get there, or says something else.
    ProxyFailed,
    /// The proxy does not say whether it gets there.
    ProxySilent,
    /// Descriptors, memory or ports of this machine have run out: nothing the other side did.
    OurShortage,
}

impl Cause {
    pub(super) const ALL: [Self; 18] = [
        Self::Refused,
        Self::NoRoute,
        Self::NameNotFound,
        Self::NameFailed,
        Self::UnknownAuthority,
        Self::WrongName,
        Self::Expired,
        Self::BadCertificate,
        Self::NotTls,
        Self::TlsFailed,
        Self::Reset,
        Self::TimedOut,
        Self::ProxyUnreachable,
        Self::ProxyLogin,
        Self::ProxyForbids,
        Self::ProxyFailed,
        Self::ProxySilent,
        Self::OurShortage,
    ];

    /// What the chain of an error says; none if it is about something else.
    pub(super) fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        chain(error).find_map(Self::of_one)
    }

    fn of_one(error: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(proxy) = error.downcast_ref::<ProxyError>() {
            return Some(proxy.fault.cause());
        }
        if error.is::<Elapsed>() {
            return Some(Self::TimedOut);
        }
        if let Some(failed) = error.downcast_ref::<LookupFailed>() {
            return Some(of_lookup(&failed.0));
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(of_tls(tls));
        }
        if let Some(http) = error.downcast_ref::<hyper::Error>() {
            return (http.is_incomplete_message() || http.is_closed()).then_some(Self::Reset);
        }
        of_io(error.downcast_ref::<io::Error>()?)
    }

    /// The one string form, for metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NoRoute => "no_route",
            Self::NameNotFound => "name_not_found",
            Self::NameFailed => "name_failed",
            Self::UnknownAuthority => "unknown_authority",
            Self::WrongName => "wrong_name",
            Self::Expired => "expired",
            Self::BadCertificate => "bad_certificate",
            Self::NotTls => "not_tls",
            Self::TlsFailed => "tls_failed",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::ProxyUnreachable => "proxy_unreachable",
            Self::ProxyLogin => "proxy_login",
            Self::ProxyForbids => "proxy_forbids",
            Self::ProxyFailed => "proxy_failed",
            Self::ProxySilent => "proxy_silent",
            Self::OurShortage => "our_shortage",
        }
    }

    /// In words, for logs and clients.
    pub(super) fn clause(self) -> &'static str {
        match self {
            Self::Refused => "the connection is refused",
            Self::NoRoute => "there is no route to it, or a firewall forbids it",
            Self::NameNotFound => "its name does not exist",
            Self::NameFailed => "its name could not be looked up",
            Self::UnknownAuthority => "its certificate is of an authority that is not trusted here",
            Self::WrongName => "its certificate is for another name",
            Self::Expired => "its certificate has expired or is not valid yet",
            Self::BadCertificate => "its certificate is not accepted",
            Self::NotTls => "it does not speak TLS on this port",
            Self::TlsFailed => "the TLS handshake failed",
            Self::Reset => "the connection was closed or reset",
            Self::TimedOut => "there was no connection in time",
            Self::ProxyUnreachable => "the outbound proxy cannot be reached",
            Self::ProxyLogin => "the outbound proxy wants another login (407)",
            Self::ProxyForbids => "the outbound proxy does not let us go there (403)",
            Self::ProxyFailed => "the outbound proxy cannot get there",
            Self::ProxySilent => "the outbound proxy does not answer",
            Self::OurShortage => "this proxy has run out of descriptors, memory or ports",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.clause())
    }
}

/// The lookup of a name failed. Its own type, since the same error of a socket means another thing.
#[derive(Debug, thiserror::Error)]
#[error("the lookup of the name failed")]
pub(super) struct LookupFailed(#[source] pub(super) io::Error);

/// The first error of type `E` in the chain.
pub(super) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// An outbound proxy, and what is wrong with it or what it says.
#[derive(Debug, thiserror::Error)]
#[error("the outbound proxy {proxy}")]
pub(super) struct ProxyError {
    /// Scheme, host and port.
    pub(super) proxy: String,
    #[source]
    pub(super) fault: ProxyFault,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyFault {
    #[error("cannot be reached")]
    Unreachable(#[source] Box<dyn StdError + Send + Sync>),
    #[error("could not be reached a moment ago")]
    Resting,
    #[error("answers 407")]
    LoginNeeded,
    #[error("answers 403")]
    Forbidden,
    #[error("answers {0}")]
    Failed(u16),
    #[error("gives no answer")]
    Silent,
    #[error("breaks off")]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
}

impl ProxyFault {
    fn cause(&self) -> Cause {
        match self {
            Self::Unreachable(_) | Self::Resting => Cause::ProxyUnreachable,
            Self::LoginNeeded => Cause::ProxyLogin,
            Self::Forbidden => Cause::ProxyForbids,
            Self::Failed(_) | Self::Broken(_) => Cause::ProxyFailed,
            Self::Silent => Cause::ProxySilent,
        }
    }

    /// Whether it is the proxy that is wrong, or our right to use it, and not the way behind it.
    pub(super) fn is_its_own(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Resting | Self::LoginNeeded | Self::Forbidden => true,
            // 502, 503 and 504 are what proxies say of a host that they do not reach.
            Self::Failed(status) => !matches!(status, 502..=504),
            Self::Silent | Self::Broken(_) => false,
        }
    }
}

/// What an operator wants to know beside the cause: what TLS itself says, which names dates, and
/// the names in a certificate; and why a proxy cannot be reached, or what it says.
pub(super) fn detail(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(ProxyError { proxy, fault }) = find(error) {
        let inner = fault.source().and_then(Cause::of);
        let inner = inner.map_or_else(String::new, |cause| format!(": {cause}"));
        return Some(format!("{proxy} {fault}{inner}"));
    }
    find::<rustls::Error>(error).map(ToString::to_string)
}

/// The error and everything behind it. What an `io::Error` wraps is among it, which its `source`
/// passes over.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

fn of_io(error: &io::Error) -> Option<Cause> {
    if is_shortage(error) {
        return Some(Cause::OurShortage);
    }
    let kind = error.kind();
    let is = |kinds: &[ErrorKind]| kinds.contains(&kind);
    if is(&[ErrorKind::ConnectionRefused]) {
        Some(Cause::Refused)
    } else if is(&[
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::NetworkDown,
        ErrorKind::PermissionDenied,
    ]) {
        Some(Cause::NoRoute)
    } else if is(&[
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
        ErrorKind::NotConnected,
    ]) {
        Some(Cause::Reset)
    } else if is(&[ErrorKind::TimedOut]) {
        Some(Cause::TimedOut)
    } else {
        // TLS says so of a peer that hangs up amid a handshake; with an error inside, that tells
        // more.
        let ended = kind == ErrorKind::UnexpectedEof && error.get_ref().is_none_or(is_plain);
        ended.then_some(Cause::Reset)
    }
}

/// Whether it is a text and nothing that could be looked at further.
fn is_plain(error: &(dyn StdError + Send + Sync + 'static)) -> bool {
    error.source().is_none() && !error.is::<rustls::Error>()
}

fn of_lookup(error: &io::Error) -> Cause {
    if is_shortage(error) {
        Cause::OurShortage
    } else if error.kind() == ErrorKind::NotFound || says_not_found(&error.to_string()) {
        Cause::NameNotFound
    } else {
        Cause::NameFailed
    }
}

/// The system's resolver tells it by its words only: glibc's two, and musl's.
fn says_not_found(text: &str) -> bool {
    ["Name or service not known", "No address associated with hostname", "Name does not resolve"]
        .iter()
        .any(|words| text.contains(words))
}

fn of_tls(error: &rustls::Error) -> Cause {
    if let rustls::Error::InvalidCertificate(certificate) = error {
        return of_certificate(certificate);
    }
    let no_tls = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
    if *error == no_tls { Cause::NotTls } else { Cause::TlsFailed }
}

fn of_certificate(error: &CertificateError) -> Cause {
    use CertificateError as E;
    if matches!(error, E::UnknownIssuer | E::BadSignature) {
        Cause::UnknownAuthority
    } else if matches!(error, E::NotValidForName | E::NotValidForNameContext { .. }) {
        Cause::WrongName
    } else if matches!(
        error,
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
    ) {
        Cause::Expired
    } else {
        Cause::BadCertificate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    fn tls(error: rustls::Error) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, error)
    }

    fn certificate(error: CertificateError) -> io::Error {
        tls(rustls::Error::InvalidCertificate(error))
    }

    #[test]
    fn every_error_of_a_socket_has_its_cause() {
        for (code, cause) in [
            (libc::ECONNREFUSED, Cause::Refused),
            (libc::EHOSTUNREACH, Cause::NoRoute),
            (libc::ENETUNREACH, Cause::NoRoute),
            (libc::ENETDOWN, Cause::NoRoute),
            (libc::EPERM, Cause::NoRoute),
            (libc::EACCES, Cause::NoRoute),
            (libc::ECONNRESET, Cause::Reset),
            (libc::ECONNABORTED, Cause::Reset),
            (libc::EPIPE, Cause::Reset),
            (libc::ETIMEDOUT, Cause::TimedOut),
            (libc::EMFILE, Cause::OurShortage),
            (libc::ENFILE, Cause::OurShortage),
            (libc::ENOBUFS, Cause::OurShortage),
            (libc::ENOMEM, Cause::OurShortage),
            (libc::EADDRNOTAVAIL, Cause::OurShortage),
        ] {
            assert_eq!(Cause::of(&os(code)), Some(cause), "{}", os(code));
        }
        assert_eq!(Cause::of(&io::Error::from(ErrorKind::UnexpectedEof)), Some(Cause::Reset));
        let handshake = io::Error::new(ErrorKind::UnexpectedEof, "tls handshake eof");
        assert_eq!(Cause::of(&handshake), Some(Cause::Reset));
        assert_eq!(Cause::of(&io::Error::other("something")), None);
    }

    #[test]
    fn every_error_of_tls_has_its_cause() {
        for (error, cause) in [
            (certificate(CertificateError::UnknownIssuer), Cause::UnknownAuthority),
            (certificate(CertificateError::BadSignature), Cause::UnknownAuthority),
            (certificate(CertificateError::NotValidForName), Cause::WrongName),
            (certificate(CertificateError::Expired), Cause::Expired),
            (certificate(CertificateError::NotValidYet), Cause::Expired),
            (certificate(CertificateError::Revoked), Cause::BadCertificate),
            (certificate(CertificateError::InvalidPurpose), Cause::BadCertificate),
            (tls(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)), Cause::NotTls),
            (
                tls(rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure)),
                Cause::TlsFailed,
            ),
            (tls(rustls::Error::NoCertificatesPresented), Cause::TlsFailed),
        ] {
            assert_eq!(Cause::of(&error), Some(cause), "{error}");
        }
        let detail = detail(&certificate(CertificateError::Expired));
        assert_eq!(detail.as_deref(), Some("invalid peer certificate: Expired"));
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_resolver_that_fails() {
        let words =
            |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        for (error, cause) in [
            (words("Name or service not known"), Cause::NameNotFound),
            (words("No address associated with hostname"), Cause::NameNotFound),
            (words("Name does not resolve"), Cause::NameNotFound),
            (io::Error::from(ErrorKind::NotFound), Cause::NameNotFound),
            (words("Temporary failure in name resolution"), Cause::NameFailed),
            (words("Try again"), Cause::NameFailed),
            (os(libc::ECONNREFUSED), Cause::NameFailed),
            (os(libc::EMFILE), Cause::OurShortage),
        ] {
            let shown = error.to_string();
            assert_eq!(Cause::of(&LookupFailed(error)), Some(cause), "{shown}");
        }
    }

    #[test]
    fn what_a_proxy_says_is_told_from_what_is_behind_it() {
        let refused = || -> Box<dyn StdError + Send + Sync> { os(libc::ECONNREFUSED).into() };
        for (fault, cause, own) in [
            (ProxyFault::Unreachable(refused()), Cause::ProxyUnreachable, true),
            (ProxyFault::Resting, Cause::ProxyUnreachable, true),
            (ProxyFault::LoginNeeded, Cause::ProxyLogin, true),
            (ProxyFault::Forbidden, Cause::ProxyForbids, true),
            (ProxyFault::Failed(400), Cause::ProxyFailed, true),
            (ProxyFault::Failed(503), Cause::ProxyFailed, false),
            (ProxyFault::Broken(refused()), Cause::ProxyFailed, false),
            (ProxyFault::Silent, Cause::ProxySilent, false),
        ] {
            assert_eq!(fault.is_its_own(), own, "{fault}");
            let error = ProxyError { proxy: "http://p.test:3128".to_owned(), fault };
            assert_eq!(Cause::of(&io::Error::other(error)), Some(cause));
        }
        let fault = ProxyFault::Unreachable(refused());
        let error = ProxyError { proxy: "http://p.test:3128".to_owned(), fault };
        let told = "http://p.test:3128 cannot be reached: the connection is refused";
        assert_eq!(detail(&error).as_deref(), Some(told));
    }

    #[test]
    fn the_cause_is_found_however_deep_it_lies() {
        let deep = io::Error::other(io::Error::other(LookupFailed(ErrorKind::NotFound.into())));
        assert_eq!(Cause::of(&deep), Some(Cause::NameNotFound));
    }

    #[test]
    fn no_two_causes_share_a_word() {
        for (i, cause) in Cause::ALL.iter().enumerate() {
            for other in &Cause::ALL[i + 1..] {
                assert_ne!(cause.as_str(), other.as_str());
                assert_ne!(cause.clause(), other.clause());
            }
        }
    }
}
