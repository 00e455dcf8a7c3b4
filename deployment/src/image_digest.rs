//! [`ImageDigest`]: which bytes an image is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The SHA-256 digest of an image's manifest (or index), written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest; expected 64 hexadecimal digits in lower case")]
pub struct ImageDigestError(String);

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageDigest {
    type Err = ImageDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ImageDigestError(text.chars().take(80).collect());
        // One way to write it, or two texts would be one image.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error());
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| error())?;
        Ok(Self(digest))
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = ImageDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_in_one_way() {
        let text = format!("{}0a", "ef".repeat(31));
        let digest: ImageDigest = text.parse().unwrap();
        assert_eq!((digest.0[0], digest.0[31]), (0xef, 0x0a));
        assert_eq!(digest.to_string(), text);
        assert_eq!(format!("{digest:?}"), text);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<ImageDigest>(&json).unwrap(), digest);
        for wrong in [
            "",
            "ab",
            &"AB".repeat(32),
            &"gg".repeat(32),
            &"ab".repeat(33),
        ] {
            let error = wrong.parse::<ImageDigest>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}` is not")), "{error}");
        }
    }
}
