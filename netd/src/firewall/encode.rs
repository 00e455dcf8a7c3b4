//! Tables as netlink messages, all in one transaction.
//!
//! Written out here because the one library for it that needs no C (`rustables`) is GPL-3.0 and
//! runs bindgen. Numbers are from `include/uapi/linux/netfilter/nf_tables.h` and
//! `nfnetlink.h`; integers in attributes are big-endian, register contents are not converted.

use super::{
    expression::{Expression, Register, Rule, Verdict},
    table::{Chain, Family, Kind, NAME, Table},
};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// The upper byte of a message's type.
const SUBSYSTEM_NFTABLES: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;

/// `NFT_CHAIN_BASE` needs no flag: a hook makes a base chain.
const VERDICT_REGISTER: u32 = 0;
const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;
const NAT_DESTINATION: u32 = 1;
const ROUTE_TCP_MSS: u32 = 3;
const BYTEORDER_HTON: u32 = 1;
const EXTHDR_TCP_OPTION: u32 = 1;
/// RFC 9293 3.2: kind, length, then the size in two bytes.
const TCP_OPTION_MSS: u8 = 2;
const MSS_OFFSET: u32 = 2;
const MSS_LENGTH: u32 = 2;
const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_JUMP: i32 = -3;

/// One transaction: begin, messages, end. The kernel does all of it or nothing.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    last: usize,
}

impl Batch {
    /// Replaces each of `tables` as a whole.
    pub fn replacing(tables: &[Table]) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
            last: 0,
        };
        batch.control(BATCH_BEGIN);
        for table in tables {
            let family = family_number(table.family);
            // Made first so that the deletion succeeds when there was none.
            batch.message(NEW_TABLE, NLM_F_CREATE, family, |a| a.string(1, NAME));
            batch.message(DELETE_TABLE, 0, family, |a| a.string(1, NAME));
            batch.message(NEW_TABLE, NLM_F_CREATE, family, |a| a.string(1, NAME));
            // All chains before any rule: rules jump to chains.
            for chain in &table.chains {
                batch.message(NEW_CHAIN, NLM_F_CREATE, family, |a| encode_chain(a, chain));
            }
            for chain in &table.chains {
                for rule in &chain.rules {
                    let flags = NLM_F_CREATE | NLM_F_APPEND;
                    batch.message(NEW_RULE, flags, family, |a| {
                        encode_rule(a, &chain.name, rule)
                    });
                }
            }
        }
        batch.acknowledge_last();
        batch.control(BATCH_END);
        batch
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The sequence number that the kernel's last answer carries.
    pub fn acknowledged_sequence(&self) -> u32 {
        let at = self.last + 8;
        u32::from_ne_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    fn control(&mut self, kind: u16) {
        self.raw(kind, NLM_F_REQUEST, 0, SUBSYSTEM_NFTABLES.into(), |_| {});
    }

    fn message(&mut self, kind: u8, flags: u16, family: u8, fill: impl FnOnce(&mut Attributes)) {
        self.last = self.bytes.len();
        self.raw(
            u16::from_be_bytes([SUBSYSTEM_NFTABLES, kind]),
            NLM_F_REQUEST | flags,
            family,
            0,
            fill,
        );
    }

    /// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
    fn raw(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes),
    ) {
        let start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        fill(&mut Attributes(&mut self.bytes));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// One answer for the whole transaction; a refused message answers without being asked.
    fn acknowledge_last(&mut self) {
        let at = self.last + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => libc::NFPROTO_INET as u8,
        Family::Bridge => libc::NFPROTO_BRIDGE as u8,
    }
}

/// Appends attributes (`struct nlattr`), each padded to four bytes.
#[derive(Debug)]
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

fn encode_chain(attributes: &mut Attributes, chain: &Chain) {
    attributes.string(1, NAME);
    attributes.string(3, &chain.name);
    let Some(entry) = chain.entry else { return };
    attributes.nested(4, |hook| {
        hook.number(1, entry.hook as u32);
        hook.number(2, entry.priority.cast_unsigned());
    });
    attributes.number(5, entry.policy as u32);
    attributes.string(
        7,
        match entry.kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        },
    );
}

