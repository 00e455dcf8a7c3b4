//! What others ask of netd, one request at a time.

use std::{ops::Bound, path::Path, sync::Arc};

use anyhow::Context as _;
use ipnet::IpNet;
use loam_deployment::payload::Protocol;
use loam_node_api::{
    WorkloadId,
    network::{
        Interface, InterfaceId, InterfaceSpec, Network, NetworkError, NetworkService, NetworkSpec,
        Uplink,
    },
    page::{Changes, Page, Revision},
};
use tarpc::context::Context;
use tokio::sync::Mutex;

use crate::{
    firewall, name,
    network::Networks,
    record::Records,
    state::{InterfaceRecord, NetworkRecord, State},
    uplink::UplinkView,
};

#[derive(Clone, Debug)]
pub struct Service {
    // One change at a time: each reads the whole state and writes rules made from it.
    tenants: Arc<Mutex<Tenants>>,
    uplink: UplinkView,
    changes: Changes,
}

/// Tenants' networks and interfaces: the state, its records, the kernel.
#[derive(Debug)]
struct Tenants {
    state: State,
    networks: Records,
    interfaces: Records,
    kernel: Networks,
}

impl Service {
    /// Takes over what the records in `folder` say, in the kernel too.
    pub async fn recover(
        kernel: Networks,
        folder: &Path,
        uplink: UplinkView,
        changes: Changes,
    ) -> anyhow::Result<Self> {
        let mut tenants = Tenants {
            state: State::default(),
            networks: Records::open(folder.join("networks"))?,
            interfaces: Records::open(folder.join("interfaces"))?,
            kernel,
        };
        tenants.recover().await?;
        Ok(Self {
            tenants: Arc::new(Mutex::new(tenants)),
            uplink,
            changes,
        })
    }
}

impl NetworkService for Service {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        self.changes.since(seen).await
    }

    async fn uplink(self, _: Context) -> Uplink {
        self.uplink.read()
    }

    async fn network_ensure(
        self,
        _: Context,
        id: WorkloadId,
        spec: NetworkSpec,
    ) -> Result<(), NetworkError> {
        let uplink = self.uplink.read();
        let outside = uplink
            .addresses
            .into_iter()
            .chain(uplink.dns.into_iter().map(IpNet::from));
        let outside: Vec<IpNet> = outside.collect();
        let mut tenants = self.tenants.lock().await;
        let outcome = tenants.network_ensure(&id, spec, &outside).await;
        self.changes.note();
        outcome
    }

    async fn networks(self, _: Context, after: Option<WorkloadId>) -> Page<Network> {
        let tenants = self.tenants.lock().await;
        let behind = tenants.state.networks.range(behind(after));
        let made = behind
            .map(|(_, record)| record)
            .filter(|record| record.made);
        Page::of(made.map(|record| Network {
            id: record.id.clone(),
            spec: record.spec.clone(),
            bridge: name::bridge(&record.id),
        }))
    }

    async fn network_delete(self, _: Context, id: WorkloadId) -> Result<(), NetworkError> {
        let outcome = self.tenants.lock().await.network_delete(&id).await;
        self.changes.note();
        outcome.map_err(kernel_error)
    }

    async fn interface_ensure(
        self,
        _: Context,
        id: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError> {
        let outcome = self.tenants.lock().await.interface_ensure(&id, spec).await;
        self.changes.note();
        outcome
    }

    async fn interfaces(self, _: Context, after: Option<InterfaceId>) -> Page<Interface> {
        let tenants = self.tenants.lock().await;
        let behind = tenants.state.interfaces.range(behind(after));
        let made = behind
            .map(|(_, record)| record)
            .filter(|record| record.made);
        Page::of(made.map(|record| tenants.describe(record)))
    }

    async fn interface_delete(self, _: Context, id: InterfaceId) -> Result<(), NetworkError> {
        let outcome = self.tenants.lock().await.interface_delete(&id).await;
        self.changes.note();
        outcome.map_err(kernel_error)
    }
}

/// The keys behind `after`; all when none is named.
fn behind<K>(after: Option<K>) -> (Bound<K>, Bound<K>) {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    (from, Bound::Unbounded)
}

impl Tenants {
    /// One workload that cannot be taken over is not listed, and is its owner's problem alone.
    async fn recover(&mut self) -> anyhow::Result<()> {
        for record in self
            .networks
            .all::<NetworkRecord>()
            .context("records of networks")?
        {
            self.state.networks.insert(record.id.clone(), record);
        }
        for record in self
            .interfaces
            .all::<InterfaceRecord>()
            .context("records of interfaces")?
        {
            self.state.interfaces.insert(record.id.clone(), record);
        }
        // The same rules as before, so that what runs is not interrupted.
        self.replace_node_rules()?;
        let networks: Vec<_> = self.state.networks.keys().cloned().collect();
        self.kernel
            .delete_others(&networks.iter().collect::<Vec<_>>())
            .await?;
        for id in &networks {
            if let Err(error) = self.make_network(id).await {
                tracing::error!(network = %id, "not taken over: {error:#}");
            }
        }
        let interfaces: Vec<_> = self.state.interfaces.keys().cloned().collect();
        for id in &interfaces {
            if let Err(error) = self.make_interface(id).await {
                tracing::error!(machine = %id.machine, network = %id.network,
                    "not taken over: {error:#}");
            }
        }
        tracing::info!(
            networks = networks.len(),
            interfaces = interfaces.len(),
            "took over what was here"
        );
        Ok(())
    }

