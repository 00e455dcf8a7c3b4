//! Addresses of the links between the node's own namespace and those of networks.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Addresses that never leave the node. RFC 2544's range for benchmarks: of those that no network
/// in the world uses, the one least likely to be a farmer's LAN or his provider's CGNAT.
pub const RANGE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);
/// A unique local prefix (RFC 4193) for the same purpose.
pub const RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd6c, 0x6f61, 0x6d00, 0, 0, 0, 0, 0), 64);

/// Which of the node's transit links a network has: 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Transit(u16);

/// One end of a transit link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// Two addresses and nothing else: RFC 3021 and RFC 6164.
pub const PREFIX_V4: u8 = 31;
pub const PREFIX_V6: u8 = 127;

impl Transit {
    /// The lowest that is not `taken`; none when all are.
    pub fn free(taken: impl IntoIterator<Item = Transit>) -> Option<Self> {
        let taken: std::collections::BTreeSet<u16> = taken.into_iter().map(|t| t.0).collect();
        (1..=u16::MAX).find(|n| !taken.contains(n)).map(Self)
    }

    /// The end in the node's own namespace.
    pub fn near(self) -> End {
        self.end(0)
    }

    /// The end in the network's namespace.
    pub fn far(self) -> End {
        self.end(1)
    }

    fn end(self, last: u32) -> End {
        let host = u32::from(self.0) * 2 + last;
        End {
            v4: Ipv4Addr::from_bits(RANGE_V4.network().to_bits() | host),
            v6: Ipv6Addr::from_bits(RANGE_V6.network().to_bits() | u128::from(host)),
        }
    }
}

impl End {
    pub fn addresses(self) -> [IpNet; 2] {
        // The prefix lengths are constants within the range of their families.
        [
            IpNet::V4(Ipv4Net::new_assert(self.v4, PREFIX_V4)),
            IpNet::V6(Ipv6Net::new_assert(self.v6, PREFIX_V6)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_link_is_taken() {
        assert_eq!(Transit::free([]), Some(Transit(1)));
        assert_eq!(Transit::free([Transit(1), Transit(3)]), Some(Transit(2)));
        assert_eq!(Transit::free((1..=u16::MAX).map(Transit)), None);
    }

    #[test]
    fn links_share_no_address_and_stay_in_range() {
        let (first, second, last) = (Transit(1), Transit(2), Transit(u16::MAX));
        assert_eq!(first.near().v4, Ipv4Addr::new(198, 18, 0, 2));
        assert_eq!(first.far().v4, Ipv4Addr::new(198, 18, 0, 3));
        assert_eq!(second.near().v4, Ipv4Addr::new(198, 18, 0, 4));
        assert_eq!(last.far().v4, Ipv4Addr::new(198, 19, 255, 255));
        assert!(RANGE_V4.contains(&last.far().v4));
        assert!(RANGE_V6.contains(&last.far().v6));
    }
}
