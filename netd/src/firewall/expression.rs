//! What a rule says, as the kernel's own small instructions.
//!
//! The kernel evaluates a rule's expressions in order; a comparison that fails ends the rule. See
//! `net/netfilter/nf_tables_core.c` and `include/uapi/linux/netfilter/nf_tables.h`.

use std::net::{IpAddr, Ipv4Addr};

use loam_deployment::payload::Protocol;

/// A register of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    First = 1,
    Second = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    InputName = 6,
    OutputName = 7,
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

/// `enum nft_ct_keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conntrack {
    State = 0,
    Status = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Jump(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Payload {
        base: Base,
        offset: u32,
        length: u32,
    },
    Meta(Meta),
    Conntrack(Conntrack),
    /// What kind of address the destination is to this node (`RTN_LOCAL`, ...).
    DestinationType,
    /// Leaves `register & mask` in the register.
    Mask(Vec<u8>),
    Compare(Comparison, Vec<u8>),
    Load(Register, Vec<u8>),
    /// To the IPv4 address in the first register, and to the port in the second when `port`.
    DestinationNat {
        port: bool,
    },
    Masquerade,
    /// The largest TCP segment that the packet's ways there and back carry, in the kernel's byte order.
    RouteSegmentSize,
    /// Two bytes of the first register, from the kernel's byte order to the network's.
    ToNetworkOrder,
    /// Two bytes of the first register become the maximum segment size of a TCP header that names
    /// one; the kernel only ever lowers it (`nft_exthdr.c`).
    SetSegmentSize,
    Verdict(Verdict),
}

