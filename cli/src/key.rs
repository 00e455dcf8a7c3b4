//! The user's secret: one seed in a file, from which the twin's signing key and the chain account
//! come.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use loam_chain::{AccountKey, GridReader, WeightedKey};
use rand::RngCore;
use serde::Serialize;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    args::KeyCommand,
    config::Config,
    output::Output,
    session::{Session, reader},
};

/// Start of a key file's only line; the seed follows in hexadecimal digits.
const HEADER: &str = "loam-secret-key-v1:";

#[derive(Debug)]
pub struct Key {
    pub signing: SigningKey,
    pub account: AccountKey,
}

#[derive(Serialize)]
struct Shown {
    file: String,
    public_key: String,
    account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    twin: Option<u64>,
}

pub async fn run(command: KeyCommand, config: &Config, output: Output) -> anyhow::Result<()> {
    match command {
        KeyCommand::New => {
            create(config.key())?;
            let key = Key::load(config.key())?;
            show(&key, config, None, output)
        }
        KeyCommand::Show => {
            let key = Key::load(config.key())?;
            // Without a grid the key can be shown all the same.
            let twin = match config.grid() {
                Ok(grid) => {
                    let reader = reader(&grid)?;
                    reader
                        .twin_of(key.account.address(), reader.latest().await?)
                        .await?
                }
                Err(_) => None,
            };
            show(&key, config, twin.map(|twin| twin.0), output)
        }
        KeyCommand::Register => {
            let session = Session::open(config)?;
            if let Some(twin) = session.own_twin().await? {
                bail!("this key's twin is registered already: it is twin {twin}");
            }
            let key = session.key.signing.verifying_key().to_bytes();
            let keys = [WeightedKey { key, weight: 1 }];
            let (twin, _) = session.writer.register_twin(&keys, 1).await?;
            show(&session.key, config, Some(twin.0), output)
        }
    }
}

impl Key {
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let text = match fs::read_to_string(file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no key at {shown}; make one with `loam key new`")
            }
            Err(error) => return Err(error).context(format!("{shown} cannot be read")),
        };
        let mode = fs::metadata(file)?.mode();
        ensure!(
            mode & 0o077 == 0,
            "{shown} can be read by others; if nobody did, `chmod 600` it and try again"
        );
        let mut seed = Zeroizing::new([0; 32]);
        let digits = text.trim_end().strip_prefix(HEADER);
        digits
            .and_then(|digits| hex::decode_to_slice(digits, &mut *seed).ok())
            .with_context(|| format!("{shown} is not a key file of `loam key new`"))?;
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> anyhow::Result<Self> {
        Ok(Self {
            signing: SigningKey::from_bytes(&derive(seed, b"loam-twin-ed25519-v1")),
            account: AccountKey::from_seed(&derive(seed, b"loam-twin-account-v1"))?,
        })
    }
}

fn create(file: &Path) -> anyhow::Result<()> {
    let shown = file.display();
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let mut seed = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(&mut *seed);
    let line = Zeroizing::new(format!("{HEADER}{}\n", hex::encode(*seed)));
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    let mut opened = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{shown} is there already and stays as it is; name another file with --key")
        }
        opened => opened.with_context(|| format!("{shown} cannot be made"))?,
    };
    opened.write_all(line.as_bytes())?;
    opened.sync_all()?;
    Ok(())
}

fn derive(seed: &[u8; 32], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, seed)
        .expand(purpose, &mut *key)
        .expect("32 bytes are far below what HKDF can give");
    key
}

fn show(key: &Key, config: &Config, twin: Option<u64>, output: Output) -> anyhow::Result<()> {
    let shown = Shown {
        file: config.key().display().to_string(),
        public_key: hex::encode(key.signing.verifying_key().to_bytes()),
        account: key.account.address().to_string(),
        twin,
    };
    output.record(&shown, |shown| {
        let mut rows = vec![
            ("secret key", shown.file.clone()),
            ("public key", shown.public_key.clone()),
            ("chain account", shown.account.clone()),
        ];
        rows.push((
            "twin",
            shown
                .twin
                .map_or_else(|| "not registered on this grid".into(), |t| t.to_string()),
        ));
        rows
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/key");
        create(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let key = Key::load(&file).unwrap();
        let again = Key::load(&file).unwrap();
        assert_eq!(key.signing.to_bytes(), again.signing.to_bytes());
        assert_eq!(key.account.address(), again.account.address());

        let before = fs::read(&file).unwrap();
        assert!(create(&file).unwrap_err().to_string().contains("--key"));
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        create(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            Key::load(&file)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        for text in ["", HEADER, &format!("{HEADER}abc"), &"00".repeat(32)] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(Key::load(&file).is_err(), "{text}");
        }
    }
}
