//! What the routers of a link have said, and for how long it holds: pure.

use std::{net::Ipv6Addr, time::Duration};

use super::{advertisement::Advertisement, is_routable};
use crate::uplink::{dhcpv6::Want, lease::Mtu, moment::Moment};

/// More than a link has. Who makes up more only makes us forget the one that was silent longest.
const ROUTERS: usize = 8;
/// RFC 8106 6.2 has the list be long enough; of a longer one nobody reads the end.
const SERVERS: usize = 8;

/// RFC 4861 6.2.1: `MaxRtrAdvInterval` is at most half an hour. A router that has been silent for
/// three times as long says nothing any more, unless it said that it is one for longer: RFC 8319 4 lets it be
/// silent for 65,535 s, if its lifetime is no shorter than that (RFC 4861 6.2.1).
const SILENT: Duration = Duration::from_secs(3 * 1800);
/// As long as a router may be silent, what an earlier netd heard is believed.
const ADOPTED: u32 = 1800;

/// RFC 4861 10: `MAX_RTR_SOLICITATIONS` and `RTR_SOLICITATION_INTERVAL`. The kernel asks as well when
/// the link comes up; we begin when its first answer should have come, for a netd that starts later.
const SOLICITATIONS: u8 = 3;
const SOLICITATION_INTERVAL: Duration = Duration::from_secs(4);
const SOLICITATION_DELAY: Duration = Duration::from_secs(3);

/// RFC 4861 4.6: a lifetime of all ones has no end.
const ENDLESS: u32 = u32::MAX;

#[derive(Debug)]
pub struct Routers {
    routers: Vec<Router>,
    /// In the order in which they were first named.
    servers: Vec<Server>,
    solicited: u8,
    solicit_at: Moment,
}

#[derive(Debug)]
struct Router {
    address: Ipv6Addr,
    want: Want,
    mtu: Option<Mtu>,
    until: Moment,
}

#[derive(Debug)]
struct Server {
    address: Ipv6Addr,
    until: Moment,
}

impl Routers {
    /// `adopted` are the name servers that an earlier netd heard of.
    pub fn new(now: Moment, adopted: &[Ipv6Addr]) -> Self {
        let mut routers = Self {
            routers: Vec::new(),
            servers: Vec::new(),
            solicited: 0,
            solicit_at: now + SOLICITATION_DELAY,
        };
        for address in adopted {
            routers.take(now, *address, ADOPTED);
        }
        routers
    }

    /// The name servers that were passed over, as they are none.
    pub fn hear(&mut self, now: Moment, from: Ipv6Addr, said: Advertisement) -> Vec<Ipv6Addr> {
        self.advance(now);
        self.solicited = SOLICITATIONS;
        self.solicit_at = Moment::NEVER;
        self.routers.retain(|router| router.address != from);
        if self.routers.len() == ROUTERS {
            self.routers.remove(0);
        }
        self.routers.push(Router {
            address: from,
            want: said.want,
            mtu: said.mtu,
            until: now + SILENT.max(said.lifetime),
        });
        let mut none = Vec::new();
        for (address, lifetime) in said.servers {
            if is_routable(address) {
                self.take(now, address, lifetime);
            } else {
                none.push(address);
            }
        }
        none
    }

    fn take(&mut self, now: Moment, address: Ipv6Addr, lifetime: u32) {
        let until = match lifetime {
            ENDLESS => Moment::NEVER,
            seconds => now + Duration::from_secs(seconds.into()),
        };
        let known = self.servers.iter().position(|s| s.address == address);
        match (known, lifetime) {
            (Some(at), 0) => {
                self.servers.remove(at);
            }
            (None, 0) => {}
            (Some(at), _) => self.servers[at].until = until,
            (None, _) => {
                if self.servers.len() == SERVERS {
                    // RFC 8106 6.2 (c): the one that ends first gives way.
                    let ends = |(_, server): &(usize, &Server)| server.until;
                    let first = self.servers.iter().enumerate().min_by_key(ends);
                    if let Some((first, _)) = first {
                        self.servers.remove(first);
                    }
                }
                self.servers.push(Server { address, until });
            }
        }
    }

    /// Forgets what has ended by now, and says whether routers are to be asked.
    pub fn advance(&mut self, now: Moment) -> bool {
        self.routers.retain(|router| router.until > now);
        self.servers.retain(|server| server.until > now);
        let due = self.solicited < SOLICITATIONS && now >= self.solicit_at;
        if due {
            self.solicited += 1;
            self.solicit_at = now + SOLICITATION_INTERVAL;
            if self.solicited == SOLICITATIONS {
                self.solicit_at = Moment::NEVER;
            }
        }
        due
    }

    /// When to [`advance`](Self::advance) next.
    pub fn deadline(&self) -> Moment {
        let routers = self.routers.iter().map(|router| router.until);
        let servers = self.servers.iter().map(|server| server.until);
        let ends = routers.chain(servers).chain([self.solicit_at]);
        ends.min().unwrap_or(Moment::NEVER)
    }

    /// The most that any of them says there is by DHCPv6: each speaks for its own prefixes.
    pub fn want(&self) -> Want {
        let wants = self.routers.iter().map(|router| router.want);
        wants.max().unwrap_or_default()
    }

