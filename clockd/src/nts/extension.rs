//! The extension fields of a question and its answer (RFC 8915, section 5; RFC 7822).

use aes_siv::aead::{Aead as _, Payload};

use super::Session;
use crate::packet::HEADER;

const UNIQUE_IDENTIFIER: u16 = 0x0104;
const COOKIE: u16 = 0x0204;
const AUTHENTICATOR: u16 = 0x0404;

/// What is random in a question: 32 bytes by which the answer is known, and 16 of nonce.
pub type Identifier = [u8; 32];
pub type Nonce = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    #[error("there is no cookie left")]
    NoCookie,
    #[error("its answer is not authenticated")]
    NotAuthenticated,
    #[error("its answer is to another question")]
    OtherQuestion,
}

/// Adds to the `header` of a question what proves it; takes one cookie.
pub fn protect(
    header: [u8; HEADER],
    session: &mut Session,
    identifier: &Identifier,
    nonce: &Nonce,
) -> Result<Vec<u8>, ExtensionError> {
    let cookie = session.cookies.pop().ok_or(ExtensionError::NoCookie)?;
    let mut packet = header.to_vec();
    put(&mut packet, UNIQUE_IDENTIFIER, &[identifier]);
    put(&mut packet, COOKIE, &[&cookie]);
    // Nothing is secret in a question: the ciphertext is the proof alone.
    let proof = session
        .to_server
        .encrypt(
            nonce.into(),
            Payload {
                msg: &[],
                aad: &packet,
            },
        )
        .map_err(|_| ExtensionError::NotAuthenticated)?;
    let lengths = [0, 16, 0, u8::try_from(proof.len()).unwrap_or(16)];
    put(&mut packet, AUTHENTICATOR, &[&lengths, nonce, &proof]);
    Ok(packet)
}

/// Checks that the server of `session` gave this answer to the question with `identifier`, and keeps
/// the cookies that come with it.
pub fn check(
    packet: &[u8],
    session: &mut Session,
    identifier: &Identifier,
) -> Result<(), ExtensionError> {
    let not_authenticated = ExtensionError::NotAuthenticated;
    let mut ours = false;
    let mut at = HEADER;
    while let Some((kind, body, end)) = field(packet, at) {
        match kind {
            UNIQUE_IDENTIFIER => ours = body == identifier,
            AUTHENTICATOR => {
                let (nonce, ciphertext) = authenticator(body).ok_or(not_authenticated)?;
                // What comes behind this field is not proved, and not read.
                let inner = session
                    .to_client
                    .decrypt(
                        nonce.into(),
                        Payload {
                            msg: ciphertext,
                            aad: &packet[..at],
                        },
                    )
                    .map_err(|_| not_authenticated)?;
                if !ours {
                    return Err(ExtensionError::OtherQuestion);
                }
                let mut at = 0;
                while let Some((kind, body, end)) = field(&inner, at) {
                    if kind == COOKIE {
                        session.keep(body);
                    }
                    at = end;
                }
                return Ok(());
            }
            _ => {}
        }
        at = end;
    }
    Err(not_authenticated)
}

/// Type, length and body, filled to four bytes. The length counts all three.
fn put(packet: &mut Vec<u8>, kind: u16, parts: &[&[u8]]) {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let length = (4 + body).next_multiple_of(4);
    let end = packet.len() + length;
    packet.extend_from_slice(&kind.to_be_bytes());
    // Bodies are bounded: a cookie has at most 512 bytes.
    packet.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    for part in parts {
        packet.extend_from_slice(part);
    }
    packet.resize(end, 0);
}

/// The field at `at`: type, body with its filling, and where the next one starts.
fn field(bytes: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let body = rest.get(..length.checked_sub(4)?)?;
    Some((
        u16::from_be_bytes([head[0], head[1]]),
        body,
        at + length.next_multiple_of(4),
    ))
}

