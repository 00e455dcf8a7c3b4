//! [`EndpointReader`]: answers from a JSON-RPC endpoint, taken at its word.
//!
//! What can be checked without proofs is checked: the chain's id, hashes of stored bytes, bindings
//! of nodes, and that the parts of an answer fit together. Whether the values are those of the
//! chain, only proofs could tell.

use alloy::{
    primitives::{Address, B256, Bytes, U64, U256, keccak256},
    sol_types::SolCall,
};
use async_trait::async_trait;
use loam_deployment::{ChainContext, ContractId, FarmId, NodeKey, TwinId};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::json;

use crate::{
    BlockRef, ContractRecord, FarmRecord, GridConfig, GridReader, NodeRecord, ReadError,
    TwinRecord,
    abi::Grid::{
        ContractRecord as RawContract, contractRecordCall, farmCall, nodeCall,
        nodeContractCountCall, nodeContractsFromCall, nodeCountCall, nodeRevisionCall,
        nodesFromCall, twinCall, twinContractCountCall, twinContractsFromCall, twinOfCall,
    },
    decode,
    record::Stored,
    rpc::Rpc,
};

/// Records asked for at once: 64 contracts, or 32 nodes with long addresses, are 60 KiB of
/// hexadecimal and well within what endpoints let a call spend.
const CONTRACTS_PER_PAGE: u64 = 64;
const NODES_PER_PAGE: u64 = 32;

/// A grid of this many nodes needs an index, not a list.
const MOST_NODES: u64 = 100_000;

/// The contract's `MAX_CONTRACTS_PER_NODE`.
const MOST_CONTRACTS_OF_NODE: u64 = 1024;
/// No such limit is in the contract; this bounds what an endpoint can make us ask for.
const MOST_CONTRACTS_OF_TWIN: u64 = 65536;

#[derive(Clone, Debug)]
pub struct EndpointReader {
    rpc: Rpc,
    grid: ChainContext,
}

#[derive(Debug, Deserialize)]
struct Header {
    number: U64,
    hash: B256,
}

#[derive(Debug, Deserialize)]
struct Stamp {
    timestamp: U64,
}

impl EndpointReader {
    /// Asks nothing yet. Of several endpoints the first is asked, and after a failure the next.
    pub fn new(config: &GridConfig) -> Result<Self, ReadError> {
        Ok(Self {
            rpc: Rpc::new(config.chain_id, &config.endpoints)?,
            grid: config.context(),
        })
    }

    /// Like [`EndpointReader::new`], for a caller who judges servers by rules of its own.
    pub fn with_tls(config: &GridConfig, tls: &ClientConfig) -> Result<Self, ReadError> {
        Ok(Self {
            rpc: Rpc::with_tls(config.chain_id, &config.endpoints, tls)?,
            grid: config.context(),
        })
    }

    /// The number that the next contract will have, as of the newest block.
    pub async fn next_contract(&self) -> Result<ContractId, ReadError> {
        let at = self.latest().await?;
        let count = self
            .call(crate::abi::Grid::contractCountCall {}, at)
            .await?;
        count
            .checked_add(1)
            .map(ContractId)
            .ok_or_else(|| self.rpc.wrong("eth_call", "there are 2^64 contracts"))
    }

    async fn header(&self, which: serde_json::Value) -> Result<Option<BlockRef>, ReadError> {
        let header: Option<Header> = self.rpc.ask("eth_getBlockByNumber", (which, false)).await?;
        Ok(header.map(|header| BlockRef {
            number: header.number.to(),
            hash: header.hash,
        }))
    }

    async fn tagged(&self, tag: &'static str) -> Result<BlockRef, ReadError> {
        self.header(json!(tag)).await?.ok_or_else(|| {
            self.rpc
                .wrong("eth_getBlockByNumber", format!("there is no {tag} block"))
        })
    }

