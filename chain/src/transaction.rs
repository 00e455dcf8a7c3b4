//! Transactions of one account: what they cost, in which order they go, and whether they arrived.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction, TxEip1559, transaction::RlpEcdsaEncodableTx},
    primitives::{Address, B256, Bytes, TxKind, U64, U256},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{
    AccountKey, BlockRef, ReadError,
    refusal::Refusal,
    rpc::{Rpc, RpcFailure},
};

/// What a block holds on most chains, and since EIP-7825 the most that a transaction may ask for.
/// A deployment of full size takes less than half.
const MOST_GAS: u64 = 1 << 24;
/// Above this something is wrong with the endpoint or the chain, and the account is not emptied
/// for it: 2000 gwei, four times what Ethereum cost on its worst days.
const MOST_FEE_PER_GAS: u128 = 2_000_000_000_000;
/// How often a number that another process used first is replaced.
const NONCE_TRIES: u32 = 4;

#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// Pause between two questions for the receipt.
    pub poll: Duration,
    /// How long a transaction may take to get into a block.
    pub patience: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            patience: Duration::from_secs(180),
        }
    }
}

/// A transaction that is part of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inclusion {
    pub transaction: B256,
    pub block: BlockRef,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The contract said no; nothing was changed.
    #[error("the grid refused: {0}")]
    Refused(Refusal),
    /// The chain said no for a reason that is not the contract's.
    #[error("the chain refused the transaction: {0}")]
    Reverted(String),
    #[error(
        "account {account} cannot pay for the transaction ({reason}); send it some of the chain's \
         currency and try again"
    )]
    NoFunds { account: Address, reason: String },
    #[error(
        "the chain asks for {0} wei per gas, more than the limit of {MOST_FEE_PER_GAS}; wait, or \
         check the endpoint"
    )]
    TooExpensive(u128),
    #[error(
        "transaction {transaction} is in no block after {} seconds; it may still get there, so \
         look at the state before trying again", waited.as_secs()
    )]
    NotIncluded { transaction: B256, waited: Duration },
    /// A reorganisation removed it and it did not come back.
    #[error("transaction {0} was taken back by the chain; try again")]
    TakenBack(B256),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Sends the transactions of one account. Callers may send at the same time.
