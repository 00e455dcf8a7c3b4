//! `loam-noded network-test`: what of the network works, one step after the other.
//!
//! Somebody at the node's screen has asked for it, often because the node does not work: nothing here needs a disk, an
//! identity, a grid or the noded that runs beside it. This file asks; `outcome` says what the answers mean (pure).
//!
//! Every step has a time limit, and all of them together take less than 40 seconds.

mod outcome;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use loam_chain::{EndpointReader, GridConfig, GridReader as _, ReadError};
use loam_node_api::{
    clock::Clock,
    network::Uplink,
    network_test::{Finding, Step},
    path, tls,
};
use tokio::{net::TcpStream, time::timeout};

use self::outcome::{Answer, Contact, Lookup, NameError};
use crate::{
    daemons::{Daemon, DaemonError, Sockets, call, shortly},
    grid::Grid,
};

/// Of a router on the same network.
const ROUTER_PATIENCE: Duration = Duration::from_secs(2);
const NAMES_PATIENCE: Duration = Duration::from_secs(8);
const CHAIN_PATIENCE: Duration = Duration::from_secs(10);
/// A link's file waits for the lock that whoever changes any link holds.
const LINK_PATIENCE: Duration = Duration::from_secs(2);

/// Where most routers, which are name servers too, have something that answers.
const DNS_PORT: u16 = 53;

/// Asked for where the grid names no host: one of the root servers, which every name server knows.
const KNOWN_NAME: &str = "a.root-servers.net";

/// Of a grid with more, the first are asked: a screen has no room for others.
const MAX_ENDPOINTS: usize = 8;

/// What is asked, and where it is.
#[derive(Clone, Debug)]
pub struct NetworkTest {
    pub sockets: Sockets,
    pub clock: PathBuf,
    pub grid: PathBuf,
    /// The kernel's links (`/sys/class/net`).
    pub links: PathBuf,
}

impl NetworkTest {
    pub fn of_node() -> Self {
        Self {
            sockets: Sockets::of_node(),
            clock: path::CLOCK.into(),
            grid: path::GRID.into(),
            links: "/sys/class/net".into(),
        }
    }

    /// Does the steps and tells what each has found out.
    ///
    /// # Errors
    ///
    /// Nobody hears what is told.
    pub async fn run(&self, mut tell: impl FnMut(Finding) -> io::Result<()>) -> io::Result<()> {
        let mut tell = |step, outcome, took| {
            let finding = Finding {
                step,
                outcome,
                took,
            };
            tell(finding.bounded())
        };
        let (uplink, took) = timed(self.uplink()).await;
        let uplink = uplink.as_ref();
        let carrier = match uplink {
            Ok(Uplink {
                link: Some(name), ..
            }) => self.carrier(name).await,
            _ => None,
        };
        tell(Step::Link, outcome::link(uplink, carrier), Some(took))?;
        tell(Step::Address, outcome::address(uplink), None)?;
        if let Ok(Uplink { addresses, .. }) = uplink
            && addresses.is_empty()
        {
            for step in [Step::Router, Step::Names, Step::Time, Step::Chain] {
                tell(step, outcome::not_tried("without an address"), None)?;
            }
            return Ok(());
        }

        let gateway = uplink.ok().and_then(|uplink| uplink.gateway);
        let (contact, took) = match gateway {
            Some(gateway) => {
                let (contact, took) = timed(contact(gateway, DNS_PORT)).await;
                (Some(contact), Some(took))
            }
            None => (None, None),
        };
        tell(Step::Router, outcome::router(uplink, contact), took)?;

        let grid = Grid::read(&self.grid);
        let hosts = grid.as_ref().map(|grid| grid.config.hosts());
        let names = outcome::names_among(&hosts.unwrap_or_default(), MAX_ENDPOINTS);
        let servers = uplink.map(|uplink| uplink.dns.as_slice());
        let (lookups, took) = match servers {
            Ok(servers @ [_, ..]) => {
                let (lookups, took) =
                    timed(look_up(servers, DNS_PORT, &names, NAMES_PATIENCE)).await;
                (lookups, Some(took))
            }
            Ok([]) | Err(_) => (Vec::new(), None),
        };
        tell(Step::Names, outcome::names(servers, &names, &lookups), took)?;

        tell(Step::Time, outcome::time(&Clock::read(&self.clock)), None)?;

        match &grid {
            Ok(grid) => {
                let answers = self.ask_chain(&grid.config).await;
                for (outcome, took) in outcome::chain(answers) {
                    tell(Step::Chain, outcome, Some(took))?;
                }
            }
            Err(error) => tell(Step::Chain, outcome::no_grid(error), None)?,
        }
        Ok(())
    }

