//! How hosts are written: domains, addresses, ports.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::DOMAIN_BYTES;

/// Where a registry is: a host, with a port or without.
pub(crate) fn is_registry(text: &str) -> bool {
    is_host(text) || is_address(text)
}

/// `host:port`.
pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        is_host(host) && digits && port.parse::<u16>().is_ok()
    })
}

/// A domain, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn is_host(text: &str) -> bool {
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
pub(crate) fn is_domain(text: &str) -> bool {
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
    text.len() <= DOMAIN_BYTES && text.split('.').all(label) && last_is_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_port() {
        for host in [
            "a",
            "localhost",
            "a-b.example.org",
            "10.0.2.2",
            "[fd00::1]",
            "1a.b2",
        ] {
            assert!(is_host(host), "{host}");
            assert!(is_address(&format!("{host}:65535")), "{host}");
            assert!(!is_address(host), "{host}");
        }
        for host in [
            "",
            "-a",
            "a-",
            "a..b",
            ".a",
            "A",
            "a_b",
            "1.2.3",
            "1.2.3.4.5",
            "fd00::1",
            "[x]",
        ] {
            assert!(!is_host(host), "{host}");
        }
        for address in ["a:", "a:0", "a:080", "a:65536", "a:+1", ":80", "a:b"] {
            assert!(!is_address(address), "{address}");
        }
    }
}
