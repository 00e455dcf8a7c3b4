//! The bytes of a download: each 8 bytes tell where they belong, so that a client notices any byte
//! lost, doubled or changed.

/// Odd, so that no two words of a download are the same.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fills `bytes` with what a download has from `offset` on.
///
/// Byte `n` is byte `n % 8` (little-endian) of `(n / 8 + 1) * 0x9e3779b97f4a7c15`, modulo 2^64.
pub fn fill(offset: u64, bytes: &mut [u8]) {
    for (n, byte) in (offset..).zip(bytes) {
        let word = (n / 8).wrapping_add(1).wrapping_mul(MULTIPLIER);
        *byte = word.to_le_bytes()[(n % 8) as usize];
    }
}

/// Position of the first of `bytes` that is not what a download has from `offset` on.
pub fn first_wrong(offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = vec![0; bytes.len()];
    fill(offset, &mut expected);
    let wrong = bytes
        .iter()
        .zip(&expected)
        .position(|(have, want)| have != want)?;
    Some(offset + wrong as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_without_a_seam() {
        let mut whole = [0; 100];
        fill(0, &mut whole);
        for cut in 0..whole.len() {
            let (mut head, mut tail) = (vec![0; cut], vec![0; whole.len() - cut]);
            fill(0, &mut head);
            fill(cut as u64, &mut tail);
            head.extend(tail);
            assert_eq!(head, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_lost_doubled_or_changed_byte_is_found() {
        let mut good = vec![0; 64];
        fill(8, &mut good);
        assert_eq!(first_wrong(8, &good), None);

        let mut lost = good.clone();
        lost.remove(20);
        assert_eq!(first_wrong(8, &lost), Some(28));

        let mut doubled = good.clone();
        doubled.insert(20, good[20]);
        assert_eq!(first_wrong(8, &doubled), Some(29));

        good[63] ^= 1;
        assert_eq!(first_wrong(8, &good), Some(71));
    }
}
