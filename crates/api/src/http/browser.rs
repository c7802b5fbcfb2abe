//! Rules that keep other people's web pages from using a server of yours through your browser.
//!
//! A browser lets any page send requests to `127.0.0.1`. It asks no permission for a form, and a page whose name the attacker points at
//! your address (DNS rebinding) may read the answers, too. Three things that a page cannot forge tell it apart: the `Host` that it thinks
//! it talks to, its `Origin`, and the content type, which a page can choose freely only after a preflight request.

use axum::http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{self, HeaderName},
    uri::Authority,
};
use futures::future::BoxFuture;
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};
use thiserror::Error;
use tower::{Layer, Service};

/// How long a browser may remember the answer to a preflight request, in seconds.
const PREFLIGHT_SECONDS: &str = "600";
/// Headers of answers that pages of allowed origins may read.
const EXPOSED: &str =
    "og-receipt-id, og-assurance, og-nonce, og-node, og-model, og-verified, og-replicas, retry-after";

/// A host or origin that cannot be allowed because it is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BrowserRulesError {
    /// Not a host name or address.
    #[error("`{0}` is not a host; write a name or an address, without scheme and path, as in node.example")]
    Host(String),
    /// Not an origin.
    #[error("`{0}` is not an origin; write scheme and host, without a path, as in https://app.example")]
    Origin(String),
}

/// Which hosts and origins a server answers. The default answers loopback names only, and no page at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrowserRules {
    /// Allowed names, in lower case, besides the loopback ones.
    hosts: Vec<String>,
    /// Allowed origins, as browsers write them.
    origins: Vec<String>,
    /// Any address may be the host: the server listens on all of them. A page cannot make a browser resolve an address to another one.
    any_address: bool,
}

impl BrowserRules {
    /// Rules that allow these hosts (names or addresses, of any port) and the pages of these origins, besides the loopback names.
    ///
    /// # Errors
    /// [`BrowserRulesError`] names the entry that is none.
    pub fn new(hosts: &[String], origins: &[String]) -> Result<Self, BrowserRulesError> {
        let host = |text: &String| name_of(text).ok_or_else(|| BrowserRulesError::Host(text.clone()));
        let origin = |text: &String| {
            let uri: Option<Uri> = text.parse().ok();
            let is_bare = uri.is_some_and(|u| {
                u.scheme().is_some() && u.authority().is_some() && u.path_and_query().is_none_or(|p| p == "/")
            });
            match is_bare {
                true => Ok(text.trim_end_matches('/').to_ascii_lowercase()),
                false => Err(BrowserRulesError::Origin(text.clone())),
            }
        };
        Ok(Self {
            hosts: hosts.iter().map(host).collect::<Result<_, _>>()?,
            origins: origins.iter().map(origin).collect::<Result<_, _>>()?,
            any_address: false,
        })
    }

    /// Allows the host of a URL under which the server is known, too. A text that is no URL allows nothing.
    #[must_use]
    pub fn known_as(mut self, url: &str) -> Self {
        let uri: Option<Uri> = url.parse().ok();
        self.hosts.extend(uri.and_then(|u| u.authority().and_then(|a| name_of(a.as_str()))));
        self
    }

