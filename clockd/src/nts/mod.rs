//! Network Time Security (RFC 8915): proof that an answer came from the server that was asked.
//!
//! Keys and cookies come from a TLS connection ([`key_exchange`]); then each question carries one
//! cookie, by which the server finds the keys again, and question and answer are authenticated
//! ([`extension`]).

pub mod extension;
pub mod key_exchange;

use aes_siv::{Aes128SivAead, KeyInit};

/// What a key exchange gave, for one server. The only algorithm offered is AEAD_AES_SIV_CMAC_256
/// (number 15), which every server has.
pub struct Session {
    pub(crate) to_server: Aes128SivAead,
    pub(crate) to_client: Aes128SivAead,
    /// Each is used once, so that nobody can tell by them who asks.
    pub(crate) cookies: Vec<Vec<u8>>,
    /// Where NTP is spoken, if the server named another place than its own.
    pub ntp_host: Option<String>,
    pub ntp_port: Option<u16>,
}

/// A server gives eight; more are dropped.
const MAX_COOKIES: usize = 8;
/// A cookie is some 100 bytes; a packet with a longer one might not arrive.
const MAX_COOKIE: usize = 512;

impl Session {
    pub(crate) fn new(to_server: [u8; 32], to_client: [u8; 32]) -> Self {
        Self {
            to_server: Aes128SivAead::new(&to_server.into()),
            to_client: Aes128SivAead::new(&to_client.into()),
            cookies: Vec::new(),
            ntp_host: None,
            ntp_port: None,
        }
    }

    pub(crate) fn keep(&mut self, cookie: &[u8]) {
        if self.cookies.len() < MAX_COOKIES && !cookie.is_empty() && cookie.len() <= MAX_COOKIE {
            self.cookies.push(cookie.to_vec());
        }
    }

    pub fn has_cookies(&self) -> bool {
        !self.cookies.is_empty()
    }
}

impl std::fmt::Debug for Session {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("cookies", &self.cookies.len())
            .field("ntp_host", &self.ntp_host)
            .field("ntp_port", &self.ntp_port)
            .finish_non_exhaustive()
    }
}
