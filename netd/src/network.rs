//! A network in the kernel: its namespace, its bridge, its link to the node's own namespace.

use std::path::{Path, PathBuf};

use anyhow::Context;
use loam_node_api::{WorkloadId, network::InterfaceId};

use crate::{
    firewall, gateway,
    link::Links,
    name,
    namespace::Namespace,
    state::{InterfaceRecord, NetworkRecord},
    sysctl, tap,
};

/// Makes and removes networks. Every step looks first and does only what is missing.
#[derive(Debug)]
pub struct Networks {
    /// Of the node's own namespace.
    links: Links,
    /// Where namespaces are kept.
    folder: PathBuf,
}

impl Networks {
    pub fn new(links: Links, folder: PathBuf) -> Self {
        Self { links, folder }
    }

    pub fn namespace_path(&self, network: &WorkloadId) -> PathBuf {
        self.folder.join(name::namespace(network))
    }

    /// Makes the network as `record` says, with the rules for all of its `interfaces`.
    pub async fn ensure(
        &self,
        record: &NetworkRecord,
        interfaces: &[&InterfaceRecord],
    ) -> anyhow::Result<()> {
        let namespace = Namespace::ensure(&self.folder, &name::namespace(&record.id))
            .context("namespace of the network")?;
        namespace
            .enter(sysctl::prepare_network)
            .context("settings of the network's namespace")?;
        // Before the first link: nothing passes unjudged.
        replace_rules(&namespace, record, interfaces)?;
        let inside = Links::inside(&namespace).context("netlink in the network's namespace")?;
        inside
            .set_up(LOOPBACK)
            .await
            .context("loopback of the network's namespace")?;
        ensure_bridge(&inside, record).await.context("bridge")?;
        self.ensure_transit(&inside, &namespace, record)
            .await
            .context("link to the network")
    }

    async fn ensure_transit(
        &self,
        inside: &Links,
        namespace: &Namespace,
        record: &NetworkRecord,
    ) -> anyhow::Result<()> {
        let name = name::transit(&record.id);
        if self.links.find(&name).await?.is_none() {
            self.links.add_veth(&name, name::UPLINK, namespace).await?;
        }
        let near = self.links.expect(&name).await?;
        sysctl::prepare_transit(&name)?;
        self.links
            .set_alias(near.index, &record.id.to_string())
            .await?;
        self.links
            .set_addresses(near.index, &record.transit.near().addresses())
            .await?;
        self.links.set_up(near.index).await?;

        let far = inside.expect(name::UPLINK).await?;
        inside
            .set_addresses(far.index, &record.transit.far().addresses())
            .await?;
        inside.set_up(far.index).await?;
        for gateway in record.transit.near().addresses() {
            inside.set_default_route(gateway.addr(), far.index).await?;
        }
        Ok(())
    }

    /// Removes all of it. Absent is success.
    pub async fn delete(&self, network: &WorkloadId) -> anyhow::Result<()> {
        self.delete_named(&name::namespace(network)).await?;
        self.links
            .delete(&name::transit(network))
            .await
            .context("link to the network")
    }

    /// Ends the namespace of this file name with every link in it. A machine that still holds a
    /// tap finds it dead, and does not keep the rest alive.
    async fn delete_named(&self, namespace: &str) -> anyhow::Result<()> {
        if let Some(found) = Namespace::find(&self.folder, namespace)? {
            let inside = Links::inside(&found)?;
            for link in inside.all().await? {
                if link.index != LOOPBACK {
                    inside.delete(&link.name).await.with_context(|| link.name)?;
                }
            }
        }
        Namespace::delete(&self.folder, namespace).context("namespace of the network")
    }

    /// Removes what is named like ours and belongs to none of `known`.
    pub async fn delete_others(&self, known: &[&WorkloadId]) -> anyhow::Result<()> {
        let namespaces: Vec<_> = known.iter().map(|id| name::namespace(id)).collect();
        for found in Namespace::list(&self.folder, name::NAMESPACE_PREFIX)? {
            if !namespaces.contains(&found) {
                tracing::warn!(
                    namespace = found,
                    "removing a network of which there is no record"
                );
                self.delete_named(&found).await?;
            }
        }
        let transits: Vec<_> = known.iter().map(|id| name::transit(id)).collect();
        for link in self.links.all().await? {
            if link.name.starts_with(name::TRANSIT_PREFIX) && !transits.contains(&link.name) {
                tracing::warn!(
                    link = link.name,
                    "removing a link of which there is no record"
                );
                self.links.delete(&link.name).await?;
            }
        }
        Ok(())
    }

