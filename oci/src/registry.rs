//! Asking a registry for bytes (OCI distribution specification 1.1), logged in as it wants it.
//!
//! A client of our own rather than `oci-client`, for that one reads whatever it is sent into memory
//! before it looks at its length.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderValue, RANGE, WWW_AUTHENTICATE},
    redirect,
};
use tokio::time::sleep;

use crate::{
    address::{self, Outside, Reach, Resolver},
    challenge,
    digest::Digest,
    host, limits,
    login::{self, Credentials, Login},
    manifest,
    pause::{self, Pauses},
};

const CONNECT: Duration = Duration::from_secs(15);

/// OCI distribution specification, "Pulling manifests".
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Registries send blobs from elsewhere, by one redirection or two.
const MAX_REDIRECTIONS: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("`{0}` is no registry that a node may ask")]
    Address(String),
    #[error("the registry cannot be reached: {0}")]
    Http(String),
    #[error(
        "the registry refuses ({0}): it has no such image, or shows it only to those who log in"
    )]
    Denied(StatusCode),
    #[error(
        "the registry refuses ({0}) the login that it was told (`image_login`), or has no such \
         image for it"
    )]
    LoginDenied(StatusCode),
    #[error("the registry has no {0}")]
    Absent(String),
    #[error("the registry answers {0}")]
    Status(StatusCode),
    #[error("the registry wants to be asked later (it answers {status})")]
    Busy {
        status: StatusCode,
        /// As far as it says when.
        wait: Option<Duration>,
    },
    #[error(
        "the registry led on to {0}, which wants a login; only the registry itself is told one"
    )]
    Elsewhere(String),
    #[error("the registry asks for a kind of login that is not known here: {0}")]
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
    repository: String,
    credentials: Option<Credentials>,
    /// What the registry wanted to be told last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl RegistryError {
    /// Whether the same question may be answered when it is asked again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Http(_) | Self::Busy { .. } => true,
            // It did not wait for the question, or does not want it before it knows who asks (RFC 8470).
            Self::Status(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY) => true,
            Self::Status(status) => status.is_server_error(),
            _ => false,
        }
    }

    /// Whether a registry that answers a range so may have the whole: it knows no ranges without an end, has
    /// another idea of what is there, or cannot read the question (seen of registries: 400, 416).
    fn is_of_the_range(&self) -> bool {
        match self {
            Self::Status(StatusCode::NOT_IMPLEMENTED) => true,
            Self::Status(status) => status.is_client_error() && !self.is_passing(),
            _ => false,
        }
    }
}

impl Registry {
    /// Without credentials, what anybody may read can be read.
    pub fn new(
        registry: &str,
        repository: &str,
        outside: &Outside,
        credentials: Option<Credentials>,
    ) -> Result<Self, RegistryError> {
        let reach = outside.reach;
        let refuse = || RegistryError::Address(registry.to_owned());
        let (host, repository) = host::asked(registry, repository);
        let base = address::base(host)
            .filter(|url| reach.allows_url(url))
            .and_then(|url| url.join(&format!("{repository}/")).ok())
            .ok_or_else(refuse)?;
        let client = client(outside).map_err(http)?;
        Ok(Self {
            client,
            base,
            reach,
            repository: repository.into_owned(),
            credentials,
            authorization: Mutex::default(),
        })
    }

    /// A manifest or index, its digest checked.
    pub async fn manifest(&self, digest: Digest) -> Result<Vec<u8>, RegistryError> {
        let what = format!("manifest {digest}");
        let response = self.document(&digest.to_string(), &what).await?;
        checked(response, digest, &what, limits::MANIFEST).await
    }

    /// The manifest or index that the tag names now. If the registry says its digest, that is checked.
    pub async fn tagged(&self, tag: &str) -> Result<Vec<u8>, RegistryError> {
        let what = format!("tag {tag}");
        let response = self.document(tag, &what).await?;
        // One by another algorithm says nothing to us.
        let said = response.headers().get(CONTENT_DIGEST);
        match said.and_then(|said| said.to_str().ok()?.parse().ok()) {
            Some(digest) => checked(response, digest, &what, limits::MANIFEST).await,
            None => limited(response, &what, limits::MANIFEST).await,
        }
    }

