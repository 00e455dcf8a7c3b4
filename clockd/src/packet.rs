//! NTPv4 packets as a client writes and reads them (RFC 5905, section 7.3).

use crate::instant::{Nanos, SECOND};

/// Length of the header, which is a whole packet without extensions.
pub const HEADER: usize = 48;

/// From 1900, where NTP's seconds start, to 1970.
const SINCE_1900: i128 = 2_208_988_800;
/// NTP's 32 bits of seconds start anew this often.
const ERA: i128 = 1 << 32;

/// Leap indicator 0, version 4, mode 3 (client).
const CLIENT: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;
const LEAP_UNKNOWN: u8 = 3;
/// Above, a server has no time itself.
const WORST_STRATUM: u8 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("its answer is too short")]
    Short,
    #[error("its answer is no answer of an NTP server")]
    Mode,
    #[error("its answer is to another question")]
    Origin,
    #[error("it has no time itself")]
    Unsynchronized,
    /// Stratum 0: the server says why it does not answer (RFC 5905, section 7.4).
    #[error("it refuses: {}", .0.escape_ascii())]
    Kiss([u8; 4]),
}

/// A question. It tells the server nothing, not even the time here: `token` is random, and only
/// whoever saw the question can put it into an answer.
pub fn question(token: [u8; 8]) -> [u8; HEADER] {
    let mut packet = [0; HEADER];
    packet[0] = CLIENT;
    packet[40..].copy_from_slice(&token);
    packet
}

/// When a server got a question, and when it answered, in NTP's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerTimes {
    received: u64,
    sent: u64,
}

