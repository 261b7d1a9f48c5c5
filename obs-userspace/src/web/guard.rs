//! Who may ask: whether the request is meant for us, comes from our own page, and whose token it has.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::{
    HeaderMap, Method, StatusCode, Version,
    header::{AUTHORIZATION, HOST, HeaderName, ORIGIN},
};

use super::{
    credentials::Credentials,
    refusal::Refusal,
    tokens::{Holder, Role, Tokens},
};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody who reaches the server: what probes and the page itself need.
    Open,
    /// Those with this role, or with one that may do more.
    Role(Role),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) peer: SocketAddr,
}

/// What the server knows of who may ask.
pub(super) struct Guard {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Asked for every request anew: a token that was revoked has no rights on a connection that is open already.
    pub(super) credentials: Arc<Credentials>,
}

impl Guard {
    /// On loopback, a page from elsewhere could reach us through a name of its own that leads to 127.0.0.1 (DNS rebinding); its
    /// requests carry that name.
    pub(super) fn check_host(
        &self,
        version: Version,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<(), Refusal> {
        let wrong = |why: &'static str| {
            let hint = "ask for it as http://127.0.0.1:PORT or http://localhost:PORT";
            Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "will not answer", why, hint))
        };
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next(), authority) {
            (Some(_), Some(_), _) => return wrong("there are two Host headers"),
            (None, _, None) if version < Version::HTTP_11 && !self.address.ip().is_loopback() => return Ok(()),
            (None, _, None) => return wrong("there is no Host header"),
            (_, _, Some(authority)) => authority,
            (Some(host), None, None) => match host.to_str() {
                Ok(host) => host,
                Err(_) => return wrong("the Host header is not ASCII"),
            },
        };
        if !self.address.ip().is_loopback() || is_local(host) {
            return Ok(());
        }
        wrong("the Host header names another host, so this may be the request of a page from elsewhere")
    }

    /// Changes are not taken from other sites' pages. (Browsers ask first, and we never allow; this is for those that do not.)
    pub(super) fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        if method == Method::GET || method == Method::HEAD {
            return Ok(());
        }
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let refused = || {
            let why = "the request comes from the page of another site";
            Err(Refusal::forbidden(why, "use the page of this agent, or a program"))
        };
        if let Some(site) = text(&HeaderName::from_static("sec-fetch-site"))
            && !matches!(site, "same-origin" | "none")
        {
            return refused();
        }
        if headers.contains_key(ORIGIN) {
            let origin = text(&ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
            if origin.is_none() || origin != text(&HOST) {
                return refused();
            }
        }
        Ok(())
    }

    /// Who asks, and whether they may.
    pub(super) fn caller(
        &self,
        access: Access,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<Option<Caller>, Refusal> {
        let Access::Role(needed) = access else { return Ok(None) };
        let tokens = self.credentials.tokens();
        let caller = match &tokens {
            Some(tokens) => {
                let Holder { name, role } = holder(tokens, headers)?;
                Caller { name: name.to_string(), role: *role, peer }
            }
            // Without tokens we listen on loopback only: whoever is on this host may look.
            None => Caller { name: "anonymous".to_owned(), role: Role::Viewer, peer },
        };
        if caller.role < needed {
            tracing::warn!(actor = %caller.name, "a request was refused that needs the role operator");
            return Err(if tokens.is_some() {
                Refusal::forbidden("the token's role is `viewer`", "use a token with the role `operator`")
            } else {
                let hint = "name a token file with an operator's token in the agent's configuration (http.token_file)";
                Refusal::forbidden("without a token file, nobody may change anything", hint)
            });
        }
        Ok(Some(caller))
    }
}

fn holder<'a>(tokens: &'a Tokens, headers: &HeaderMap) -> Result<&'a Holder, Refusal> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(Refusal::unauthorized("there is no Authorization header, or more than one"));
    };
    let bytes = value.as_bytes();
    let is_bearer = bytes.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    if !is_bearer {
        return Err(Refusal::unauthorized("the Authorization header is not of the form `Bearer TOKEN`"));
    }
    tokens.holder(bytes[7..].trim_ascii()).ok_or_else(|| {
        tracing::warn!("a request with an unknown token was refused");
        Refusal::unauthorized("the token is not known")
    })
}

/// Whether an authority names this host as seen from itself: `localhost` or a loopback address, with or without a port.
fn is_local(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_loopback = address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        return is_loopback && is_port(port);
    }
    let (name, port) = authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon));
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    (is_loopback || name.eq_ignore_ascii_case("localhost")) && is_port(port)
}

/// Nothing, or a colon and a number.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn guard(address: &str) -> Guard {
        Guard { address: address.parse().unwrap(), credentials: Arc::default() }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn on_loopback_only_names_of_this_host_are_answered() {
        let guard = guard("127.0.0.1:7373");
        for host in ["127.0.0.1", "127.0.0.1:7373", "127.9.9.9:1", "localhost", "LocalHost:8080", "[::1]:7373", "[::1]"]
        {
            let headers = headers(&[("host", host)]);
            assert!(guard.check_host(Version::HTTP_11, &headers, None).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1:7373",
            "",
            "[::1",
            "[::2]",
            "127.0.0.1:x",
            "localhost:",
            "localhost:99999",
            "a@localhost",
            "[127.0.0.1]x",
        ] {
            let headers = headers(&[("host", host)]);
            assert!(guard.check_host(Version::HTTP_11, &headers, None).is_err(), "{host}");
        }
        let two = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(guard.check_host(Version::HTTP_11, &two, None).is_err());
        assert!(guard.check_host(Version::HTTP_10, &HeaderMap::new(), None).is_err());
        let local = headers(&[("host", "localhost")]);
        assert!(guard.check_host(Version::HTTP_11, &local, Some("evil.example")).is_err());
    }

    #[test]
    fn changes_come_from_our_own_page_or_from_programs() {
        let guard = guard("127.0.0.1:7373");
        let put = |pairs| guard.check_origin(&Method::PUT, &headers(pairs)).is_ok();
        assert!(put(&[("host", "localhost:7373")]));
        assert!(put(&[("host", "localhost:7373"), ("origin", "http://localhost:7373")]));
        assert!(put(&[("sec-fetch-site", "same-origin")]));
        assert!(!put(&[("host", "localhost:7373"), ("origin", "http://localhost:8080")]));
        assert!(!put(&[("host", "localhost:7373"), ("origin", "null")]));
        assert!(!put(&[("sec-fetch-site", "cross-site")]));
        assert!(!put(&[("sec-fetch-site", "same-site")]));
        assert!(guard.check_origin(&Method::GET, &headers(&[("sec-fetch-site", "cross-site")])).is_ok());
    }
}
