//! The node's way to the world: physical links up, an IPv4 lease on one of them, IPv6 on all.
//!
//! | module | what |
//! |---|---|
//! | [`election`] | which link has the lease and which look for one: pure |
//! | [`dhcp`] | the DHCPv4 client of one link |
//! | [`packet_socket`] | where its frames come from and go |
//! | [`lease`] | a lease as an address, routes, an MTU and a record |
//! | [`ipv6`] | what routers say beside what the kernel takes from them |
//! | [`dhcpv6`] | the DHCPv6 client of one link |
//! | [`name_servers`] | which name servers count: pure |
//! | [`view`] | what the uplink is now |
//! | [`physical`] | which links are physical |
//! | [`misgivings`] | what both clients remember against servers and addresses: pure |
//! | [`moment`] | time and chance as values |
//!
//! [`UplinkTask`] owns all of it: clients and listeners only tell. A restarted netd adopts what is
//! there and asks anew behind it; the kernel ends addresses itself when a lease ends while no netd
//! runs. What is followed of the RFCs is in `docs/uplink.md`.

pub mod dhcp;
pub mod dhcpv6;
pub mod election;
pub mod ipv6;
pub mod lease;
pub mod misgivings;
pub mod moment;
pub mod name_servers;
pub mod packet_socket;
pub mod physical;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context;
use election::{Action, Election, Event};
use futures::StreamExt;
use ipv6::{Adopted, Heard, Ipv6Links};
use lease::{Lease, LeaseRecord, Mtu};
use loam_node_api::{network::Uplink, page::Changes};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute};
use physical::Physical;
use rtnetlink::MulticastGroup;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::{self, Instant},
};
pub use view::UplinkView;
use view::{Kernel, Sources};

use crate::{
    apart::{apart, block_on},
    link::{Link, Links},
    name::TRANSIT_PREFIX,
    record::Records,
    sysctl,
};

/// The uplink on its thread.
#[derive(Debug)]
pub struct Started<F> {
    pub view: UplinkView,
    /// Ends with an error only.
    pub ended: F,
}

/// Adopts what a predecessor left, on a thread of its own. Links come up and leases are asked for
/// once `rules` says that packets are judged.
pub async fn start(
    records: Records,
    physical: Physical,
    changes: Changes,
    rules: oneshot::Receiver<()>,
) -> anyhow::Result<Started<impl Future<Output = anyhow::Result<()>>>> {
    let (adopted, ready) = oneshot::channel();
    let work = move || {
        block_on(async {
            let task = UplinkTask::new(records, physical, changes).await?;
            // Nobody waits any more: netd ends.
            let _ = adopted.send(task.view());
            rules.await.context("netd ends")?;
            task.run().await
        })
    };
    let mut ended = Box::pin(apart(work));
    let view = tokio::select! {
        view = ready => view,
        outcome = &mut ended => {
            outcome.context("uplink")?;
            anyhow::bail!("the uplink ended");
        }
    };
    Ok(Started {
        view: view.context("uplink")?,
        ended: async { ended.await.context("uplink") },
    })
}

/// Watches the links and runs the DHCP clients. Owns the lease.
#[derive(Debug)]
pub struct UplinkTask {
    kernel: Kernel,
    lease: Option<LeaseRecord>,
    shown: watch::Sender<Uplink>,
    changes: Changes,
    records: Records,
    election: Election,
    /// Indices of the physical links when last looked at.
    physical: BTreeSet<u32>,
    /// Names of the links that had a carrier when last looked at.
    plugged: BTreeSet<String>,
    clients: BTreeMap<u32, AbortHandle>,
    /// When the link's client was last stopped.
    stopped: BTreeMap<u32, Instant>,
    events: mpsc::Sender<(u32, dhcp::Outcome)>,
    outcomes: mpsc::Receiver<(u32, dhcp::Outcome)>,
    ipv6: Ipv6Links,
    heard: mpsc::Receiver<(u32, Heard)>,
    /// What was published and recorded last.
    resolv_conf: Option<String>,
    adopted: Adopted,
}

/// When to look again at what the kernel did not tell.
const AGAIN: Duration = Duration::from_secs(1);