    /// Makes the tap of one of the network's `interfaces`, behind the rules for all of them.
    pub async fn ensure_interface(
        &self,
        network: &NetworkRecord,
        interfaces: &[&InterfaceRecord],
        id: &InterfaceId,
    ) -> anyhow::Result<()> {
        let namespace = self
            .find(&network.id)?
            .context("the network's namespace is gone")?;
        // Before the tap is on the bridge: nothing passes unjudged.
        replace_rules(&namespace, network, interfaces)?;
        let inside = Links::inside(&namespace)?;
        let name = name::tap(id);
        let bridge = inside.expect(&name::bridge(&network.id)).await?;
        if inside.find(&name).await?.is_none() {
            namespace
                .enter(|| tap::make(&name))
                .with_context(|| format!("tap {name}"))?;
        }
        // The bridge speaks for its ports.
        let disable_ipv6 = format!("ipv6/conf/{name}/disable_ipv6");
        namespace.enter(|| sysctl::set_if_present(&disable_ipv6, "1"))?;
        let tap = inside.expect(&name).await?;
        inside.set_alias(tap.index, &id.machine.to_string()).await?;
        if tap.controller != Some(bridge.index) {
            inside
                .set_bridge(tap.index, bridge.index)
                .await
                .context("tap to bridge")?;
        }
        inside
            .set_up(tap.index)
            .await
            .with_context(|| format!("tap {name}"))
    }

    /// Removes the tap; `interfaces` are those that stay. Absent is success.
    pub async fn delete_interface(
        &self,
        network: &NetworkRecord,
        interfaces: &[&InterfaceRecord],
        id: &InterfaceId,
    ) -> anyhow::Result<()> {
        let Some(namespace) = self.find(&network.id)? else {
            return Ok(());
        };
        let inside = Links::inside(&namespace)?;
        inside.delete(&name::tap(id)).await.context("tap")?;
        replace_rules(&namespace, network, interfaces)
    }

    /// Removes taps of the network that belong to none of `interfaces`.
    pub async fn delete_other_interfaces(
        &self,
        network: &NetworkRecord,
        interfaces: &[&InterfaceRecord],
    ) -> anyhow::Result<()> {
        let Some(namespace) = self.find(&network.id)? else {
            return Ok(());
        };
        let known: Vec<_> = interfaces
            .iter()
            .map(|record| name::tap(&record.id))
            .collect();
        let inside = Links::inside(&namespace)?;
        for link in inside.all().await? {
            if link.name.starts_with(name::TAP_PREFIX) && !known.contains(&link.name) {
                tracing::warn!(
                    tap = link.name,
                    "removing a tap of which there is no record"
                );
                inside.delete(&link.name).await?;
            }
        }
        Ok(())
    }

    pub fn find(&self, network: &WorkloadId) -> anyhow::Result<Option<Namespace>> {
        Ok(Namespace::find(
            Path::new(&self.folder),
            &name::namespace(network),
        )?)
    }
}

/// The first link of every namespace.
pub const LOOPBACK: u32 = 1;

async fn ensure_bridge(inside: &Links, record: &NetworkRecord) -> anyhow::Result<()> {
    let name = name::bridge(&record.id);
    if inside.find(&name).await?.is_none() {
        inside
            .add_bridge(&name, name::bridge_mac(&record.id))
            .await?;
    }
    let bridge = inside.expect(&name).await?;
    inside
        .set_alias(bridge.index, &record.id.to_string())
        .await?;
    inside
        .set_addresses(bridge.index, &gateway::addresses(&record.spec))
        .await?;
    inside.set_up(bridge.index).await?;
    Ok(())
}

fn replace_rules(
    namespace: &Namespace,
    record: &NetworkRecord,
    interfaces: &[&InterfaceRecord],
) -> anyhow::Result<()> {
    let bridge = name::bridge(&record.id);
    let tables = [
        firewall::network::table(&bridge, &record.spec, record.transit, interfaces),
        firewall::machine::table(interfaces),
    ];
    namespace
        .enter(|| firewall::replace(&tables))
        .context("rules of the network")
}