#[derive(Debug)]
pub(crate) struct Sender {
    rpc: Rpc,
    chain_id: u64,
    key: AccountKey,
    options: WriterOptions,
    /// The number after our last transaction, while it is on its way: endpoints behind a
    /// load balancer may not have heard of it yet.
    next_nonce: Mutex<Option<u64>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    transaction_hash: B256,
    block_hash: Option<B256>,
    block_number: Option<U64>,
    status: U64,
    #[cfg(feature = "local-chain")]
    pub(crate) contract_address: Option<Address>,
    pub(crate) logs: Vec<Log>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Log {
    pub(crate) address: Address,
    pub(crate) topics: Vec<B256>,
    pub(crate) data: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fees {
    #[serde(default)]
    base_fee_per_gas: U64,
}

impl Sender {
    pub(crate) fn new(rpc: Rpc, chain_id: u64, key: AccountKey, options: WriterOptions) -> Self {
        Self {
            rpc,
            chain_id,
            key,
            options,
            next_nonce: Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> Address {
        self.key.address()
    }

    /// Sends a transaction and waits until it is in a block.
    pub(crate) async fn send(&self, to: TxKind, input: Bytes) -> Result<Receipt, WriteError> {
        let gas_limit = self.gas(to, &input).await?;
        let (max_fee_per_gas, max_priority_fee_per_gas) = self.fees().await?;
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: 0,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to,
            value: U256::ZERO,
            access_list: Default::default(),
            input: input.clone(),
        };
        let hash = self.submit(transaction).await?;
        let receipt = self.included(hash).await?;
        if receipt.status == U64::ZERO {
            return Err(self.reason(to, &input, &receipt).await);
        }
        Ok(receipt)
    }

    /// Waits until the block of `included` is final. The transaction may be in another block than
    /// before then, if the chain was reorganised.
    pub(crate) async fn finalized(&self, included: Inclusion) -> Result<Inclusion, WriteError> {
        let hash = included.transaction;
        loop {
            let tip: Fin = self
                .rpc
                .ask("eth_getBlockByNumber", ("finalized", false))
                .await?;
            if tip.number.to::<u64>() >= included.block.number {
                let receipt = self.receipt(hash).await?;
                let Some(now) = receipt.and_then(|receipt| receipt.inclusion()) else {
                    return Err(WriteError::TakenBack(hash));
                };
                if tip.number.to::<u64>() >= now.block.number {
                    return Ok(now);
                }
            }
            sleep(self.options.poll).await;
        }
    }

    /// What the call will need. A refusal is found here, before anything is paid for.
    async fn gas(&self, to: TxKind, input: &Bytes) -> Result<u64, WriteError> {
        let request = self.request(to, input);
        let needed: U64 = self
            .rpc
            .request("eth_estimateGas", (request,))
            .await
            .map_err(|failure| self.write_error("eth_estimateGas", failure))?;
        // Another transaction may come first and make ours a little dearer.
        let needed = needed.to::<u64>();
        Ok(needed.saturating_add(needed / 4).min(MOST_GAS))
    }

    /// The most that is paid per gas, and what of it goes to the block's author.
    async fn fees(&self) -> Result<(u128, u128), WriteError> {
        let latest: Fees = self
            .rpc
            .ask("eth_getBlockByNumber", ("latest", false))
            .await?;
        let base = latest.base_fee_per_gas.to::<u128>();
        if base == 0 {
            // A chain without gas price, where accounts without a balance may write.
            return Ok((0, 0));
        }
        let price: U256 = self.rpc.ask("eth_gasPrice", ()).await?;
        let price: u128 = price.try_into().unwrap_or(u128::MAX);
        let priority = price.saturating_sub(base);
        // Holds while six full blocks in a row raise the base fee.
        let most = base.saturating_mul(2).saturating_add(priority);
        if most > MOST_FEE_PER_GAS {
            return Err(WriteError::TooExpensive(most));
        }
        Ok((most, priority))
    }

    /// Numbers, signs and sends. One at a time, so that two callers do not get the same number.
    async fn submit(&self, mut transaction: TxEip1559) -> Result<B256, WriteError> {
        let mut next = self.next_nonce.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            transaction.nonce = self.nonce(*next).await?;
            let signature = self.key.sign(transaction.signature_hash());
            let signed = transaction.clone().into_signed(signature);
            let mut raw = Vec::new();
            signed.tx().eip2718_encode(signed.signature(), &mut raw);
            let hash = *signed.hash();
            let answer: Result<B256, _> = self
                .rpc
                .request("eth_sendRawTransaction", (Bytes::from(raw),))
                .await;
            match answer {
                Ok(_) => {
                    *next = Some(transaction.nonce + 1);
                    return Ok(hash);
                }
                Err(RpcFailure::Refused { reason, .. })
                    if is_nonce_taken(&reason) && tries < NONCE_TRIES =>
                {
                    *next = None;
                    sleep(self.options.poll).await;
                }
                Err(failure) => {
                    *next = None;
                    return Err(self.write_error("eth_sendRawTransaction", failure));
                }
            }
        }
    }

    async fn nonce(&self, expected: Option<u64>) -> Result<u64, ReadError> {
        let sent: U64 = self
            .rpc
            .ask("eth_getTransactionCount", (self.address(), "pending"))
            .await?;
        Ok(sent.to::<u64>().max(expected.unwrap_or(0)))
    }

    async fn included(&self, hash: B256) -> Result<Receipt, WriteError> {
        let start = Instant::now();
        loop {
            // An endpoint that falls silent now is no reason to forget what is on its way.
            let answer = self.receipt(hash).await;
            let waited = start.elapsed();
            match answer {
                Ok(Some(receipt)) if receipt.inclusion().is_some() => return Ok(receipt),
                Err(error) if waited > self.options.patience => return Err(error.into()),
                Ok(_) if waited > self.options.patience => {
                    // What was not taken up leaves a gap that later ones must fill.
                    *self.next_nonce.lock().await = None;
                    return Err(WriteError::NotIncluded {
                        transaction: hash,
                        waited,
                    });
                }
                Ok(_) | Err(_) => sleep(self.options.poll).await,
            }
        }
    }

    async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, ReadError> {
        self.rpc.ask("eth_getTransactionReceipt", (hash,)).await
    }

    /// Why a transaction that is in a block did nothing: asks what the same call says there.
    async fn reason(&self, to: TxKind, input: &Bytes, receipt: &Receipt) -> WriteError {
        let at = json!({ "blockHash": receipt.block_hash });
        let answer: Result<Bytes, _> = self
            .rpc
            .request("eth_call", (self.request(to, input), at))
            .await;
        match answer {
            Ok(_) => WriteError::Reverted(format!(
                "transaction {} failed, and the same call after it does not",
                receipt.transaction_hash
            )),
            Err(failure) => self.write_error("eth_call", failure),
        }
    }

    fn request(&self, to: TxKind, input: &Bytes) -> Value {
        let mut request = json!({ "from": self.address(), "input": input });
        if let Some(to) = to.to() {
            request["to"] = json!(to);
        }
        request
    }

    fn write_error(&self, method: &'static str, failure: RpcFailure) -> WriteError {
        let (reason, revert) = match failure {
            RpcFailure::Read(error) => return WriteError::Read(error),
            RpcFailure::Refused { reason, revert } => (reason, revert),
        };
        if let Some(refusal) = revert.and_then(|data| Refusal::decode(&data)) {
            return WriteError::Refused(refusal);
        }
        if reason.to_ascii_lowercase().contains("insufficient funds") {
            return WriteError::NoFunds {
                account: self.address(),
                reason,
            };
        }
        WriteError::Reverted(format!("{method}: {reason}"))
    }
}

#[derive(Debug, Deserialize)]
struct Fin {
    number: U64,
}

impl Receipt {
    pub(crate) fn inclusion(&self) -> Option<Inclusion> {
        Some(Inclusion {
            transaction: self.transaction_hash,
            block: BlockRef {
                number: self.block_number?.to(),
                hash: self.block_hash?,
            },
        })
    }
}

/// Another process writes for the same account, or an earlier transaction of ours is stuck. The
/// words are those of geth, which others copied.
fn is_nonce_taken(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    [
        "nonce too low",
        "already known",
        "already imported",
        "replacement transaction underpriced",
    ]
    .iter()
    .any(|words| reason.contains(words))
}