/// Names of the records.
const LEASE: &str = "lease";
const NAME_SERVERS: &str = "name-servers";

/// Where the node's other daemons find their name servers: `/etc/resolv.conf` of the image is a
/// link to it (resolv.conf(5)).
const RESOLV_CONF: &str = "resolv.conf";

impl UplinkTask {
    /// Adopts the lease that a predecessor left, if the kernel still has its address.
    pub async fn new(
        records: Records,
        physical: Physical,
        changes: Changes,
    ) -> anyhow::Result<Self> {
        let links = Links::here()?;
        let record = records.read::<LeaseRecord>(LEASE).unwrap_or_else(|error| {
            tracing::warn!("the record of the lease is of no use: {error}");
            None
        });
        let (events, outcomes) = mpsc::channel(16);
        let kernel = Kernel { links, physical };
        let mut lease = None;
        let mut election = Election::default();
        if let Some(record) = record
            && let Some(link) = kernel.links.find(&record.link).await?
            && lease::is_present(&kernel.links, link.index, &record.lease).await?
        {
            tracing::info!(link = record.link, address = %record.lease.address, "adopted the lease");
            election.adopt(link.index, record.lease.leads_out());
            lease = Some(record);
        }
        let adopted = records
            .read::<Adopted>(NAME_SERVERS)
            .unwrap_or_else(|error| {
                tracing::warn!("the record of name servers is of no use: {error}");
                None
            });
        let adopted = adopted.unwrap_or_default();
        let (tell, heard) = mpsc::channel(16);
        let ipv6 = Ipv6Links::new(adopted.clone(), tell);
        let sources = Sources {
            lease: lease.as_ref(),
            ipv6: &ipv6,
        };
        let shown = kernel.uplink(sources).await?;
        Ok(Self {
            kernel,
            lease,
            shown: watch::Sender::new(shown),
            changes,
            records,
            election,
            physical: BTreeSet::new(),
            plugged: BTreeSet::new(),
            clients: BTreeMap::new(),
            stopped: BTreeMap::new(),
            events,
            outcomes,
            ipv6,
            heard,
            resolv_conf: None,
            adopted,
        })
    }

    pub fn view(&self) -> UplinkView {
        UplinkView::new(self.shown.subscribe())
    }

