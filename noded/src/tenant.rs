//! Answers tenants directly: the consoles of their own machines, over an encrypted channel.
//!
//! Whoever connects learns nothing before it has proved to hold a key of a twin with a contract on
//! this node, and then only about that twin's contracts.

use std::{collections::BTreeMap, net::Ipv6Addr, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use ed25519_dalek::{Signature, VerifyingKey};
use loam_deployment::{ContractId, Name, TwinId};
use loam_node_api::{
    WorkloadId,
    path::TENANT_PORT,
    tenant::{Hello, TenantRequest, TenantResponse, channel::Channel},
    window::WindowSize,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::daemons::{Sockets, deadline};

/// Tenants connected at once; each costs two buffers of 64 KiB at most.
const CONNECTIONS: usize = 64;
/// For the handshake and the proof: a stranger holds a place no longer.
const PROOF_PATIENCE: Duration = Duration::from_secs(10);
/// For the next request of a tenant who proved itself.
const IDLE_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How often a followed console is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);
/// A chunk grows at most sixfold when written as JSON numbers and must fit one message.
const CHUNK: usize = 12 << 10;
/// What a tenant may type at once.
const INPUT: usize = 4 << 10;

/// Who may see what: the contracts on this node with their owners' keys.
pub type Access = BTreeMap<ContractId, Owner>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub twin: TwinId,
    pub keys: Vec<[u8; 32]>,
}

/// Serves until the listener fails. Must run inside a `LocalSet`.
pub async fn serve(
    private: Rc<[u8; 32]>,
    sockets: Rc<Sockets>,
    access: watch::Receiver<Access>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, TENANT_PORT))
        .await
        .with_context(|| format!("cannot listen for tenants on TCP port {TENANT_PORT}"))?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a tenant's connection could not be accepted");
                // Out of descriptors, most likely: the next try is as hopeless until one is free.
                sleep(FOLLOW_INTERVAL).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            debug!(%peer, "turned away: too many connections");
            continue;
        };
        let (private, sockets, access) = (private.clone(), sockets.clone(), access.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = converse(stream, &private, &sockets, access).await {
                debug!(%peer, error = format!("{error:#}"), "a tenant's connection ended");
            }
            drop(place);
        });
    }
}

async fn converse(
    stream: TcpStream,
    private: &[u8; 32],
    sockets: &Sockets,
    access: watch::Receiver<Access>,
) -> anyhow::Result<()> {
    let (mut channel, twin) = timeout(PROOF_PATIENCE, prove(stream, private, &access))
        .await
        .context("did not prove itself in time")??;
    loop {
        let request = timeout(IDLE_PATIENCE, channel.receive())
            .await
            .context("idle")??;
        let (contract, machine) = match &request {
            TenantRequest::Console {
                contract, machine, ..
            }
            | TenantRequest::Input {
                contract, machine, ..
            }
            | TenantRequest::Resize {
                contract, machine, ..
            } => (*contract, machine.clone()),
        };
        // Looked up at each request: a contract that was cancelled meanwhile is closed at once.
        if access
            .borrow()
            .get(&contract)
            .is_none_or(|owner| owner.twin != twin)
        {
            let reason = format!("twin {twin} has no contract {contract} on this node");
            channel.send(&TenantResponse::Refused { reason }).await?;
            continue;
        }
        let answer = match request {
            TenantRequest::Console { from, follow, .. } => {
                console(&mut channel, sockets, contract, &machine, from, follow).await
            }
            TenantRequest::Input { bytes, .. } => input(sockets, contract, &machine, bytes).await,
            TenantRequest::Resize { size, .. } => resize(sockets, contract, &machine, size).await,
        };
        let answer = answer.unwrap_or_else(|error| TenantResponse::Refused {
            reason: format!("{error:#}"),
        });
        channel.send(&answer).await?;
    }
}

