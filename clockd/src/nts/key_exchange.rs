//! The key exchange (RFC 8915, section 4): records over TLS 1.3.

use std::sync::Arc;

use rustls::{CertificateError, ClientConfig, pki_types::ServerName as TlsName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::Session;

/// ALPN (section 4, and IANA's registry).
pub const PROTOCOL: &[u8] = b"ntske/1";

/// Label and contexts of the keys (section 5.1): protocol 0 (NTPv4), algorithm 15, direction.
const LABEL: &[u8] = b"EXPORTER-network-time-security";
const TO_SERVER: [u8; 5] = [0, 0, 0, 15, 0];
const TO_CLIENT: [u8; 5] = [0, 0, 0, 15, 1];

/// Critical records for NTPv4 and AEAD_AES_SIV_CMAC_256, and the end of the message.
const REQUEST: [u8; 16] = [0x80, 1, 0, 2, 0, 0, 0x80, 4, 0, 2, 0, 15, 0x80, 0, 0, 0];

/// Eight cookies take about 1 KiB.
const MAX_RESPONSE: u64 = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum KeyExchangeError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("its name cannot be the name of a server")]
    Name,
    #[error("its records are cut off")]
    Short,
    #[error("a record that must be understood is not: type {0}")]
    Critical(u16),
    #[error("it reports error {0} (RFC 8915, section 4.1.3)")]
    Refused(u16),
    #[error("it does not speak NTPv4 with AES-SIV")]
    Algorithm,
    #[error("it gives no cookies")]
    NoCookies,
}

impl KeyExchangeError {
    /// Whether the server's certificate has ended by what is known about the time.
    pub fn is_ended_certificate(&self) -> bool {
        // What TLS has against a server comes in an error of its stream.
        let tls = match self {
            Self::Tls(error) => Some(error),
            Self::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
            _ => None,
        };
        matches!(
            tls,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        )
    }
}

/// TLS 1.3 to servers of NTS, with the certificates judged as `config` does.
pub fn for_key_exchange(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Arc::new(config)
}

/// Runs the exchange over `stream` with the server called `host`.
///
/// # Errors
///
/// The connection fails, its certificate is refused, or what it says is not as the RFC has it.
pub async fn exchange<S>(
    stream: S,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<Session, KeyExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = TlsName::try_from(host.to_owned()).map_err(|_| KeyExchangeError::Name)?;
    let mut tls = TlsConnector::from(config).connect(name, stream).await?;
    if tls.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(KeyExchangeError::Algorithm);
    }
    tls.write_all(&REQUEST).await?;
    tls.flush().await?;
    let response = read(&mut tls).await?;
    let connection = tls.get_ref().1;
    let key = |context: &[u8]| connection.export_keying_material([0; 32], LABEL, Some(context));
    let mut session = Session::new(key(&TO_SERVER)?, key(&TO_CLIENT)?);
    take(&response, &mut session)?;
    Ok(session)
}

/// Reads until the record that ends the message.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, KeyExchangeError> {
    let mut response = Vec::new();
    let mut stream = stream.take(MAX_RESPONSE);
    loop {
        let start = response.len();
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.map_err(cut_off)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        response.extend_from_slice(&head);
        response.resize(start + 4 + length, 0);
        stream
            .read_exact(&mut response[start + 4..])
            .await
            .map_err(cut_off)?;
        if head[0] & 0x7f == 0 && head[1] == END {
            return Ok(response);
        }
    }
}

fn cut_off(error: std::io::Error) -> KeyExchangeError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => KeyExchangeError::Short,
        _ => KeyExchangeError::Io(error),
    }
}

const END: u8 = 0;
const NEXT_PROTOCOL: u16 = 1;
const ERROR: u16 = 2;
const WARNING: u16 = 3;
const ALGORITHM: u16 = 4;
const COOKIE: u16 = 5;
const SERVER: u16 = 6;
const PORT: u16 = 7;