    async fn call<C: SolCall>(&self, call: C, at: BlockRef) -> Result<C::Return, ReadError> {
        let request = json!({
            "to": Address::from(self.grid.contract),
            "data": Bytes::from(call.abi_encode()),
        });
        let answer: Bytes = self.rpc.ask("eth_call", (request, by_hash(at))).await?;
        if answer.is_empty() {
            let contract = Address::from(self.grid.contract);
            return Err(self.rpc.wrong(
                "eth_call",
                format!("there is no contract at {contract} in block {}", at.number),
            ));
        }
        C::abi_decode_returns_validate(&answer).map_err(|error| {
            self.rpc
                .wrong("eth_call", format!("{}: {error}", C::SIGNATURE))
        })
    }

    async fn code(&self, pointer: Address, at: BlockRef) -> Result<Vec<u8>, ReadError> {
        let code: Bytes = self.rpc.ask("eth_getCode", (pointer, by_hash(at))).await?;
        // The first byte is STOP, so that nobody can run the bytes.
        match code.split_first() {
            Some((0, bytes)) => Ok(bytes.to_vec()),
            _ => Err(self
                .rpc
                .wrong("eth_getCode", format!("{pointer} is no data contract"))),
        }
    }

    /// Pages of a list of contracts, checked to be whole.
    async fn contracts<C>(
        &self,
        count: U256,
        most: u64,
        page: impl Fn(U256) -> C,
        belongs: impl Fn(&ContractRecord) -> bool,
        at: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError>
    where
        C: SolCall,
        C::Return: Into<(Vec<u64>, Vec<RawContract>)>,
    {
        let wrong = |reason: String| self.rpc.wrong("eth_call", reason);
        if count > U256::from(most) {
            return Err(wrong(format!(
                "a list of {count} contracts, at most {most} fit"
            )));
        }
        let count = count.to::<usize>();
        let mut contracts: Vec<ContractRecord> = Vec::new();
        while contracts.len() < count {
            let answer = self.call(page(U256::from(contracts.len())), at).await?;
            let (ids, records) = answer.into();
            let full = (count - contracts.len()).min(CONTRACTS_PER_PAGE as usize);
            if ids.len() != full || records.len() != full {
                return Err(wrong("a page of contracts is not full".to_owned()));
            }
            for (id, raw) in ids.into_iter().zip(records) {
                let contract = decode::contract(ContractId(id), raw).map_err(wrong)?;
                let contract = contract
                    .filter(&belongs)
                    .ok_or_else(|| wrong(format!("contract {id} does not belong in the list")))?;
                contracts.push(contract);
            }
        }
        contracts.sort_by_key(|contract| contract.id);
        if contracts.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(wrong("a contract is twice in a list".to_owned()));
        }
        Ok(contracts)
    }
}

#[async_trait]
impl GridReader for EndpointReader {
    fn grid(&self) -> ChainContext {
        self.grid
    }

    async fn finalized(&self) -> Result<BlockRef, ReadError> {
        self.tagged("finalized").await
    }

    async fn latest(&self) -> Result<BlockRef, ReadError> {
        self.tagged("latest").await
    }

    async fn block(&self, number: u64) -> Result<Option<BlockRef>, ReadError> {
        let block = self.header(json!(U64::from(number))).await?;
        match block {
            Some(block) if block.number != number => Err(self.rpc.wrong(
                "eth_getBlockByNumber",
                format!("block {} instead of {number}", block.number),
            )),
            block => Ok(block),
        }
    }

    async fn time_of(&self, at: BlockRef) -> Result<u64, ReadError> {
        let stamp: Option<Stamp> = self.rpc.ask("eth_getBlockByHash", (at.hash, false)).await?;
        let stamp = stamp.ok_or_else(|| {
            let reason = format!("block {} is unknown to it", at.number);
            self.rpc.wrong("eth_getBlockByHash", reason)
        })?;
        Ok(stamp.timestamp.to())
    }

    async fn node_revision(&self, node: NodeKey, at: BlockRef) -> Result<u64, ReadError> {
        self.call(nodeRevisionCall { key: node.0.into() }, at).await
    }

    async fn node(&self, node: NodeKey, at: BlockRef) -> Result<Option<NodeRecord>, ReadError> {
        let raw = self.call(nodeCall { key: node.0.into() }, at).await?;
        let record = decode::node(node, raw).map_err(|e| self.rpc.wrong("eth_call", e))?;
        Ok(record.filter(|record| decode::bound(record, self.grid)))
    }

