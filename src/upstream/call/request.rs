//! What an operation asks of its registry.

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use url::Url;

use crate::oci::Repository;
use crate::upstream::error::Operation;
use crate::upstream::transport::request::{HttpRequest, RequestBody};

/// One operation's request, in whole; everything that reaches an upstream is made from it.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Call<'a> {
    pub(in crate::upstream) operation: Operation,
    pub(in crate::upstream) method: Method,
    pub(in crate::upstream) url: Url,
    /// Whose credential is used.
    pub(in crate::upstream) repository: &'a Repository,
    /// What a token has to allow: one scope, or several with a space in between.
    pub(in crate::upstream) scope: String,
    pub(in crate::upstream) accept: &'static str,
    /// Further headers.
    pub(in crate::upstream) headers: HeaderMap,
    /// The body, unless it is a stream.
    pub(in crate::upstream) content: Option<Bytes>,
}

impl<'a> Call<'a> {
    /// A GET that needs the right to pull.
    pub(in crate::upstream) fn get(
        operation: Operation,
        repository: &'a Repository,
        url: Url,
        accept: &'static str,
    ) -> Self {
        let (method, scope) = (Method::GET, format!("repository:{repository}:pull"));
        let headers = HeaderMap::new();
        Self { operation, method, url, repository, scope, accept, headers, content: None }
    }

    pub(super) fn request(&self, url: &Url, authorization: Option<&HeaderValue>) -> HttpRequest {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        headers.extend(self.headers.clone());
        headers.extend(authorization.cloned().map(|value| (AUTHORIZATION, value)));
        let body = self.content.clone().map_or(RequestBody::Empty, RequestBody::Bytes);
        HttpRequest { method: self.method.clone(), url: url.clone(), headers, body }
    }
}
