//! A name for each request, which stands in its access line and in its answer: what a user sees in
//! a failing client leads the operator to the line.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Not a standard, but what balancers and most tools write.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of an id that is taken over; those of the usual balancers have up to 110.
const RECEIVED_BYTES_MAX: usize = 128;

/// Makes ids for requests that bring none: no two are the same, and none can be foretold.
#[derive(Debug, Default)]
pub(crate) struct RequestIds {
    key: RandomState,
    made: AtomicU64,
}

impl RequestIds {
    /// The id that the request brings, if it is fit for a log line and a header; else a fresh one.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        received(headers).cloned().unwrap_or_else(|| self.fresh())
    }

    fn fresh(&self) -> HeaderValue {
        let number = self.key.hash_one(self.made.fetch_add(1, Ordering::Relaxed));
        let mut digits = [0; 16];
        for (digit, shift) in digits.iter_mut().zip((0..64).step_by(4).rev()) {
            *digit = b"0123456789abcdef"[(number >> shift & 0xf) as usize];
        }
        HeaderValue::from_bytes(&digits).expect("hexadecimal digits are visible ASCII")
    }
}

/// The one id that a request brings: visible ASCII without quotes, so that no reader of the log can
/// take a part of it for anything else. Of several, nobody knows which is meant.
fn received(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(X_REQUEST_ID).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let fits = (1..=RECEIVED_BYTES_MAX).contains(&value.len());
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"'`\\".contains(byte);
    (fits && value.as_bytes().iter().all(is_plain)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&[u8]]) -> HeaderValue {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_REQUEST_ID, HeaderValue::from_bytes(value).expect("a value"));
        }
        RequestIds::default().of(&headers)
    }

    fn is_fresh(id: &HeaderValue) -> bool {
        id.len() == 16 && id.as_bytes().iter().all(u8::is_ascii_hexdigit)
    }

    #[test]
    fn an_id_that_is_sane_is_taken_over() {
        let longest = [b'x'; RECEIVED_BYTES_MAX];
        for sane in [&b"1"[..], b"Root=1-67891233-abcdef012345678912345678;a/b+c", &longest] {
            assert_eq!(of(&[sane]).as_bytes(), sane);
        }
    }

    #[test]
    fn any_other_is_replaced() {
        let too_long = [b'x'; RECEIVED_BYTES_MAX + 1];
        for odd in [&b""[..], b"a b", b"a\tb", b"a\"b", b"a'b", b"a\\b", b"\xc3\xa4", &too_long] {
            assert!(is_fresh(&of(&[odd])), "{odd:?}");
        }
        assert!(is_fresh(&of(&[])) && is_fresh(&of(&[b"a", b"a"])));
    }

    #[test]
    fn no_two_fresh_ids_are_the_same() {
        let ids = RequestIds::default();
        let of_none = || ids.of(&HeaderMap::new());
        assert_ne!(of_none(), of_none());
        assert_ne!(RequestIds::default().of(&HeaderMap::new()), of_none(), "nor after a start");
    }
}