    async fn nodes(&self, at: BlockRef) -> Result<Vec<NodeRecord>, ReadError> {
        let wrong = |reason: String| self.rpc.wrong("eth_call", reason);
        let count = self.call(nodeCountCall {}, at).await?;
        if count > U256::from(MOST_NODES) {
            return Err(wrong(format!("a list of {count} nodes")));
        }
        let mut nodes = Vec::new();
        for from in (0..count.to::<u64>()).step_by(NODES_PER_PAGE as usize) {
            let page = nodesFromCall {
                from: U256::from(from),
                count: U256::from(NODES_PER_PAGE),
            };
            let page = self.call(page, at).await?;
            if page.keys.len() != page.records.len() || page.keys.len() > NODES_PER_PAGE as usize {
                return Err(wrong("a page of nodes does not fit together".to_owned()));
            }
            for (key, raw) in page.keys.into_iter().zip(page.records) {
                let record = decode::node(NodeKey(key.0), raw).map_err(wrong)?;
                nodes.extend(record.filter(|record| decode::bound(record, self.grid)));
            }
        }
        Ok(nodes)
    }

    async fn contracts_of_node(
        &self,
        node: NodeKey,
        at: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError> {
        let key = node.0.into();
        let count = self.call(nodeContractCountCall { key }, at).await?;
        let page = |from| nodeContractsFromCall {
            key,
            from,
            count: U256::from(CONTRACTS_PER_PAGE),
        };
        let belongs = |contract: &ContractRecord| contract.node == node && contract.is_live();
        self.contracts(count, MOST_CONTRACTS_OF_NODE, page, belongs, at)
            .await
    }

    async fn contracts_of_twin(
        &self,
        twin: TwinId,
        at: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError> {
        let id = twin.0;
        let count = self.call(twinContractCountCall { id }, at).await?;
        let page = |from| twinContractsFromCall {
            id,
            from,
            count: U256::from(CONTRACTS_PER_PAGE),
        };
        let belongs = |contract: &ContractRecord| contract.twin == twin && contract.is_live();
        self.contracts(count, MOST_CONTRACTS_OF_TWIN, page, belongs, at)
            .await
    }

    async fn contract(
        &self,
        id: ContractId,
        at: BlockRef,
    ) -> Result<Option<ContractRecord>, ReadError> {
        let raw = self.call(contractRecordCall { id: id.0 }, at).await?;
        decode::contract(id, raw).map_err(|e| self.rpc.wrong("eth_call", e))
    }

    async fn stored(&self, stored: &Stored, at: BlockRef) -> Result<Vec<u8>, ReadError> {
        let bytes = self.code(stored.pointer, at).await?;
        if keccak256(&bytes) != stored.hash {
            let pointer = stored.pointer;
            return Err(self.rpc.wrong(
                "eth_getCode",
                format!("the bytes at {pointer} have another hash than their record"),
            ));
        }
        Ok(bytes)
    }

    async fn report(
        &self,
        contract: &ContractRecord,
        at: BlockRef,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        match contract.report {
            Some(report) => self.code(report.pointer, at).await.map(Some),
            None => Ok(None),
        }
    }

    async fn twin(&self, id: TwinId, at: BlockRef) -> Result<Option<TwinRecord>, ReadError> {
        let raw = self.call(twinCall { id: id.0 }, at).await?;
        decode::twin(id, raw).map_err(|e| self.rpc.wrong("eth_call", e))
    }

    async fn twin_of(&self, account: Address, at: BlockRef) -> Result<Option<TwinId>, ReadError> {
        let id = self.call(twinOfCall(account), at).await?;
        Ok((id != 0).then_some(TwinId(id)))
    }

    async fn farm(&self, id: FarmId, at: BlockRef) -> Result<Option<FarmRecord>, ReadError> {
        let raw = self.call(farmCall { id: id.0 }, at).await?;
        decode::farm(id, raw).map_err(|e| self.rpc.wrong("eth_call", e))
    }
}

/// EIP-1898: the block is named by its hash, so that a reorganisation between two questions is an
/// error and not a mixture.
fn by_hash(at: BlockRef) -> serde_json::Value {
    json!({ "blockHash": at.hash })
}