    async fn document(&self, name: &str, what: &str) -> Result<Response, RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let request = |client: &Client| {
            client
                .get(url.clone())
                .header(ACCEPT, manifest::MEDIA_TYPES)
        };
        self.send(request, what).await
    }

    /// A blob that fits in memory, its digest checked.
    pub async fn small_blob(&self, digest: Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("configuration {digest}");
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.send(|client| client.get(url.clone()), &what).await?;
        checked(response, digest, &what, size).await
    }

    /// A blob from byte `from` on, as far as the registry can; the answer says where it begins. Where it can
    /// do nothing with a range, it is asked for the whole. What passes may have no more to do with the range
    /// than with the rest, so that is told.
    pub async fn blob(&self, digest: Digest, from: u64) -> Result<(Response, u64), RegistryError> {
        let what = format!("layer {digest}");
        let url = self.url(&format!("blobs/{digest}"))?;
        let whole = |client: &Client| client.get(url.clone());
        let rest = |client: &Client| whole(client).header(RANGE, format!("bytes={from}-"));
        if from > 0 {
            match self.send(rest, &what).await {
                Ok(part) if part.status() == StatusCode::PARTIAL_CONTENT => {
                    if let Some(start) = range_start(&part) {
                        return Ok((part, start));
                    }
                }
                Ok(whole) => return Ok((whole, 0)),
                Err(error) if error.is_of_the_range() => {}
                Err(error) => return Err(error),
            }
        }
        let response = self.send(whole, &what).await?;
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

    /// Sends, and once more with a login if the registry wants one.
    async fn send(
        &self,
        request: impl Fn(&Client) -> RequestBuilder,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let known = self.authorization().clone();
        let mut pauses = Pauses::default();
        let mut response = self.answer(&request, known, &mut pauses).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            if response.url().origin() != self.base.origin() {
                // Whoever this is, it was not asked, and is told neither login nor token.
                return Err(RegistryError::Elsewhere(host(response.url())));
            }
            let authorization = self.log_in(&response, &mut pauses).await?;
            // For the next questions, too.
            *self.authorization() = Some(authorization.clone());
            let known = Some(authorization);
            response = self.answer(&request, known, &mut pauses).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::Absent(what.to_owned())),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(self.denied(status)),
            status => Err(RegistryError::Status(status)),
        }
    }

    async fn answer(
        &self,
        request: &impl Fn(&Client) -> RequestBuilder,
        authorization: Option<HeaderValue>,
        pauses: &mut Pauses,
    ) -> Result<Response, RegistryError> {
        let request = || match &authorization {
            Some(value) => request(&self.client).header(AUTHORIZATION, value),
            None => request(&self.client),
        };
        patiently(request, pauses).await
    }

    /// What to tell a registry that refused, as it wants it.
    async fn log_in(
        &self,
        refusal: &Response,
        pauses: &mut Pauses,
    ) -> Result<HeaderValue, RegistryError> {
        let fields = refusal.headers().get_all(WWW_AUTHENTICATE).iter();
        let fields: Vec<_> = fields
            .map(|field| String::from_utf8_lossy(field.as_bytes()))
            .collect();
        let challenges = challenge::parse(fields.iter().map(Cow::as_ref));
        let credentials = self.credentials.as_ref();
        let may_ask = |url: &Url| self.may_ask(url);
        let login = login::choose(&challenges, &self.repository, credentials, may_ask);
        let wants = |scheme| challenges.iter().any(|challenge| challenge.is(scheme));
        let unknown = || RegistryError::Challenge(fields.join(", ").chars().take(200).collect());
        match (login, credentials) {
            (Some(Login::Bearer(url)), _) => self.token(url, pauses).await?.ok_or_else(unknown),
            (Some(Login::Basic), Some(credentials)) => {
                login::basic(credentials).ok_or_else(unknown)
            }
            // It wants an account and there is none, or it says nothing.
            (None, None) if wants("Basic") && !wants("Bearer") || challenges.is_empty() => {
                Err(self.denied(refusal.status()))
            }
            _ => Err(unknown()),
        }
    }

    /// As far as a token is concerned: what a registry names is where a stranger wants the node to ask.
    fn may_ask(&self, url: &Url) -> bool {
        let downgrade = self.base.scheme() == "https" && url.scheme() != "https";
        !downgrade && self.reach.allows_url(url)
    }

    /// `None` if the answer has none.
    async fn token(
        &self,
        url: Url,
        pauses: &mut Pauses,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let request = || {
            let request = self.client.get(url.clone());
            match &self.credentials {
                Some(Credentials { user, password }) => request.basic_auth(user, Some(password)),
                None => request,
            }
        };
        let response = patiently(request, pauses).await?;
        match response.status() {
            status if status.is_success() => {}
            status if status.is_server_error() => return Err(RegistryError::Status(status)),
            status => return Err(self.denied(status)),
        }
        let body = limited(response, "token", limits::TOKEN).await?;
        Ok(login::bearer(&body))
    }

    fn denied(&self, status: StatusCode) -> RegistryError {
        match self.credentials {
            Some(_) => RegistryError::LoginDenied(status),
            None => RegistryError::Denied(status),
        }
    }

    fn authorization(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        let authorization = self.authorization.lock();
        authorization.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends, and again where the answer is to ask another time and that is soon.
async fn patiently(
    request: impl Fn() -> RequestBuilder,
    pauses: &mut Pauses,
) -> Result<Response, RegistryError> {
    loop {
        let response = request().send().await.map_err(http)?;
        let status = response.status();
        if !pause::is_busy(status) {
            return Ok(response);
        }
        let wait = pause::asked_for(response.headers());
        let Some(pause) = pauses.next(wait) else {
            return Err(RegistryError::Busy { status, wait });
        };
        tracing::info!(%status, ?pause, "a registry wants to be asked later");
        sleep(pause).await;
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

/// `Content-Range: bytes 100-199/200` (RFC 9110, section 14.4).
/// Whom a URL leads to. What may stand before that is a login.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

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