fn encode_rule(attributes: &mut Attributes, chain: &str, rule: &Rule) {
    attributes.string(1, NAME);
    attributes.string(2, chain);
    attributes.nested(4, |list| {
        for expression in &rule.0 {
            list.nested(1, |element| encode_expression(element, expression));
        }
    });
}

fn encode_expression(element: &mut Attributes, expression: &Expression) {
    const FIRST: u32 = Register::First as u32;
    const SECOND: u32 = Register::Second as u32;
    let mut named = |name: &str, fill: &dyn Fn(&mut Attributes)| {
        element.string(1, name);
        element.nested(2, |data| fill(data));
    };
    match expression {
        Expression::Payload {
            base,
            offset,
            length,
        } => named("payload", &|a| {
            a.number(1, FIRST);
            a.number(2, *base as u32);
            a.number(3, *offset);
            a.number(4, *length);
        }),
        Expression::Meta(key) => named("meta", &|a| {
            a.number(1, FIRST);
            a.number(2, *key as u32);
        }),
        Expression::Conntrack(key) => named("ct", &|a| {
            a.number(1, FIRST);
            a.number(2, *key as u32);
        }),
        Expression::DestinationType => named("fib", &|a| {
            a.number(1, FIRST);
            a.number(2, FIB_RESULT_ADDRESS_TYPE);
            a.number(3, FIB_DESTINATION);
        }),
        Expression::Mask(mask) => named("bitwise", &|a| {
            a.number(1, FIRST);
            a.number(2, FIRST);
            a.number(3, mask.len() as u32);
            a.nested(4, |data| data.bytes(1, mask));
            a.nested(5, |data| data.bytes(1, &vec![0; mask.len()]));
        }),
        Expression::Compare(comparison, value) => named("cmp", &|a| {
            a.number(1, FIRST);
            a.number(2, *comparison as u32);
            a.nested(3, |data| data.bytes(1, value));
        }),
        Expression::Load(register, value) => named("immediate", &|a| {
            a.number(1, *register as u32);
            a.nested(2, |data| data.bytes(1, value));
        }),
        Expression::DestinationNat { port } => named("nat", &|a| {
            a.number(1, NAT_DESTINATION);
            a.number(2, libc::NFPROTO_IPV4 as u32);
            a.number(3, FIRST);
            if *port {
                a.number(5, SECOND);
            }
        }),
        Expression::Masquerade => named("masq", &|_| {}),
        Expression::RouteSegmentSize => named("rt", &|a| {
            a.number(1, FIRST);
            a.number(2, ROUTE_TCP_MSS);
        }),
        Expression::ToNetworkOrder => named("byteorder", &|a| {
            a.number(1, FIRST);
            a.number(2, FIRST);
            a.number(3, BYTEORDER_HTON);
            a.number(4, MSS_LENGTH);
            a.number(5, MSS_LENGTH);
        }),
        Expression::SetSegmentSize => named("exthdr", &|a| {
            a.bytes(2, &[TCP_OPTION_MSS]);
            a.number(3, MSS_OFFSET);
            a.number(4, MSS_LENGTH);
            a.number(6, EXTHDR_TCP_OPTION);
            a.number(7, FIRST);
        }),
        Expression::Verdict(verdict) => named("immediate", &|a| {
            a.number(1, VERDICT_REGISTER);
            a.nested(2, |data| data.nested(2, |v| encode_verdict(v, verdict)));
        }),
    }
}

fn encode_verdict(attributes: &mut Attributes, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (VERDICT_DROP, None),
        Verdict::Accept => (VERDICT_ACCEPT, None),
        Verdict::Jump(chain) => (VERDICT_JUMP, Some(chain)),
    };
    attributes.number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        attributes.string(2, chain);
    }
}
