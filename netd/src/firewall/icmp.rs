//! Types of ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861, RFC 2710) messages.

use super::expression::Rule;

pub const ECHO_REQUEST: u8 = 8;

pub const ECHO_REQUEST_V6: u8 = 128;
pub const LISTENER_QUERY: u8 = 130;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT_V6: u8 = 137;

/// Narrows `rule` to IPv4 messages of this type, in tables that see both families.
pub fn v4(rule: Rule, kind: u8) -> Rule {
    rule.ipv4().transport(libc::IPPROTO_ICMP).icmp_type(kind)
}

/// Narrows `rule` to IPv6 messages of this type, in tables that see both families.
pub fn v6(rule: Rule, kind: u8) -> Rule {
    rule.ipv6().transport(libc::IPPROTO_ICMPV6).icmp_type(kind)
}
