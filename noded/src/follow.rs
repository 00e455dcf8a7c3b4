//! Following the chain: what it says about this node, at one finalized block after the other.
//!
//! An error here changes nothing but what the screen says: the last view stands until a newer one
//! has been read whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_chain::{
    B256, BlockRef, ContractState, GridReader, NodeRecord, ReadError,
    follower::{Follower, FollowerOptions},
};
use loam_deployment::{ContractId, NodeKey, envelope::Farm};
use loam_node_api::status::ChainState;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{ledger::Published, until::until};

/// Keys of twins change without a sign in the node's revision, so all is read again this often.
const REREAD: Duration = Duration::from_secs(60);
/// Before a block that could not be read is read again, doubled by each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the chain says about this node, all at one block.
#[derive(Clone, Debug)]
pub struct View {
    pub block: BlockRef,
    /// The node's own record, if it is registered.
    pub node: Option<NodeRecord>,
    /// The farm that the record names, whose farmer has a say here.
    pub farm: Option<Farm>,
    pub contracts: Rc<[Published]>,
    /// Of the contracts that have things on this node: those whose own record says cancelled. A
    /// contract that is merely not listed is not among them.
    pub cancelled: BTreeSet<ContractId>,
    /// Another one than before when anything but the block is another.
    pub generation: u64,
}

impl View {
    fn says_the_same(&self, other: &Self) -> bool {
        self.node == other.node
            && self.farm == other.farm
            && self.cancelled == other.cancelled
            && self.contracts == other.contracts
    }
}

