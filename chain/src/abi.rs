//! The contract's interface, read from its own source so that the two cannot differ.

alloy::sol! {
    #[sol(all_derives)]
    "contracts/Grid.sol"
}
