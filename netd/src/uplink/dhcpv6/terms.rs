//! What a server gives: each field is a stranger's.

use std::{net::Ipv6Addr, time::Duration};

use super::message::{Given, Ia};
use crate::uplink::{ipv6::is_routable, moment::Moment};

/// An address, as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub address: Ipv6Addr,
    /// Until then new connections begin from it.
    pub preferred_until: Moment,
    pub valid_until: Moment,
}

/// One of the world's and one of the site's, for two providers. A message could hold a hundred.
const ADDRESSES: usize = 4;

/// A shorter lease is held this long all the same: at a message a second it could not be renewed in
/// time, and the kernel needs a second to look for another host that has it.
const SHORTEST: u32 = 10;
/// A server that wants its leases renewed all the time gets a message a minute.
const SHORTEST_T1: Duration = Duration::from_secs(60);
/// RFC 8415 7.7: infinity.
const ENDLESS: u32 = u32::MAX;

/// When to ask the server (T1) and when any (T2), from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    pub t1: Duration,
    pub t2: Duration,
}

/// Those of `ia` that can be this node's, and are its: a valid lifetime of zero takes back.
pub fn usable(ia: &Ia) -> Vec<Given> {
    let mut usable: Vec<Given> = Vec::new();
    for given in &ia.addresses {
        let known = usable.iter().any(|other| other.address == given.address);
        // RFC 8415 21.6: one that is preferred for longer than it is valid is none.
        let lasts = given.valid > 0 && given.preferred <= given.valid;
        if lasts && !known && usable.len() < ADDRESSES && is_routable(given.address) {
            usable.push(Given {
                valid: given.valid.max(SHORTEST),
                ..*given
            });
        }
    }
    usable
}

/// `held`, with what `ia` says about each; what it does not name goes on as it was (RFC 8415 18.2.10.1).
pub fn renewed(held: &[Address], ia: &Ia, now: Moment) -> Vec<Address> {
    let usable = usable(ia);
    let named = |address| ia.addresses.iter().any(|given| given.address == address);
    let new = usable.iter().map(|given| given.begun(now));
    let rest = held
        .iter()
        .filter(|old| old.valid_until > now && !named(old.address));
    new.chain(rest.copied()).take(ADDRESSES).collect()
}

impl Given {
    /// Lifetimes begin when the message comes (RFC 8415 21.6).
    fn begun(&self, now: Moment) -> Address {
        let until = |seconds: u32| match seconds {
            ENDLESS => Moment::NEVER,
            seconds => now + Duration::from_secs(seconds.into()),
        };
        Address {
            address: self.address,
            preferred_until: until(self.preferred),
            valid_until: until(self.valid),
        }
    }
}

impl Address {
    /// Seconds from `now` on, rounded up, for which it is preferred and valid.
    pub fn seconds(&self, now: Moment) -> (u32, u32) {
        let seconds = |until: Moment| {
            if until == Moment::NEVER {
                return ENDLESS;
            }
            let left = until.since(now);
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            // Not for ever, whatever it is.
            u32::try_from(seconds).unwrap_or(ENDLESS).min(ENDLESS - 1)
        };
        (seconds(self.preferred_until), seconds(self.valid_until))
    }
}