async fn prove(
    stream: TcpStream,
    private: &[u8; 32],
    access: &watch::Receiver<Access>,
) -> anyhow::Result<(Channel<TcpStream>, TwinId)> {
    let mut channel = Channel::accept(stream, private).await?;
    let hello: Hello = channel.receive().await?;
    let known = proves(&hello, &channel.challenge(), &access.borrow());
    if !known {
        let reason = format!(
            "not a key of twin {}, or no contract of it is here",
            hello.twin
        );
        channel.send(&TenantResponse::Refused { reason }).await?;
        bail!("twin {} did not prove itself", hello.twin);
    }
    info!(twin = %hello.twin, "a tenant connected");
    channel.send(&TenantResponse::Welcome).await?;
    Ok((channel, hello.twin))
}

fn proves(hello: &Hello, challenge: &[u8], access: &Access) -> bool {
    let known = access
        .values()
        .any(|owner| owner.twin == hello.twin && owner.keys.contains(&hello.key));
    let signature = <[u8; 64]>::try_from(&hello.signature[..]).map(|s| Signature::from_bytes(&s));
    match (known, VerifyingKey::from_bytes(&hello.key), signature) {
        (true, Ok(key), Ok(signature)) => key.verify_strict(challenge, &signature).is_ok(),
        _ => false,
    }
}

async fn console(
    channel: &mut Channel<TcpStream>,
    sockets: &Sockets,
    contract: ContractId,
    machine: &Name,
    mut from: u64,
    follow: bool,
) -> anyhow::Result<TenantResponse> {
    let id = WorkloadId::new(contract, machine.clone());
    loop {
        let init = sockets.machines().await?;
        let chunk = init.console_read(deadline(), id.clone(), from).await??;
        let mut start = chunk.start;
        for bytes in chunk.bytes.chunks(CHUNK) {
            channel
                .send(&TenantResponse::Output {
                    start,
                    bytes: bytes.to_vec(),
                })
                .await?;
            start += bytes.len() as u64;
        }
        if chunk.bytes.is_empty() {
            if !follow {
                return Ok(TenantResponse::End);
            }
            tokio::select! {
                () = channel.closed() => bail!("left"),
                () = sleep(FOLLOW_INTERVAL) => {}
            }
        }
        from = start;
    }
}

async fn input(
    sockets: &Sockets,
    contract: ContractId,
    machine: &Name,
    bytes: Vec<u8>,
) -> anyhow::Result<TenantResponse> {
    if bytes.len() > INPUT {
        bail!("at most {INPUT} bytes can be typed at once");
    }
    let init = sockets.machines().await?;
    let id = WorkloadId::new(contract, machine.clone());
    init.console_write(deadline(), id, bytes).await??;
    Ok(TenantResponse::Done)
}

async fn resize(
    sockets: &Sockets,
    contract: ContractId,
    machine: &Name,
    size: WindowSize,
) -> anyhow::Result<TenantResponse> {
    let init = sockets.machines().await?;
    let id = WorkloadId::new(contract, machine.clone());
    init.console_resize(deadline(), id, size).await??;
    Ok(TenantResponse::Done)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn only_a_key_of_a_twin_with_a_contract_here_proves_anything() {
        let (ours, other) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let key = ours.verifying_key().to_bytes();
        let access = Access::from([(
            ContractId(1),
            Owner {
                twin: TwinId(5),
                keys: vec![key],
            },
        )]);
        let hello = |twin, signer: &SigningKey, challenge: &[u8]| Hello {
            twin: TwinId(twin),
            key: signer.verifying_key().to_bytes(),
            signature: signer.sign(challenge).to_bytes().to_vec(),
        };
        assert!(proves(&hello(5, &ours, b"now"), b"now", &access));
        assert!(!proves(
            &hello(5, &ours, b"another channel"),
            b"now",
            &access
        ));
        assert!(!proves(&hello(6, &ours, b"now"), b"now", &access));
        assert!(!proves(&hello(5, &other, b"now"), b"now", &access));
        let mut forged = hello(5, &other, b"now");
        forged.key = key;
        assert!(!proves(&forged, b"now", &access));
        let mut short = hello(5, &ours, b"now");
        short.signature.pop();
        assert!(!proves(&short, b"now", &access));
        assert!(!proves(&hello(5, &ours, b"now"), b"now", &Access::new()));
    }
}
