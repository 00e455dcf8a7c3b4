//! `Grid.json` is what `Grid.sol` compiles to.

use std::{fs, path::Path, process::Command};

use loam_chain::tool;

#[test]
fn the_checked_in_artefact_is_what_the_source_compiles_to() {
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts");
    let solc = tool::solc().unwrap_or_else(|error| panic!("{error}"));
    let compiled = Command::new("node")
        .arg(contracts.join("compile.js"))
        .arg(solc)
        .output()
        .expect("`node` cannot be run; run `cargo xtask setup`");
    let complaint = String::from_utf8_lossy(&compiled.stderr);
    assert!(
        compiled.status.success(),
        "Grid.sol does not compile:\n{complaint}"
    );
    let checked_in = fs::read(contracts.join("Grid.json")).unwrap();
    assert!(
        compiled.stdout == checked_in,
        "contracts/Grid.json is not what Grid.sol compiles to; contracts/README.md says how to \
         renew it"
    );
}
