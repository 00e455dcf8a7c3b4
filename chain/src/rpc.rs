//! JSON-RPC endpoints: strangers, whose every answer may be late, wrong, or that of another chain.

mod bounded_http;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use alloy::{
    primitives::{Bytes, U64},
    rpc::{
        client::RpcClient,
        json_rpc::{RpcError, RpcRecv, RpcSend},
    },
};
use reqwest::Url;
use rustls::ClientConfig;
use tokio::sync::OnceCell;

use self::bounded_http::{BoundedHttp, public_tls};
use crate::ReadError;

/// The endpoints of one chain, asked one at a time; clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    endpoints: Arc<[Endpoint]>,
    chain_id: u64,
    current: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Endpoint {
    client: RpcClient,
    name: String,
    /// Set when it said that it serves our chain.
    of_our_chain: OnceCell<()>,
}

/// What went wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum RpcFailure {
    /// The endpoint understood and said no. `revert` holds what a contract said.
    Refused {
        reason: String,
        revert: Option<Bytes>,
    },
    Read(ReadError),
}

impl Rpc {
    pub(crate) fn new(chain_id: u64, endpoints: &[String]) -> Result<Self, ReadError> {
        let tls = public_tls().map_err(|error| ReadError::Configuration(error.to_string()))?;
        Self::with_tls(chain_id, endpoints, &tls)
    }

    pub(crate) fn with_tls(
        chain_id: u64,
        endpoints: &[String],
        tls: &ClientConfig,
    ) -> Result<Self, ReadError> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|endpoint| Endpoint::new(endpoint, tls))
            .collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(ReadError::Configuration("no endpoint is given".to_owned()));
        }
        Ok(Self {
            endpoints: endpoints.into(),
            chain_id,
            current: Arc::default(),
        })
    }

    /// Like [`Rpc::request`], for methods that have no business to refuse.
    pub(crate) async fn ask<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, ReadError> {
        self.request(method, params)
            .await
            .map_err(|failure| match failure {
                RpcFailure::Refused { reason, .. } => ReadError::Refused {
                    endpoint: self.current().name.clone(),
                    method,
                    reason,
                },
                RpcFailure::Read(error) => error,
            })
    }

    /// Asks the endpoint in use, and when it is silent or wrong the next, each once; whoever asks again decides
    /// when. The one that answers is in use from then on.
    pub(crate) async fn request<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, RpcFailure> {
        let mut answer = self.request_once(method, params.clone()).await;
        for _ in 1..self.endpoints.len() {
            if !matches!(answer, Err(RpcFailure::Read(_))) {
                break;
            }
            answer = self.request_once(method, params.clone()).await;
        }
        answer
    }

    async fn request_once<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, RpcFailure> {
        let turn = self.current.load(Ordering::Relaxed);
        let endpoint = self.current();
        let answer = match endpoint.check_chain(self.chain_id).await {
            Ok(()) => endpoint.request(method, params).await,
            Err(failure) => Err(failure),
        };
        if let Err(RpcFailure::Read(_)) = answer {
            // Only the first of several failed requests moves on.
            let moved = self.current.compare_exchange(
                turn,
                turn.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if moved.is_ok() && self.endpoints.len() > 1 {
                let (failed, next) = (&endpoint.name, &self.current().name);
                tracing::warn!(method, failed, next, "asking another endpoint of the chain");
            }
        }
        answer
    }

    /// An answer that arrived, and cannot be true.
    pub(crate) fn wrong(&self, method: &'static str, reason: impl Into<String>) -> ReadError {
        ReadError::Wrong {
            endpoint: self.current().name.clone(),
            method,
            reason: reason.into(),
        }
    }

    fn current(&self) -> &Endpoint {
        &self.endpoints[self.current.load(Ordering::Relaxed) % self.endpoints.len()]
    }
}

impl Endpoint {
    fn new(endpoint: &str, tls: &ClientConfig) -> Result<Self, ReadError> {
        let bad =
            |reason: String| ReadError::Configuration(format!("endpoint `{endpoint}`: {reason}"));
        let url: Url = endpoint
            .parse()
            .map_err(|error| bad(format!("{error}; write http://host:port or https://host")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("only http and https are spoken".to_owned()));
        }
        // Keys for paid endpoints are part of the path or the query; logs get the host alone.
        let name = url.origin().ascii_serialization();
        let transport =
            BoundedHttp::new(url, tls.clone()).map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            client: RpcClient::new(transport, false),
            name,
            of_our_chain: OnceCell::new(),
        })
    }

    async fn check_chain(&self, chain_id: u64) -> Result<(), RpcFailure> {
        let check = async || {
            let said: U64 = self.request("eth_chainId", ()).await?;
            if said != U64::from(chain_id) {
                return Err(RpcFailure::Read(ReadError::Wrong {
                    endpoint: self.name.clone(),
                    method: "eth_chainId",
                    reason: format!("it serves chain {said}, not {chain_id}"),
                }));
            }
            Ok(())
        };
        self.of_our_chain.get_or_try_init(check).await?;
        Ok(())
    }

    async fn request<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, RpcFailure> {
        let endpoint = || self.name.clone();
        let wrong = |reason: &str| {
            RpcFailure::Read(ReadError::Wrong {
                endpoint: endpoint(),
                method,
                reason: short(reason),
            })
        };
        self.client
            .request(method, params)
            .await
            .map_err(|error| match error {
                RpcError::ErrorResp(payload) => RpcFailure::Refused {
                    reason: short(&payload.message),
                    revert: payload.as_revert_data(),
                },
                RpcError::DeserError { err, .. } => wrong(&err.to_string()),
                RpcError::NullResp => wrong("nothing"),
                other => RpcFailure::Read(ReadError::Silent {
                    endpoint: endpoint(),
                    reason: short(&causes(&other)),
                }),
            })
    }
}

/// An error with its causes: `reqwest` says what happened only in the last of them.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A stranger's words end up in logs and on the node's screen.
fn short(text: &str) -> String {
    const MOST: usize = 300;
    text.chars()
        .take(MOST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
