//! What a netd that starts finds: the records of its predecessor, and the kernel's state.
//!
//! The node's links are listed once, however many networks there are. A record that cannot be read
//! (torn, or of a version that wrote others) is made again from what the kernel has, so that the
//! tenant's machines are not cut off: a network's id is the alias of its link, its number is in the
//! link's address, its specification is the alias of its bridge. Of an interface the kernel knows
//! machine and network; its addresses come with the next `interface_ensure`, and until then the
//! machine is mute. Where the kernel has nothing, the record is dropped, and made anew when asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Context;
use loam_node_api::{
    WorkloadId,
    network::{InterfaceId, InterfaceSpec, Mac, NetworkSpec},
};

use crate::{
    apart::block_on,
    link::{self, Link, Links},
    name,
    namespace::{self, Namespace},
    network::Networks,
    record::Records,
    state::{InterfaceRecord, NetworkRecord, State},
    transit::Transit,
};

#[derive(Debug)]
pub struct Found {
    pub state: State,
    /// Namespaces of networks that no record names: to be removed.
    pub others: BTreeSet<String>,
}

/// To be called on a thread [apart](crate::apart).
pub fn find(networks: &Records, interfaces: &Records, kernel: &Networks) -> anyhow::Result<Found> {
    block_on(async {
        let links = transits().await.context("links of the node")?;
        let mut state = State::default();
        find_networks(&mut state, networks, kernel, &links).await?;
        find_interfaces(&mut state, interfaces, kernel).await?;

        let known: BTreeSet<String> = state.namespaces().into_iter().collect();
        let mut others = BTreeSet::new();
        for (namespace, link) in &links {
            if !known.contains(namespace) {
                state.found(namespace, link.transit);
                others.insert(namespace.clone());
            }
        }
        let namespaces = Namespace::list(kernel.folder(), name::NAMESPACE_PREFIX)?;
        others.extend(namespaces.into_iter().filter(|name| !known.contains(name)));
        for namespace in &others {
            tracing::warn!(
                namespace,
                "a network of which there is no record is removed"
            );
        }
        Ok(Found { state, others })
    })
}

/// A network's link as the kernel has it.
#[derive(Debug)]
struct Known {
    id: Option<WorkloadId>,
    transit: Option<Transit>,
}

/// By the names of the networks' namespaces.
async fn transits() -> anyhow::Result<BTreeMap<String, Known>> {
    let node = Links::here()?;
    let mut numbers: BTreeMap<u32, Transit> = BTreeMap::new();
    for message in node.all_addresses().await? {
        if let Some(IpAddr::V4(address)) = link::address(&message).map(|net| net.addr())
            && let Some(transit) = Transit::of_near(address)
        {
            numbers.insert(message.header.index, transit);
        }
    }
    let links = node.all().await?.into_iter();
    let ours = links.filter(|link| link.name.starts_with(name::TRANSIT_PREFIX));
    let known = ours.map(|link| {
        let known = Known {
            id: link.alias.and_then(|alias| alias.parse().ok()),
            transit: numbers.get(&link.index).copied(),
        };
        (name::namespace_of(&link.name), known)
    });
    Ok(known.collect())
}

async fn find_networks(
    state: &mut State,
    records: &Records,
    kernel: &Networks,
    links: &BTreeMap<String, Known>,
) -> anyhow::Result<()> {
    let mut lost = Vec::new();
    for (file, record) in records
        .all::<NetworkRecord>()
        .context("records of networks")?
    {
        match record {
            Ok(record) if name::bridge(&record.id) == file => state.restore_network(record),
            Ok(_) => lost.push((file, "it is another network's".to_owned())),
            Err(error) => lost.push((file, error.to_string())),
        }
    }
    // Those that are whole keep their links.
    for (bridge, why) in lost {
        match network_of_kernel(kernel, links, &bridge).await {
            Ok(record) => {
                tracing::warn!(network = %record.id, why, "its record is made from the kernel's state");
                records.write(&bridge, &record)?;
                state.restore_network(record);
            }
            Err(error) => {
                tracing::error!(bridge, why, "the record of a network is lost: {error:#}");
                records.remove(&bridge)?;
            }
        }
    }
    Ok(())
}

async fn network_of_kernel(
    kernel: &Networks,
    links: &BTreeMap<String, Known>,
    bridge: &str,
) -> anyhow::Result<NetworkRecord> {
    let of_bridge = |id: &&WorkloadId| name::bridge(id) == bridge;
    let mut links = links.values();
    let (id, transit) = links
        .find_map(|known| Some((known.id.as_ref().filter(of_bridge)?, known.transit)))
        .context("there is no link to it")?;
    let inside = links_inside(kernel, id).await?;
    let alias = inside.into_iter().find(|link| link.name == bridge);
    let alias = alias.and_then(|bridge| bridge.alias);
    let alias = alias.context("there is no bridge that says what it is")?;
    let spec: NetworkSpec = serde_json::from_str(&alias).context("what its bridge says")?;
    Ok(NetworkRecord {
        id: id.clone(),
        spec,
        transit: transit.context("its link has no address")?,
    })
}

async fn find_interfaces(
    state: &mut State,
    records: &Records,
    kernel: &Networks,
) -> anyhow::Result<()> {
    let mut lost = BTreeMap::new();
    let all = records.all::<InterfaceRecord>();
    for (file, record) in all.context("records of interfaces")? {
        let record = match record {
            Ok(record) if name::tap(&record.id) == file => record,
            Ok(_) => {
                lost.insert(file, "it is another interface's".to_owned());
                continue;
            }
            Err(error) => {
                lost.insert(file, error.to_string());
                continue;
            }
        };
        // Its network was being deleted, or it is no record that we would have written.
        if state.network(&record.id.network).is_none() {
            records.remove(&file)?;
        } else if let Err(error) = state.refuse_held(&record) {
            tracing::error!(machine = %record.id.machine, "its interface's record is dropped: {error}");
            records.remove(&file)?;
        } else {
            state.put_interface(record);
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    for network in state.networks() {
        let links = links_inside(kernel, &network).await.unwrap_or_default();
        for link in links {
            let Some(id) = interface_of_kernel(&network, &link) else {
                continue;
            };
            if let Some(why) = lost.remove(&link.name) {
                tracing::warn!(machine = %id.machine, network = %network, why,
                    "its interface's record is lost; it is mute until it is asked for again");
                let spec = InterfaceSpec {
                    mac: Mac([0; 6]),
                    addresses: Vec::new(),
                    publish: Vec::new(),
                };
                let record = InterfaceRecord { id, spec };
                records.write(&link.name, &record)?;
                state.put_interface(record);
            }
        }
    }
    for (tap, why) in lost {
        tracing::error!(tap, why, "the record of an interface is lost");
        records.remove(&tap)?;
    }
    Ok(())
}

fn interface_of_kernel(network: &WorkloadId, tap: &Link) -> Option<InterfaceId> {
    let id = InterfaceId {
        machine: tap.alias.as_ref()?.parse().ok()?,
        network: network.clone(),
    };
    (name::tap(&id) == tap.name).then_some(id)
}

/// The links in a network's namespace.
async fn links_inside(kernel: &Networks, network: &WorkloadId) -> anyhow::Result<Vec<Link>> {
    let namespace = Namespace::find(kernel.folder(), &name::namespace(network))?;
    let namespace = namespace.context("there is no namespace of it")?;
    let home = namespace::current()?;
    namespace.enter()?;
    let inside = Links::here();
    namespace::enter(&home)?;
    Ok(inside?.all().await?)
}
