//! What stands where: 80 columns, 23 lines (the 24th is where the cursor rests, so that a terminal
//! never scrolls).

use std::{fmt::Display, time::Duration};

use loam_deployment::Bytes;
use loam_node_api::status::{ChainState, Excerpt, NodeStatus};

use super::text::{clean, cut};

pub const WIDTH: usize = 80;
pub const HEIGHT: usize = 23;

/// Lines that notices and warnings may take together, and warnings alone. What stands above them leaves
/// 13; some stay for what runs. The longest notice, with what to do at its end, takes five.
const MAX_TAIL: usize = 9;
const MAX_WARNINGS: usize = 3;

/// All that the screen shows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Which image runs.
    pub image: String,
    /// How the boot before ended, if that was not well.
    pub last_boot: Option<String>,
    pub status: NodeStatus,
    /// Name and state of each daemon.
    pub services: Vec<(&'static str, String)>,
    pub machines: usize,
    pub machines_memory: Bytes,
    pub machines_budget: Bytes,
    pub node: super::facts::NodeFacts,
    /// What keeps the node from its work, and what to do: before the notices of noded.
    pub troubles: Vec<&'static str>,
    pub warnings: Vec<String>,
    /// What the node does instead of its work, such as shutting down.
    pub phase: Option<String>,
}

/// A line, and whether it changes all the time: such changes can wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub restless: bool,
}

/// At most [`HEIGHT`] lines of at most [`WIDTH`] printable ASCII characters.
pub fn lines(facts: &Facts) -> Vec<Line> {
    let mut lines = head(facts);
    let tail = tail(facts);
    let room = HEIGHT.saturating_sub(lines.len() + tail.len());
    lines.extend(workloads(facts, room));
    lines.resize(HEIGHT - tail.len().min(HEIGHT), steady(""));
    lines.extend(tail);
    lines
}

fn head(facts: &Facts) -> Vec<Line> {
    let NodeStatus {
        node,
        farm,
        addresses,
        chain,
        ..
    } = &facts.status;
    let phase = facts.phase.as_deref().map(clean).unwrap_or_default();
    let uptime = format!("up {}", duration(facts.node.uptime));
    let node = node.map_or_else(
        || "none yet: its key needs a disk".to_owned(),
        |n| n.to_string(),
    );
    let farm = farm.map_or_else(|| "none yet".to_owned(), |farm| farm.to_string());
    let addresses = match addresses.as_slice() {
        [] => "none yet".to_owned(),
        some => join(some, " "),
    };
    let services: Vec<_> = facts
        .services
        .iter()
        .map(|(name, state)| format!("{name} {state}"))
        .collect();
    let mut lines = vec![
        restless(&format!("{:<20} {phase:<38} {uptime:>20}", "Loam")),
        field("image", &facts.image),
        field("node", &node),
        field("farm", &farm),
        field("address", &addresses),
        chain_line(chain),
        restless(&format!("{:<10}{}", "memory", memory(facts))),
        restless(&format!(
            "{:<10}{} x, {} % busy",
            "cpu", facts.node.cpus, facts.node.busy
        )),
        field("daemons", &services.join("   ")),
        steady(""),
    ];
    if let Some(how) = &facts.last_boot {
        lines.insert(2, field("last boot", how));
    }
    lines
}

fn chain_line(chain: &ChainState) -> Line {
    match chain {
        ChainState::Connecting => field("chain", "connecting"),
        ChainState::Registering { block } => {
            restless(&format!("{:<10}registering, block {block}", "chain"))
        }
        ChainState::Following { block } => {
            restless(&format!("{:<10}following block {block}", "chain"))
        }
        ChainState::Silent { reason } => {
            field("chain", &format!("no answer; what runs goes on ({reason})"))
        }
    }
}

fn memory(facts: &Facts) -> String {
    let node = &facts.node;
    format!(
        "{} of {} MiB used; {} of {} MiB promised to {} {}",
        mib(node.memory_used),
        mib(node.memory_total),
        mib(facts.machines_memory),
        mib(facts.machines_budget),
        facts.machines,
        if facts.machines == 1 {
            "machine"
        } else {
            "machines"
        },
    )
}

