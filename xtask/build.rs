//! Counts one hash over all code that makes an image, and over the versions of all crates, so that no
//! stage's result outlives a change in what made it (`image/stage.rs`).

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sha2::{Digest as _, Sha256};

fn main() -> io::Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let lock = package.join("../Cargo.lock");
    let folders = ["src/image", "src/debian"].map(|folder| package.join(folder));
    // A folder stands for all in it.
    for watched in folders.iter().chain([&lock]) {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    let mut files = vec![lock];
    for folder in folders {
        collect(&folder, &mut files)?;
    }
    files.sort();
    let mut all = Sha256::new();
    for file in files {
        let bytes = fs::read(file)?;
        all.update((bytes.len() as u64).to_le_bytes());
        all.update(bytes);
    }
    let hash: String = all
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo::rustc-env=LOAM_PIPELINE={hash}");
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
