//! Tenants' networks and interfaces: what is asked for, its records, and the lanes that make the
//! kernel follow.
//!
//! A call changes the record and the state, which takes no time, and then waits for the lanes that
//! this concerns: the network's own, and that of the node's rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context as _;
use ipnet::IpNet;
use loam_node_api::{
    WorkloadId,
    network::{Interface, InterfaceId, InterfaceSpec, Network, NetworkError, NetworkSpec},
    page::{Changes, Page},
};
use tokio::sync::Semaphore;

use crate::{
    apart::apart,
    firewall::{self, node::Published},
    lane::{self, Lane},
    name,
    network::Networks,
    record::Records,
    state::State,
};

#[derive(Debug)]
pub struct Tenants {
    /// Never held while anything is waited for.
    inner: Mutex<Inner>,
    networks: Records,
    interfaces: Records,
    kernel: Networks,
    changes: Changes,
    turns: Arc<Semaphore>,
    /// Of the node's rules, which hold all published ports.
    node: Lane,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// By the name of the network's namespace.
    lanes: BTreeMap<String, Arc<Lane>>,
    /// What the node's rules in the kernel were made from; none when that is not known.
    node_rules: Option<Vec<Published>>,
}

impl Tenants {
    /// Of the state that [recovery](crate::recovery) found; nothing is done yet.
    pub fn new(
        state: State,
        networks: Records,
        interfaces: Records,
        kernel: Networks,
        changes: Changes,
    ) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(lane::AT_ONCE));
        Arc::new_cyclic(|this: &std::sync::Weak<Self>| {
            let this = this.clone();
            let node = Lane::start("rules of the node".to_owned(), turns.clone(), move || {
                let this = this.upgrade();
                async move { this.context("netd ends")?.make_node_rules().await }
            });
            let inner = Inner {
                state,
                lanes: BTreeMap::new(),
                node_rules: None,
            };
            Self {
                inner: Mutex::new(inner),
                networks,
                interfaces,
                kernel,
                changes,
                turns,
                node,
            }
        })
    }

    /// Makes all of the state, and removes what `others` names: namespaces of networks that no record
    /// names. Returns when each is made, failed or hangs; those are tried further.
    pub async fn take_over(self: &Arc<Self>, others: BTreeSet<String>) {
        // The same rules as before, so that what runs is not interrupted.
        if let Err(error) = self.node.settle().await {
            tracing::error!("the node's rules are those of before: {error:#}");
        }
        let lanes: Vec<_> = {
            let mut inner = self.lock();
            let networks = inner.state.namespaces();
            let names = networks.into_iter().chain(others);
            names.map(|name| self.lane(&mut inner, name)).collect()
        };
        // What fails is its owner's problem alone, and told in the log.
        futures::future::join_all(lanes.iter().map(|lane| lane.settle())).await;
        tracing::info!(networks = lanes.len(), "took over what was here");
    }

    /// Returns once the kernel has rules of ours.
    pub async fn node_rules(&self) {
        self.node.succeeded().await;
    }

    pub fn networks(&self, after: Option<WorkloadId>) -> Page<Network> {
        let inner = self.lock();
        let networks = inner.state.networks_in_force(after);
        Page::of(networks.map(|record| Network {
            id: record.id.clone(),
            spec: record.spec.clone(),
            bridge: name::bridge(&record.id),
        }))
    }

    pub fn interfaces(&self, after: Option<InterfaceId>) -> Page<Interface> {
        let inner = self.lock();
        let interfaces = inner.state.interfaces_present(after);
        Page::of(interfaces.map(|(record, in_force)| Interface {
            in_force,
            ..self.describe(&record.id, &record.spec)
        }))
    }

    pub fn network_check(
        &self,
        id: &WorkloadId,
        spec: NetworkSpec,
        uplink: &[IpNet],
    ) -> Result<(), NetworkError> {
        self.lock()
            .state
            .admit_network(id, spec, uplink)
            .map(|_| ())
    }

    pub async fn network_ensure(
        self: &Arc<Self>,
        id: WorkloadId,
        spec: NetworkSpec,
        uplink: &[IpNet],
    ) -> Result<(), NetworkError> {
        let lane = {
            let mut inner = self.lock();
            let record = inner.state.admit_network(&id, spec, uplink)?;
            self.networks
                .write(&name::bridge(&id), &record)
                .map_err(record_error)?;
            inner.state.put_network(record);
            self.lane(&mut inner, name::namespace(&id))
        };
        self.changes.note();
        let outcome = lane.run().await;
        // An interface of it that fails does not speak for the network.
        if self.lock().state.is_in_force(&id) {
            return Ok(());
        }
        Err(not_made(outcome))
    }

    pub async fn network_delete(self: &Arc<Self>, id: WorkloadId) -> Result<(), NetworkError> {
        let namespace = name::namespace(&id);
        let lane = {
            let mut inner = self.lock();
            if inner.state.network(&id).is_none() && !inner.lanes.contains_key(&namespace) {
                return Ok(());
            }
            for interface in inner.state.interfaces_of(&id) {
                self.interfaces
                    .remove(&name::tap(&interface))
                    .map_err(record_error)?;
                inner.state.remove_interface(&interface);
            }
            self.networks
                .remove(&name::bridge(&id))
                .map_err(record_error)?;
            inner.state.remove_network(&id);
            self.lane(&mut inner, namespace)
        };
        self.changes.note();
        // No port leads there any more; then all of it.
        let (node, network) = (self.node.run().await, lane.run().await);
        drop(lane);
        self.forget_idle_lane(&name::namespace(&id));
        network.and(node).map_err(kernel_error)
    }

    pub async fn interface_ensure(
        self: &Arc<Self>,
        id: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError> {
        let lane = {
            let mut inner = self.lock();
            let record = inner.state.admit_interface(&id, spec.clone())?;
            self.interfaces
                .write(&name::tap(&id), &record)
                .map_err(record_error)?;
            inner.state.put_interface(record);
            self.lane(&mut inner, name::namespace(&id.network))
        };
        self.changes.note();
        // First the rules at the machine's door, then ports of the node that lead there.
        let (network, node) = (lane.run().await, self.node.run().await);
        if self.lock().state.is_interface_in_force(&id, &spec) {
            return Ok(self.describe(&id, &spec));
        }
        Err(not_made(network.and(node)))
    }

    pub async fn interface_delete(self: &Arc<Self>, id: InterfaceId) -> Result<(), NetworkError> {
        let lane = {
            let mut inner = self.lock();
            let namespace = name::namespace(&id.network);
            if inner.state.interface(&id).is_none() && !inner.lanes.contains_key(&namespace) {
                return Ok(());
            }
            self.interfaces
                .remove(&name::tap(&id))
                .map_err(record_error)?;
            inner.state.remove_interface(&id);
            self.lane(&mut inner, namespace)
        };
        self.changes.note();
        let (node, network) = (self.node.run().await, lane.run().await);
        network.and(node).map_err(kernel_error)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each holder leaves the state whole, even one that panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of the network whose namespace has this name.
    fn lane(self: &Arc<Self>, inner: &mut Inner, namespace: String) -> Arc<Lane> {
        let start = || {
            let (this, name) = (Arc::downgrade(self), namespace.clone());
            let work = move || {
                let (this, name) = (this.upgrade(), name.clone());
                async move { this.context("netd ends")?.make_network(name).await }
            };
            Arc::new(Lane::start(namespace.clone(), self.turns.clone(), work))
        };
        let lane = inner.lanes.entry(namespace.clone());
        lane.or_insert_with(start).clone()
    }

    /// Of a network that is gone, when nobody waits for it.
    fn forget_idle_lane(&self, namespace: &str) {
        let mut inner = self.lock();
        let idle = inner.lanes.get(namespace);
        let idle = idle.is_some_and(|lane| Arc::strong_count(lane) == 1);
        if idle && inner.state.is_gone(namespace) {
            inner.lanes.remove(namespace);
        }
    }

    /// Makes the kernel's part of a network what the state says now, or removes it.
    async fn make_network(self: Arc<Self>, namespace: String) -> anyhow::Result<()> {
        let (wanted, generation) = {
            let inner = self.lock();
            (inner.state.wanted(&namespace), inner.state.generation())
        };
        let kernel = self.kernel.clone();
        let Some(wanted) = wanted else {
            let name = namespace.clone();
            apart(move || kernel.delete(&name)).await?;
            self.lock().state.gone(&namespace);
            self.forget_idle_lane(&namespace);
            tracing::info!(namespace, "network removed");
            return Ok(());
        };
        let id = wanted.network.id.clone();
        let interfaces = wanted.interfaces.len();
        let troubles = apart(move || kernel.ensure(&wanted)).await;
        let changed = {
            let state = &mut self.lock().state;
            match &troubles {
                Ok(troubles) => state.network_made(&id, generation, |i| troubles.contains_key(i)),
                Err(_) => state.network_failed(&id),
            }
        };
        if changed {
            self.changes.note();
        }
        let troubles = troubles.with_context(|| id.to_string())?.into_iter();
        let troubles: Vec<_> = troubles
            .map(|(interface, why)| format!("{}: {why}", interface.machine))
            .collect();
        anyhow::ensure!(troubles.is_empty(), "{id}: {}", troubles.join("; "));
        if changed {
            tracing::info!(network = %id, interfaces, "made");
        }
        Ok(())
    }

    /// Makes the node's rules what the state says now.
    async fn make_node_rules(self: Arc<Self>) -> anyhow::Result<()> {
        let (published, generation, before) = {
            let mut inner = self.lock();
            let mut published = inner.state.published();
            published.sort();
            // What becomes of them is not known until it is done.
            let before = inner.node_rules.take();
            (published, inner.state.generation(), before)
        };
        if before.as_ref() != Some(&published) {
            let now = published.clone();
            let work = move || {
                firewall::replace(&[firewall::node::table(&now)]).context("rules of the node")?;
                let stays = |p: &Published| now.binary_search(p).is_ok();
                if before.is_none_or(|before| !before.iter().all(stays)) {
                    firewall::conntrack::forget_misled(&firewall::node::leads(&now))
                        .context("connections of the node")?;
                }
                Ok(())
            };
            apart(work).await?;
        }
        let mut inner = self.lock();
        inner.node_rules = Some(published);
        inner.state.node_rules_made(generation);
        drop(inner);
        self.changes.note();
        Ok(())
    }

    fn describe(&self, id: &InterfaceId, spec: &InterfaceSpec) -> Interface {
        Interface {
            id: id.clone(),
            spec: spec.clone(),
            tap: name::tap(id),
            namespace: Some(self.kernel.namespace_path(&id.network)),
            in_force: true,
        }
    }
}

fn kernel_error(error: anyhow::Error) -> NetworkError {
    NetworkError::Kernel(format!("{error:#}"))
}

fn record_error(error: io::Error) -> NetworkError {
    NetworkError::Kernel(format!("its record: {error}"))
}

/// Why it is not in force; when all went well, another call has changed it since.
fn not_made(outcome: anyhow::Result<()>) -> NetworkError {
    let error = outcome.err();
    kernel_error(error.unwrap_or_else(|| anyhow::anyhow!("it was changed or removed meanwhile")))
}
