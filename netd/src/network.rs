//! A network in the kernel: its namespace, its bridge and taps, its link to the node's own namespace.
//!
//! Everything here is done on a thread of its own (see [`apart`](crate::apart)), which goes into the
//! namespace. Every step looks first and does only what is missing, so that what runs is not
//! interrupted.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use loam_node_api::{WorkloadId, network::InterfaceId};

use crate::{
    apart::block_on,
    firewall, gateway,
    link::{Link, Links},
    name,
    namespace::{self, Namespace},
    state::{InterfaceRecord, NetworkRecord, Wanted},
    sysctl, tap,
};

/// The first link of every namespace.
pub const LOOPBACK: &str = "lo";

/// Why single interfaces of a network could not be made.
pub type Troubles = BTreeMap<InterfaceId, String>;

/// Makes and removes networks.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Where namespaces are kept.
    folder: PathBuf,
}

impl Networks {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn namespace_path(&self, network: &WorkloadId) -> PathBuf {
        self.folder.join(name::namespace(network))
    }

    /// Makes the network with all of its interfaces, and removes taps of others.
    pub fn ensure(&self, wanted: &Wanted) -> anyhow::Result<Troubles> {
        block_on(self.try_ensure(wanted))
    }

    async fn try_ensure(&self, wanted: &Wanted) -> anyhow::Result<Troubles> {
        let record = &wanted.network;
        let home = namespace::current()?;
        let node = Links::here().context("netlink")?;
        let namespace = Namespace::ensure(&self.folder, &name::namespace(&record.id))
            .context("namespace of the network")?;
        let there = namespace.open().context("namespace of the network")?;

        namespace::enter(&there).context("namespace of the network")?;
        sysctl::prepare_network().context("settings of the network's namespace")?;
        // Before the first link, and before a tap is on the bridge: nothing passes unjudged.
        replace_rules(wanted).context("rules of the network")?;
        let inside = Links::here().context("netlink in the network's namespace")?;
        let links: HashMap<String, Link> = inside
            .all()
            .await
            .context("links of the network")?
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect();
        if let Some(loopback) = links.get(LOOPBACK) {
            inside.set_up(loopback).await.context(LOOPBACK)?;
        }
        let bridge = ensure_bridge(&inside, &links, record)
            .await
            .context("bridge")?;
        let mut troubles = Troubles::new();
        for interface in &wanted.interfaces {
            let name = name::tap(&interface.id);
            let made = ensure_tap(&inside, links.get(&name), interface, bridge.index).await;
            if let Err(error) = made {
                troubles.insert(interface.id.clone(), format!("tap {name}: {error:#}"));
            }
        }
        delete_other_taps(&inside, &links, &wanted.interfaces).await?;

        namespace::enter(&home).context("back in the node's own namespace")?;
        ensure_transit(&node, &inside, &there, record)
            .await
            .context("link to the network")?;
        Ok(troubles)
    }

    /// Removes all of the network whose namespace has this file name. Absent is success.
    pub fn delete(&self, namespace: &str) -> anyhow::Result<()> {
        block_on(async {
            // With it the far end goes; nothing of the network is led to any more.
            let node = Links::here().context("netlink")?;
            node.delete(&name::transit_of(namespace))
                .await
                .context("link to the network")?;
            self.delete_namespace(namespace).await
        })
    }

    /// Ends the namespace with every link in it. A machine that still holds a tap finds it dead, and
    /// does not keep the rest alive.
    async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        if let Some(found) = Namespace::find(&self.folder, name)? {
            found.enter().context("namespace of the network")?;
            let inside = Links::here()?;
            for link in inside.all().await? {
                if link.name != LOOPBACK {
                    inside.delete(&link.name).await.context(link.name)?;
                }
            }
        }
        Namespace::delete(&self.folder, name).context("namespace of the network")
    }
}

async fn ensure_bridge(
    inside: &Links,
    links: &HashMap<String, Link>,
    record: &NetworkRecord,
) -> anyhow::Result<Link> {
    let name = name::bridge(&record.id);
    let bridge = match links.get(&name) {
        Some(bridge) => bridge.clone(),
        None => {
            let mac = name::bridge_mac(&record.id);
            inside.add_bridge(&name, mac).await?;
            inside.expect(&name).await?
        }
    };
    // By which a netd whose record is of no use knows what the network was.
    let spec = serde_json::to_string(&record.spec)?;
    inside.set_alias(&bridge, &spec).await?;
    let addresses = gateway::addresses(&record.spec);
    inside.set_addresses(bridge.index, &addresses).await?;
    inside.set_up(&bridge).await?;
    Ok(bridge)
}

async fn ensure_tap(
    inside: &Links,
    found: Option<&Link>,
    interface: &InterfaceRecord,
    bridge: u32,
) -> anyhow::Result<()> {
    let name = name::tap(&interface.id);
    let tap = match found {
        Some(tap) => tap.clone(),
        None => {
            tap::make(&name)?;
            inside.expect(&name).await?
        }
    };
    // The bridge speaks for its ports.
    sysctl::set_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    inside
        .set_alias(&tap, &interface.id.machine.to_string())
        .await?;
    inside.set_bridge(&tap, bridge).await.context("to bridge")?;
    inside.set_up(&tap).await?;
    Ok(())
}

async fn delete_other_taps(
    inside: &Links,
    links: &HashMap<String, Link>,
    interfaces: &[InterfaceRecord],
) -> anyhow::Result<()> {
    let known: Vec<_> = interfaces.iter().map(|r| name::tap(&r.id)).collect();
    for name in links.keys() {
        if name.starts_with(name::TAP_PREFIX) && !known.contains(name) {
            inside
                .delete(name)
                .await
                .with_context(|| format!("tap {name}"))?;
        }
    }
    Ok(())
}

/// Called in the node's own namespace.
async fn ensure_transit(
    node: &Links,
    inside: &Links,
    there: &File,
    record: &NetworkRecord,
) -> anyhow::Result<()> {
    let name = name::transit(&record.id);
    let near = match node.find(&name).await? {
        Some(near) => near,
        None => {
            node.add_veth(&name, name::UPLINK, there).await?;
            node.expect(&name).await?
        }
    };
    sysctl::prepare_transit(&name)?;
    node.set_alias(&near, &record.id.to_string()).await?;
    let (near_end, far_end) = (record.transit.near(), record.transit.far());
    node.set_addresses(near.index, &near_end.addresses())
        .await?;
    node.set_up(&near).await?;

    let far = inside.expect(name::UPLINK).await?;
    inside
        .set_addresses(far.index, &far_end.addresses())
        .await?;
    inside.set_up(&far).await?;
    for gateway in near_end.addresses() {
        inside.set_default_route(gateway.addr(), far.index).await?;
    }
    Ok(())
}

/// Called in the network's namespace.
fn replace_rules(wanted: &Wanted) -> anyhow::Result<()> {
    let (record, interfaces) = (&wanted.network, &wanted.interfaces);
    let bridge = name::bridge(&record.id);
    firewall::replace(&[
        firewall::network::table(&bridge, &record.spec, record.transit, interfaces),
        firewall::machine::table(interfaces),
    ])?;
    let published = firewall::network::leads(record.transit, interfaces);
    firewall::conntrack::forget_misled(&published).context("connections")
}