/// One rule: expressions in order. Built by chaining, read like a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule(pub Vec<Expression>);

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// `enum ip_conntrack_info` as bits of `ct state`: 2 is established, 4 related.
const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED_OR_RELATED: u32 = 6;
/// `IPS_DST_NAT`: the connection's destination was translated.
const STATUS_DESTINATION_NAT: u32 = 1 << 5;
const RTN_LOCAL: u32 = 2;
/// RFC 9293 3.1: where the flags are, and the one that opens a connection.
const TCP_FLAGS: u32 = 13;
const TCP_SYN: u8 = 2;

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.0.extend(expressions);
        self
    }

    fn payload(self, base: Base, offset: u32, comparison: Comparison, value: &[u8]) -> Self {
        self.with([
            Expression::Payload {
                base,
                offset,
                length: value.len() as u32,
            },
            Expression::Compare(comparison, value.to_vec()),
        ])
    }

    pub fn payload_is(self, base: Base, offset: u32, value: &[u8]) -> Self {
        self.payload(base, offset, Comparison::Equal, value)
    }

    pub fn payload_is_not(self, base: Base, offset: u32, value: &[u8]) -> Self {
        self.payload(base, offset, Comparison::NotEqual, value)
    }

    /// A name that ends in `*` stands for all that begin so.
    fn name(self, key: Meta, comparison: Comparison, name: &str) -> Self {
        let bytes = match name.strip_suffix('*') {
            Some(prefix) => prefix.as_bytes().to_vec(),
            None => {
                // IFNAMSIZ bytes, padded with zeroes, so that a longer name is not the same.
                let mut padded = name.as_bytes().to_vec();
                padded.resize(libc::IFNAMSIZ, 0);
                padded
            }
        };
        self.with([
            Expression::Meta(key),
            Expression::Compare(comparison, bytes),
        ])
    }

    pub fn input(self, name: &str) -> Self {
        self.name(Meta::InputName, Comparison::Equal, name)
    }

    pub fn output(self, name: &str) -> Self {
        self.name(Meta::OutputName, Comparison::Equal, name)
    }

    pub fn output_not(self, name: &str) -> Self {
        self.name(Meta::OutputName, Comparison::NotEqual, name)
    }

    fn bits(self, key: Conntrack, mask: u32) -> Self {
        self.with([
            Expression::Conntrack(key),
            Expression::Mask(mask.to_ne_bytes().to_vec()),
            Expression::Compare(Comparison::NotEqual, vec![0; 4]),
        ])
    }

    pub fn established(self) -> Self {
        self.bits(Conntrack::State, STATE_ESTABLISHED_OR_RELATED)
    }

    pub fn invalid(self) -> Self {
        self.bits(Conntrack::State, STATE_INVALID)
    }

    /// The connection came in by a published port.
    pub fn destination_was_translated(self) -> Self {
        self.bits(Conntrack::Status, STATUS_DESTINATION_NAT)
    }

    /// The destination is an address of this namespace.
    pub fn destination_is_local(self) -> Self {
        self.with([
            Expression::DestinationType,
            Expression::Compare(Comparison::Equal, RTN_LOCAL.to_ne_bytes().to_vec()),
        ])
    }

    pub fn ethertype(self, ethertype: u16) -> Self {
        // Read from the frame itself: `meta protocol` would look behind a VLAN tag.
        self.payload_is(Base::Link, 12, &ethertype.to_be_bytes())
    }

    fn network_protocol(self, protocol: i32) -> Self {
        self.with([
            Expression::Meta(Meta::NetworkProtocol),
            Expression::Compare(Comparison::Equal, vec![protocol as u8]),
        ])
    }

    /// In tables that see both: only IPv4.
    pub fn ipv4(self) -> Self {
        self.network_protocol(libc::NFPROTO_IPV4)
    }

    /// In tables that see both: only IPv6.
    pub fn ipv6(self) -> Self {
        self.network_protocol(libc::NFPROTO_IPV6)
    }

    pub fn transport(self, protocol: i32) -> Self {
        self.with([
            Expression::Meta(Meta::TransportProtocol),
            Expression::Compare(Comparison::Equal, vec![protocol as u8]),
        ])
    }

    pub fn protocol(self, protocol: Protocol) -> Self {
        self.transport(match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        })
    }

    /// The first byte of an ICMP or ICMPv6 message.
    pub fn icmp_type(self, kind: u8) -> Self {
        self.payload_is(Base::Transport, 0, &[kind])
    }

    pub fn source_port(self, port: u16) -> Self {
        self.payload_is(Base::Transport, 0, &port.to_be_bytes())
    }

    pub fn destination_port(self, port: u16) -> Self {
        self.payload_is(Base::Transport, 2, &port.to_be_bytes())
    }

    pub fn source(self, address: IpAddr) -> Self {
        match address {
            // RFC 791: source at 12, destination at 16. RFC 8200: source at 8, destination at 24.
            IpAddr::V4(v4) => self.payload_is(Base::Network, 12, &v4.octets()),
            IpAddr::V6(v6) => self.payload_is(Base::Network, 8, &v6.octets()),
        }
    }

    pub fn destination(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.payload_is(Base::Network, 16, &v4.octets()),
            IpAddr::V6(v6) => self.payload_is(Base::Network, 24, &v6.octets()),
        }
    }

    fn prefix(self, v4_offset: u32, v6_offset: u32, net: ipnet::IpNet) -> Self {
        let (offset, mask, network) = match net {
            ipnet::IpNet::V4(net) => (
                v4_offset,
                net.netmask().octets().to_vec(),
                net.network().octets().to_vec(),
            ),
            ipnet::IpNet::V6(net) => (
                v6_offset,
                net.netmask().octets().to_vec(),
                net.network().octets().to_vec(),
            ),
        };
        self.with([
            Expression::Payload {
                base: Base::Network,
                offset,
                length: mask.len() as u32,
            },
            Expression::Mask(mask),
            Expression::Compare(Comparison::Equal, network),
        ])
    }

    pub fn source_in(self, net: ipnet::IpNet) -> Self {
        self.prefix(12, 8, net)
    }

    pub fn destination_in(self, net: ipnet::IpNet) -> Self {
        self.prefix(16, 24, net)
    }

    pub fn translate_destination(self, address: Ipv4Addr, port: Option<u16>) -> Self {
        let rule = self.with([Expression::Load(Register::First, address.octets().to_vec())]);
        let rule = match port {
            Some(port) => rule.with([Expression::Load(
                Register::Second,
                port.to_be_bytes().to_vec(),
            )]),
            None => rule,
        };
        rule.with([Expression::DestinationNat {
            port: port.is_some(),
        }])
    }

    /// Who opens a TCP connection is told of segments no larger than the links that they will pass.
    pub fn clamp_segments(self) -> Self {
        self.transport(libc::IPPROTO_TCP).with([
            Expression::Payload {
                base: Base::Transport,
                offset: TCP_FLAGS,
                length: 1,
            },
            Expression::Mask(vec![TCP_SYN]),
            Expression::Compare(Comparison::NotEqual, vec![0]),
            Expression::RouteSegmentSize,
            Expression::ToNetworkOrder,
            Expression::SetSegmentSize,
        ])
    }

    pub fn masquerade(self) -> Self {
        self.with([Expression::Masquerade])
    }

    pub fn accept(self) -> Self {
        self.with([Expression::Verdict(Verdict::Accept)])
    }

    pub fn drop(self) -> Self {
        self.with([Expression::Verdict(Verdict::Drop)])
    }

    pub fn jump(self, chain: &str) -> Self {
        self.with([Expression::Verdict(Verdict::Jump(chain.to_owned()))])
    }
}