/// Reads the records of a whole response into `session`.
fn take(mut records: &[u8], session: &mut Session) -> Result<(), KeyExchangeError> {
    let (mut protocol, mut algorithm) = (false, false);
    while let Some((head, rest)) = records.split_first_chunk::<4>() {
        let critical = head[0] & 0x80 != 0;
        let kind = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (body, rest) = rest
            .split_at_checked(length)
            .ok_or(KeyExchangeError::Short)?;
        records = rest;
        let number = || body.try_into().map(u16::from_be_bytes).ok();
        match kind {
            0 => break,
            NEXT_PROTOCOL => protocol = number() == Some(0),
            ERROR | WARNING => {
                return Err(KeyExchangeError::Refused(number().unwrap_or(u16::MAX)));
            }
            ALGORITHM => algorithm = number() == Some(15),
            COOKIE => session.keep(body),
            SERVER => {
                session.ntp_host = std::str::from_utf8(body)
                    .ok()
                    .filter(|host| host.parse::<crate::config::ServerName>().is_ok())
                    .map(str::to_owned);
            }
            PORT => session.ntp_port = number(),
            other if critical => return Err(KeyExchangeError::Critical(other)),
            _ => {}
        }
    }
    if !protocol || !algorithm {
        return Err(KeyExchangeError::Algorithm);
    }
    if !session.has_cookies() {
        return Err(KeyExchangeError::NoCookies);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut record = kind.to_be_bytes().to_vec();
        record.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        record.extend_from_slice(body);
        record
    }

    fn session() -> Session {
        Session::new([1; 32], [2; 32])
    }

    fn taken(records: &[Vec<u8>]) -> Result<Session, KeyExchangeError> {
        let mut session = session();
        take(&records.concat(), &mut session).map(|()| session)
    }

    const CRITICAL: u16 = 0x8000;

    #[test]
    fn a_response_as_the_rfc_has_it() {
        let session = taken(&[
            record(CRITICAL | NEXT_PROTOCOL, &[0, 0]),
            record(ALGORITHM, &[0, 15]),
            record(COOKIE, b"first"),
            record(COOKIE, b"second"),
            record(SERVER, b"ntp.example"),
            record(PORT, &[0x10, 0x20]),
            record(77, b"not known, and need not be"),
            record(CRITICAL, b""),
        ])
        .unwrap();
        assert_eq!(session.cookies, [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(session.ntp_host.as_deref(), Some("ntp.example"));
        assert_eq!(session.ntp_port, Some(0x1020));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let protocol = record(CRITICAL | NEXT_PROTOCOL, &[0, 0]);
        let algorithm = record(ALGORITHM, &[0, 15]);
        let cookie = record(COOKIE, b"cookie");
        let end = record(CRITICAL, b"");
        let refused = |records: &[&Vec<u8>]| {
            let records: Vec<Vec<u8>> = records.iter().copied().cloned().collect();
            taken(&records).unwrap_err().to_string()
        };
        taken(&[
            protocol.clone(),
            algorithm.clone(),
            cookie.clone(),
            end.clone(),
        ])
        .unwrap();
        let no_aes = "it does not speak NTPv4 with AES-SIV";
        assert_eq!(refused(&[&algorithm, &cookie, &end]), no_aes);
        assert_eq!(refused(&[&protocol, &cookie, &end]), no_aes);
        let other = record(ALGORITHM, &[0, 16]);
        assert_eq!(refused(&[&protocol, &other, &cookie, &end]), no_aes);
        let none = record(NEXT_PROTOCOL, &[]);
        assert_eq!(refused(&[&none, &algorithm, &cookie, &end]), no_aes);
        assert_eq!(
            refused(&[&protocol, &algorithm, &end]),
            "it gives no cookies"
        );
        assert!(refused(&[&record(ERROR, &[0, 1])]).contains("error 1"));
        let strange = record(CRITICAL | 77, b"");
        assert!(refused(&[&strange, &end]).contains("type 77"));
        let mut cut = cookie.clone();
        cut.pop();
        assert_eq!(refused(&[&protocol, &cut]), "its records are cut off");
    }

    #[test]
    fn a_server_cannot_fill_the_memory() {
        let mut session = session();
        for _ in 0..20 {
            session.keep(b"cookie");
        }
        assert_eq!(session.cookies.len(), 8);
        let mut session = super::tests::session();
        session.keep(&[0; 513]);
        session.keep(&[]);
        assert!(!session.has_cookies());
        session.keep(&[0; 512]);
        assert!(session.has_cookies());
    }

    #[tokio::test]
    async fn a_response_ends_at_its_end_or_at_the_limit() {
        let whole = [
            record(COOKIE, b"c"),
            record(CRITICAL, b""),
            b"more".to_vec(),
        ]
        .concat();
        assert_eq!(
            read(&mut &whole[..]).await.unwrap(),
            whole[..whole.len() - 4]
        );
        let cut = &whole[..6];
        assert!(matches!(
            read(&mut &cut[..]).await,
            Err(KeyExchangeError::Short)
        ));
        let endless = record(COOKIE, &[7; 1000]).repeat(17);
        assert!(matches!(
            read(&mut &endless[..]).await,
            Err(KeyExchangeError::Short)
        ));
    }

    proptest! {
        #[test]
        fn any_records_are_read_without_harm(records: Vec<u8>) {
            let _ = take(&records, &mut session());
        }
    }
}
