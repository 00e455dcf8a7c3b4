//! JSON-RPC endpoints over HTTP, with a limit on everything that it can make us wait for or
//! hold: an endpoint is a stranger.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task,
    time::Duration,
};

use alloy::{
    primitives::{Bytes, U64},
    rpc::{
        client::RpcClient,
        json_rpc::{RequestPacket, ResponsePacket, RpcError, RpcRecv, RpcSend},
    },
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use reqwest::{Client, Url};
use tokio::sync::OnceCell;

use crate::ReadError;

/// A request that took longer is as good as unanswered. Long enough for a public endpoint that is
/// far away; a follower that waits this long is late by two blocks.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest honest answer is a receipt or a page of 64 contracts' records, 30 KiB in
/// hexadecimal; code of 24 KiB takes 48 KiB. The rest is room for other implementations' extra
/// fields, such as a block's list of transactions.
const MAX_ANSWER: usize = 1 << 20;

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
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|endpoint| Endpoint::new(endpoint))
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

    /// Asks the endpoint in use. When it is silent or wrong, the request fails, and the next one
    /// goes to the next endpoint: whoever asks again decides when.
    pub(crate) async fn request<P: RpcSend, R: RpcRecv>(
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
            let _ = self.current.compare_exchange(
                turn,
                turn.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
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
    fn new(endpoint: &str) -> Result<Self, ReadError> {
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
        let transport = BoundedHttp {
            client: Arc::new(Mutex::new(connect().map_err(|e| bad(e.to_string()))?)),
            url,
        };
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

/// `alloy`'s own HTTP transport reads an answer of any size; this one does not.
#[derive(Clone, Debug)]
struct BoundedHttp {
    client: Arc<Mutex<Client>>,
    url: Url,
}

impl BoundedHttp {
    async fn exchange(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let body = request.serialize().map_err(TransportError::ser_err)?;
        let client = self.client().clone();
        let response = client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .body(body.get().to_owned())
            .send()
            .await
            .inspect_err(|error| {
                if error.is_connect() {
                    self.reconnect();
                }
            });
        let mut response = response.map_err(|e| TransportErrorKind::custom(e.without_url()))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|e| TransportErrorKind::custom(e.without_url()))?
        {
            if answer.len() + chunk.len() > MAX_ANSWER {
                return Err(TransportErrorKind::custom_str(&format!(
                    "its answer is larger than {MAX_ANSWER} bytes"
                )));
            }
            answer.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&answer).map_err(|error| {
            if status.is_success() {
                TransportError::deser_err(error, "")
            } else {
                TransportErrorKind::custom_str(&format!("HTTP status {status}"))
            }
        })
    }

    fn client(&self) -> std::sync::MutexGuard<'_, Client> {
        // A client is replaced whole, so a panic elsewhere leaves a whole one behind.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resolver reads the system's name servers once. A node that had none yet, or moved to
    /// another network, needs a new one.
    fn reconnect(&self) {
        if let Ok(client) = connect() {
            *self.client() = client;
        }
    }
}

impl tower::Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}

fn connect() -> Result<Client, Box<dyn std::error::Error>> {
    // The system of a node has no certificates of its own; these come with the program.
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots)
    .with_no_client_auth();
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        // An endpoint answers at its own address or not at all.
        .redirect(reqwest::redirect::Policy::none())
        .build()?)
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