    /// Runs until the kernel's notices end, which is an error.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, _handle, mut notices) =
            rtnetlink::new_multicast_connection(&groups).context("notices about links")?;
        let connection = tokio::spawn(connection);
        // After the subscription, so that nothing falls between.
        let mut unsure = !self.look().await;
        loop {
            tokio::select! {
                notice = notices.next() => {
                    let Some((notice, _)) = notice else {
                        connection.abort();
                        anyhow::bail!("the kernel's notices about links ended");
                    };
                    let mut concerns = self.concerns(&notice);
                    // A burst is looked at once.
                    while let Ok((notice, _)) = notices.try_recv() {
                        concerns |= self.concerns(&notice);
                    }
                    if !concerns {
                        continue;
                    }
                    unsure = !self.look().await;
                }
                () = time::sleep(AGAIN), if unsure => unsure = !self.look().await,
                Some((link, outcome)) = self.outcomes.recv() => match outcome {
                    dhcp::Outcome::Leased { lease, seconds } => {
                        let leads_out = lease.leads_out();
                        let actions = self.election.on(Event::Leased { link, leads_out });
                        self.act(actions, Some((lease, seconds))).await;
                    }
                    dhcp::Outcome::Lost => {
                        let actions = self.election.on(Event::Lost(link));
                        self.act(actions, None).await;
                    }
                },
                Some((link, heard)) = self.heard.recv() => self.hear(link, heard).await,
            }
        }
    }

    async fn hear(&mut self, link: u32, heard: Heard) {
        let taken = async {
            self.ipv6.take(&self.kernel.links, link, heard).await?;
            self.show().await
        };
        if let Err(error) = taken.await {
            tracing::error!(link, "IPv6: {error:#}");
        }
    }

    /// Whether all could be looked at. What could not is looked at again, and the last view stands.
    async fn look(&mut self) -> bool {
        let looked = async {
            self.look_at_links().await?;
            self.ipv6.prove(&self.kernel.links).await?;
            self.show().await
        };
        match looked.await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("the uplink cannot be looked at: {error:#}");
                false
            }
        }
    }

    /// Whether the notice is about anything but the links to networks, which come and go by hundreds
    /// and are none of ours.
    fn concerns(&self, notice: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        let NetlinkPayload::InnerMessage(message) = &notice.payload else {
            // Notices were lost.
            return true;
        };
        match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                let transit = |attribute: &LinkAttribute| match attribute {
                    LinkAttribute::IfName(name) => name.starts_with(TRANSIT_PREFIX),
                    _ => false,
                };
                !link.attributes.iter().any(transit)
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                self.physical.contains(&address.header.index)
            }
            _ => true,
        }
    }

    /// Tells those who ask what the uplink is now, and our resolvers whom to ask.
    async fn show(&mut self) -> anyhow::Result<()> {
        let sources = Sources {
            lease: self.lease.as_ref(),
            ipv6: &self.ipv6,
        };
        let now = self.kernel.uplink(sources).await?;
        self.publish(&now.dns)?;
        let changed = self.shown.send_if_modified(|shown| {
            let differs = *shown != now;
            *shown = now;
            differs
        });
        if changed {
            self.changes.note();
        }
        Ok(())
    }

    /// What is written already is not written again.
    fn publish(&mut self, servers: &[IpAddr]) -> anyhow::Result<()> {
        let adopted = self.ipv6.adopted();
        if adopted != self.adopted {
            self.records.write(NAME_SERVERS, &adopted)?;
            self.adopted = adopted;
        }
        let text = name_servers::resolv_conf(servers);
        // Before anything was heard, a file of an earlier netd is the better one.
        let news = match &self.resolv_conf {
            None => !servers.is_empty(),
            Some(before) => *before != text,
        };
        if news {
            self.records.publish(RESOLV_CONF, &text)?;
            self.resolv_conf = Some(text);
            tracing::info!(?servers, "name servers");
        }
        Ok(())
    }

    async fn look_at_links(&mut self) -> anyhow::Result<()> {
        let links: Vec<Link> = self.kernel.links.all().await.context("list of links")?;
        let links: Vec<_> = links
            .into_iter()
            .filter(|l| self.kernel.physical.is(l))
            .collect();
        self.physical = links.iter().map(|link| link.index).collect();
        for link in links.iter().filter(|link| !link.up) {
            // A link that refuses is no reason to leave the others.
            let up = async {
                sysctl::prepare_uplink(&link.name)?;
                self.kernel.links.set_up(link).await
            };
            match up.await {
                Ok(()) => tracing::info!(link = link.name, "up"),
                Err(error) => tracing::warn!(link = link.name, "does not come up: {error}"),
            }
        }
        self.log_carriers(&links);
        let is_ready = |link: &&Link| link.up && link.carrier && link.mac.is_some();
        let ready: Vec<&Link> = links.iter().filter(is_ready).collect();
        self.ipv6.ready(&ready);
        let ready = ready.iter().map(|link| link.index).collect();
        let mut actions = self.election.on(Event::Ready(ready));
        if let Some(holder) = self.election.holder()
            && !self.holds_address(holder).await?
        {
            actions.extend(self.election.on(Event::Gone(holder)));
        }
        self.act(actions, None).await;
        Ok(())
    }

    fn log_carriers(&mut self, links: &[Link]) {
        let now = links
            .iter()
            .filter(|link| link.carrier)
            .map(|link| link.name.clone())
            .collect();
        for link in self.plugged.difference(&now) {
            tracing::warn!(link, "no carrier");
        }
        for link in now.difference(&self.plugged) {
            tracing::info!(link, "carrier");
        }
        self.plugged = now;
    }

    async fn holds_address(&self, link: u32) -> anyhow::Result<bool> {
        match &self.lease {
            Some(record) => Ok(lease::is_present(&self.kernel.links, link, &record.lease).await?),
            None => Ok(false),
        }
    }

    /// `lease` and for how many seconds from now on, if there is a new one.
    async fn act(&mut self, actions: Vec<Action>, lease: Option<(Lease, u32)>) {
        for action in actions {
            let outcome = match action {
                Action::Start(link) => self.start(link).await,
                Action::Stop(link) => {
                    self.stop(link);
                    Ok(())
                }
                Action::Apply(link) => match &lease {
                    Some((lease, seconds)) => self.apply(link, lease.clone(), *seconds).await,
                    None => Ok(()),
                },
                Action::PassOver(link) => {
                    let address = lease.as_ref().map(|(lease, _)| lease.address.addr());
                    tracing::info!(link, ?address, "another link's lease is as good, and stays");
                    Ok(())
                }
                Action::Withdraw(link) => self.withdraw(link).await,
            };
            if let Err(error) = outcome {
                tracing::error!(?action, "uplink: {error:#}");
            }
        }
    }

    async fn start(&mut self, index: u32) -> anyhow::Result<()> {
        let links = self.kernel.links.all().await?;
        let Some(link) = links.into_iter().find(|link| link.index == index) else {
            return Ok(());
        };
        let Some(mac) = link.mac else { return Ok(()) };
        tracing::info!(link = link.name, "looking for a DHCP server");
        self.stop(index);
        let silence = match self.stopped.get(&index) {
            Some(stopped) => dhcp::PAUSE.saturating_sub(stopped.elapsed()),
            None => Duration::ZERO,
        };
        let client = dhcp::Client::open(index, mac, silence)
            .with_context(|| format!("DHCP client on {}", link.name))?;
        let task = tokio::spawn(client.run(self.events.clone()));
        self.clients.insert(index, task.abort_handle());
        Ok(())
    }

    fn stop(&mut self, index: u32) {
        if let Some(client) = self.clients.remove(&index) {
            client.abort();
            // It may just have sent something, after which the next one is silent for a while.
            self.stopped.retain(|_, at| at.elapsed() < dhcp::PAUSE);
            self.stopped.insert(index, Instant::now());
        }
    }

    async fn apply(&mut self, index: u32, lease: Lease, seconds: u32) -> anyhow::Result<()> {
        let links = self.kernel.links.all().await?;
        let Some(link) = links.into_iter().find(|link| link.index == index) else {
            return Ok(());
        };
        let record = LeaseRecord {
            link: link.name.clone(),
            lease,
        };
        let before = self.lease.replace(record.clone());
        // First the record: an address without it would not be adopted.
        self.records.write(LEASE, &record)?;
        let carried = before.as_ref().filter(|before| before.link == link.name);
        let carried = carried.and_then(|before| before.lease.mtu);
        self.set_mtu(&link, carried, record.lease.mtu).await;
        lease::apply(&self.kernel.links, index, &record.lease, seconds).await?;
        self.show().await?;
        if before.as_ref() != Some(&record) {
            let lease = &record.lease;
            let routes: Vec<_> = lease.routes().iter().map(ToString::to_string).collect();
            tracing::info!(link = record.link, address = %lease.address, ?routes,
                routers = ?lease.routers, dns = ?lease.dns, mtu = lease.mtu.map(Mtu::get), "leased");
        }
        Ok(())
    }

    /// A link that some lease `before` gave an MTU, and none now, gets Ethernet's again.
    async fn set_mtu(&self, link: &Link, before: Option<Mtu>, now: Option<Mtu>) {
        let Some(mtu) = now.or(before.map(|_| Mtu::ETHERNET)) else {
            return;
        };
        // A link that cannot carry so much goes on as it is.
        let set = self.kernel.links.set_mtu(link, mtu.get().into());
        if let Err(error) = set.await {
            tracing::warn!(link = link.name, mtu = mtu.get(), "no such MTU: {error}");
        }
    }

    async fn withdraw(&mut self, index: u32) -> anyhow::Result<()> {
        let held = self.lease.take();
        lease::withdraw(&self.kernel.links, index).await?;
        self.records.remove(LEASE)?;
        if let Some(record) = &held
            && let Some(link) = self.kernel.links.find(&record.link).await?
        {
            self.set_mtu(&link, record.lease.mtu, None).await;
        }
        self.show().await?;
        if let Some(record) = held {
            tracing::warn!(link = record.link, address = %record.lease.address, "lease lost");
        }
        Ok(())
    }
}
