//! The bounds of `docs/promises.md` that do not depend on how busy this machine is. The bench fails
//! when one is broken. Times have bounds in the document only: whoever reads them judges the load.

use anyhow::{Result, ensure};

use crate::image::sizes::mebibytes;

/// A node that boots over the network must hold the image twice for a moment, packed and unpacked.
pub const IMAGE: u64 = 64 << 20;

/// Init, the daemons and the screen with their programs, idle: what a farmer cannot sell.
pub const DAEMONS: u64 = 40 << 20;

/// storaged's own memory while it fetches an image: what a node keeps free for it on top of the idle daemons.
pub const FETCHING: u64 = 64 << 20;

pub fn check(what: &str, bytes: u64, bound: u64) -> Result<()> {
    ensure!(
        bytes <= bound,
        "docs/promises.md is broken: {what} has {}, and at most {} is promised",
        mebibytes(bytes),
        mebibytes(bound)
    );
    println!("promise kept: {what}, at most {}", mebibytes(bound));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_an_error() {
        check("it", IMAGE, IMAGE).unwrap();
        let error = check("it", IMAGE + (1 << 20), IMAGE).unwrap_err();
        assert!(error.to_string().contains("it has 65.00 MiB"), "{error}");
    }
}
