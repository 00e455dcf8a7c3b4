//! Asking a registry for bytes (OCI distribution specification 1.1), with anonymous tokens.
//!
//! A client of our own rather than `oci-client`, for that one reads whatever it is sent into memory
//! before it looks at its length.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use loam_deployment::payload::OciReference;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, RANGE, WWW_AUTHENTICATE},
    redirect,
};
use serde::Deserialize;

use crate::{
    address::{self, Outside, Reach, Resolver},
    digest::Digest,
    host, limits, manifest,
};

const CONNECT: Duration = Duration::from_secs(15);

/// Registries send blobs from elsewhere, by one redirection or two.
const MAX_REDIRECTIONS: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("`{0}` is no registry that a node may ask")]
    Address(String),
    #[error("the registry cannot be reached: {0}")]
    Http(String),
    #[error("the registry refuses ({0}); the image must be readable without a login")]
    Denied(StatusCode),
    #[error("the registry has no {0}")]
    Absent(String),
    #[error("the registry answers {0}")]
    Status(StatusCode),
    #[error("the registry asks for a login that this node does not know: {0}")]
    Challenge(String),
    #[error("the {what} has more than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("the {what} the registry sent has another digest, {found}")]
    Digest { what: String, found: Digest },
}

/// One repository of one registry.
#[derive(Debug)]
pub struct Registry {
    client: Client,
    base: Url,
    reach: Reach,
    token: Mutex<Option<Arc<str>>>,
}

impl Registry {
    pub fn new(image: &OciReference, outside: &Outside) -> Result<Self, RegistryError> {
        let reach = outside.reach;
        let refuse = || RegistryError::Address(image.registry().to_owned());
        let (host, repository) = host::asked(image);
        let base = address::base(host)
            .filter(|url| reach.allows_url(url))
            .and_then(|url| url.join(&format!("{repository}/")).ok())
            .ok_or_else(refuse)?;
        let client = client(outside).map_err(http)?;
        Ok(Self {
            client,
            base,
            reach,
            token: Mutex::default(),
        })
    }

    /// A manifest or index, its digest checked.
    pub async fn manifest(&self, digest: Digest) -> Result<Vec<u8>, RegistryError> {
        let what = format!("manifest {digest}");
        let url = self.url(&format!("manifests/{digest}"))?;
        let request = |client: &Client| {
            client
                .get(url.clone())
                .header(ACCEPT, manifest::MEDIA_TYPES)
        };
        let response = self.send(request, &what).await?;
        checked(response, digest, &what, limits::MANIFEST).await
    }

    /// A blob that fits in memory, its digest checked.
    pub async fn small_blob(&self, digest: Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("configuration {digest}");
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.send(|client| client.get(url.clone()), &what).await?;
        checked(response, digest, &what, size).await
    }

    /// A blob from byte `from` on, as far as the registry can; the answer says where it begins.
    pub async fn blob(&self, digest: Digest, from: u64) -> Result<(Response, u64), RegistryError> {
        let what = format!("layer {digest}");
        let url = self.url(&format!("blobs/{digest}"))?;
        let request = |client: &Client| {
            let request = client.get(url.clone());
            if from > 0 {
                request.header(RANGE, format!("bytes={from}-"))
            } else {
                request
            }
        };
        let response = self.send(request, &what).await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response).ok_or_else(|| {
                RegistryError::Http("it sends a part without saying which".to_owned())
            })?,
            _ => 0,
        };
        Ok((response, start))
    }

    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        // `sha256:...` alone would be read as a scheme; a path before it is not.
        self.base
            .join(path)
            .map_err(|error| RegistryError::Http(error.to_string()))
    }

    /// Sends, and once more with a token if the registry wants one.
    async fn send(
        &self,
        request: impl Fn(&Client) -> RequestBuilder,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let token = self.current_token();
        let mut response = authorized(request(&self.client), token)
            .send()
            .await
            .map_err(http)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let token = self.ask_for_token(&response).await?;
            response = authorized(request(&self.client), Some(token))
                .send()
                .await
                .map_err(http)?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::Absent(what.to_owned())),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(RegistryError::Denied(status))
            }
            status => Err(RegistryError::Status(status)),
        }
    }

    fn current_token(&self) -> Option<Arc<str>> {
        self.token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gets a token for reading without a login (distribution's "Token Authentication
    /// Specification"), and keeps it for the next requests.
    async fn ask_for_token(&self, refusal: &Response) -> Result<Arc<str>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<Box<str>>,
            access_token: Option<Box<str>>,
        }
        let challenge = refusal
            .headers()
            .get(WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let unknown = || RegistryError::Challenge(challenge.chars().take(200).collect());
        let url = token_url(challenge).ok_or_else(unknown)?;
        let downgrade = self.base.scheme() == "https" && url.scheme() != "https";
        if downgrade || !self.reach.allows_url(&url) {
            return Err(unknown());
        }
        let response = self.client.get(url).send().await.map_err(http)?;
        if !response.status().is_success() {
            return Err(RegistryError::Denied(response.status()));
        }
        let body = limited(response, "token", limits::TOKEN).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| unknown())?;
        let token: Arc<str> = answer
            .token
            .or(answer.access_token)
            .ok_or_else(unknown)?
            .into();
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }
}

fn authorized(request: RequestBuilder, token: Option<Arc<str>>) -> RequestBuilder {
    match token {
        Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    }
}

fn client(outside: &Outside) -> reqwest::Result<Client> {
    let reach = outside.reach;
    let follow = redirect::Policy::custom(move |attempt| {
        let was_secure = attempt
            .previous()
            .first()
            .is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTIONS {
            attempt.error("too many redirections")
        } else if was_secure && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to http")
        } else if !reach.allows_url(attempt.url()) {
            attempt.error("redirected to where a node may not ask")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .tls_backend_preconfigured(outside.tls.clone())
        .dns_resolver(Arc::new(Resolver(reach)))
        .redirect(follow)
        .connect_timeout(CONNECT)
        .read_timeout(limits::SILENCE)
        .user_agent("loam")
        .no_proxy()
        .build()
}

/// `Bearer realm="https://auth.example/token",service="registry",scope="..."` as the URL to ask.
fn token_url(challenge: &str) -> Option<Url> {
    let (scheme, parameters) = challenge.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut realm = None;
    let mut query = Vec::new();
    let mut rest = parameters.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        // Values with commas (scopes) are quoted.
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        match key.trim() {
            "realm" => realm = Some(Url::parse(value).ok()?),
            key @ ("service" | "scope") => query.push((key.to_owned(), value.to_owned())),
            _ => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    let mut url = realm?;
    url.query_pairs_mut().extend_pairs(query);
    Some(url)
}

/// `Content-Range: bytes 100-199/200` (RFC 9110, section 14.4).
fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

async fn checked(
    response: Response,
    digest: Digest,
    what: &str,
    limit: u64,
) -> Result<Vec<u8>, RegistryError> {
    let bytes = limited(response, what, limit).await?;
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(RegistryError::Digest {
            what: what.to_owned(),
            found,
        });
    }
    Ok(bytes)
}

/// The body, if it is no longer than `limit`.
async fn limited(mut response: Response, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(http)? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(RegistryError::TooLarge {
                what: what.to_owned(),
                limit,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// With its causes: `reqwest`'s own message is only "error sending request".
pub fn http(error: reqwest::Error) -> RegistryError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    RegistryError::Http(text)
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
