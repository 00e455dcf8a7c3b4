//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use loam_deployment::{ContractId, Name, NodeKey};

/// Of a release, what its image is called; else the number alone.
pub const VERSION: &str = match option_env!("LOAM_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Run machines, volumes and networks on the nodes of a Loam grid.
///
/// Start with `loam key new` and `loam key register`, find a node with `loam node list`, then
/// `loam deploy hello.toml`.
#[derive(Debug, Parser)]
#[command(version = VERSION, propagate_version = true)]
pub struct Args {
    /// Which grid to use: a TOML file with chain_id, contract and endpoints
    /// [default: loam/config.toml in the user's configuration folder]
    #[arg(long, global = true, env = "LOAM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Your secret key [default: the file `key` beside the configuration]
    #[arg(long, global = true, env = "LOAM_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Print JSON to standard output; progress and errors go to standard error as ever
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, show and register your key
    #[command(subcommand)]
    Key(KeyCommand),
    /// Put a deployment on a node and wait until it runs
    Deploy(Deploy),
    /// Replace a deployment by a new version and wait until that runs
    Update(Update),
    /// Show what a node says about a contract of yours (of all, without a number)
    Status { contract: Option<ContractId> },
    /// Say which release this is
    Version,
    /// List your contracts
    List,
    /// Print what a machine wrote to its console
    Logs(Logs),
    /// Type into a machine's console and watch it; leave with Ctrl-]
    Console(Console),
    /// End a contract: its machines stop, its volumes are deleted
    Cancel(Cancel),
    /// Look at nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make and list farms (for farmers)
    #[command(subcommand)]
    Farm(FarmCommand),
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new secret key; an existing one is never overwritten
    New,
    /// Show the public part: key, chain account, twin
    Show,
    /// Register the key's twin on the chain; once per key
    Register,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the grid's nodes
    List,
}

#[derive(Debug, Subcommand)]
pub enum FarmCommand {
    /// Make a farm that belongs to your twin
    Create {
        /// 1 to 64 bytes
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct Deploy {
    /// The deployment, in TOML. An image may be named as for `docker pull`: what its tag names is asked of
    /// its registry each time, shown, and signed by its digest
    pub file: PathBuf,
    /// The node to run it; may be left out when the grid has only one, and may be shortened
    #[arg(long, value_name = "KEY")]
    pub node: Option<String>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, clap::Args)]
pub struct Update {
    pub contract: ContractId,
    /// The whole new deployment, in TOML. What the tags of its images name is asked anew
    pub file: PathBuf,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Wait {
    /// Return as soon as the chain has the deployment
    #[arg(long)]
    pub no_wait: bool,
    /// Give up waiting after this many seconds; the deployment itself stands
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

#[derive(Debug, clap::Args)]
pub struct Logs {
    pub contract: ContractId,
    /// May be left out when the contract has only one machine
    pub machine: Option<Name>,
    /// Go on as the machine writes; end with Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, clap::Args)]
pub struct Console {
    pub contract: ContractId,
    /// May be left out when the contract has only one machine
    pub machine: Option<Name>,
}

#[derive(Debug, clap::Args)]
pub struct Cancel {
    pub contract: ContractId,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// A node by its key, or by the first digits of it.
pub fn matches(node: &NodeKey, prefix: &str) -> bool {
    prefix.len() >= 4 && node.to_string().starts_with(&prefix.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_node_is_found_by_no_less_than_four_digits() {
        let node = NodeKey([0xab; 32]);
        assert!(matches(&node, "ABab"));
        assert!(!matches(&node, "aba"));
        assert!(!matches(&node, "abac"));
    }
}