    /// Allows the address that the server listens on, too; any address, when it listens on all.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        match address.ip().is_unspecified() {
            true => self.any_address = true,
            false => self.hosts.push(address.ip().to_string()),
        }
        self
    }

    fn allows_host(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        let address: Option<IpAddr> = name.parse().ok();
        name == "localhost"
            || name.ends_with(".localhost")
            || address.is_some_and(|a| a.is_loopback() || self.any_address)
            || self.hosts.contains(&name)
    }

    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|o| self.origins.contains(&o.to_ascii_lowercase()))
    }

    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, second) = (hosts.next(), hosts.next());
        let named = host.and_then(|h| h.to_str().ok()).is_some_and(|h| self.allows_host(h));
        let absolute = uri.authority().is_none_or(|a| self.allows_host(a.as_str()));
        if !named || !absolute || second.is_some() {
            return Err(Refusal::Host);
        }
        if headers.get_all(header::ORIGIN).iter().any(|o| !self.allows_origin(o)) {
            return Err(Refusal::Origin);
        }
        let typed = headers.get_all(header::CONTENT_TYPE).iter().collect::<Vec<_>>();
        // Nothing needs no type; such a request carries what it says in headers that a page may not send.
        let is_empty = typed.is_empty()
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && headers.get(header::CONTENT_LENGTH).is_none_or(|l| l == "0");
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method);
        match writes && !is_empty && !matches!(typed.as_slice(), [one] if is_json(one)) {
            true => Err(Refusal::ContentType),
            false => Ok(()),
        }
    }

    fn answer_headers(&self, origin: Option<&HeaderValue>, out: &mut HeaderMap) {
        // Without origins nothing varies with them.
        if self.origins.is_empty() {
            return;
        }
        out.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            out.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

/// The name or address in `host` or `host:port`, in lower case and without brackets or a final dot.
fn name_of(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    (!name.is_empty()).then(|| name.to_owned())
}

/// `application/json`, or another type whose syntax is JSON (RFC 6839), with or without parameters.
fn is_json(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Host,
    Origin,
    ContentType,
}

impl Refusal {
    fn respond<R: From<String>>(self) -> Response<R> {
        let (status, code, message) = match self {
            Self::Host => (
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                "this server does not answer under that host name; if it is yours, start the server with --allow-host",
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "origin_not_allowed",
                "pages of this origin may not use this server; if they are yours, start the server with --allow-origin",
            ),
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send JSON with the header content-type: application/json",
            ),
        };
        let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
        let mut response = Response::new(R::from(json!({"error": error}).to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// Puts [`BrowserRules`] in front of a service.
#[derive(Clone, Debug)]
pub struct BrowserLayer(Arc<BrowserRules>);

impl BrowserLayer {
    /// A layer with these rules.
    pub fn new(rules: BrowserRules) -> Self {
        Self(Arc::new(rules))
    }
}

impl<S> Layer<S> for BrowserLayer {
    type Service = BrowserService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BrowserService { inner, rules: self.0.clone() }
    }
}

/// A service behind [`BrowserRules`].
#[derive(Clone, Debug)]
pub struct BrowserService<S> {
    inner: S,
    rules: Arc<BrowserRules>,
}

impl<S, B, R> Service<Request<B>> for BrowserService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: From<String> + Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let headers = request.headers();
        if let Err(refusal) = self.rules.check(request.method(), request.uri(), headers) {
            return Box::pin(async move { Ok(refusal.respond()) });
        }
        let origin = headers.get(header::ORIGIN).cloned();
        let rules = self.rules.clone();
        if origin.is_some() && is_preflight(request.method(), headers) {
            let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            return Box::pin(async move { Ok(preflight(&rules, origin.as_ref(), wanted)) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            rules.answer_headers(origin.as_ref(), response.headers_mut());
            Ok(response)
        })
    }
}

fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight<R: From<String>>(
    rules: &BrowserRules,
    origin: Option<&HeaderValue>,
    wanted: Option<HeaderValue>,
) -> Response<R> {
    let mut response = Response::new(R::from(String::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let out = response.headers_mut();
    rules.answer_headers(origin, out);
    let mut add = |name: HeaderName, value: &'static str| out.insert(name, HeaderValue::from_static(value));
    add(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
    add(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    if let Some(wanted) = wanted {
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::{
        Router,
        body::Body,
        routing::{get, post},
    };
    use tower::ServiceExt as _;

    fn rules() -> BrowserRules {
        BrowserRules::new(&["Node.Example".into()], &["https://app.example".into()])
            .unwrap()
            .listening_on("10.1.2.3:80".parse().unwrap())
            .known_as("https://other.example:8700/base")
    }

    async fn send(rules: BrowserRules, request: &[(&str, &str)], method: &str) -> Response<Body> {
        let router = Router::new().route("/", get(|| async { "read" }).merge(post(|| async { "spent" })));
        let mut built = Request::builder().method(method).uri("/");
        for (name, value) in request {
            built = built.header(*name, *value);
        }
        router.layer(BrowserLayer::new(rules)).oneshot(built.body(Body::from("{}")).unwrap()).await.unwrap()
    }

    async fn status(headers: &[(&str, &str)], method: &str) -> u16 {
        send(rules(), headers, method).await.status().as_u16()
    }

    const LOCAL: (&str, &str) = ("host", "127.0.0.1:8600");
    const JSON: (&str, &str) = ("content-type", "application/json");

    #[tokio::test]
    async fn only_known_hosts_are_answered() {
        for host in [
            "127.0.0.1:8600",
            "127.9.9.9",
            "localhost",
            "LOCALHOST.:1",
            "app.localhost:1",
            "[::1]:8600",
            "10.1.2.3:9",
            "node.example",
            "node.example:443",
            "other.example",
        ] {
            assert_eq!(status(&[("host", host)], "GET").await, 200, "{host}");
        }
        for host in [
            "rebind.evil.example",
            "10.9.9.9",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a@127.0.0.1",
            "2130706433",
        ] {
            assert_eq!(status(&[("host", host)], "GET").await, 403, "{host}");
        }
        assert_eq!(status(&[], "GET").await, 403);
        assert_eq!(status(&[LOCAL, ("host", "evil.example")], "GET").await, 403);
        let everywhere = BrowserRules::default().listening_on("0.0.0.0:80".parse().unwrap());
        assert_eq!(send(everywhere.clone(), &[("host", "203.0.113.7:80")], "GET").await.status(), 200);
        assert_eq!(send(everywhere, &[("host", "evil.example")], "GET").await.status(), 403);
    }

    #[tokio::test]
    async fn a_form_cannot_be_posted() {
        for kind in [
            "application/x-www-form-urlencoded",
            "text/plain",
            "multipart/form-data; boundary=x",
            "text/json",
            "",
        ] {
            assert_eq!(status(&[LOCAL, ("content-type", kind)], "POST").await, 415, "{kind}");
        }
        assert_eq!(status(&[LOCAL, ("content-length", "2")], "POST").await, 415);
        assert_eq!(status(&[LOCAL, ("transfer-encoding", "chunked")], "POST").await, 415);
        assert_eq!(status(&[LOCAL, JSON, ("content-type", "text/plain")], "POST").await, 415);
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert_eq!(status(&[LOCAL, ("content-type", kind)], "POST").await, 200, "{kind}");
        }
        assert_eq!(status(&[LOCAL], "POST").await, 200, "nothing needs no type");
    }

    #[tokio::test]
    async fn only_allowed_origins_are_answered() {
        for origin in [
            "https://evil.example",
            "null",
            "http://app.example",
            "https://app.example.evil.example",
            "http://127.0.0.1:8600",
        ] {
            assert_eq!(status(&[LOCAL, ("origin", origin)], "GET").await, 403, "{origin}");
            let asked = [LOCAL, ("origin", origin), ("access-control-request-method", "POST")];
            let answer = send(rules(), &asked, "OPTIONS").await;
            assert_eq!(answer.status(), 403);
            assert!(!answer.headers().contains_key("access-control-allow-origin"));
        }
        let answer = send(rules(), &[LOCAL, JSON, ("origin", "https://app.example")], "POST").await;
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
        assert_eq!(answer.headers()["vary"], "origin");
        let asked = [
            LOCAL,
            ("origin", "https://app.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,og-assurance"),
        ];
        let answer = send(rules(), &asked, "OPTIONS").await;
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()["access-control-allow-headers"], "content-type,og-assurance");
    }

    #[tokio::test]
    async fn by_default_nothing_is_said_about_origins() {
        let answer = send(BrowserRules::default(), &[LOCAL], "GET").await;
        assert!(answer.headers().keys().all(|k| !k.as_str().starts_with("access-control")));
        assert_eq!(
            send(BrowserRules::default(), &[LOCAL, ("origin", "https://app.example")], "GET").await.status(),
            403
        );
    }

    #[test]
    fn what_is_no_host_or_origin_is_refused() {
        for host in ["http://a.example", "a b", "", "a/b"] {
            assert_eq!(BrowserRules::new(&[host.into()], &[]), Err(BrowserRulesError::Host(host.into())));
        }
        for origin in ["*", "app.example", "https://app.example/path", ""] {
            assert_eq!(
                BrowserRules::new(&[], &[origin.into()]),
                Err(BrowserRulesError::Origin(origin.into()))
            );
        }
    }
}
