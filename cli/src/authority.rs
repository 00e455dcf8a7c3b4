//! A host and a port as URLs and dialled addresses have them.

/// An IPv6 address stands in brackets there (RFC 3986, section 3.2.2), so that its colons are not taken for
/// the port's.
pub fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_stands_in_brackets() {
        assert_eq!(authority("2001:db8::1", 80), "[2001:db8::1]:80");
        assert_eq!(authority("192.0.2.1", 80), "192.0.2.1:80");
        assert_eq!(authority("NODE", 80), "NODE:80");
    }
}