/// Reads the header of an answer to the question with `token`.
///
/// # Errors
///
/// It is no answer to that question, or the server says that it does not know.
pub fn answer(packet: &[u8], token: [u8; 8]) -> Result<ServerTimes, PacketError> {
    let header: &[u8; HEADER] = packet.first_chunk().ok_or(PacketError::Short)?;
    let version = header[0] >> 3 & 7;
    if header[0] & 7 != MODE_SERVER || !matches!(version, 3 | 4) {
        return Err(PacketError::Mode);
    }
    if header[24..32] != token {
        return Err(PacketError::Origin);
    }
    let stratum = header[1];
    if stratum == 0 {
        let mut code = [0; 4];
        code.copy_from_slice(&header[12..16]);
        return Err(PacketError::Kiss(code));
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let times = ServerTimes {
        received: number(32),
        sent: number(40),
    };
    if header[0] >> 6 == LEAP_UNKNOWN || stratum > WORST_STRATUM || times.sent == 0 {
        return Err(PacketError::Unsynchronized);
    }
    Ok(times)
}

/// What an answer means: asked when the kernel had run for `asked`, answered at `answered`.
///
/// NTP's seconds repeat every 136 years, and the answer is taken to be within half of these around
/// `era`. Gives the time of day at the kernel's start, and how
/// long the answer was on its way.
pub fn interpret(times: ServerTimes, asked: Nanos, answered: Nanos, era: Nanos) -> (Nanos, Nanos) {
    let received = unwrap(times.received, era);
    let sent = unwrap(times.sent, era);
    let delay = (answered - asked) - (sent - received);
    // On both ways the same time, so halfway through the question's life is halfway through the
    // server's (RFC 5905, section 8).
    let middle_here = Nanos((asked.0 + answered.0) / 2);
    let middle_there = Nanos((received.0 + sent.0) / 2);
    (middle_there - middle_here, delay.max(Nanos(0)))
}

fn unwrap(ntp: u64, era: Nanos) -> Nanos {
    let seconds = i128::from(ntp >> 32) - SINCE_1900;
    let fraction = (i128::from(ntp & 0xffff_ffff) * SECOND) >> 32;
    let lowest = era.0.div_euclid(SECOND) - ERA / 2;
    let eras = (lowest - seconds).div_euclid(ERA) + 1;
    Nanos((seconds + eras * ERA) * SECOND + fraction)
}

#[cfg(test)]
pub mod testing {
    use super::*;

    pub fn to_ntp(time: Nanos) -> u64 {
        let seconds = (time.0.div_euclid(SECOND) + SINCE_1900).rem_euclid(ERA);
        let fraction = (time.0.rem_euclid(SECOND) << 32) / SECOND;
        (u64::try_from(seconds).unwrap() << 32) | u64::try_from(fraction).unwrap()
    }

    /// What a good server answers.
    pub fn server_answer(question: &[u8], received: Nanos, sent: Nanos) -> [u8; HEADER] {
        let mut packet = [0; HEADER];
        packet[0] = 4 << 3 | MODE_SERVER;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&question[40..48]);
        packet[32..40].copy_from_slice(&to_ntp(received).to_be_bytes());
        packet[40..48].copy_from_slice(&to_ntp(sent).to_be_bytes());
        packet
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::*, *};

    const TOKEN: [u8; 8] = *b"question";

    #[test]
    fn a_question_tells_nothing_but_its_token() {
        let packet = question(TOKEN);
        assert_eq!(packet[0], 0x23);
        assert!(packet[1..40].iter().all(|byte| *byte == 0));
        assert_eq!(packet[40..], TOKEN);
    }

    #[test]
    fn times_are_read_and_put_in_the_middle() {
        let era = Nanos::seconds(1_700_000_000);
        let now = Nanos::seconds(1_750_000_000);
        let half = Nanos(SECOND / 2);
        // 0.5 s there, 0.5 s at the server, 0.5 s back.
        let packet = server_answer(&question(TOKEN), now + half, now + half + half);
        let times = answer(&packet, TOKEN).unwrap();
        let asked = Nanos::seconds(100);
        let (boot, delay) = interpret(times, asked, asked + half + half + half, era);
        assert!((boot - (now - asked)).abs() < Nanos(10), "{boot:?}");
        assert!((delay - Nanos::seconds(1)).abs() < Nanos(10), "{delay:?}");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let now = Nanos::seconds(1_750_000_000);
        let good = server_answer(&question(TOKEN), now, now);
        let spoilt = |at: usize, byte: u8| {
            let mut packet = good;
            packet[at] = byte;
            answer(&packet, TOKEN).unwrap_err()
        };
        answer(&good, TOKEN).unwrap();
        assert_eq!(answer(&good[..47], TOKEN), Err(PacketError::Short));
        assert_eq!(spoilt(0, 4 << 3 | 3), PacketError::Mode);
        assert_eq!(spoilt(0, 5 << 3 | 4), PacketError::Mode);
        assert_eq!(spoilt(31, 0), PacketError::Origin);
        assert_eq!(spoilt(0, 3 << 6 | 4 << 3 | 4), PacketError::Unsynchronized);
        assert_eq!(spoilt(1, 16), PacketError::Unsynchronized);
        let mut packet = good;
        packet[1] = 15;
        answer(&packet, TOKEN).unwrap();
        packet[40..48].fill(0);
        assert_eq!(answer(&packet, TOKEN), Err(PacketError::Unsynchronized));
        packet[1] = 0;
        packet[12..16].copy_from_slice(b"RATE");
        assert_eq!(answer(&packet, TOKEN), Err(PacketError::Kiss(*b"RATE")));
        assert_eq!(PacketError::Kiss(*b"RATE").to_string(), "it refuses: RATE");
    }

    proptest! {
        /// NTP's seconds start anew in 2036; any time within 68 years of `era` is read right.
        #[test]
        fn the_era_is_the_one_around_what_is_given(era in 0i64..8_000_000_000, ahead in -(1i64 << 31) + 1..(1i64 << 31)) {
            let era = Nanos::seconds(era.into());
            let time = era + Nanos::seconds(ahead.into());
            prop_assert_eq!(unwrap(to_ntp(time), era), time);
        }

        #[test]
        fn any_bytes_are_read_without_harm(packet: Vec<u8>) {
            let _ = answer(&packet, TOKEN);
        }

        #[test]
        fn any_times_are_interpreted_without_harm(received: u64, sent: u64, era: u32) {
            let times = ServerTimes { received, sent };
            let era = Nanos::seconds(era.into());
            let (_, delay) = interpret(times, Nanos(5), Nanos(9), era);
            prop_assert!(delay >= Nanos(0));
        }
    }
}