    pub fn servers(&self) -> Vec<Ipv6Addr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// The least that any of them says.
    pub fn mtu(&self) -> Option<Mtu> {
        self.routers.iter().filter_map(|router| router.mtu).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    fn server(number: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)
    }

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn says(want: Want, servers: &[(u16, u32)]) -> Advertisement {
        Advertisement {
            want,
            lifetime: Duration::from_secs(1800),
            servers: servers
                .iter()
                .map(|(n, life)| (server(*n), *life))
                .collect(),
            mtu: None,
        }
    }

    #[test]
    fn name_servers_last_as_long_as_was_said_last() {
        let mut routers = Routers::new(at(0), &[]);
        routers.hear(at(0), ROUTER, says(Want::Nothing, &[(1, 100), (2, 200)]));
        // Another router names one of them again, longer, and a third.
        routers.hear(
            at(50),
            OTHER,
            says(Want::Nothing, &[(1, 300), (3, ENDLESS)]),
        );
        assert_eq!(routers.servers(), [server(1), server(2), server(3)]);
        routers.advance(at(200));
        assert_eq!(routers.servers(), [server(1), server(3)]);
        // RFC 8106 5.1: zero takes it back at once.
        routers.hear(at(201), ROUTER, says(Want::Nothing, &[(1, 0), (9, 0)]));
        assert_eq!(routers.servers(), [server(3)]);
        routers.advance(at(u64::from(u32::MAX)));
        assert_eq!(routers.servers(), [server(3)]);
        routers.hear(at(9), ROUTER, says(Want::Nothing, &[(3, 0)]));
        assert!(routers.servers().is_empty());
    }

    #[test]
    fn a_full_list_gives_up_what_ends_first() {
        let mut routers = Routers::new(at(0), &[]);
        let many: Vec<_> = (1..=8).map(|n| (n, 100 - u32::from(n))).collect();
        routers.hear(at(0), ROUTER, says(Want::Nothing, &many));
        routers.hear(at(1), ROUTER, says(Want::Nothing, &[(20, 5)]));
        assert_eq!(routers.servers().len(), SERVERS);
        assert!(!routers.servers().contains(&server(8)));
        assert_eq!(routers.servers().last(), Some(&server(20)));
    }

    #[test]
    fn what_is_no_servers_address_is_named() {
        let mut routers = Routers::new(at(0), &[]);
        let mut said = says(Want::Nothing, &[(1, 9)]);
        said.servers.push((ROUTER, 9));
        assert_eq!(routers.hear(at(0), ROUTER, said), [ROUTER]);
        assert_eq!(routers.servers(), [server(1)]);
    }

    #[test]
    fn any_router_that_wants_dhcpv6_counts_until_it_is_silent_for_long() {
        let mut routers = Routers::new(at(0), &[]);
        assert_eq!(routers.want(), Want::Nothing);
        routers.hear(at(0), ROUTER, says(Want::Addresses, &[]));
        routers.hear(at(5000), OTHER, says(Want::Settings, &[]));
        assert_eq!(routers.want(), Want::Addresses);
        routers.advance(at(5400));
        assert_eq!(routers.want(), Want::Settings);
        routers.hear(at(5400), OTHER, says(Want::Nothing, &[]));
        assert_eq!(routers.want(), Want::Nothing);
        for n in 0..100 {
            let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, n);
            routers.hear(at(5400), from, says(Want::Nothing, &[]));
        }
        assert_eq!(routers.routers.len(), ROUTERS);
    }

    #[test]
    fn a_router_that_lasts_longer_may_be_silent_for_longer() {
        let longest = Duration::from_secs(u16::MAX.into());
        let said = Advertisement {
            lifetime: longest,
            mtu: Mtu::said(1400),
            ..says(Want::Settings, &[])
        };
        let mut routers = Routers::new(at(0), &[]);
        routers.hear(at(0), ROUTER, said);
        routers.advance(at(65_534));
        assert_eq!(routers.want(), Want::Settings);
        assert_eq!(routers.mtu(), Mtu::said(1400));
        assert_eq!(routers.deadline(), Moment(longest));
        routers.advance(at(65_535));
        assert_eq!((routers.want(), routers.mtu()), (Want::Nothing, None));
        // One that is no default router, or for a shorter time, has what it says held as ever.
        let none = Advertisement {
            lifetime: Duration::ZERO,
            ..says(Want::Settings, &[])
        };
        routers.hear(at(70_000), ROUTER, none);
        routers.advance(at(75_399));
        assert_eq!(routers.want(), Want::Settings);
        routers.advance(at(75_400));
        assert_eq!(routers.want(), Want::Nothing);
    }

    #[test]
    fn routers_are_asked_three_times_unless_one_speaks() {
        let asked = |routers: &mut Routers| {
            let mut asked = vec![];
            for second in 0..60 {
                if routers.advance(at(second)) {
                    asked.push(second);
                }
            }
            asked
        };
        assert_eq!(asked(&mut Routers::new(at(0), &[])), [3, 7, 11]);
        let mut heard = Routers::new(at(0), &[]);
        heard.hear(at(1), ROUTER, says(Want::Nothing, &[]));
        assert!(asked(&mut heard).is_empty());
    }

    #[test]
    fn what_an_earlier_netd_heard_is_believed_for_half_an_hour() {
        let mut routers = Routers::new(at(100), &[server(1)]);
        routers.advance(at(1899));
        assert_eq!(routers.servers(), [server(1)]);
        routers.advance(at(1900));
        assert!(routers.servers().is_empty());
    }
}