fn workloads(facts: &Facts, room: usize) -> Vec<Line> {
    let Excerpt {
        first: workloads,
        more,
    } = &facts.status.workloads;
    if workloads.is_empty() {
        return vec![steady("nothing runs here yet")]
            .into_iter()
            .take(room)
            .collect();
    }
    let fitting = if workloads.len() <= room && *more == 0 {
        workloads.len()
    } else {
        workloads.len().min(room.saturating_sub(1))
    };
    let hidden = workloads.len() - fitting + more;
    let mut lines: Vec<_> = workloads[..fitting]
        .iter()
        .map(|line| {
            let id = cut(&line.id.to_string(), 34);
            steady(&format!(
                "{:<10}{:<36}{}",
                clean(&line.kind),
                id,
                clean(&line.state)
            ))
        })
        .collect();
    if hidden > 0 && room > 0 {
        lines.push(steady(&format!("{:<10}and {hidden} more", "")));
    }
    lines
}

/// Notices, then the last warnings. Each is whole, for what to do often stands at its end; what has no
/// room any more is counted.
fn tail(facts: &Facts) -> Vec<Line> {
    let mut warnings: Vec<Vec<String>> = Vec::new();
    let mut room = MAX_WARNINGS;
    for warning in facts.warnings.iter().rev() {
        let paragraph = paragraph("  ", warning, MAX_WARNINGS);
        if paragraph.len() > room {
            break;
        }
        room -= paragraph.len();
        warnings.push(paragraph);
    }
    let mut room = MAX_TAIL - (MAX_WARNINGS - room);
    let Excerpt { first, more } = &facts.status.notices;
    let troubles = facts.troubles.iter().copied();
    let first: Vec<&str> = troubles.chain(first.iter().map(String::as_str)).collect();
    let mut texts = Vec::new();
    let mut shown = 0;
    for notice in &first {
        let left = first.len() - shown + more;
        // A line for the count of what follows, if anything does.
        let mine = room - usize::from(left > 1);
        let paragraph = paragraph("! ", notice, MAX_TAIL - MAX_WARNINGS - 1);
        if paragraph.len() > mine {
            break;
        }
        room -= paragraph.len();
        texts.extend(paragraph);
        shown += 1;
    }
    let hidden = first.len() - shown + more;
    if hidden > 0 {
        texts.push(format!("! and {hidden} more"));
    }
    texts.extend(warnings.into_iter().rev().flatten());
    if !texts.is_empty() {
        texts.insert(0, String::new());
    }
    texts.iter().map(|text| steady(text)).collect()
}

/// `text` in at most `most` lines, the first of which begins with `mark`.
fn paragraph(mark: &str, text: &str, most: usize) -> Vec<String> {
    let text = clean(text);
    let style = textwrap::Options::new(WIDTH)
        .initial_indent(mark)
        .subsequent_indent("    ")
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    let mut lines: Vec<String> = textwrap::wrap(&text, style)
        .into_iter()
        .map(|line| line.into_owned())
        .collect();
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.truncate(WIDTH - 2);
            last.push_str("..");
        }
    }
    lines
}

fn field(name: &str, value: &str) -> Line {
    steady(&format!("{name:<10}{}", clean(value)))
}

fn steady(text: &str) -> Line {
    Line {
        text: cut(&clean(text), WIDTH).trim_end().to_owned(),
        restless: false,
    }
}

fn restless(text: &str) -> Line {
    Line {
        restless: true,
        ..steady(text)
    }
}

fn join(items: &[impl Display], between: &str) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(between)
}

fn mib(bytes: Bytes) -> u64 {
    bytes.get() / Bytes::MIB
}

/// `3 d 04:05`, in minutes: a screen need not count seconds.
fn duration(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    if days > 0 {
        format!("{days} d {hours:02}:{minutes:02}")
    } else {
        format!("{hours}:{minutes:02}")
    }
}

#[cfg(test)]
mod tests;
