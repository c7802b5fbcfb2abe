//! Where nodes say they are. Anybody can register anything, so an endpoint is parsed strictly, and only public addresses are to be dialled.
//!
//! Otherwise a registration could send proxies and auditors to what only they can reach: the printer, the router, the metadata service of a cloud.
//! The name is resolved once, all its addresses are checked, and the connection goes to one of those: a second look-up could give others.

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use thiserror::Error;

/// Longest endpoint in bytes, as the registry bounds it.
const BYTES_MAX: usize = 256;

/// Which addresses may be dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Those that everybody can reach.
    #[default]
    Public,
    /// Also private ones and this machine: networks of one's own.
    Anywhere,
}

impl Reach {
    /// The reach that the flag `--allow-private-endpoints` asks for.
    pub fn allowing_private(allowed: bool) -> Self {
        if allowed { Self::Anywhere } else { Self::Public }
    }

    fn check(self, address: IpAddr) -> Result<(), EndpointError> {
        match self == Self::Anywhere || is_public(address) {
            true => Ok(()),
            false => Err(EndpointError::NotPublic(address)),
        }
    }
}

/// Why an endpoint is not dialled.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Not a URL.
    #[error(
        "an endpoint is a URL of at most {BYTES_MAX} bytes, as in https://node.example:8700; this is none: {0}"
    )]
    NotAUrl(String),
    /// A part that an endpoint may not have.
    #[error(
        "an endpoint has a scheme (http or https), a host, and if need be a port and a path; this one has {0}"
    )]
    Part(&'static str),
    /// An address that others cannot or should not reach.
    #[error("{0} is not a public address; on a network of your own, start with --allow-private-endpoints")]
    NotPublic(IpAddr),
}

/// The base URL of a node's API, without a final slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(String);

impl Endpoint {
    /// Parses what a node registered. A host that is a name is checked when it is dialled.
    ///
    /// # Errors
    /// [`EndpointError`] says what is wrong.
    pub fn parse(text: &str, reach: Reach) -> Result<Self, EndpointError> {
        let bad = |why: &str| Err(EndpointError::NotAUrl(why.to_owned()));
        if text.len() > BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return bad("too long, or not printable ASCII without spaces");
        }
        let url = Url::parse(text).map_err(|e| EndpointError::NotAUrl(e.to_string()))?;
        // Parsers of URLs forgive much; what is forgiven differs from one to the next.
        let rest = ["http://", "https://"].iter().find_map(|s| text.strip_prefix(s));
        let Some(rest) = rest else { return Err(EndpointError::Part("another scheme")) };
        if rest.starts_with(['/', ':', '?', '#']) || text.contains('\\') {
            return Err(EndpointError::Part("no host, or a backslash"));
        }
        if text.contains('@') || !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::Part("a user name or an @"));
        }
        if text.contains('?') || text.contains('#') {
            return Err(EndpointError::Part("a query or a fragment"));
        }
        if url.path().contains("//") || text.contains("/.") || text.contains('%') {
            return Err(EndpointError::Part("empty, relative or encoded parts of a path"));
        }
        // Other spellings of IPv4 addresses (decimal, octal, hexadecimal) are addresses here.
        let host = url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            reach.check(address)?;
        } else if host.is_empty() {
            return Err(EndpointError::Part("no host"));
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The URL, without a final slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether everybody can reach the address (IANA's registries of special addresses).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => is_public_v4(a),
        IpAddr::V6(a) => is_public_v6(a),
    }
}

fn is_public_v4(a: Ipv4Addr) -> bool {
    let [w, x, y, _] = a.octets();
    !(a.is_private()
        || a.is_loopback()
        || a.is_link_local()
        || a.is_documentation()
        || w == 0
        || w >= 224
        || (w == 100 && x & 0xc0 == 64)
        || (w, x, y) == (192, 0, 0)
        || (w, x, y) == (192, 88, 99)
        || (w == 198 && x & 0xfe == 18))
}

fn is_public_v6(a: Ipv6Addr) -> bool {
    let s = a.segments();
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // NAT64: the IPv4 address is in the last 32 bits.
        return is_public_v4(Ipv4Addr::from_bits(u32::from(s[6]) << 16 | u32::from(s[7])));
    }
    let is_global_unicast = s[0] & 0xe000 == 0x2000;
    let is_special = (s[0] == 0x2001 && s[1] < 0x200)
        || (s[0] == 0x2001 && s[1] == 0xdb8)
        || s[0] == 0x2002
        || (s[0] == 0x3fff && s[1] < 0x1000);
    is_global_unicast && !is_special
}

/// Resolves names and gives only addresses that may be dialled.
#[derive(Clone, Copy, Debug)]
struct Checked(Reach);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One that is not public among public ones is somebody's trick.
            found.iter().try_for_each(|address| reach.check(address.ip()))?;
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

