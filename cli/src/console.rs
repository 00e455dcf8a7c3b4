//! `loam logs` and `loam console`: a machine's console, over the encrypted channel to its node.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, bail};
use ed25519_dalek::Signer;
use loam_chain::{ContractRecord, NodeRecord};
use loam_deployment::{ContractId, Name, TwinId};
use loam_node_api::{
    path::TENANT_PORT,
    tenant::{Hello, TenantRequest, TenantResponse, channel::Channel},
    window::WindowSize,
};
use rustix::termios::{self, OptionalActions, Termios};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    args::{Console, Logs},
    authority::authority,
    config::Config,
    output::Output,
    session::Session,
};

const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// Ctrl-], as in telnet and the virtual consoles of others.
const LEAVE: u8 = 0x1d;

/// A machine whose console is asked for, and where.
struct Target {
    contract: ContractRecord,
    machine: Name,
    twin: TwinId,
    node: NodeRecord,
}

pub async fn logs(args: Logs, config: &Config, output: Output) -> anyhow::Result<()> {
    let session = Session::open(config)?;
    let target = target(&session, args.contract, args.machine).await?;
    let mut channel = connect(&session, &target).await?;
    channel.send(&target.console(args.follow)).await?;
    pour(&mut channel, output).await
}

pub async fn console(args: Console, config: &Config, output: Output) -> anyhow::Result<()> {
    if output.json {
        bail!("a console is for people; leave out --json");
    }
    if !std::io::stdin().is_terminal() {
        bail!("a console needs a terminal; `loam logs --follow` does not");
    }
    let session = Session::open(config)?;
    let target = target(&session, args.contract, args.machine).await?;
    let mut reading = connect(&session, &target).await?;
    let mut typing = connect(&session, &target).await?;
    eprintln!(
        "{} of contract {}; leave with Ctrl-]",
        target.machine, target.contract.id
    );
    let raw = RawTerminal::enter()?;
    reading.send(&target.console(true)).await?;
    let result = tokio::select! {
        result = pour(&mut reading, output) => result,
        result = type_in(&mut typing, &target) => result,
    };
    drop(raw);
    eprintln!();
    result
}

impl Target {
    fn console(&self, follow: bool) -> TenantRequest {
        TenantRequest::Console {
            contract: self.contract.id,
            machine: self.machine.clone(),
            from: 0,
            follow,
        }
    }
}

async fn target(
    session: &Session,
    contract: ContractId,
    machine: Option<Name>,
) -> anyhow::Result<Target> {
    let twin = session.twin().await?;
    let contract = session.living_contract(contract).await?;
    let node = session.node(contract.node).await?;
    let machine = match machine {
        Some(machine) => machine,
        None => only_machine(session, &contract).await?,
    };
    Ok(Target {
        contract,
        machine,
        twin,
        node,
    })
}

/// A report does not say which workloads are machines, but only machines have addresses or ports;
/// one without either must be named.
async fn only_machine(session: &Session, contract: &ContractRecord) -> anyhow::Result<Name> {
    let report = session.report(contract).await?;
    let report = report.context("the node has not reported about the contract yet")?;
    let mut machines = report
        .workloads
        .iter()
        .filter(|(_, workload)| !workload.addresses.is_empty() || !workload.ports.is_empty())
        .map(|(name, _)| name.clone());
    match (machines.next(), machines.next()) {
        (Some(machine), None) => Ok(machine),
        _ => bail!(
            "say which machine of contract {}: `loam status` lists them",
            contract.id
        ),
    }
}

async fn connect(session: &Session, target: &Target) -> anyhow::Result<Channel<TcpStream>> {
    let addresses = match session.grid.reach(&target.node.key) {
        Some(address) => vec![address.to_owned()],
        None => target
            .node
            .addresses
            .split_whitespace()
            .map(|address| authority(address, TENANT_PORT))
            .collect(),
    };
    let mut last = anyhow::anyhow!("the node says no address");
    for address in &addresses {
        match timeout(CONNECT_PATIENCE, converse(session, target, address)).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => last = error.context(address.clone()),
            Err(_) => last = anyhow::anyhow!("{address} does not answer"),
        }
    }
    Err(last.context(format!(
        "node {} cannot be reached; if it is behind a port forwarding, say where under [nodes] in \
         the configuration",
        target.node.key
    )))
}

