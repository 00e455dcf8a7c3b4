//! Which of the name servers that several sources give are asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// glibc, in machines, reads no more (resolv.conf(5), `MAXNS`), and who waits for a third has waited
/// for ten seconds.
const MOST: usize = 3;

/// Those of DHCPv4 before those of DHCPv6 before those of routers: RFC 8106 5.3.1 has DHCP before
/// routers, and machines always have IPv4 and seldom IPv6. Each source has its best one in the list as
/// long as there is room, which the RFC recommends: a source that gives many does not keep out the only
/// server that answers.
pub fn merged(dhcpv4: &[Ipv4Addr], ipv6: &[&[Ipv6Addr]]) -> Vec<IpAddr> {
    let dhcpv4: Vec<IpAddr> = dhcpv4.iter().copied().map(IpAddr::V4).collect();
    let ipv6 = ipv6.iter().map(|list| list.iter().copied().map(IpAddr::V6));
    let mut all: Vec<(usize, IpAddr)> = Vec::new();
    let sources = [dhcpv4].into_iter().chain(ipv6.map(Iterator::collect));
    for source in sources {
        for (rank, server) in source.into_iter().enumerate() {
            if !all.iter().any(|(_, other)| *other == server) {
                all.push((rank, server));
            }
        }
    }
    // Who goes when there is no room: of the later choices the last, then of the best ones the last.
    while all.len() > MOST {
        let later = all.iter().rposition(|(rank, _)| *rank > 0);
        all.remove(later.unwrap_or(all.len() - 1));
    }
    all.into_iter().map(|(_, server)| server).collect()
}

/// resolv.conf(5).
pub fn resolv_conf(servers: &[IpAddr]) -> String {
    let line = |server: &IpAddr| format!("nameserver {server}\n");
    servers.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, number)
    }

    fn v6(number: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)
    }

    fn list(v4s: &[u8], v6s: &[u16]) -> Vec<IpAddr> {
        let v4s = v4s.iter().map(|n| IpAddr::V4(v4(*n)));
        v4s.chain(v6s.iter().map(|n| IpAddr::V6(v6(*n)))).collect()
    }

    #[test]
    fn three_are_asked_and_each_source_is_heard() {
        let many = [v4(1), v4(2), v4(3), v4(4)];
        assert_eq!(merged(&many, &[]), list(&[1, 2, 3], &[]));
        assert_eq!(merged(&many, &[&[], &[v6(1), v6(2)]]), list(&[1, 2], &[1]));
        let both: [&[Ipv6Addr]; 2] = [&[v6(1), v6(2)], &[v6(3)]];
        assert_eq!(merged(&many, &both), list(&[1], &[1, 3]));
        assert_eq!(merged(&[], &both), list(&[], &[1, 2, 3]));
        let same: [&[Ipv6Addr]; 2] = [&[v6(1)], &[v6(1), v6(2)]];
        assert_eq!(merged(&[v4(1), v4(1)], &same), list(&[1], &[1, 2]));
        let links: [&[Ipv6Addr]; 4] = [&[v6(1)], &[v6(2)], &[v6(3)], &[v6(4)]];
        assert_eq!(merged(&[v4(1)], &links), list(&[1], &[1, 2]));
        assert!(merged(&[], &[]).is_empty());
    }

    #[test]
    fn resolvers_read_a_line_for_each() {
        let text = resolv_conf(&list(&[1], &[1]));
        assert_eq!(text, "nameserver 192.0.2.1\nnameserver 2001:db8::1\n");
    }
}
