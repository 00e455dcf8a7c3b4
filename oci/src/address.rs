//! Where a registry is, and where it must not be.
//!
//! A tenant names the registry, and the node asks it: without this, tenants could have a node ask
//! what only the node itself, or the machine room's own services, may be asked.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustls::ClientConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anything but this node itself and addresses that only mean something on one link.
    Network,
    /// Loopback too: for tests, whose registry runs beside them.
    Anywhere,
}

impl Reach {
    pub fn allows(self, address: IpAddr) -> bool {
        if self == Self::Anywhere {
            return true;
        }
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                !(v4.is_loopback()
                    || v4.is_unspecified()
                    // Clouds answer questions about the machine's owner at one of these.
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast())
            }
            IpAddr::V6(v6) => {
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_unicast_link_local()
                    || v6.is_multicast())
            }
        }
    }

    /// Names are checked when they are resolved.
    pub fn allows_url(self, url: &Url) -> bool {
        url.host_str()
            .is_some_and(|host| ip(host).is_none_or(|address| self.allows(address)))
    }
}

/// How registries are asked.
#[derive(Clone, Debug)]
pub struct Outside {
    pub reach: Reach,
    /// By whose word a registry with a name is the one that has the name.
    pub tls: ClientConfig,
}

/// `https://host/v2/`; `http` for a registry named by its address or as `localhost`, which can have no
/// certificate. What comes from there is checked by its digest either way; what a tag names there is not.
pub fn base(registry: &str) -> Option<Url> {
    let url = Url::parse(&format!("https://{registry}/v2/")).ok()?;
    let host = url.host_str()?;
    if host == "localhost" || ip(host).is_some() {
        return Url::parse(&format!("http://{registry}/v2/")).ok();
    }
    Some(url)
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Resolves names by `/etc/resolv.conf` as it is at the first name, without the C library (whose
/// resolver a static binary does not have), and leaves out addresses that are out of reach.
#[derive(Clone, Debug)]
pub struct Resolver(pub Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let resolver = TokioResolver::builder_tokio()?.build()?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found
                .iter()
                .filter(|address| reach.allows(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if addresses.is_empty() {
                return Err(format!("{} has no address that a node may ask", name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_by_https_and_addresses_by_http() {
        let base = |registry| base(registry).map(|url| url.to_string());
        assert_eq!(
            base("registry.example").unwrap(),
            "https://registry.example/v2/"
        );
        assert_eq!(
            base("registry.example:5000").unwrap(),
            "https://registry.example:5000/v2/"
        );
        assert_eq!(base("10.0.2.2:5000").unwrap(), "http://10.0.2.2:5000/v2/");
        assert_eq!(base("[fd00::1]:5000").unwrap(), "http://[fd00::1]:5000/v2/");
        assert_eq!(base("localhost:5000").unwrap(), "http://localhost:5000/v2/");
        assert_eq!(base("[nonsense"), None);
    }

    #[test]
    fn the_node_itself_is_out_of_reach_however_it_is_written() {
        let allows = |url: &str| Reach::Network.allows_url(&Url::parse(url).unwrap());
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://0.0.0.0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/",
            "http://[fe80::1]/",
        ] {
            assert!(!allows(url), "{url}");
        }
        for url in [
            "http://10.0.2.2/",
            "http://[2001:db8::1]/",
            "https://registry.example/",
        ] {
            assert!(allows(url), "{url}");
        }
    }
}
