//! Addresses of the links between the node's own namespace and those of networks.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

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
#[serde(try_from = "u16")]
pub struct Transit(u16);

/// There is no such link: the first addresses of the range stay unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("0 is no transit link")]
pub struct NoTransit;

impl TryFrom<u16> for Transit {
    type Error = NoTransit;

    fn try_from(number: u16) -> Result<Self, NoTransit> {
        (number > 0).then_some(Self(number)).ok_or(NoTransit)
    }
}

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
    /// One that is not `taken`; none when all are. Behind the highest first, so that a link that
    /// was just removed is not taken at once.
    pub fn free(taken: &BTreeSet<Transit>) -> Option<Self> {
        let highest = taken.last().map_or(0, |transit| transit.0);
        if let Some(next) = highest.checked_add(1) {
            return Some(Self(next));
        }
        // All numbers up to a gap are those before it.
        let mut numbers = (1..=u16::MAX).zip(taken);
        numbers.find_map(|(n, transit)| (transit.0 != n).then_some(Self(n)))
    }

    /// Whose near end has this address.
    pub fn of_near(address: Ipv4Addr) -> Option<Self> {
        let host = address
            .to_bits()
            .checked_sub(RANGE_V4.network().to_bits())?;
        let transit = Self::try_from(u16::try_from(host / 2).ok()?).ok()?;
        (transit.near().v4 == address).then_some(transit)
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
            v4: Ipv4Addr::from_bits(RANGE_V4.network().to_bits() + host),
            v6: Ipv6Addr::from_bits(RANGE_V6.network().to_bits() + u128::from(host)),
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
    fn a_free_link_is_one_that_nobody_has() {
        let taken = |numbers: &[u16]| numbers.iter().map(|n| Transit(*n)).collect();
        assert_eq!(Transit::free(&taken(&[])), Some(Transit(1)));
        assert_eq!(Transit::free(&taken(&[1, 3])), Some(Transit(4)));
        // At the end of the numbers, the gaps are used.
        assert_eq!(Transit::free(&taken(&[u16::MAX])), Some(Transit(1)));
        assert_eq!(Transit::free(&taken(&[1, 3, u16::MAX])), Some(Transit(2)));
        let all_but_last: BTreeSet<_> = (1..u16::MAX).map(Transit).collect();
        assert_eq!(Transit::free(&all_but_last), Some(Transit(u16::MAX)));
        let all: BTreeSet<_> = (1..=u16::MAX).map(Transit).collect();
        assert_eq!(Transit::free(&all), None);
    }

    #[test]
    fn the_ends_of_a_link_are_on_a_network_of_their_own() {
        let [near, far] = [Transit(300).near(), Transit(300).far()];
        let nets = |nets: [&str; 2]| nets.map(|net| net.parse().unwrap());
        assert_eq!(
            near.addresses(),
            nets(["198.18.2.88/31", "fd6c:6f61:6d00::258/127"])
        );
        assert_eq!(
            far.addresses(),
            nets(["198.18.2.89/31", "fd6c:6f61:6d00::259/127"])
        );
        assert!(near.addresses()[0].contains(&far.addresses()[0].addr()));
        assert!(near.addresses()[1].contains(&far.addresses()[1].addr()));
    }

    #[test]
    fn a_link_is_known_by_the_address_of_its_near_end() {
        for transit in [Transit(1), Transit(2), Transit(300), Transit(u16::MAX)] {
            assert_eq!(Transit::of_near(transit.near().v4), Some(transit));
            assert_eq!(Transit::of_near(transit.far().v4), None);
        }
        for foreign in ["198.18.0.0", "198.17.255.254", "198.20.0.0", "10.0.0.2"] {
            assert_eq!(
                Transit::of_near(foreign.parse().unwrap()),
                None,
                "{foreign}"
            );
        }
    }

    #[test]
    fn a_record_holds_no_link_that_there_is_not() {
        assert_eq!(serde_json::from_str::<Transit>("7").unwrap(), Transit(7));
        assert!(serde_json::from_str::<Transit>("0").is_err());
        assert!(serde_json::from_str::<Transit>("65536").is_err());
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
