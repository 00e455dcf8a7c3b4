//! Following the chain: what it says about this node, at one finalized block after the other.
//!
//! An error here changes nothing but what the screen says: the last view stands until a newer one
//! has been read whole.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_chain::{
    BlockRef, GridReader, NodeRecord, ReadError,
    follower::{Follower, FollowerOptions},
};
use loam_deployment::{FarmId, NodeKey, envelope::Farm};
use loam_node_api::status::ChainState;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::ledger::Published;

/// Keys of twins change without a sign in the node's revision, so all is read again this often.
const REREAD: Duration = Duration::from_secs(60);

/// What the chain says about this node, all at one block.
#[derive(Clone, Debug)]
pub struct View {
    pub block: BlockRef,
    /// The node's own record, if it is registered.
    pub node: Option<NodeRecord>,
    pub farm: Option<Farm>,
    pub contracts: Vec<Published>,
}

/// Reads for ever. `views` holds the newest whole view.
pub async fn follow(
    reader: Arc<dyn GridReader>,
    node: NodeKey,
    farm: FarmId,
    views: watch::Sender<Option<Rc<View>>>,
    state: watch::Sender<ChainState>,
) {
    let mut follower = Follower::new(reader.clone(), FollowerOptions::default());
    let mut last: Option<(Rc<View>, u64, Instant)> = None;
    loop {
        let result = match follower.next().await {
            Ok(block) => look(&*reader, node, farm, block, &mut last)
                .await
                .map_err(Into::into),
            Err(error) => Err(error),
        };
        match result {
            Ok(view) => {
                let block = view.block.number;
                state.send_replace(match view.node {
                    Some(_) => ChainState::Following { block },
                    None => ChainState::Registering { block },
                });
                views.send_replace(Some(view));
            }
            Err(error) => {
                let reason = error.to_string();
                let news = state.send_if_modified(|state| {
                    let silent = ChainState::Silent {
                        reason: reason.clone(),
                    };
                    let news = *state != silent;
                    *state = silent;
                    news
                });
                if news {
                    warn!(%reason, "the chain cannot be read; what runs goes on");
                }
            }
        }
    }
}

async fn look(
    reader: &dyn GridReader,
    node: NodeKey,
    farm: FarmId,
    block: BlockRef,
    last: &mut Option<(Rc<View>, u64, Instant)>,
) -> Result<Rc<View>, ReadError> {
    let revision = reader.node_revision(node, block).await?;
    if let Some((view, seen, read)) = last
        && *seen == revision
        && read.elapsed() < REREAD
    {
        let view = Rc::new(View {
            block,
            ..View::clone(view)
        });
        *last = Some((view.clone(), *seen, *read));
        return Ok(view);
    }
    let view = Rc::new(read(reader, node, farm, block, last).await?);
    if last.as_ref().is_none_or(|(_, seen, _)| *seen != revision) {
        let contracts = view.contracts.len();
        info!(block = block.number, revision, contracts, "read the chain");
    }
    *last = Some((view.clone(), revision, Instant::now()));
    Ok(view)
}

async fn read(
    reader: &dyn GridReader,
    node: NodeKey,
    farm: FarmId,
    block: BlockRef,
    last: &Option<(Rc<View>, u64, Instant)>,
) -> Result<View, ReadError> {
    let record = reader.node(node, block).await?;
    let farm = reader.farm(farm, block).await?.map(|farm| Farm {
        id: farm.id,
        twin: farm.twin,
    });
    // Stored bytes never change under a hash, so they are fetched once.
    let known: BTreeMap<_, _> = last
        .iter()
        .flat_map(|(view, ..)| &view.contracts)
        .map(|contract| (contract.record.deployment.hash, &contract.bytes))
        .collect();
    let mut owners = BTreeMap::new();
    let mut contracts = Vec::new();
    for contract in reader.contracts_of_node(node, block).await? {
        let bytes = match known.get(&contract.deployment.hash) {
            Some(bytes) => (*bytes).clone(),
            None => reader.deployment(&contract, block).await?,
        };
        if !owners.contains_key(&contract.twin)
            && let Some(owner) = reader.twin(contract.twin, block).await?
        {
            owners.insert(contract.twin, owner);
        }
        let Some(owner) = owners.get(&contract.twin).cloned() else {
            // A contract is always made by a twin; this answer is no answer.
            return Err(ReadError::Wrong {
                endpoint: "chain".into(),
                method: "twin",
                reason: format!("contract {} belongs to an unknown twin", contract.id),
            });
        };
        contracts.push(Published {
            record: contract,
            bytes,
            owner,
        });
    }
    Ok(View {
        block,
        node: record,
        farm,
        contracts,
    })
}