async fn converse(
    session: &Session,
    target: &Target,
    address: &str,
) -> anyhow::Result<Channel<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let mut channel = Channel::connect(stream, &target.node.hpke_key).await?;
    let signature = session.key.signing.sign(&channel.challenge());
    let hello = Hello {
        twin: target.twin,
        key: session.key.signing.verifying_key().to_bytes(),
        signature: signature.to_bytes().to_vec(),
    };
    channel.send(&hello).await?;
    match channel.receive().await? {
        TenantResponse::Welcome => Ok(channel),
        TenantResponse::Refused { reason } => bail!("the node refused: {reason}"),
        other => bail!("the node answered {other:?} to a greeting"),
    }
}

/// Console bytes go to a terminal as they are: that is what a console is. Elsewhere lines end as in
/// any text. As JSON, each piece is an object a line, with the position of its first byte.
async fn pour(channel: &mut Channel<TcpStream>, output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let mut lines = (!out.is_terminal()).then(LineEnds::default);
    loop {
        match channel.receive().await? {
            TenantResponse::Output { start, bytes } if output.json => {
                let text = String::from_utf8_lossy(&bytes);
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "start": start, "text": text })
                )?;
                out.flush()?;
            }
            TenantResponse::Output { bytes, .. } => {
                match &mut lines {
                    Some(lines) => out.write_all(&lines.plain(&bytes))?,
                    None => out.write_all(&bytes)?,
                }
                out.flush()?;
            }
            TenantResponse::End => {
                if let Some(lines) = lines {
                    out.write_all(lines.rest())?;
                }
                return Ok(());
            }
            TenantResponse::Refused { reason } => bail!("the node refused: {reason}"),
            other => bail!("the node answered {other:?} instead of output"),
        }
    }
}

/// Takes from the ends of lines what a terminal's driver adds to them: `\r\n` becomes `\n`.
#[derive(Debug, Default)]
struct LineEnds {
    /// The last piece ended with `\r`, which is held back until it is known what follows.
    held: bool,
}

impl LineEnds {
    fn plain(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(piece.len() + 1);
        for byte in piece {
            if self.held && *byte != b'\n' {
                plain.push(b'\r');
            }
            self.held = *byte == b'\r';
            if !self.held {
                plain.push(*byte);
            }
        }
        plain
    }

    /// What was held back at the end.
    fn rest(&self) -> &'static [u8] {
        match self.held {
            true => b"\r",
            false => b"",
        }
    }
}

async fn type_in(channel: &mut Channel<TcpStream>, target: &Target) -> anyhow::Result<()> {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 1024];
    let mut resized = signal(SignalKind::window_change())?;
    resize(channel, target).await?;
    loop {
        let length = tokio::select! {
            length = input.read(&mut buffer) => length?,
            _ = resized.recv() => {
                resize(channel, target).await?;
                continue;
            }
        };
        let mut bytes = &buffer[..length];
        let leave = bytes.iter().position(|byte| *byte == LEAVE);
        bytes = &bytes[..leave.unwrap_or(length)];
        if !bytes.is_empty() {
            let request = TenantRequest::Input {
                contract: target.contract.id,
                machine: target.machine.clone(),
                bytes: bytes.to_vec(),
            };
            channel.send(&request).await?;
            if let TenantResponse::Refused { reason } = channel.receive().await? {
                bail!("the node refused: {reason}");
            }
        }
        if leave.is_some() || length == 0 {
            return Ok(());
        }
    }
}

/// Tells the machine how large the terminal is.
async fn resize(channel: &mut Channel<TcpStream>, target: &Target) -> anyhow::Result<()> {
    // A terminal without a size leaves the machine's as it is.
    let Ok(size) = termios::tcgetwinsize(std::io::stdin()) else {
        return Ok(());
    };
    let request = TenantRequest::Resize {
        contract: target.contract.id,
        machine: target.machine.clone(),
        size: WindowSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
    };
    channel.send(&request).await?;
    // A machine that does not run has no use for it; what it wrote is shown all the same.
    channel.receive::<TenantResponse>().await?;
    Ok(())
}

/// The terminal hands over every key at once until this is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(pieces: &[&str]) -> String {
        let mut lines = LineEnds::default();
        let mut all: Vec<u8> = Vec::new();
        for piece in pieces {
            all.extend(lines.plain(piece.as_bytes()));
        }
        all.extend(lines.rest());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn lines_end_as_in_any_text_wherever_pieces_are_cut() {
        assert_eq!(plain(&["a\r\nb\r\n"]), "a\nb\n");
        assert_eq!(plain(&["a\r", "\nb"]), "a\nb");
        // A progress bar goes back to the line's begin, and a lone one at the end stays.
        assert_eq!(plain(&["1%\r2%\r", "3%\r"]), "1%\r2%\r3%\r");
        assert_eq!(plain(&["\r\r\n\n"]), "\r\n\n");
    }
}
