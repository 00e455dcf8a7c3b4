//! What the answers mean, and what to do about those that are none.
//!
//! The advice is for a farmer who stands in front of the machine and has never seen a log.

use std::{io, net::IpAddr, time::Duration};

use hickory_resolver::net::NetError;
use loam_chain::ReadError;
use loam_node_api::{clock::Clock, network::Uplink, network_test::Outcome};

use crate::daemons::DaemonError;

const RESTART: &str = "The program netd is started again and again; if this stays so, restart the node (r on the \
                       first screen), and make its medium anew if that does not help.";
const CABLE: &str = "Plug in a network cable whose other end is switched on; if one is, use another cable or port, or \
                     another network card, at USB too.";
const DHCP: &str = "This network gives no address: switch on DHCP in its router, or plug the cable into a network that \
                    has it.";
const ROUTE: &str = "DHCP has named no router, so that nothing beyond this network is reached: have the DHCP server \
                     name one (option 3).";
const UNREACHABLE: &str = "The router that DHCP named cannot be reached: see whether it is switched on, and whether \
                           DHCP names the right one.";
const NAME_SERVER: &str = "Have the router name a name server by DHCP (option 6).";
const SILENT_NAMES: &str = "See whether other machines here reach the internet; if they do, have the router name \
                            another name server by DHCP (option 6), such as itself.";
const UNKNOWN_NAME: &str = "The name servers answer and do not know this name: see whether the router filters names; \
                            if it does not, ask those who run your grid whether the endpoint has moved.";
const TIME: &str = "The node works without the right time, but not as well: let UDP port 123 and TCP port 4460 out of \
                    this network.";
const NO_ENDPOINT: &str = "See whether other machines here reach the internet and whether a firewall lets this one out; \
                           if both are so, ask those who run your grid.";
const OTHER_ENDPOINT: &str = "Nothing needs to be done: the node works by another endpoint. Tell those who run your grid if this stays so.";
const BAD_ENDPOINT: &str =
    "Get an image that your grid gives out: the grid's file in this one is wrong.";

/// What became of a connection to the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contact {
    Answered,
    Silent,
    /// There is no way to it.
    Unreachable(String),
}

/// What became of a name.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub name: String,
    pub found: Result<Vec<IpAddr>, NameError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No name server answered, and why.
    Silent(String),
    /// One answered that there is none.
    Unknown,
}

/// What an endpoint said about the newest finalized block.
#[derive(Clone, Debug)]
pub struct Answer {
    /// None: what the grid says is no address of an endpoint.
    pub host: Option<String>,
    pub block: Result<u64, ReadError>,
    pub took: Duration,
}

fn fine(what: impl Into<String>) -> Outcome {
    Outcome::Fine(what.into())
}

fn wrong(what: impl Into<String>, advice: &str) -> Outcome {
    Outcome::Wrong {
        what: what.into(),
        advice: advice.to_owned(),
    }
}

pub fn not_tried(why: &str) -> Outcome {
    Outcome::NotTried(why.to_owned())
}

/// `carrier`: whether something is at the link's other end, if the kernel says so.
pub fn link(uplink: Result<&Uplink, &DaemonError>, carrier: Option<bool>) -> Outcome {
    match uplink {
        Err(silence) => wrong(silence.to_string(), RESTART),
        Ok(uplink) => match (&uplink.link, carrier) {
            (None, _) => wrong("no link is up", CABLE),
            (Some(link), Some(false)) => {
                wrong(format!("nothing is at the other end of {link}"), CABLE)
            }
            (Some(link), _) => fine(format!("{link} is up")),
        },
    }
}

