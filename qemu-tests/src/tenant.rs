//! Someone who deploys: a twin with its keys.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, bail};
use ed25519_dalek::SigningKey;
use loam_chain::{
    ContractRecord, EndpointReader, GridConfig, GridReader, WeightedKey, writer::GridWriter,
};
use loam_deployment::{
    ChainContext, ContractId, TwinId, Version, envelope,
    payload::Payload,
    report::{self, Report, State, Verdict},
    written::{self, Recipient},
};
use tokio::runtime::{Handle, Runtime};

use crate::{
    console, grid,
    node::Node,
    wait::{LIMIT, wait_for},
};

#[derive(Debug)]
pub struct Tenant {
    runtime: Handle,
    pub twin: TwinId,
    pub signing: SigningKey,
    pub(crate) writer: GridWriter,
    reader: EndpointReader,
    chain: ChainContext,
}

/// A contract of a tenant's on a node.
#[derive(Debug)]
pub struct Contract<'a> {
    tenant: &'a Tenant,
    node: Recipient,
    pub id: ContractId,
}

impl Tenant {
    pub(crate) fn register(
        runtime: &Runtime,
        config: &GridConfig,
        seed: [u8; 32],
    ) -> anyhow::Result<Self> {
        let signing = SigningKey::from_bytes(&seed);
        let mut account = seed;
        account[31] ^= 0xac;
        let writer = grid::writer(config, &account)?;
        let key = WeightedKey {
            key: signing.verifying_key().to_bytes(),
            weight: 1,
        };
        let (twin, _) = runtime.block_on(writer.register_twin(&[key], 1))?;
        Ok(Self {
            runtime: runtime.handle().clone(),
            twin,
            signing,
            writer,
            reader: EndpointReader::new(config)?,
            chain: config.context(),
        })
    }

    /// Publishes a deployment written in TOML; does not wait for it.
    pub fn deploy(&self, node: &Node<'_>, toml: &str) -> anyhow::Result<Contract<'_>> {
        self.deploy_bytes(node, |recipient| {
            let payload = payload(toml, recipient)?;
            Ok(envelope::sign(
                &payload,
                &self.chain,
                &[(self.twin, &self.signing)],
            )?)
        })
    }

    /// Publishes whatever `make` gives for the contract's number.
    pub fn deploy_bytes(
        &self,
        node: &Node<'_>,
        mut make: impl FnMut(&Recipient) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Contract<'_>> {
        let record = node.record()?;
        let mut recipient = Recipient {
            chain: self.chain,
            node: record.key,
            hpke_public: record.hpke_key,
            contract: ContractId(0),
            version: Version(1),
        };
        let mut failed = None;
        let deployed = self
            .runtime
            .block_on(self.writer.deploy_new(record.key, |id| {
                recipient.contract = id;
                make(&recipient).map_err(|error| {
                    let text = std::io::Error::other(format!("{error:#}"));
                    failed = Some(error);
                    text
                })
            }));
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(Contract {
            tenant: self,
            node: recipient,
            id: deployed?.0,
        })
    }
}

/// The payload of a deployment written in TOML.
pub fn payload(toml: &str, recipient: &Recipient) -> anyhow::Result<Payload> {
    // Cases name their images by digests, so that nobody is asked for one.
    let draft = written::read("case.toml", toml, &|_| None)?.pinned(&BTreeMap::new())?;
    Ok(draft.for_node(recipient)?)
}

impl Contract<'_> {
    pub fn recipient(&self) -> Recipient {
        self.node
    }

    /// Publishes the next version; gives its number.
    pub fn update(&self, toml: &str) -> anyhow::Result<Version> {
        self.update_bytes(|recipient| {
            let payload = payload(toml, recipient)?;
            let tenant = self.tenant;
            Ok(envelope::sign(
                &payload,
                &tenant.chain,
                &[(tenant.twin, &tenant.signing)],
            )?)
        })
    }

    /// Publishes whatever `make` gives as the next version.
    pub fn update_bytes(
        &self,
        make: impl FnOnce(&Recipient) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Version> {
        let version = Version(self.record()?.version().0 + 1);
        let bytes = make(&Recipient {
            version,
            ..self.node
        })?;
        let tenant = self.tenant;
        tenant
            .runtime
            .block_on(tenant.writer.update_contract(self.id, version, &bytes))?;
        Ok(version)
    }

    pub fn cancel(&self) -> anyhow::Result<()> {
        let tenant = self.tenant;
        tenant
            .runtime
            .block_on(tenant.writer.cancel_contract(self.id))?;
        Ok(())
    }

    /// All that its machine has written on its console; `node` leads to the node's tenant port.
    pub fn console(&self, node: SocketAddr, machine: &str) -> anyhow::Result<String> {
        let tenant = self.tenant;
        let read = console::read(tenant, self, node, machine);
        let read = async { tokio::time::timeout(LIMIT, read).await };
        tenant.runtime.block_on(read)?
    }

    pub fn record(&self) -> anyhow::Result<ContractRecord> {
        let reader = &self.tenant.reader;
        let record = self.tenant.runtime.block_on(async {
            let latest = reader.latest().await?;
            reader.contract(self.id, latest).await
        })?;
        record.with_context(|| format!("contract {} is not on the chain", self.id))
    }

    /// What the node last said, its signature checked.
    pub fn report(&self) -> anyhow::Result<Option<Report>> {
        let record = self.record()?;
        let reader = &self.tenant.reader;
        let bytes = self.tenant.runtime.block_on(async {
            let latest = reader.latest().await?;
            reader.report(&record, latest).await
        })?;
        bytes
            .map(|bytes| Ok(report::verify(&bytes, &self.tenant.chain, &record.node)?))
            .transpose()
    }

    /// Waits until every workload of this version runs, and gives the report that says so.
    pub fn wait_running(&self, version: Version) -> anyhow::Result<Report> {
        wait_for(
            &format!("contract {} version {version} to run", self.id),
            || {
                let Some(report) = self.report()?.filter(|report| report.version == version) else {
                    return Ok(None);
                };
                if let Verdict::Rejected { reason, .. } = &report.verdict {
                    bail!("it was rejected: {reason}");
                }
                for (name, workload) in &report.workloads {
                    if workload.state == State::Failed {
                        bail!("{name} failed: {}", workload.detail);
                    }
                }
                let runs = report.workloads.values().all(|w| w.state == State::Running);
                Ok(runs.then_some(report))
            },
        )
    }

    /// Waits until the node has refused this version, and gives its reason.
    pub fn wait_rejected(&self, version: Version) -> anyhow::Result<String> {
        wait_for(
            &format!("contract {} version {version} to be refused", self.id),
            || {
                let Some(report) = self.report()?.filter(|report| report.version == version) else {
                    return Ok(None);
                };
                match report.verdict {
                    Verdict::Rejected { reason, .. } => Ok(Some(reason)),
                    Verdict::Accepted => bail!("it was accepted"),
                }
            },
        )
    }
}