/// Nonce and ciphertext of an authenticator's body.
fn authenticator(body: &[u8]) -> Option<(&Nonce, &[u8])> {
    let (lengths, rest) = body.split_first_chunk::<4>()?;
    let nonce = usize::from(u16::from_be_bytes([lengths[0], lengths[1]]));
    let ciphertext = usize::from(u16::from_be_bytes([lengths[2], lengths[3]]));
    let rest_of_nonce = rest.get(nonce.next_multiple_of(4)..)?;
    Some((
        rest.get(..nonce)?.try_into().ok()?,
        rest_of_nonce.get(..ciphertext)?,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTIFIER: Identifier = [9; 32];
    const NONCE: Nonce = [3; 16];

    fn session() -> Session {
        let mut session = Session::new([1; 32], [2; 32]);
        session.keep(b"a cookie");
        session
    }

    /// What the server of `session` answers, with a new cookie inside.
    fn answer(session: &Session, identifier: &Identifier) -> Vec<u8> {
        let mut packet = vec![4; HEADER];
        put(&mut packet, UNIQUE_IDENTIFIER, &[identifier]);
        let mut inner = Vec::new();
        put(&mut inner, COOKIE, &[b"another."]);
        let sealed = session
            .to_client
            .encrypt(
                (&NONCE).into(),
                Payload {
                    msg: &inner,
                    aad: &packet,
                },
            )
            .unwrap();
        let lengths = [0, 16, 0, u8::try_from(sealed.len()).unwrap()];
        put(&mut packet, AUTHENTICATOR, &[&lengths, &NONCE, &sealed]);
        packet
    }

    #[test]
    fn a_question_spends_a_cookie_and_is_proved() {
        let mut session = session();
        let packet = protect([7; HEADER], &mut session, &IDENTIFIER, &NONCE).unwrap();
        assert!(!session.has_cookies());
        // Header, identifier (36), cookie (12), authenticator (4 + 4 + 16 + 16).
        assert_eq!(packet.len(), HEADER + 36 + 12 + 40);
        assert_eq!(packet[HEADER..HEADER + 4], [1, 4, 0, 36]);
        assert_eq!(&packet[HEADER + 40..HEADER + 48], b"a cookie");
        let (nonce, proof) = authenticator(&packet[HEADER + 52..]).unwrap();
        assert_eq!(nonce, &NONCE);
        let opened = session.to_server.decrypt(
            nonce.into(),
            Payload {
                msg: proof,
                aad: &packet[..HEADER + 48],
            },
        );
        assert_eq!(opened.unwrap(), b"");
        assert_eq!(
            protect([7; HEADER], &mut session, &IDENTIFIER, &NONCE),
            Err(ExtensionError::NoCookie)
        );
    }

    #[test]
    fn an_answer_is_checked_and_its_cookie_kept() {
        let mut session = session();
        let packet = answer(&session, &IDENTIFIER);
        session.cookies.clear();
        check(&packet, &mut session, &IDENTIFIER).unwrap();
        assert_eq!(session.cookies, [b"another.".to_vec()]);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let mut session = session();
        let packet = answer(&session, &[8; 32]);
        assert_eq!(
            check(&packet, &mut session, &IDENTIFIER),
            Err(ExtensionError::OtherQuestion)
        );
    }

    #[test]
    fn every_bit_of_an_answer_counts() {
        let mut session = session();
        let good = answer(&session, &IDENTIFIER);
        for bit in 0..good.len() * 8 {
            let mut packet = good.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            assert!(
                check(&packet, &mut session, &IDENTIFIER).is_err(),
                "bit {bit} was not missed"
            );
        }
        for length in 0..good.len() {
            assert!(check(&good[..length], &mut session, &IDENTIFIER).is_err());
        }
    }

    #[test]
    fn another_server_s_keys_prove_nothing() {
        let packet = answer(&Session::new([1; 32], [5; 32]), &IDENTIFIER);
        assert_eq!(
            check(&packet, &mut session(), &IDENTIFIER),
            Err(ExtensionError::NotAuthenticated)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_checked_without_harm(packet: Vec<u8>) {
            let _ = check(&packet, &mut session(), &IDENTIFIER);
        }
    }
}