/// A link's file `carrier`.
pub fn carrier(text: &str) -> Option<bool> {
    match text.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

pub fn address(uplink: Result<&Uplink, &DaemonError>) -> Outcome {
    match uplink {
        Err(_) => not_tried("not known without netd"),
        Ok(uplink) if uplink.link.is_none() => not_tried("without a link"),
        Ok(uplink) if uplink.addresses.is_empty() => wrong(
            uplink
                .missing
                .map_or_else(|| "none".to_owned(), |missing| missing.to_string()),
            DHCP,
        ),
        Ok(uplink) => fine(join(&uplink.addresses, " ")),
    }
}

/// `contact`: with the router that netd names, if it does.
pub fn router(uplink: Result<&Uplink, &DaemonError>, contact: Option<Contact>) -> Outcome {
    let Ok(uplink) = uplink else {
        return not_tried("not known without netd");
    };
    match (uplink.gateway, contact) {
        (Some(router), Some(Contact::Answered)) => fine(format!("{router} answers")),
        // Many drop what they were not asked to take. The steps behind it show whether it does its work.
        (Some(router), Some(Contact::Silent) | None) => fine(format!(
            "{router} does not answer, which some routers never do"
        )),
        (Some(router), Some(Contact::Unreachable(why))) => {
            wrong(format!("{router}: {why}"), UNREACHABLE)
        }
        (None, _) => {
            let has_ipv6 = uplink.addresses.iter().any(|net| net.addr().is_ipv6());
            match has_ipv6 {
                true => fine("none for IPv4; the way out is IPv6"),
                false => wrong("none is named", ROUTE),
            }
        }
    }
}

impl Contact {
    /// That nothing listens is an answer too.
    pub fn of(connected: io::Result<()>) -> Self {
        match connected.map_err(|error| (error.kind(), error)) {
            Ok(())
            | Err((io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset, _)) => {
                Self::Answered
            }
            // Some firewalls say so of a port; of a router that is not there the kernel would, later.
            Err((io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut, _)) => Self::Silent,
            Err((_, error)) => Self::Unreachable(error.to_string()),
        }
    }
}

/// Those of the hosts that are names, each once.
pub fn names_among(hosts: &[String], most: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for host in hosts {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<IpAddr>().is_err() && !names.contains(host) {
            names.push(host.clone());
        }
    }
    names.truncate(most);
    names
}

/// What `servers`, which netd names, said about `names`, or, where there are none, about one that every name server
/// knows: then any answer will do.
pub fn names(
    servers: Result<&[IpAddr], &DaemonError>,
    names: &[String],
    lookups: &[Lookup],
) -> Outcome {
    let servers = match servers {
        Err(_) => return not_tried("not known without netd"),
        Ok([]) => return wrong("this network names no name server", NAME_SERVER),
        Ok([one]) => format!("the name server {one}"),
        Ok(some) => format!("the name servers {}", join(some, ", ")),
    };
    let silent = lookups.iter().find_map(|lookup| match &lookup.found {
        Err(NameError::Silent(why)) => Some((&lookup.name, why)),
        _ => None,
    });
    if let Some((name, why)) = silent {
        return wrong(
            format!("no address of {name} from {servers}: {why}"),
            SILENT_NAMES,
        );
    }
    if names.is_empty() {
        return fine("name servers answer; of the chain there is no name to look up");
    }
    let unknown = lookups.iter().find(|lookup| lookup.found.is_err());
    if let Some(Lookup { name, .. }) = unknown {
        return wrong(format!("{name} is unknown to {servers}"), UNKNOWN_NAME);
    }
    let found = lookups.iter().map(|lookup| {
        let addresses = lookup.found.as_deref().unwrap_or_default();
        match addresses {
            [] => format!("{} has no address", lookup.name),
            [one] => format!("{} is {one}", lookup.name),
            [one, more @ ..] => format!("{} is {one} and {} more", lookup.name, more.len()),
        }
    });
    fine(found.collect::<Vec<_>>().join(", "))
}

impl Lookup {
    pub fn failed(name: &str, error: &NetError) -> Self {
        let error = match error.is_nx_domain() || error.is_no_records_found() {
            true => NameError::Unknown,
            false => NameError::Silent(error.to_string()),
        };
        Self {
            name: name.to_owned(),
            found: Err(error),
        }
    }
}

pub fn time(clock: &Clock) -> Outcome {
    let source = clock.source.as_str();
    match (clock.set, source.is_empty()) {
        (true, true) => fine("set"),
        (true, false) => fine(format!("set by {source}")),
        (false, true) => wrong("not set: clockd has said nothing yet", TIME),
        (false, false) => wrong(format!("not set: {source}"), TIME),
    }
}

/// A node needs one endpoint.
pub fn chain(answers: Vec<Answer>) -> Vec<(Outcome, Duration)> {
    let one_answers = answers.iter().any(|answer| answer.block.is_ok());
    let outcome = |answer: Answer| {
        let outcome = match (answer.host, answer.block) {
            (Some(host), Ok(block)) => fine(format!("{host}: block {block} is final")),
            (None, Ok(block)) => fine(format!("block {block} is final")),
            // Whatever stands there may hold a secret.
            (_, Err(ReadError::Configuration(_))) => {
                wrong("an endpoint of the grid is written wrongly", BAD_ENDPOINT)
            }
            (_, Err(error)) => wrong(
                error.to_string(),
                match one_answers {
                    true => OTHER_ENDPOINT,
                    false => NO_ENDPOINT,
                },
            ),
        };
        (outcome, answer.took)
    };
    answers.into_iter().map(outcome).collect()
}

pub fn no_grid(error: &anyhow::Error) -> Outcome {
    wrong("there is no grid to ask", &format!("{error:#}"))
}

fn join<T: ToString>(items: &[T], between: &str) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(between)
}

#[cfg(test)]
mod tests;
