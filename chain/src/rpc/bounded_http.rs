//! HTTP for JSON-RPC, with a limit on everything that an endpoint can make us wait for or hold.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task,
    time::Duration,
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use reqwest::{Client, Url};
use rustls::ClientConfig;

/// A request that took longer is as good as unanswered. Long enough for a public endpoint that is
/// far away; a follower that waits this long is late by two blocks.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest honest answer is a receipt or a page of 64 contracts' records, 30 KiB in
/// hexadecimal; code of 24 KiB takes 48 KiB. The rest is room for other implementations' extra
/// fields, such as a block's list of transactions.
pub(super) const MAX_ANSWER: usize = 1 << 20;

/// `alloy`'s own HTTP transport reads an answer of any size; this one does not.
#[derive(Clone, Debug)]
pub(super) struct BoundedHttp {
    client: Arc<Mutex<Client>>,
    tls: ClientConfig,
    url: Url,
}

impl BoundedHttp {
    pub(super) fn new(url: Url, tls: ClientConfig) -> reqwest::Result<Self> {
        let client = Arc::new(Mutex::new(connect(&tls)?));
        Ok(Self { client, tls, url })
    }

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

    fn client(&self) -> MutexGuard<'_, Client> {
        // A client is replaced whole, so a panic elsewhere leaves a whole one behind.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resolver reads the system's name servers once. A node that had none yet, or moved to
    /// another network, needs a new one.
    fn reconnect(&self) {
        if let Ok(client) = connect(&self.tls) {
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

fn connect(tls: &ClientConfig) -> reqwest::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        // An endpoint answers at its own address or not at all.
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Certificates of the public authorities, judged by the system's clock.
pub(super) fn public_tls() -> Result<ClientConfig, rustls::Error> {
    // The system of a node has no certificates of its own; these come with the program.
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
