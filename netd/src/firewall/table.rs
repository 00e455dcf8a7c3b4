//! A table as a value: chains and their rules. What the pure parts make and the encoder writes.

use super::expression::Rule;

/// The name of every table of ours. Tables of other names are never touched.
pub const NAME: &str = "loam";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// Frames that cross a bridge.
    Bridge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// Where the kernel enters the chain; none for a chain that is only jumped to.
    pub entry: Option<Entry>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub hook: Hook,
    /// Lower comes first.
    pub priority: i32,
    pub policy: Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Filter,
    Nat,
}

/// `enum nf_inet_hooks`; the bridge's hooks have the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Postrouting = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Drop = 0,
    Accept = 1,
}

/// `enum nf_ip_hook_priorities`.
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// `NF_BR_PRI_FILTER_BRIDGED`.
const PRIORITY_BRIDGE_FILTER: i32 = -200;

impl Chain {
    fn base(name: &str, kind: Kind, hook: Hook, priority: i32, policy: Policy) -> Self {
        let entry = Entry {
            kind,
            hook,
            priority,
            policy,
        };
        Self {
            name: name.to_owned(),
            entry: Some(entry),
            rules: Vec::new(),
        }
    }

    /// What is addressed to this namespace itself.
    pub fn input() -> Self {
        Self::base(
            "input",
            Kind::Filter,
            Hook::Input,
            PRIORITY_FILTER,
            Policy::Drop,
        )
    }

    /// What is routed through.
    pub fn forward() -> Self {
        Self::base(
            "forward",
            Kind::Filter,
            Hook::Forward,
            PRIORITY_FILTER,
            Policy::Drop,
        )
    }

    pub fn destination_nat() -> Self {
        let priority = PRIORITY_DESTINATION_NAT;
        Self::base(
            "publish",
            Kind::Nat,
            Hook::Prerouting,
            priority,
            Policy::Accept,
        )
    }

    pub fn source_nat() -> Self {
        let priority = PRIORITY_SOURCE_NAT;
        Self::base(
            "masquerade",
            Kind::Nat,
            Hook::Postrouting,
            priority,
            Policy::Accept,
        )
    }

    /// Every frame that enters a bridge by one of its ports.
    pub fn bridge_prerouting() -> Self {
        let priority = PRIORITY_BRIDGE_FILTER;
        Self::base(
            "machines",
            Kind::Filter,
            Hook::Prerouting,
            priority,
            Policy::Drop,
        )
    }

    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entry: None,
            rules: Vec::new(),
        }
    }

    #[must_use]
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }
}
