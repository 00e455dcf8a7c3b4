//! Which of the node's addresses its record names: each change of the record is paid for, so it shall
//! change seldom, and what it names shall last.

use std::{collections::BTreeSet, net::IpAddr};

use loam_node_api::network::Uplink;

/// The contract's limit on the text.
const MOST_BYTES: usize = 256;

/// Addresses under which tenants reach the node, with spaces between, global ones first: as many
/// whole ones as fit, of each IPv6 network one. Of several that serve the one in `registered` stays,
/// so that the temporary ones that come and go beside it change nothing.
pub fn addresses(uplink: &Uplink, registered: &str) -> String {
    let registered = parse(registered);
    let mut candidates: Vec<IpAddr> = uplink
        .addresses
        .iter()
        .map(|net| net.addr())
        .filter(|address| is_reachable(*address))
        .collect();
    candidates.sort_by_key(|address| {
        let known = registered.contains(address);
        (!known, !is_lasting(*address), *address)
    });
    let mut networks = BTreeSet::new();
    candidates.retain(|address| networks.insert(network(*address)));
    // What is chosen stands; its order is by the addresses alone.
    candidates.sort_by_key(|address| (!is_global(*address), *address));
    let mut text = String::new();
    for address in candidates {
        let address = address.to_string();
        let space = usize::from(!text.is_empty());
        if text.len() + space + address.len() > MOST_BYTES {
            break;
        }
        if space == 1 {
            text.push(' ');
        }
        text.push_str(&address);
    }
    text
}

/// Whether any address of the record still leads here.
pub fn leads_here(uplink: &Uplink, registered: &str) -> bool {
    let registered = parse(registered);
    uplink
        .addresses
        .iter()
        .any(|net| registered.contains(&net.addr()))
}

fn parse(text: &str) -> BTreeSet<IpAddr> {
    text.split(' ')
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn is_reachable(address: IpAddr) -> bool {
    !address.is_loopback()
        && !address.is_unspecified()
        && match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        // RFC 1918, and RFC 6598: the provider's own network behind its NAT.
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            !address.is_private() && !is_shared
        }
        // RFC 4193, and a site's (RFC 3879).
        IpAddr::V6(address) => {
            let is_of_a_site = address.segments()[0] & 0xffc0 == 0xfec0;
            !address.is_unique_local() && !is_of_a_site
        }
    }
}

/// Made from the link's own address (EUI-64): it stays for as long as the network's prefix does.
fn is_lasting(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => address.octets()[11..13] == [0xff, 0xfe],
    }
}

/// An IPv4 address stands for itself, an IPv6 address for its /64.
fn network(address: IpAddr) -> (bool, u64) {
    match address {
        IpAddr::V4(address) => (false, u32::from(address).into()),
        IpAddr::V6(address) => (true, (u128::from(address) >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(addresses: &[&str]) -> Uplink {
        let net = |address: &&str| {
            let address: IpAddr = address.parse().unwrap();
            ipnet::IpNet::new_assert(address, if address.is_ipv4() { 24 } else { 64 })
        };
        Uplink {
            addresses: addresses.iter().map(net).collect(),
            ..Uplink::default()
        }
    }

    #[test]
    fn global_ones_come_first_and_one_of_each_network() {
        let uplink = uplink(&[
            "fe80::1",
            "10.0.2.15",
            "fd00::5",
            "2001:db8:0:1:11b2:c3d4:e5f6:7",
            "2001:db8:0:1:5054:ff:fe12:3456",
            "203.0.113.9",
            "2001:db8:0:2::9",
        ]);
        assert_eq!(
            addresses(&uplink, ""),
            "203.0.113.9 2001:db8:0:1:5054:ff:fe12:3456 2001:db8:0:2::9 10.0.2.15 fd00::5"
        );
    }

    #[test]
    fn a_temporary_address_changes_nothing() {
        let before = uplink(&["2001:db8::a", "2001:db8::b", "10.0.2.15"]);
        let text = addresses(&before, "");
        let after = uplink(&["10.0.2.15", "2001:db8::1", "2001:db8::a"]);
        assert_eq!(addresses(&after, &text), text);
        // The one that was named is gone.
        let moved = uplink(&["10.0.2.15", "2001:db8::1"]);
        assert_eq!(addresses(&moved, &text), "2001:db8::1 10.0.2.15");
        assert!(leads_here(&moved, &text));
        assert!(!leads_here(&uplink(&["2001:db8::1"]), &text));
    }

    #[test]
    fn what_the_world_reaches_is_told_from_what_a_provider_hides() {
        for (address, global) in [
            ("100.63.255.255", true),
            ("100.64.0.0", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("8.100.0.1", true),
            ("10.0.2.15", false),
            ("2001:db8::1", true),
            ("fd00::1", false),
            ("febf::1", true),
            ("fec0::1", false),
            ("feff::1", false),
            ("ff00::1", true),
        ] {
            assert_eq!(is_global(address.parse().unwrap()), global, "{address}");
        }
    }

    #[test]
    fn as_many_are_named_as_fit() {
        for (last, fits) in [("2001:db8:1111::1", true), ("2001:db8:1111::12", false)] {
            let many: Vec<String> = (100..115).map(|n| format!("203.113.100.{n}")).collect();
            let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
            all.push(last);
            let text = addresses(&uplink(&all), "");
            assert_eq!(text.ends_with(last), fits);
            assert_eq!(text.len(), if fits { MOST_BYTES } else { 15 * 16 - 1 });
        }
    }

    #[test]
    fn no_address_is_cut_in_two() {
        let many: Vec<String> = (0..40)
            .map(|n| format!("2001:db8:{n:x}:ffff:ffff:ffff:ffff:ffff"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = addresses(&uplink(&many), "");
        assert!((200..=MOST_BYTES).contains(&text.len()), "{}", text.len());
        for word in text.split(' ') {
            assert!(many.contains(&word), "{word}");
        }
    }
}
