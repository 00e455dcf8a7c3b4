//! What others ask of netd. Lists and the uplink are answered from memory at once; what changes the
//! kernel waits for its own lane only, and not for ever.

use std::sync::Arc;

use ipnet::IpNet;
use loam_node_api::{
    WorkloadId,
    network::{
        Interface, InterfaceId, InterfaceSpec, Network, NetworkError, NetworkService, NetworkSpec,
        Uplink,
    },
    page::{Changes, Page, Revision},
};
use tarpc::context::Context;

use crate::{tenants::Tenants, uplink::UplinkView};

#[derive(Clone, Debug)]
pub struct Service {
    tenants: Arc<Tenants>,
    uplink: UplinkView,
    changes: Changes,
}

impl Service {
    pub fn new(tenants: Arc<Tenants>, uplink: UplinkView, changes: Changes) -> Self {
        Self {
            tenants,
            uplink,
            changes,
        }
    }

    /// What machines must be able to reach behind the uplink.
    fn outside(&self) -> Vec<IpNet> {
        let uplink = self.uplink.read();
        let dns = uplink.dns.into_iter().map(IpNet::from);
        uplink.addresses.into_iter().chain(dns).collect()
    }
}

impl NetworkService for Service {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        self.changes.since(seen).await
    }

    async fn uplink(self, _: Context) -> Uplink {
        self.uplink.read()
    }

    async fn network_check(
        self,
        _: Context,
        id: WorkloadId,
        spec: NetworkSpec,
    ) -> Result<(), NetworkError> {
        self.tenants.network_check(&id, spec, &self.outside())
    }

    async fn network_ensure(
        self,
        _: Context,
        id: WorkloadId,
        spec: NetworkSpec,
    ) -> Result<(), NetworkError> {
        let outside = self.outside();
        self.tenants.network_ensure(id, spec, &outside).await
    }

    async fn networks(self, _: Context, after: Option<WorkloadId>) -> Page<Network> {
        self.tenants.networks(after)
    }

    async fn network_delete(self, _: Context, id: WorkloadId) -> Result<(), NetworkError> {
        self.tenants.network_delete(id).await
    }

    async fn interface_ensure(
        self,
        _: Context,
        id: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError> {
        self.tenants.interface_ensure(id, spec).await
    }

    async fn interfaces(self, _: Context, after: Option<InterfaceId>) -> Page<Interface> {
        self.tenants.interfaces(after)
    }

    async fn interface_delete(self, _: Context, id: InterfaceId) -> Result<(), NetworkError> {
        self.tenants.interface_delete(id).await
    }
}
