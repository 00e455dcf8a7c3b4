//! Router advertisements (RFC 4861 4.2), as much of them as the kernel leaves to us: name servers
//! (RFC 8106), whether DHCPv6 has more to say, and the MTU for those who are told of it.
//!
//! smoltcp reads one prefix of a message and no name servers, so the few options are read here.

use std::{net::Ipv6Addr, time::Duration};

use crate::uplink::{dhcpv6::Want, lease::Mtu};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Flags M and O.
    pub want: Want,
    /// For how long it is a default router; nothing if it is none.
    pub lifetime: Duration,
    /// Each with its lifetime in seconds, in the order of the message; 0 takes it back.
    pub servers: Vec<(Ipv6Addr, u32)>,
    pub mtu: Option<Mtu>,
}

/// Why a message counts for nothing (RFC 4861 6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("it is no router advertisement")]
    OtherKind,
    #[error("it ends before its options do")]
    Short,
    #[error("an option has no length")]
    EmptyOption,
}

/// RFC 4861 4.2 and 4.6.
const KIND: [u8; 2] = [134, 0];
const HEADER: usize = 16;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const OPTION_MTU: u8 = 5;
/// RFC 8106 5.1.
const OPTION_RDNSS: u8 = 25;

/// More than any network needs; a message could hold 90.
const SERVERS: usize = 8;

/// Reads an ICMPv6 message whose checksum, hop limit and source the kernel has seen to.
pub fn read(message: &[u8]) -> Result<Advertisement, Invalid> {
    if !message.starts_with(&KIND) {
        return Err(Invalid::OtherKind);
    }
    let (header, mut rest) = message.split_at_checked(HEADER).ok_or(Invalid::Short)?;
    let flags = header[5];
    let mut read = Advertisement {
        want: match flags {
            flags if flags & MANAGED != 0 => Want::Addresses,
            flags if flags & OTHER != 0 => Want::Settings,
            _ => Want::Nothing,
        },
        lifetime: Duration::from_secs(u16::from_be_bytes([header[6], header[7]]).into()),
        servers: Vec::new(),
        mtu: None,
    };
    while let Some((kind, length)) = rest.first().zip(rest.get(1)) {
        if *length == 0 {
            return Err(Invalid::EmptyOption);
        }
        let length = usize::from(*length) * 8;
        let (option, behind) = rest.split_at_checked(length).ok_or(Invalid::Short)?;
        match *kind {
            OPTION_RDNSS => servers(option, &mut read.servers),
            OPTION_MTU => read.mtu = mtu(option).or(read.mtu),
            _ => {}
        }
        rest = behind;
    }
    if rest.is_empty() {
        Ok(read)
    } else {
        Err(Invalid::Short)
    }
}

/// An option of a length that no list of addresses has is passed over (RFC 8106 5.3.1).
fn servers(option: &[u8], into: &mut Vec<(Ipv6Addr, u32)>) {
    let Some((head, addresses)) = option.split_first_chunk::<8>() else {
        return;
    };
    let lifetime = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let (addresses, rest) = addresses.as_chunks::<16>();
    if !rest.is_empty() {
        return;
    }
    for address in addresses.iter().copied().map(Ipv6Addr::from) {
        let known = into.iter().any(|(other, _)| *other == address);
        if !known && into.len() < SERVERS {
            into.push((address, lifetime));
        }
    }
}