impl Marks {
    /// By T1 and T2 of `ia`; where they make no sense, by the shortest of its addresses' lifetimes:
    /// half, and four fifths of the preferred one (RFC 8415 21.4), in order and before the end.
    pub fn new(ia: &Ia, usable: &[Given]) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let valid = usable.iter().map(|given| given.valid).min();
        let valid = seconds(valid.unwrap_or(SHORTEST));
        let preferred = usable.iter().map(|given| given.preferred);
        let preferred = preferred.filter(|preferred| *preferred > 0).min();
        let preferred = preferred.map_or(valid, seconds);
        let said = |said, unsaid| if said == 0 { unsaid } else { seconds(said) };
        let most = valid / 2;
        let t1 = said(ia.t1, preferred / 2).clamp(SHORTEST_T1.min(most), most);
        let t2 = said(ia.t2, preferred * 4 / 5).max(t1 + Duration::from_secs(1));
        Self {
            t1,
            t2: t2.min(valid / 8 * 7),
        }
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::v6::Status;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn given(number: u16, preferred: u32, valid: u32) -> Given {
        Given {
            address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number),
            preferred,
            valid,
        }
    }

    fn ia(t1: u32, t2: u32, addresses: &[Given]) -> Ia {
        Ia {
            status: Status::Success,
            t1,
            t2,
            addresses: addresses.to_vec(),
        }
    }

    fn marks(t1: u32, t2: u32, addresses: &[Given]) -> [u64; 2] {
        let ia = ia(t1, t2, addresses);
        let marks = Marks::new(&ia, &usable(&ia));
        [marks.t1, marks.t2].map(|mark| mark.as_secs())
    }

    #[test]
    fn marks_are_the_servers_where_they_make_sense() {
        let hour = [given(1, 3600, 7200)];
        assert_eq!(marks(1000, 2000, &hour), [1000, 2000]);
        assert_eq!(marks(0, 0, &hour), [1800, 2880]);
        assert_eq!(marks(1, 1, &hour), [60, 61]);
        assert_eq!(marks(3000, 100, &hour), [3000, 3001]);
        assert_eq!(marks(ENDLESS, ENDLESS, &hour), [3600, 6300]);
        assert_eq!(
            marks(0, 0, &[given(1, 600, 7200), given(2, 100, 200)]),
            [60, 80]
        );
        assert_eq!(marks(0, 0, &[given(1, 0, 100)]), [50, 80]);
        assert_eq!(marks(0, 0, &[given(1, 1, 1)]), [5, 6]);
    }

    #[test]
    fn what_cannot_be_an_address_of_the_node_is_none() {
        let mut all = vec![
            given(1, 60, 60),
            given(1, 90, 90),
            given(2, 61, 60),
            given(3, 0, 0),
        ];
        for no in ["::", "::1", "ff02::1", "fe80::1", "fd6c:6f61:6d00::2"] {
            all.push(Given {
                address: no.parse().unwrap(),
                ..all[0]
            });
        }
        assert_eq!(usable(&ia(0, 0, &all)), [given(1, 60, 60)]);
        let many: Vec<_> = (1..99).map(|n| given(n, 60, 60)).collect();
        assert_eq!(usable(&ia(0, 0, &many)).len(), ADDRESSES);
    }

    #[test]
    fn what_a_renewal_does_not_name_goes_on_and_what_it_ends_is_gone() {
        let now = Moment(Duration::from_secs(1000));
        let (one, two, three) = (given(1, 60, 60), given(2, 60, 60), given(3, 60, 60));
        let held = [one, two, three].map(|given| given.begun(now));
        let later = now + Duration::from_secs(30);
        let said = ia(
            0,
            0,
            &[given(1, 100, 200), given(2, 0, 0), given(4, 60, 60)],
        );
        let expected = [
            given(1, 100, 200).begun(later),
            given(4, 60, 60).begun(later),
            held[2],
        ];
        assert_eq!(renewed(&held, &said, later), expected);
        let end = now + Duration::from_secs(60);
        assert_eq!(renewed(&held, &ia(0, 0, &[]), end), []);
        assert_eq!(held[0].seconds(later), (30, 30));
        assert_eq!(given(1, 5, ENDLESS).begun(now).seconds(later), (0, ENDLESS));
    }

    proptest! {
        #[test]
        fn marks_are_in_order_whatever_a_server_says(
            t1: u32,
            t2: u32,
            lives in vec((any::<u32>(), any::<u32>()), 1..6),
        ) {
            let addresses: Vec<_> = (1..).zip(lives).map(|(n, (p, v))| given(n, p, v)).collect();
            let ia = ia(t1, t2, &addresses);
            let usable = usable(&ia);
            let marks = Marks::new(&ia, &usable);
            let valid = usable.iter().map(|given| given.valid).min().unwrap_or(SHORTEST);
            prop_assert!(marks.t1 >= Duration::from_secs(5));
            prop_assert!(marks.t1 < marks.t2 && marks.t2 < Duration::from_secs(valid.into()));
        }
    }
}
