//! [`LocalChain`]: an `anvil` process with the grid's contract on it, for tests and the demo.

use std::{
    fs::File,
    io,
    os::unix::{fs::FileExt, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use alloy::primitives::{Address, Bytes, TxKind, U64, hex};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process,
    set_parent_process_death_signal, waitid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    AccountKey, GridConfig, ReadError,
    rpc::{Rpc, RpcFailure},
    tool::{self, ToolError},
    transaction::{Sender, WriteError, WriterOptions},
};

pub const CHAIN_ID: u64 = 31337;

/// Accounts with 10000 coins each, from the mnemonic that every development chain uses. Their keys
/// are public: never send them anything of value.
pub const DEV_SEEDS: [[u8; 32]; 6] = [
    hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    hex!("7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    hex!("47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
    hex!("8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
];

/// Long enough for a machine that builds something else at the same time.
const START_PATIENCE: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(50);
/// The file with its output, in [`LocalChainOptions::folder`].
pub const LOG: &str = "anvil.log";
/// How much of its output is looked at to find where it listens, and shown when it fails.
const MOST_OUTPUT: usize = 64 << 10;

#[derive(Clone, Debug, Default)]
pub struct LocalChainOptions {
    pub mining: Mining,
    /// 0, the default, finds a free one.
    pub port: u16,
    /// A file from which the chain goes on if it exists, and to which it is written by
    /// [`LocalChain::stop`].
    pub state: Option<PathBuf>,
    /// A folder that is there, for `anvil`'s output ([`LOG`]) and its old states; else a
    /// temporary one.
    pub folder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mining {
    /// A block a second, the third last of which is final.
    #[default]
    EverySecond,
    /// A block for each transaction, and on [`LocalChain::mine`].
    OnTransaction,
}

#[derive(Debug, thiserror::Error)]
pub enum LocalChainError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("anvil cannot be started: {0}")]
    Start(io::Error),
    #[error("anvil ended with {status}; it wrote:\n{output}")]
    Ended { status: ExitStatus, output: String },
    #[error("anvil did not answer within {} seconds; it wrote:\n{output}", START_PATIENCE.as_secs())]
    Silent { output: String },
    #[error("the grid's contract cannot be put on the local chain: {0}")]
    Deploy(#[from] WriteError),
    #[error("the local chain: {0}")]
    Read(#[from] ReadError),
    #[error("the local chain refused {method}: {reason}")]
    Refused {
        method: &'static str,
        reason: String,
    },
    #[error("contracts/Grid.json is damaged: {0}; make it again with contracts/compile.js")]
    Artefact(String),
}

/// A running chain. Ends when dropped, and with this process, however that ends.
#[derive(Debug)]
pub struct LocalChain {
    // Dropped before the folder that it writes to.
    process: Process,
    _temporary: Option<TempDir>,
    rpc: Rpc,
    port: u16,
    contract: Address,
}

/// Kills what it holds, also when the start of a chain fails half-way.
#[derive(Debug)]
struct Process(Option<Child>);

impl LocalChain {
    /// Starts a chain and waits until the grid's contract is on it.
    pub async fn start(options: LocalChainOptions) -> Result<Self, LocalChainError> {
        let anvil = tool::anvil()?;
        let (folder, temporary) = match options.folder.clone() {
            Some(folder) => (folder, None),
            None => {
                let temporary = tempfile::tempdir().map_err(LocalChainError::Start)?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let log = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(folder.join(LOG))
            .map_err(LocalChainError::Start)?;
        let mut command = Command::new(anvil);
        command
            .args(arguments(&options))
            .arg("--cache-path")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(LocalChainError::Start)?)
            .stderr(log.try_clone().map_err(LocalChainError::Start)?);
        let child = spawn_bound(command).map_err(LocalChainError::Start)?;
        let mut process = Process(Some(child));
        let port = listening(&mut process, &log).await?;
        let rpc = Rpc::new(CHAIN_ID, &[endpoint(port)])?;
        let contract = deploy(&rpc).await?;
        Ok(Self {
            process,
            _temporary: temporary,
            rpc,
            port,
            contract,
        })
    }

    /// What a node or a tool on this machine needs to know.
    pub fn config(&self) -> GridConfig {
        GridConfig {
            chain_id: CHAIN_ID,
            contract: self.contract,
            endpoints: vec![self.endpoint()],
            farm: None,
        }
    }

    pub fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn contract(&self) -> Address {
        self.contract
    }

    pub fn pid(&self) -> u32 {
        self.process.0.as_ref().map_or(0, Child::id)
    }

    /// A funded account; `number` is below the length of [`DEV_SEEDS`]. Account 0 owns the
    /// contract's deployment, which means nothing to the contract.
    pub fn account(number: usize) -> AccountKey {
        AccountKey::from_seed(&DEV_SEEDS[number]).expect("constants that are keys")
    }

    /// Makes blocks at once.
    pub async fn mine(&self, blocks: u64) -> Result<(), LocalChainError> {
        self.request("anvil_mine", json!([U64::from(blocks)]))
            .await?;
        Ok(())
    }

    /// Any request that `anvil` understands, such as `evm_snapshot`.
    pub async fn request(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Value, LocalChainError> {
        self.rpc
            .request(method, params)
            .await
            .map_err(|failure| match failure {
                RpcFailure::Read(error) => LocalChainError::Read(error),
                RpcFailure::Refused { reason, .. } => LocalChainError::Refused { method, reason },
            })
    }

    /// Ends it in good order, so that it writes its state.
    pub fn stop(mut self) -> io::Result<()> {
        let Some(mut child) = self.process.0.take() else {
            return Ok(());
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        child.wait().map(drop)
    }
}

/// Starts it so that the kernel kills it when we end, also by SIGKILL.
fn spawn_bound(mut command: Command) -> io::Result<Child> {
    let parent = getpid();
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { command.pre_exec(move || die_with(parent)) };
    let (started, start) = mpsc::channel();
    // The signal comes when the thread that forked ends, so that thread waits for the child.
    thread::Builder::new().name("anvil".into()).spawn(move || {
        let child = command.spawn();
        let pid = child.as_ref().ok().map(Pid::from_child);
        let _ = started.send(child);
        if let Some(pid) = pid {
            let _ = waitid(
                WaitId::Pid(pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
        }
    })?;
    start.recv().map_err(io::Error::other)?
}

/// To be called between fork and exec: the kernel kills us when the thread of `parent` ends that forked.
pub fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before, and will not end again.
    match getppid() == Some(parent) {
        true => Ok(()),
        false => Err(rustix::io::Errno::SRCH.into()),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Both fail only if it ended before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn arguments(options: &LocalChainOptions) -> Vec<String> {
    let mut arguments = vec![
        "--host=127.0.0.1".to_owned(),
        format!("--port={}", options.port),
        format!("--chain-id={CHAIN_ID}"),
        // The third last block is final, instead of the 65th last.
        "--slots-in-an-epoch=1".to_owned(),
        // Nodes have no coins.
        "--gas-price=0".to_owned(),
        "--block-base-fee-per-gas=0".to_owned(),
        "--disable-min-priority-fee".to_owned(),
        "--color=never".to_owned(),
    ];
    if options.mining == Mining::EverySecond {
        arguments.push("--block-time=1".to_owned());
    }
    if let Some(state) = &options.state {
        arguments.push(format!("--state={}", state.display()));
        // Finalized blocks are older than the newest state.
        arguments.push("--preserve-historical-states".to_owned());
    }
    arguments
}

/// Waits until it says where it listens. That it chose the port itself leaves no moment in which
/// another process could take it.
async fn listening(process: &mut Process, log: &File) -> Result<u16, LocalChainError> {
    let start = Instant::now();
    loop {
        let output = beginning(log).map_err(LocalChainError::Start)?;
        if let Some(port) = port(&output) {
            return Ok(port);
        }
        if let Some(child) = &mut process.0
            && let Some(status) = child.try_wait().map_err(LocalChainError::Start)?
        {
            return Err(LocalChainError::Ended { status, output });
        }
        if start.elapsed() > START_PATIENCE {
            return Err(LocalChainError::Silent { output });
        }
        sleep(START_POLL).await;
    }
}

/// The writer shares the position of `log`, so it is left where it is.
fn beginning(log: &File) -> io::Result<String> {
    let mut output = vec![0; MOST_OUTPUT];
    let mut length = 0;
    loop {
        match log.read_at(&mut output[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(String::from_utf8_lossy(&output[..length]).into_owned())
}

fn port(output: &str) -> Option<u16> {
    let line = output
        .lines()
        .find_map(|line| line.trim().strip_prefix("Listening on "))?;
    let (_, port) = line.rsplit_once(':')?;
    port.parse().ok()
}

/// Puts the contract on the chain, unless the chain's state came with it: it is the first thing
/// that account 0 does, so its address is known.
async fn deploy(rpc: &Rpc) -> Result<Address, LocalChainError> {
    let key = LocalChain::account(0);
    let contract = key.address().create(0);
    let code: Bytes = rpc.ask("eth_getCode", (contract, "latest")).await?;
    if !code.is_empty() {
        return Ok(contract);
    }
    let options = WriterOptions {
        poll: START_POLL,
        ..WriterOptions::default()
    };
    let receipt = Sender::new(rpc.clone(), CHAIN_ID, key, options)
        .send(TxKind::Create, bytecode()?)
        .await?;
    receipt
        .contract_address
        .ok_or_else(|| LocalChainError::Artefact("no contract was made".to_owned()))
}

fn bytecode() -> Result<Bytes, LocalChainError> {
    #[derive(serde::Deserialize)]
    struct Artefact {
        bytecode: Bytes,
    }
    let artefact: Artefact = serde_json::from_str(include_str!("../contracts/Grid.json"))
        .map_err(|error| LocalChainError::Artefact(error.to_string()))?;
    Ok(artefact.bytecode)
}
