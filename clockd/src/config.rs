//! Which servers a node asks for the time: `/etc/loam/time.toml`, part of the image.

use std::{collections::BTreeSet, fmt, path::Path, str::FromStr};

use anyhow::{Context, ensure};
use loam_node_api::clock::UnixTime;
use serde::Deserialize;

use crate::instant::Nanos;

/// So many servers are asked at most; a list that is longer is a mistake.
const MAX_SERVERS: usize = 16;

/// 2026-01-01: nothing that runs this was built before.
const OLDEST_BUILD: UnixTime = UnixTime(1_767_225_600);

/// Port of the key exchange (RFC 8915, section 4) and of NTP itself.
const NTS_PORT: u16 = 4460;
pub const NTP_PORT: u16 = 123;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// When the image was built, in seconds since 1970: no node runs it before.
    #[serde(default)]
    pub built: UnixTime,
    /// Servers of NTS: `host`, `host:port`.
    #[serde(default)]
    pub nts: Vec<ServerName>,
    /// Servers of plain NTP, asked too, and believed only where NTS says nothing.
    #[serde(default)]
    pub ntp: Vec<ServerName>,
    /// Authorities for the certificates of `nts` in place of the public ones, as PEM: for grids with
    /// servers of their own.
    pub authorities: Option<String>,
}

impl Config {
    /// # Errors
    ///
    /// The file cannot be read, is no TOML of this shape, or names more servers than are asked.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// NTP's seconds repeat every 136 years: an answer is taken to be within half of these around this
    /// moment. The build's date rather than the floor: by a floor that is wrong by a lifetime, the
    /// right time would be read as one that is in the next era, and be believed.
    pub fn era(&self) -> Nanos {
        self.built.max(OLDEST_BUILD).into()
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut config: Self = toml::from_str(text)?;
        // One that is named thrice is no majority of three.
        for (servers, usual) in [(&mut config.nts, NTS_PORT), (&mut config.ntp, NTP_PORT)] {
            let mut seen = BTreeSet::new();
            servers.retain(|server| seen.insert(server.asked_at(usual)));
            ensure!(
                servers.len() <= MAX_SERVERS,
                "{} servers; at most {MAX_SERVERS} are asked",
                servers.len()
            );
        }
        Ok(config)
    }
}

/// A server as it is written: a name or an address, and a port if it is not the usual one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerName {
    pub host: String,
    pub port: Option<u16>,
}

impl ServerName {
    /// The same for all ways to write one server.
    fn asked_at(&self, usual: u16) -> (String, u16) {
        let host = self.host.trim_end_matches('.').to_ascii_lowercase();
        (host, self.port.unwrap_or(usual))
    }

    pub fn nts_port(&self) -> u16 {
        self.port.unwrap_or(NTS_PORT)
    }

    pub fn ntp_port(&self) -> u16 {
        self.port.unwrap_or(NTP_PORT)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => write!(f, "{}", self.host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a server; expected a name or an IPv4 address, as in time.example or time.example:4460"
)]
pub struct ServerNameError(String);

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ServerNameError(text.to_owned());
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| error())?)),
            None => (text, None),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if host.is_empty() || host.len() > 253 || !host.chars().all(fits) || port == Some(0) {
            return Err(error());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl TryFrom<String> for ServerName {
    type Error = ServerNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_servers_is_read() {
        let config = Config::parse(
            r#"
            built = 1700000000
            nts = ["time.example", "10.0.2.2:14460"]
            ntp = ["pool.example"]
            "#,
        )
        .unwrap();
        assert_eq!(config.built, UnixTime(1_700_000_000));
        assert_eq!(config.nts[0].nts_port(), 4460);
        assert_eq!(config.nts[1].to_string(), "10.0.2.2:14460");
        assert_eq!(config.nts[1].nts_port(), 14460);
        assert_eq!(config.ntp[0].ntp_port(), 123);
        assert_eq!(config.ntp[0].to_string(), "pool.example");
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_no_server_is_refused_with_its_text() {
        for text in ["", ":1", "a b", "a:0", "a:65536", "a:b", "http://a", "-é"] {
            let error = Config::parse(&format!("ntp = [{text:?}]")).unwrap_err();
            assert!(
                error.to_string().contains("is not a server"),
                "{text}: {error}"
            );
        }
        Config::parse("servers = []").unwrap_err();
        let many = |count| {
            let names: Vec<String> = (0..count).map(|n| format!("a{n}")).collect();
            Config::parse(&format!("nts = {names:?}"))
        };
        many(MAX_SERVERS + 1).unwrap_err();
        many(MAX_SERVERS).unwrap();
    }

    #[test]
    fn a_server_that_is_named_more_than_once_is_one_server() {
        let config =
            Config::parse(r#"ntp = ["b", "A", "b", "a", "b:123", "b.", "b:124"]"#).unwrap();
        let names: Vec<String> = config.ntp.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["b", "A", "b:124"]);
    }
}