/// Reads for ever. `views` holds the newest whole view; `present` names the contracts that have
/// things on this node.
pub async fn follow(
    reader: Arc<dyn GridReader>,
    node: NodeKey,
    mut present: watch::Receiver<BTreeSet<ContractId>>,
    views: watch::Sender<Option<Rc<View>>>,
    state: watch::Sender<ChainState>,
) {
    let mut follower = Follower::new(reader.clone(), FollowerOptions::default());
    let mut looker = Looker::new(reader, node);
    // After a block that could not be read: the next final one may be minutes away.
    let mut again: Option<Instant> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let block = tokio::select! {
            next = follower.next() => next,
            () = until(again) => match follower.seen() {
                Some(block) => Ok(block),
                // No block was seen yet, so there is none to read again: left standing, a moment
                // that has passed would be waited for again and again.
                None => {
                    again = None;
                    continue;
                }
            },
            // The sender lives as long as the process.
            Ok(()) = present.changed() => match follower.seen() {
                Some(block) => Ok(block),
                None => continue,
            },
        };
        let result = match block {
            Ok(block) => {
                let holders = present.borrow_and_update().clone();
                looker.look(block, &holders).await.map_err(Into::into)
            }
            Err(error) => Err(error),
        };
        again = None;
        match result {
            Ok(view) => {
                pause = FIRST_PAUSE;
                let block = view.block.number;
                state.send_replace(match view.node {
                    Some(_) => ChainState::Following { block },
                    None => ChainState::Registering { block },
                });
                views.send_replace(Some(view));
            }
            Err(error) => {
                // Asking for the next block has pauses of its own, and goes on meanwhile.
                again = Some(Instant::now() + pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
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

/// Reads views, and what it has read it does not ask for again.
struct Looker {
    reader: Arc<dyn GridReader>,
    node: NodeKey,
    last: Option<Last>,
    /// By their own records; of those that have things here.
    cancelled: BTreeSet<ContractId>,
    /// Not listed and yet not cancelled, as of the last reading.
    unlisted: BTreeSet<ContractId>,
    /// Why they are left alone, as it was said.
    kept: BTreeMap<ContractId, &'static str>,
    /// Deployments by their hashes, also those of a view that could not be read whole: stored bytes
    /// never change.
    fetched: BTreeMap<B256, Vec<u8>>,
}

struct Last {
    view: Rc<View>,
    revision: u64,
    read: Instant,
}

impl Looker {
    fn new(reader: Arc<dyn GridReader>, node: NodeKey) -> Self {
        Self {
            reader,
            node,
            last: None,
            cancelled: BTreeSet::new(),
            unlisted: BTreeSet::new(),
            kept: BTreeMap::new(),
            fetched: BTreeMap::new(),
        }
    }

    async fn look(
        &mut self,
        block: BlockRef,
        present: &BTreeSet<ContractId>,
    ) -> Result<Rc<View>, ReadError> {
        let revision = self.reader.node_revision(self.node, block).await?;
        let (mut view, read) = match &self.last {
            Some(last) if last.revision == revision && last.read.elapsed() < REREAD => {
                let view = View {
                    block,
                    ..View::clone(&last.view)
                };
                (view, last.read)
            }
            _ => {
                let view = self.read(block).await?;
                // What lived then may be cancelled now.
                self.unlisted.clear();
                (view, Instant::now())
            }
        };
        self.find_cancelled(&view, present).await;
        view.cancelled = self.cancelled.intersection(present).copied().collect();
        if self
            .last
            .as_ref()
            .is_none_or(|last| last.revision != revision)
        {
            let contracts = view.contracts.len();
            info!(block = block.number, revision, contracts, "read the chain");
        }
        if let Some(last) = &self.last {
            let same = last.view.says_the_same(&view);
            view.generation = last.view.generation + u64::from(!same);
        }
        let view = Rc::new(view);
        self.last = Some(Last {
            view: view.clone(),
            revision,
            read,
        });
        Ok(view)
    }

    /// Asks for the record of each contract that has things here and is not listed. What is cancelled
    /// once stays so. What is not answered now is asked for again at the next block: until then
    /// nothing of it is touched, and the view is of use without it.
    async fn find_cancelled(&mut self, view: &View, present: &BTreeSet<ContractId>) {
        let listed: BTreeSet<_> = view.contracts.iter().map(|c| c.record.id).collect();
        self.cancelled.retain(|id| present.contains(id));
        self.kept.retain(|id, _| present.contains(id));
        let mut news: BTreeMap<&str, Vec<ContractId>> = BTreeMap::new();
        for id in present.difference(&listed) {
            if self.cancelled.contains(id) || self.unlisted.contains(id) {
                continue;
            }
            let why = match self.reader.contract(*id, view.block).await {
                Ok(Some(record)) if record.node != self.node => "its record names another node",
                Ok(Some(record)) if record.state == ContractState::Cancelled => {
                    self.cancelled.insert(*id);
                    self.kept.remove(id);
                    continue;
                }
                Ok(Some(_)) => "its record says that it lives",
                Ok(None) => "the chain has no record of it",
                Err(error) => {
                    debug!(contract = %id, %error, "whether it is cancelled is not known yet");
                    break;
                }
            };
            self.unlisted.insert(*id);
            if self.kept.insert(*id, why) != Some(why) {
                news.entry(why).or_default().push(*id);
            }
        }
        for (why, contracts) in news {
            let (count, first) = (contracts.len(), contracts.first());
            warn!(
                why,
                count,
                ?first,
                "not listed for this node; what it has here stays"
            );
        }
    }

    async fn read(&mut self, block: BlockRef) -> Result<View, ReadError> {
        let reader = self.reader.clone();
        let node = self.node;
        let record = reader.node(node, block).await?;
        let farm = match &record {
            Some(record) => reader.farm(record.farm, block).await?,
            None => None,
        };
        let farm = farm.map(|farm| Farm {
            id: farm.id,
            twin: farm.twin,
        });
        let listed = reader.contracts_of_node(node, block).await?;
        let hashes: BTreeSet<_> = listed.iter().map(|c| c.deployment.hash).collect();
        self.fetched.retain(|hash, _| hashes.contains(hash));
        let mut owners = BTreeMap::new();
        let mut contracts = Vec::new();
        for contract in listed {
            let hash = contract.deployment.hash;
            let bytes = match self.fetched.get(&hash) {
                Some(bytes) => bytes.clone(),
                None => {
                    let bytes = reader.deployment(&contract, block).await?;
                    self.fetched.insert(hash, bytes.clone());
                    bytes
                }
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
            contracts: contracts.into(),
            generation: 0,
            cancelled: BTreeSet::new(),
        })
    }
}

#[cfg(test)]
mod tests;
