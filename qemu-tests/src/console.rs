//! A tenant reads its machine's console from the node, as `loam logs` does.

use std::net::SocketAddr;

use anyhow::bail;
use ed25519_dalek::Signer as _;
use loam_node_api::tenant::{Hello, TenantRequest, TenantResponse, channel::Channel};
use tokio::net::TcpStream;

use crate::tenant::{Contract, Tenant};

/// All that the machine has written until now. `node` leads to the node's port for tenants.
pub(crate) async fn read(
    tenant: &Tenant,
    contract: &Contract<'_>,
    node: SocketAddr,
    machine: &str,
) -> anyhow::Result<String> {
    let stream = TcpStream::connect(node).await?;
    let mut channel = Channel::connect(stream, &contract.recipient().hpke_public).await?;
    let hello = Hello {
        twin: tenant.twin,
        key: tenant.signing.verifying_key().to_bytes(),
        signature: tenant
            .signing
            .sign(&channel.challenge())
            .to_bytes()
            .to_vec(),
    };
    channel.send(&hello).await?;
    match channel.receive().await? {
        TenantResponse::Welcome => {}
        other => bail!("the node answered {other:?} to a greeting"),
    }
    let request = TenantRequest::Console {
        contract: contract.id,
        machine: machine.parse()?,
        from: 0,
        follow: false,
    };
    channel.send(&request).await?;
    let mut console = Vec::new();
    loop {
        match channel.receive().await? {
            TenantResponse::Output { bytes, .. } => console.extend(bytes),
            TenantResponse::End => return Ok(String::from_utf8_lossy(&console).into_owned()),
            other => bail!("the node answered {other:?} instead of output"),
        }
    }
}
