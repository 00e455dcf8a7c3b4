//! `loam deploy` and `loam update`: from a TOML file to a signed deployment on the chain.

use std::{collections::BTreeMap, env, fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use loam_chain::{ContractRecord, NodeRecord};
use loam_deployment::{
    ContractId, Rejection, TwinId, Version, envelope,
    payload::{OciReference, Payload},
    seal::SealError,
    written::{self, Draft, Recipient, Written},
};
use serde::Serialize;

use crate::{
    args::{Deploy, Update, Wait},
    config::Config,
    output::Output,
    pin,
    session::Session,
    status::{self, Line},
    watch::{self, Ending},
};

#[derive(Serialize)]
struct Deployed {
    contract: u64,
    version: u64,
    node: String,
    /// `runs`, `rejected`, `failed`, `undecided` or, without waiting, `published`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    images: Images,
    workloads: Vec<Line>,
}

/// Which image was signed for each machine.
type Images = BTreeMap<String, OciReference>;

#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Rejection(#[from] Rejection),
}

pub async fn deploy(args: Deploy, config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    // The file first: a mistake in it should not need a grid to be found.
    let written = read(&args.file)?;
    let session = Session::open(config)?;
    let twin = session.twin().await?;
    let node = session.choose_node(args.node.as_deref()).await?;
    let draft = pin::pinned(written).await?;
    let (contract, _) = session
        .writer
        .deploy_new(node.key, |contract| {
            signed(&session, &draft, &node, twin, contract, Version(1))
        })
        .await?;
    let images = pin::images(&draft);
    finish(&session, contract, images, args.wait, output).await
}

pub async fn update(args: Update, config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let written = read(&args.file)?;
    let session = Session::open(config)?;
    let before = session.living_contract(args.contract).await?;
    let node = session.node(before.node).await?;
    let draft = pin::pinned(written).await?;
    let version = Version(before.version().0 + 1);
    let bytes = signed(&session, &draft, &node, before.twin, before.id, version)?;
    session
        .writer
        .update_contract(before.id, version, &bytes)
        .await?;
    let images = pin::images(&draft);
    finish(&session, before.id, images, args.wait, output).await
}

fn read(file: &Path) -> anyhow::Result<Written> {
    let shown = file.display().to_string();
    let text = fs::read_to_string(file).with_context(|| format!("{shown} cannot be read"))?;
    Ok(written::read(&shown, &text, &|name| env::var(name).ok())?)
}

fn signed(
    session: &Session,
    draft: &Draft,
    node: &NodeRecord,
    twin: TwinId,
    contract: ContractId,
    version: Version,
) -> Result<Vec<u8>, SignError> {
    let recipient = Recipient {
        chain: session.chain(),
        node: node.key,
        hpke_public: node.hpke_key,
        contract,
        version,
    };
    let payload: Payload = draft.for_node(&recipient)?;
    let bytes = envelope::sign(&payload, &session.chain(), &[(twin, &session.key.signing)])?;
    Ok(bytes)
}

async fn finish(
    session: &Session,
    contract: ContractId,
    images: Images,
    wait: Wait,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let record = session.contract(contract).await?;
    if wait.no_wait {
        show(session, record, images, "published", None, output).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if !output.json {
        eprintln!(
            "contract {contract} version {} is on the chain; waiting for node {}",
            record.version(),
            record.node
        );
    }
    let ending = watch::watch(session, &record, wait).await?;
    let record = session.contract(contract).await?;
    let code = ending.exit_code();
    let (outcome, reason) = match ending {
        Ending::Runs => ("runs", None),
        Ending::Rejected(reason) => ("rejected", Some(reason)),
        Ending::Failed(reason) => ("failed", Some(reason)),
        Ending::Undecided(reason) => ("undecided", Some(reason)),
    };
    show(session, record, images, outcome, reason.clone(), output).await?;
    match (output.json, outcome, reason) {
        (false, "rejected", Some(reason)) => bail!("the node rejected the deployment: {reason}"),
        (false, "failed", Some(reason)) => {
            bail!("{reason}\nthe node goes on trying; `loam status {contract}` shows how it stands")
        }
        (false, "undecided", Some(reason)) => {
            eprintln!(
                "loam: not running after {} seconds ({reason}); `loam status {contract}` shows \
                 how it goes on",
                wait.timeout
            );
        }
        _ => {}
    }
    Ok(code)
}

async fn show(
    session: &Session,
    record: ContractRecord,
    images: Images,
    outcome: &'static str,
    reason: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let lines = status::contract_lines(session, &record).await?;
    if !output.json {
        return status::print(&lines, output);
    }
    let deployed = Deployed {
        contract: record.id.0,
        version: record.version().0,
        node: record.node.to_string(),
        outcome,
        reason,
        images,
        workloads: lines,
    };
    output.record(&deployed, |_| Vec::new())
}