    async fn uplink(&self) -> Result<Uplink, DaemonError> {
        let network = self.sockets.network().await?;
        let uplink = network.uplink(shortly()).await;
        uplink.map_err(call(Daemon::Netd))
    }

    /// Whether there is something at the other end: netd keeps the address of a link that has lost its cable until the
    /// lease ends.
    async fn carrier(&self, link: &str) -> Option<bool> {
        let file = self.links.join(link).join("carrier");
        let text = timeout(LINK_PATIENCE, tokio::fs::read_to_string(file)).await;
        outcome::carrier(&text.ok()?.ok()?)
    }

    /// Each endpoint by itself, all at once.
    async fn ask_chain(&self, config: &GridConfig) -> Vec<Answer> {
        let endpoints = config.endpoints.iter().take(MAX_ENDPOINTS);
        join_all(endpoints.map(|endpoint| {
            let config = GridConfig {
                endpoints: vec![endpoint.clone()],
                ..config.clone()
            };
            async move {
                let (block, took) = timed(finalized(&config, &self.clock)).await;
                let host = config.hosts().into_iter().next();
                Answer { host, block, took }
            }
        }))
        .await
    }
}

/// As noded asks it.
async fn finalized(config: &GridConfig, clock: &Path) -> Result<u64, ReadError> {
    let clock = clock.to_owned();
    let tls = tls::client_config(tls::public_roots(), Arc::new(move || Clock::read(&clock)))
        .map_err(|error| ReadError::Configuration(error.to_string()))?;
    let reader = EndpointReader::with_tls(config, &tls)?;
    match timeout(CHAIN_PATIENCE, reader.finalized()).await {
        Ok(block) => block.map(|block| block.number),
        Err(_) => Err(ReadError::Silent {
            endpoint: config.hosts().join(" "),
            reason: format!("nothing within {} s", CHAIN_PATIENCE.as_secs()),
        }),
    }
}

async fn contact(gateway: Ipv4Addr, port: u16) -> Contact {
    match timeout(ROUTER_PATIENCE, TcpStream::connect((gateway, port))).await {
        Ok(connected) => Contact::of(connected.map(drop)),
        Err(_) => Contact::Silent,
    }
}

/// All names at once, or one that every name server knows.
async fn look_up(
    servers: &[IpAddr],
    port: u16,
    names: &[String],
    patience: Duration,
) -> Vec<Lookup> {
    let resolver = match resolver(servers, port) {
        Ok(resolver) => resolver,
        Err(error) => return vec![Lookup::failed(KNOWN_NAME, &error)],
    };
    let known = [KNOWN_NAME.to_owned()];
    let names = if names.is_empty() { &known } else { names };
    join_all(names.iter().map(async |name| {
        let found = timeout(patience, resolver.lookup_ip(name.as_str())).await;
        match found {
            Ok(Ok(found)) => Lookup {
                name: name.clone(),
                found: Ok(found.iter().collect()),
            },
            Ok(Err(error)) => Lookup::failed(name, &error),
            Err(_) => Lookup {
                name: name.clone(),
                found: Err(NameError::Silent(format!(
                    "nothing within {} s",
                    patience.as_secs()
                ))),
            },
        }
    }))
    .await
}

/// The library by which the chain's client finds endpoints, told the name servers in place of reading them from
/// `/etc/resolv.conf`: nobody else's answers are taken for theirs.
fn resolver(servers: &[IpAddr], port: u16) -> Result<TokioResolver, NetError> {
    let servers = servers.iter().map(|server| {
        let mut server = NameServerConfig::udp_and_tcp(*server);
        for connection in &mut server.connections {
            connection.port = port;
        }
        server
    });
    let config = ResolverConfig::from_name_servers(servers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    // As the chain's client does.
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build()
}

async fn timed<T>(asked: impl Future<Output = T>) -> (T, Duration) {
    let begin = Instant::now();
    let answer = asked.await;
    (answer, begin.elapsed())
}

#[cfg(test)]
mod tests;