/// Makes a client for requests to nodes bound to `reach`: it follows no redirects, uses no proxy of the system, and dials only addresses that it
/// has checked. The URLs must come from [`Endpoint`]s.
#[must_use]
pub fn bound(builder: reqwest::ClientBuilder, reach: Reach) -> reqwest::ClientBuilder {
    builder.redirect(reqwest::redirect::Policy::none()).no_proxy().dns_resolver(Arc::new(Checked(reach)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_are_plain_urls() {
        for (text, parsed) in [
            ("https://node.example", "https://node.example"),
            ("http://node.example:8700/", "http://node.example:8700"),
            ("https://node.example/og/base", "https://node.example/og/base"),
            ("https://8.8.8.8:1", "https://8.8.8.8:1"),
            ("https://[2606:4700::1111]:1", "https://[2606:4700::1111]:1"),
        ] {
            assert_eq!(Endpoint::parse(text, Reach::Public).unwrap().as_str(), parsed);
        }
        for text in [
            "",
            "node.example",
            "//node.example",
            "ftp://node.example",
            "file:///etc/passwd",
            "http:node.example",
            "http:///node.example",
            "https://",
            "http://a b",
            "http://node.example?x=",
            "http://node.example/#f",
            "http://user@node.example",
            "http://user:pass@node.example",
            "http://node.example\\@evil.example",
            "http://node.example/../x",
            "http://node.example/%2e%2e/",
            "http://node.example//x",
            "HTTP://node.example",
            "http://node.example/\u{e9}",
            "javascript:alert(1)",
            "http://[::1",
            "http://1.2.3.4.5/x:99999999",
        ] {
            assert!(Endpoint::parse(text, Reach::Anywhere).is_err(), "{text}");
        }
        assert!(Endpoint::parse(&format!("http://{}", "a".repeat(300)), Reach::Anywhere).is_err());
    }

    #[test]
    fn private_addresses_are_refused_however_they_are_spelt() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[::127.0.0.1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fd00:ec2::254]",
            "[ff02::1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::1]",
            "[3fff::1]",
            "[100::1]",
        ] {
            let text = format!("http://{host}:8700/");
            let refused = Endpoint::parse(&text, Reach::Public);
            assert!(matches!(refused, Err(EndpointError::NotPublic(_))), "{host}: {refused:?}");
            Endpoint::parse(&text, Reach::Anywhere).unwrap();
        }
        assert!(is_public("64:ff9b::808:808".parse().unwrap()));
    }

    fn client(reach: Reach) -> reqwest::Client {
        bound(reqwest::Client::builder(), reach).build().unwrap()
    }

    /// A server that says `answer` to everybody, and how often it was asked.
    async fn server(answer: &'static str) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, asked)
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_dialled() {
        let (port, asked) =
            server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await;
        // The name is fine as an endpoint; what it resolves to is not.
        for host in ["localhost", "LOCALHOST"] {
            let url =
                format!("{}/", Endpoint::parse(&format!("http://{host}:{port}"), Reach::Public).unwrap());
            let refused = client(Reach::Public).get(&url).send().await.unwrap_err();
            assert!(refused.is_connect(), "{refused:?}");
            assert!(format!("{refused:?}").contains("NotPublic"), "{refused:?}");
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 0);
        let answer = client(Reach::Anywhere).get(format!("http://localhost:{port}/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "hi");
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let (port, asked) = server(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
        .await;
        let answer = client(Reach::Anywhere).get(format!("http://127.0.0.1:{port}/")).send().await.unwrap();
        assert_eq!(answer.status(), 307);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_an_endpoint_or_an_error(text in "\\PC{0,80}", tail in "[a-z0-9.:/@?#%\\[\\]]{0,40}") {
            for text in [text, format!("http://{tail}")] {
                if let Ok(endpoint) = Endpoint::parse(&text, Reach::Public) {
                    // What is parsed again is the same, so everybody dials the same.
                    prop_assert_eq!(Endpoint::parse(endpoint.as_str(), Reach::Public), Ok(endpoint.clone()));
                    let url = Url::parse(endpoint.as_str()).unwrap();
                    prop_assert!(url.query().is_none() && url.fragment().is_none() && url.username().is_empty());
                }
            }
        }

        #[test]
        fn no_spelling_of_a_private_ipv4_address_passes(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            for host in [address.to_string(), bits.to_string(), format!("{bits:#x}"), format!("[::ffff:{address}]")] {
                let parsed = Endpoint::parse(&format!("http://{host}/"), Reach::Public);
                prop_assert!(parsed.is_err() || (is_public_v4(address) && !host.starts_with('[')));
            }
        }
    }
}
