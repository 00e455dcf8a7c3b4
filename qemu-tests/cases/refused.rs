//! What is not a valid deployment is refused with the reason, and changes nothing.

use anyhow::ensure;
use coset::{
    CborSerializable, CoseSignBuilder, CoseSignatureBuilder, HeaderBuilder, TaggedCborSerializable,
    iana,
};
use ed25519_dalek::{Signer, SigningKey};
use loam_deployment::{
    ChainContext, Version, cbor, envelope,
    payload::{Payload, Target},
};
use qemu_tests::{
    grid::Grid,
    node::Node,
    tenant::{Tenant, payload},
};

use crate::demo::{Hello, count, start, wait_start, wait_start_after};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let alice = grid.tenant("refused")?;
    let hello = Hello {
        port: 8180,
        subnet: "10.21.0",
        ..Hello::default()
    };
    let toml = hello.toml(grid);
    let mut first = Vec::new();
    let contract = alice.deploy_bytes(node, |recipient| {
        first = signed(grid, &alice, &payload(&toml, recipient)?)?;
        Ok(first.clone())
    })?;
    contract.wait_running(Version(1))?;
    let web = node.forward(hello.port)?;
    let started = wait_start(web)?;
    ensure!(count(web)? == 1);
    let next = Hello {
        greeting: "two",
        ..hello
    }
    .toml(grid);

    let version = contract.update_bytes(|recipient| {
        let stranger = SigningKey::from_bytes(&[0x66; 32]);
        let payload = payload(&next, recipient)?;
        Ok(envelope::sign(
            &payload,
            &grid.context(),
            &[(alice.twin, &stranger)],
        )?)
    })?;
    expect(&contract.wait_rejected(version)?, "is not one of twin")?;

    let version = contract.update_bytes(|recipient| {
        let mut payload = payload(&next, recipient)?;
        payload.target = Target::Node(grid.farmer_key());
        signed(grid, &alice, &payload)
    })?;
    expect(&contract.wait_rejected(version)?, "is for node")?;

    let version = contract.update_bytes(|_| Ok(first.clone()))?;
    expect(&contract.wait_rejected(version)?, "version 1")?;

    let version = contract.update_bytes(|recipient| {
        let mut value: coset::cbor::Value =
            coset::cbor::Value::from_slice(&cbor::encode(&payload(&next, recipient)?))
                .map_err(|error| anyhow::anyhow!("{error}"))?;
        let map = value.as_map_mut().expect("a payload is a map");
        // Longer than any other key, so that it comes last and the map stays sorted.
        map.push(("surprise-field".into(), 1.into()));
        let bytes = value.to_vec().map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(enveloped(&grid.context(), &alice, bytes))
    })?;
    expect(&contract.wait_rejected(version)?, "surprise-field")?;

    // The contract itself takes no more than a data contract can hold.
    let oversized = contract.update_bytes(|_| Ok(vec![0; 24 << 10]));
    expect(
        &format!("{:#}", oversized.expect_err("24 KiB were stored")),
        "too many",
    )?;

    // The machine never noticed: same process, same version, and the next one is accepted.
    ensure!(start(web)? == started, "the machine was restarted");
    ensure!(count(web)? == 2, "the machine lost its data");
    contract.wait_running(contract.update(&next)?)?;
    wait_start_after(web, &started)?;
    contract.cancel()
}

fn signed(grid: &Grid, tenant: &Tenant, payload: &Payload) -> anyhow::Result<Vec<u8>> {
    Ok(envelope::sign(
        payload,
        &grid.context(),
        &[(tenant.twin, &tenant.signing)],
    )?)
}

/// A properly signed envelope around any payload.
fn enveloped(chain: &ChainContext, tenant: &Tenant, payload: Vec<u8>) -> Vec<u8> {
    let aad = [
        envelope::LABEL,
        &chain.chain_id.to_be_bytes(),
        &chain.contract,
    ]
    .concat();
    let protected = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .key_id(tenant.twin.0.to_be_bytes().to_vec())
        .build();
    let signature = CoseSignatureBuilder::new().protected(protected).build();
    CoseSignBuilder::new()
        .payload(payload)
        .add_created_signature(signature, &aad, |tbs| {
            tenant.signing.sign(tbs).to_bytes().to_vec()
        })
        .build()
        .to_tagged_vec()
        .expect("an envelope of plain parts is encodable")
}

fn expect(reason: &str, part: &str) -> anyhow::Result<()> {
    ensure!(reason.contains(part), "expected `{part}` in `{reason}`");
    Ok(())
}