/// None if no link has it: IPv6 has no smaller one than 1280 (RFC 8200 5).
fn mtu(option: &[u8]) -> Option<Mtu> {
    let bytes: [u8; 4] = option.get(4..8)?.try_into().ok()?;
    let said = u16::try_from(u32::from_be_bytes(bytes)).unwrap_or(u16::MAX);
    Mtu::try_from(said).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn message(flags: u8, options: &[&[u8]]) -> Vec<u8> {
        let head = [134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        [&head[..], &options.concat()].concat()
    }

    fn rdnss(lifetime: u32, addresses: &[Ipv6Addr]) -> Vec<u8> {
        let mut option = vec![25, 1 + 2 * addresses.len() as u8, 0, 0];
        option.extend(lifetime.to_be_bytes());
        addresses.iter().for_each(|a| option.extend(a.octets()));
        option
    }

    const ONE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
    const TWO: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53);

    #[test]
    fn flags_name_servers_and_mtu_are_read() {
        let mtu = [5, 1, 0, 0, 0, 0, 5, 0x78];
        let prefix = [&[3, 4, 64, 0xc0][..], &[0; 28]].concat();
        let read = |flags, options: &[&[u8]]| read(&message(flags, options));
        let all = read(
            0xc0,
            &[&prefix, &mtu, &rdnss(3600, &[ONE, TWO]), &rdnss(0, &[ONE])],
        );
        let all = all.unwrap();
        assert_eq!(all.want, Want::Addresses);
        assert_eq!(all.lifetime, Duration::from_secs(0x0708));
        assert_eq!(all.servers, [(ONE, 3600), (TWO, 3600)], "the first counts");
        assert_eq!(all.mtu.map(Mtu::get), Some(1400));
        assert_eq!(read(0x40, &[]).unwrap().want, Want::Settings);
        assert_eq!(read(0x3f, &[]).unwrap().want, Want::Nothing);
    }

    #[test]
    fn what_rfc_4861_calls_invalid_counts_for_nothing() {
        let good = message(0, &[&rdnss(60, &[ONE])]);
        assert!(read(&good).is_ok());
        assert_eq!(read(&good[..15]), Err(Invalid::Short));
        assert_eq!(read(&good[..good.len() - 8]), Err(Invalid::Short));
        assert_eq!(read(&[&good[..], &[1]].concat()), Err(Invalid::Short));
        assert_eq!(
            read(&message(0, &[&[25, 0, 0, 0]])),
            Err(Invalid::EmptyOption)
        );
        let mut other = good;
        other[1] = 1;
        assert_eq!(read(&other), Err(Invalid::OtherKind));
    }

    #[test]
    fn options_that_cannot_be_are_passed_over_and_the_others_stand() {
        let even = [&[25, 2][..], &[0; 14]].concat();
        let small = [5, 1, 0, 0, 0, 0, 4, 0xff];
        let large = [5, 1, 0, 0, 0xff, 0, 0, 0];
        let read = read(&message(
            0,
            &[&even, &small, &rdnss(9, &[TWO]), &[31, 1, 0, 0, 0, 0, 0, 0]],
        ));
        let read = read.unwrap();
        assert_eq!((read.servers, read.mtu), (vec![(TWO, 9)], None));
        let read = super::read(&message(0, &[&large])).unwrap();
        assert_eq!(read.mtu.map(Mtu::get), Some(u16::MAX));
    }

    /// Anything at all, or options that could be with anything in them.
    fn odd_message() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![3 => Just(25u8), 1 => Just(5u8), 1 => any::<u8>()];
        let body = (0u8..6, vec(any::<u8>(), 40));
        let option = (kind, body).prop_map(|(kind, (length, body))| {
            let rest = (usize::from(length) * 8).saturating_sub(2);
            [&[kind, length], &body[..rest]].concat()
        });
        let likely = (any::<u8>(), vec(option, 0..12), 0usize..4);
        let likely = likely.prop_map(|(flags, options, cut)| {
            let options: Vec<&[u8]> = options.iter().map(Vec::as_slice).collect();
            let mut bytes = message(flags, &options);
            bytes.truncate(bytes.len() - cut / 3);
            bytes
        });
        prop_oneof![3 => likely, 1 => vec(any::<u8>(), 0..400)]
    }

    fn is_sane(bytes: &[u8]) -> bool {
        read(bytes).map_or(true, |read| {
            read.servers.len() <= SERVERS && read.mtu.is_none_or(|mtu| mtu.get() >= 1280)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_message_is_read_or_refused(bytes in odd_message()) {
            prop_assert!(is_sane(&bytes));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        #[ignore = "slow: a hundred thousand messages"]
        fn any_of_very_many_messages_is_read_or_refused(bytes in odd_message()) {
            prop_assert!(is_sane(&bytes));
        }
    }
}