    async fn network_ensure(
        &mut self,
        id: &WorkloadId,
        spec: NetworkSpec,
        uplink: &[IpNet],
    ) -> Result<(), NetworkError> {
        let record = self.state.admit_network(id, spec, uplink)?;
        self.networks
            .write(&name::bridge(id), &record)
            .map_err(|e| kernel_error(e.into()))?;
        self.state.networks.insert(id.clone(), record);
        self.make_network(id).await.map_err(kernel_error)
    }

    async fn network_delete(&mut self, id: &WorkloadId) -> anyhow::Result<()> {
        let interfaces: Vec<_> = self
            .state
            .interfaces_of(id)
            .iter()
            .map(|r| r.id.clone())
            .collect();
        for interface in &interfaces {
            self.interface_delete(interface).await?;
        }
        self.kernel.delete(id).await?;
        self.networks.remove(&name::bridge(id))?;
        if self.state.networks.remove(id).is_some() {
            tracing::info!(network = %id, "removed");
        }
        Ok(())
    }

    async fn interface_ensure(
        &mut self,
        id: &InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError> {
        let record = self.state.admit_interface(id, spec)?;
        self.interfaces
            .write(&name::tap(id), &record)
            .map_err(|e| kernel_error(e.into()))?;
        let before = self.state.interfaces.insert(id.clone(), record);
        self.make_interface(id).await.map_err(kernel_error)?;
        self.replace_node_rules().map_err(kernel_error)?;
        if let Some(before) = before {
            self.forget_connections(&before).map_err(kernel_error)?;
        }
        Ok(self.describe(&self.state.interfaces[id]))
    }

    async fn interface_delete(&mut self, id: &InterfaceId) -> anyhow::Result<()> {
        // The record stays until all is gone, so that a failure can be tried again.
        let Some(record) = self.state.interfaces.get_mut(id) else {
            return Ok(());
        };
        record.made = false;
        let published = std::mem::take(&mut record.spec.publish);
        self.replace_node_rules()?;
        if let Some(network) = self.state.networks.get(&id.network) {
            let stay = self.state.interfaces_of(&id.network);
            let stay: Vec<_> = stay.into_iter().filter(|record| record.id != *id).collect();
            self.kernel.delete_interface(network, &stay, id).await?;
        }
        self.interfaces.remove(&name::tap(id))?;
        if let Some(mut record) = self.state.interfaces.remove(id) {
            record.spec.publish = published;
            self.forget_connections(&record)?;
            tracing::info!(machine = %id.machine, network = %id.network, "interface removed");
        }
        Ok(())
    }

    async fn make_network(&mut self, id: &WorkloadId) -> anyhow::Result<()> {
        let Some(record) = self.state.networks.get(id) else {
            return Ok(());
        };
        let interfaces = self.state.interfaces_of(id);
        let outcome = async {
            self.kernel.ensure(record, &interfaces).await?;
            self.kernel
                .delete_other_interfaces(record, &interfaces)
                .await
        };
        let outcome = outcome.await;
        if let Some(record) = self.state.networks.get_mut(id) {
            if outcome.is_ok() && !record.made {
                tracing::info!(network = %id, subnet = %record.spec.ipv4, "made");
            }
            record.made = outcome.is_ok();
        }
        outcome
    }

    async fn make_interface(&mut self, id: &InterfaceId) -> anyhow::Result<()> {
        let network = self
            .state
            .networks
            .get(&id.network)
            .context("its network is gone")?;
        let interfaces = self.state.interfaces_of(&id.network);
        let outcome = self.kernel.ensure_interface(network, &interfaces, id).await;
        if let Some(record) = self.state.interfaces.get_mut(id) {
            if outcome.is_ok() && !record.made {
                tracing::info!(machine = %id.machine, network = %id.network,
                    addresses = ?record.spec.addresses, "interface made");
            }
            record.made = outcome.is_ok();
        }
        outcome
    }

    fn replace_node_rules(&self) -> anyhow::Result<()> {
        firewall::replace(&[firewall::node::table(&self.state.published())])
            .context("rules of the node")
    }

    /// Ends the connections to ports that `before` published and the state does not any more, or
    /// leads elsewhere.
    fn forget_connections(&self, before: &InterfaceRecord) -> anyhow::Result<()> {
        let now = self.state.interfaces.get(&before.id);
        let same_machine = now.is_some_and(|now| now.first_ipv4() == before.first_ipv4());
        let gone: Vec<(Protocol, u16)> = before
            .spec
            .publish
            .iter()
            .filter(|p| !(same_machine && now.is_some_and(|now| now.spec.publish.contains(p))))
            .map(|publish| (publish.protocol, publish.node_port))
            .collect();
        firewall::conntrack::forget(&gone).context("connections of the node")?;
        if let Some(namespace) = self.kernel.find(&before.id.network)? {
            let forget = || firewall::conntrack::forget(&gone);
            namespace
                .enter(forget)
                .context("connections of the network")?;
        }
        Ok(())
    }

    fn describe(&self, record: &InterfaceRecord) -> Interface {
        Interface {
            id: record.id.clone(),
            spec: record.spec.clone(),
            tap: name::tap(&record.id),
            namespace: Some(self.kernel.namespace_path(&record.id.network)),
        }
    }
}

fn kernel_error(error: anyhow::Error) -> NetworkError {
    NetworkError::Kernel(format!("{error:#}"))
}
