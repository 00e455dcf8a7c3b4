//! Gateways.

use super::{Result, at_most, ensure};
use crate::{
    host::{is_address, is_domain, is_host},
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
