//! Logging in: which challenge to meet, and how. Pure; [`crate::registry`] asks.
//!
//! Tokens are those of github.com/distribution/distribution, "Token Authentication Specification", and
//! of its OAuth2 variant, in which the same thing is called `access_token`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;

use crate::challenge::Challenge;

/// Of an account at a registry.
#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// How to meet a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// By a token from there.
    Bearer(Url),
    /// By the credentials themselves.
    Basic,
}

/// The first challenge that can be met. `may_ask` says from where a token may be got.
pub fn choose(
    challenges: &[Challenge],
    repository: &str,
    credentials: Option<&Credentials>,
    may_ask: impl Fn(&Url) -> bool,
) -> Option<Login> {
    challenges.iter().find_map(|challenge| {
        if challenge.is("Bearer") {
            let url = token_url(challenge, repository)?;
            return may_ask(&url).then_some(Login::Bearer(url));
        }
        (challenge.is("Basic") && credentials.is_some()).then_some(Login::Basic)
    })
}

/// Where a token for reading the repository is.
fn token_url(challenge: &Challenge, repository: &str) -> Option<Url> {
    let mut url = Url::parse(challenge.parameter("realm")?).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !is_plain {
        return None;
    }
    let scopes = challenge.parameter("scope").unwrap_or_default();
    let own = format!("repository:{repository}:pull");
    let mut query = url.query_pairs_mut();
    if let Some(service) = challenge.parameter("service") {
        query.append_pair("service", service);
    }
    // Several are parted by spaces there, and each asked for by itself. A server that names none
    // (RFC 6750 lets it) grants none, unless it is told.
    let mut named = scopes.split_ascii_whitespace().peekable();
    if named.peek().is_none() {
        query.append_pair("scope", &own);
    }
    for scope in named {
        query.append_pair("scope", scope);
    }
    drop(query);
    Some(url)
}

/// What stands in `Authorization`, of a token server's answer. Some send both names, one of them empty.
pub fn bearer(answer: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    let token = tokens.find(|token| !token.is_empty())?;
    secret(&format!("Bearer {token}"))
}

/// The same, of credentials (RFC 7617).
pub fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let Credentials { user, password } = credentials;
    let text = STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {text}"))
}

/// A value that no log shows.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::parse;

    fn of(field: &str, credentials: Option<&Credentials>) -> Option<String> {
        let may_ask = |url: &Url| url.scheme() == "https";
        match choose(&parse([field]), "library/x", credentials, may_ask)? {
            Login::Bearer(url) => Some(url.to_string()),
            Login::Basic => Some("basic".to_owned()),
        }
    }

    #[test]
    fn a_token_is_asked_for_as_the_challenge_says() {
        for (challenge, url) in [
            (
                "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",\
                 scope=\"repository:library/debian:pull,push\"",
                "https://auth.example/token?service=registry.example\
                 &scope=repository%3Alibrary%2Fdebian%3Apull%2Cpush",
            ),
            (
                "Bearer realm=\"https://a.example/t?x=1\", scope=\"a b\"",
                "https://a.example/t?x=1&scope=a&scope=b",
            ),
            (
                "Bearer realm=\"https://a.example/t\",service=\"s\"",
                "https://a.example/t?service=s&scope=repository%3Alibrary%2Fx%3Apull",
            ),
            (
                "Bearer realm=\"https://a.example/t\",scope=\" \"",
                "https://a.example/t?scope=repository%3Alibrary%2Fx%3Apull",
            ),
            (
                "Negotiate, Basic realm=\"x\", Bearer realm=\"http://b/t\", Bearer realm=\"https://a/t\",scope=s",
                "https://a/t?scope=s",
            ),
        ] {
            assert_eq!(of(challenge, None).as_deref(), Some(url));
        }
        for bad in [
            "",
            "Bearer",
            "Negotiate",
            "Basic realm=\"x\"",
            "Bearer realm=\"not a url\"",
            "Bearer realm=\"/token\"",
            "Bearer realm=\"http://auth.example/token\"",
            "Bearer realm=\"file:///etc/passwd\"",
            "Bearer realm=\"https://user:password@auth.example/token\"",
            "Bearer service=\"x\"",
        ] {
            assert_eq!(of(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn credentials_are_told_to_who_asks_for_them_first() {
        let credentials = Credentials {
            user: "Aladdin".to_owned(),
            password: "open sesame".to_owned(),
        };
        let both = "Negotiate, Basic realm=\"x\", Bearer realm=\"https://a/t\",scope=s";
        assert_eq!(of(both, Some(&credentials)).as_deref(), Some("basic"));
        assert_eq!(of(both, None).as_deref(), Some("https://a/t?scope=s"));
        // RFC 7617's own example.
        let value = basic(&credentials).unwrap();
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(value.is_sensitive());
        assert!(!format!("{credentials:?} {value:?}").contains("esame"));
    }

    #[test]
    fn a_token_has_either_name() {
        for answer in [
            r#"{"token":"t"}"#,
            r#"{"access_token":"t"}"#,
            r#"{"token":"t","access_token":"","expires_in":1800}"#,
            r#"{"token":"","access_token":"t"}"#,
            r#"{"token":null,"access_token":"t"}"#,
            r#"{"token":"t","access_token":"u"}"#,
        ] {
            assert_eq!(bearer(answer.as_bytes()).unwrap(), "Bearer t", "{answer}");
        }
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"token":""}"#,
            r#"{"token":7}"#,
            r#"{"token":"a\nb"}"#,
        ] {
            assert!(bearer(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
