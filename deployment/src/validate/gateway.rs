//! Gateways.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Result, at_most, ensure};
use crate::{
    limits,
    payload::{Gateway, GatewayHost, GatewayTls},
};

pub(super) fn check(gateway: &Gateway, path: &str) -> Result {
    if let GatewayHost::Domain(domain) = &gateway.host {
        let valid = is_domain(domain) && domain.contains('.');
        ensure(
            &format!("{path}.domain"),
            valid,
            "is not a domain's name in lower case",
        )?;
    }
    let path = format!("{path}.backends");
    ensure(
        &path,
        !gateway.backends.is_empty(),
        "must name at least one backend",
    )?;
    at_most(&path, gateway.backends.len(), limits::BACKENDS, "entries")?;
    for (index, backend) in gateway.backends.iter().enumerate() {
        let path = format!("{path}[{index}]");
        at_most(&path, backend.len(), limits::BACKEND_BYTES, "bytes")?;
        match gateway.tls {
            GatewayTls::Terminate => ensure(
                &path,
                is_url(backend) || is_address(backend),
                "is neither an http:// or https:// URL nor an address with a port",
            )?,
            // What is passed through is not HTTP that a path could choose in.
            GatewayTls::Passthrough => {
                ensure(&path, is_address(backend), "must be an address with a port")?;
            }
        }
    }
    Ok(())
}

/// `http://host[:port][/path]`, without user, query or fragment.
fn is_url(text: &str) -> bool {
    let Some(rest) = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
    else {
        return false;
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path_ok = path
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
    path_ok && (is_host(host) || is_address(host))
}

/// `host:port`.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        is_host(host) && digits && port.parse::<u16>().is_ok()
    })
}

/// A domain, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => text.parse::<Ipv4Addr>().is_ok() || is_domain(text),
    }
}

/// Labels of letters, digits and inner hyphens (RFC 1123 section 2.1), in lower case. The last
/// label is not all digits, so that no address is taken for a domain.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_name = text
        .rsplit('.')
        .next()
        .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= limits::DOMAIN_BYTES && text.split('.').all(label) && last_is_name
}
