//! What stands where: the node's state and the next step, what the node is, what is to be looked at, the keys.

use loam_node_api::{
    clock::Clock,
    screen::{Facts, Link},
    status::{ChainState, Excerpt, NodeStatus, WorkloadCount},
};
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Style},
};

use crate::{
    condition::{self, Condition},
    paint::Kind,
    qr,
    text::{clean, cut, duration, mib, moment, paragraph, size},
};

/// Wider lines are hard to read.
const WIDEST: u16 = 110;

/// Lines that notices and warnings may take together, and warnings alone. The longest notice, with what to do at
/// its end, takes five.
const MAX_TAIL: usize = 9;
const MAX_WARNINGS: usize = 3;

/// Lines of what is to be done now.
const MAX_ADVICE: usize = 5;

/// The names of what the node is, with a blank behind.
const LABEL: usize = 10;

/// Between the facts and the code.
const GAP: u16 = 1;

const KEYS: &str = "r restart   p power off   l log   i node's id   n network test";

/// Draws it all. `question`: what is asked in the keys' place.
pub fn draw(facts: &Facts, kind: Kind, area: Rect, question: Option<&str>) -> Buffer {
    let mut buffer = Buffer::empty(area);
    let column = column(area);
    let width = column.width;
    let keys = match (kind, question) {
        // Nobody listens to a line.
        (Kind::Line, _) => None,
        (Kind::Screen, question) => Some(question.unwrap_or(KEYS)),
    };
    let foot = usize::from(keys.is_some());
    let height = usize::from(area.height).saturating_sub(foot);
    let head = head(facts, width.into());
    let tail = tail(facts, width.into());
    let left = height.saturating_sub(head.len() + tail.len());
    let code = match kind {
        Kind::Screen => code(facts, width, left),
        Kind::Line => None,
    };
    let room = match &code {
        Some(code) => width - code_width(code) - GAP,
        None => width,
    };
    let mut about = about(facts, room.into());
    about.truncate(left);
    let top = head.len();
    for (y, line) in head.iter().enumerate() {
        put(&mut buffer, column, y, line);
    }
    for (y, line) in about.iter().enumerate() {
        put(&mut buffer, column, top + y, line);
    }
    if let Some(code) = &code {
        let beside = Rect {
            x: column.x + room + GAP,
            width: code_width(code),
            ..column
        };
        for (y, row) in code.iter().enumerate() {
            put(&mut buffer, beside, top + y, &Line::styled(row, light()));
        }
    }
    let start = height - tail.len().min(height);
    for (y, line) in tail.iter().enumerate() {
        put(&mut buffer, column, start + y, line);
    }
    if let Some(keys) = keys {
        let style = match question {
            Some(_) => Style::new().bold().yellow(),
            None => Style::new().cyan(),
        };
        put(&mut buffer, column, height, &Line::styled(keys, style));
    }
    buffer
}

/// The middle of a screen, as wide as can be read.
pub fn column(area: Rect) -> Rect {
    let width = area.width.min(WIDEST);
    Rect {
        x: area.x + (area.width - width) / 2,
        width,
        ..area
    }
}

/// The node's id and nothing else, as large as it gets.
pub fn draw_code(facts: &Facts, kind: Kind, area: Rect) -> Buffer {
    let mut buffer = Buffer::empty(area);
    let node = facts.status.as_ref().and_then(|status| status.node);
    let Some(node) = node.map(|node| node.to_string()) else {
        put(
            &mut buffer,
            area,
            0,
            &Line::plain("This node has no id yet: its key needs a disk."),
        );
        return buffer;
    };
    put(&mut buffer, area, 0, &Line::plain(&node));
    let rows = qr::rows(&node)
        .filter(|_| kind == Kind::Screen)
        .unwrap_or_default();
    for (y, row) in rows.iter().enumerate() {
        put(&mut buffer, area, 2 + y, &Line::styled(row, light()));
    }
    put(
        &mut buffer,
        area,
        3 + rows.len(),
        &Line::styled("any key: back", Style::new().cyan()),
    );
    buffer
}

fn light() -> Style {
    Style::new().fg(Color::Gray).bg(Color::Black)
}

/// A row of the screen, in parts of one style each.
#[derive(Clone, Debug, Default)]
pub struct Line(pub Vec<(String, Style)>);

impl Line {
    pub fn plain(text: &str) -> Self {
        Self::styled(text, Style::new())
    }

    pub fn styled(text: &str, style: Style) -> Self {
        Self(vec![(text.to_owned(), style)])
    }
}

pub fn put(buffer: &mut Buffer, area: Rect, y: usize, line: &Line) {
    let Ok(row) = u16::try_from(y) else { return };
    if row >= area.height {
        return;
    }
    let (mut x, end) = (area.x, area.right());
    for (text, style) in &line.0 {
        let left = end.saturating_sub(x);
        (x, _) = buffer.set_stringn(x, area.y + row, text, left.into(), *style);
    }
}

fn head(facts: &Facts, width: usize) -> Vec<Line> {
    let (condition, advice) = condition::of(facts);
    let image = cut(&clean(&facts.image), width.saturating_sub(LABEL + 16));
    let up = format!("up {}", duration(facts.uptime));
    let between = width.saturating_sub("Loam ".len() + image.len() + up.len());
    let mut lines = vec![
        Line(vec![
            ("Loam ".to_owned(), Style::new().bold()),
            (format!("{image}{}{up}", " ".repeat(between)), Style::new()),
        ]),
        Line::default(),
    ];
    // The sentence stands beside its word.
    let word = format!(" {condition} ");
    let mark = " ".repeat(word.len() + 1);
    for (n, text) in paragraph(&mark, &advice, width, MAX_ADVICE)
        .iter()
        .enumerate()
    {
        lines.push(match n {
            0 => Line(vec![
                (
                    word.clone(),
                    Style::new().fg(Color::Black).bg(color(condition)),
                ),
                (
                    text.get(word.len()..).unwrap_or_default().to_owned(),
                    Style::new().bold(),
                ),
            ]),
            _ => Line::styled(text, Style::new().bold()),
        });
    }
    lines.push(Line::default());
    lines
}

fn color(condition: Condition) -> Color {
    match condition {
        Condition::Ready => Color::Green,
        Condition::Starting | Condition::Registering | Condition::Stopping => Color::Cyan,
        Condition::Blocked | Condition::Offline => Color::Yellow,
        Condition::Faulty => Color::Red,
    }
}

/// The code, if there is room for it beside what is said.
fn code(facts: &Facts, width: u16, height: usize) -> Option<Vec<String>> {
    let node = facts.status.as_ref()?.node?.to_string();
    let rows = qr::rows(&node)?;
    let room = width.checked_sub(code_width(&rows) + GAP)?;
    let fits = rows.len() <= height && about(facts, room.into()).len() <= height;
    (room >= 40 && fits).then_some(rows)
}

fn code_width(rows: &[String]) -> u16 {
    rows.first().map_or(0, |row| row.chars().count() as u16)
}

/// What the node is, the most important first: a small screen has no room for the last.
fn about(facts: &Facts, width: usize) -> Vec<Line> {
    let nothing = NodeStatus::default();
    let status = facts.status.as_ref().unwrap_or(&nothing);
    let node = status.node.map_or_else(
        || "none yet: its key needs a disk".to_owned(),
        |node| node.to_string(),
    );
    let farm = status
        .farm
        .map_or_else(|| "none".to_owned(), |farm| farm.to_string());
    let mut fields = vec![
        ("node", node),
        ("farm", farm),
        ("network", links(&facts.links)),
        ("address", addresses(status)),
        ("chain", chain(&status.chain)),
        ("time", time(facts)),
        ("disks", disks(status)),
        ("runs", workloads(&status.workloads)),
        ("promised", promised(facts)),
        ("load", load(facts)),
        ("daemons", daemons(facts)),
    ];
    if let Some(how) = &facts.last_boot {
        fields.insert(2, ("last boot", how.clone()));
    }
    fields
        .iter()
        .flat_map(|(label, value)| field(label, value, width))
        .collect()
}

fn field(label: &str, value: &str, width: usize) -> Vec<Line> {
    const MOST: usize = 3;
    let mark = " ".repeat(LABEL);
    let lines = paragraph(&mark, value, width, MOST);
    let with_label = |(n, text): (usize, String)| {
        let label = if n == 0 { label } else { "" };
        Line(vec![
            (format!("{label:<LABEL$}"), Style::new().cyan()),
            (
                text.get(LABEL..).unwrap_or_default().to_owned(),
                Style::new(),
            ),
        ])
    };
    lines.into_iter().enumerate().map(with_label).collect()
}

fn links(links: &[Link]) -> String {
    let link = |link: &Link| match (link.carrier, link.speed) {
        (false, _) => format!("{} without a cable", link.name),
        (true, None) => link.name.clone(),
        (true, Some(mbit)) if mbit >= 1000 && mbit.is_multiple_of(1000) => {
            format!("{} at {} Gbit/s", link.name, mbit / 1000)
        }
        (true, Some(mbit)) => format!("{} at {mbit} Mbit/s", link.name),
    };
    match links {
        [] => "no card that this image has a driver for".to_owned(),
        some => join(some.iter().map(link), ", "),
    }
}

fn addresses(status: &NodeStatus) -> String {
    match status.addresses.as_slice() {
        [] => "none yet".to_owned(),
        some => join(some.iter().map(ToString::to_string), " "),
    }
}

fn chain(state: &ChainState) -> String {
    match state {
        ChainState::Connecting => "connecting".to_owned(),
        ChainState::Registering { block } => format!("registering, block {block}"),
        ChainState::Following { block } => format!("following block {block}"),
        ChainState::Silent { reason } => format!("no answer ({reason})"),
    }
}

fn time(facts: &Facts) -> String {
    let Clock { set, source, .. } = &facts.clock;
    let now = moment(facts.now.max(facts.clock.floor));
    match (set, source.is_empty()) {
        (true, true) => now,
        (true, false) => format!("{now}, by {source}"),
        (false, true) => "not known yet".to_owned(),
        (false, false) => format!("not known yet ({source})"),
    }
}

fn disks(status: &NodeStatus) -> String {
    let disks = &status.disks;
    let mut parts = vec![match disks.used {
        0 => "none in use".to_owned(),
        some => format!("{some} in use, {}", size(disks.size)),
    }];
    if disks.left_alone > 0 {
        parts.push(format!("{} left alone", disks.left_alone));
    }
    if disks.failed > 0 {
        parts.push(format!("{} failed", disks.failed));
    }
    if disks.unfit > 0 {
        parts.push(format!("{} not for data", disks.unfit));
    }
    parts.join("; ")
}

fn workloads(counts: &[WorkloadCount]) -> String {
    let count = |count: &WorkloadCount| {
        let all = count.running + count.coming + count.stopped + count.failed;
        let kind = if count.kind.is_empty() {
            "other"
        } else {
            &count.kind
        };
        let mut text = format!("{all} {kind}{}", if all == 1 { "" } else { "s" });
        let parts = [
            (count.coming, "on the way"),
            (count.stopped, "stopped"),
            (count.failed, "failed"),
        ];
        let parts = parts.into_iter().filter(|(n, _)| *n > 0);
        let parts = join(parts.map(|(n, what)| format!("{n} {what}")), ", ");
        if !parts.is_empty() {
            text = format!("{text} ({parts})");
        }
        text
    };
    match counts {
        [] => "nothing yet".to_owned(),
        some => join(some.iter().map(count), ", "),
    }
}

fn promised(facts: &Facts) -> String {
    format!(
        "{} of {} MiB, to {} {}",
        mib(facts.machines_memory),
        mib(facts.machines_budget),
        facts.machines,
        match facts.machines {
            1 => "machine",
            _ => "machines",
        },
    )
}

fn load(facts: &Facts) -> String {
    format!(
        "{} x, {} % busy; {} of {} MiB used",
        facts.cpus,
        facts.busy,
        mib(facts.memory_used),
        mib(facts.memory_total),
    )
}

fn daemons(facts: &Facts) -> String {
    if !facts.daemons.is_empty() && facts.daemons.iter().all(|daemon| daemon.runs) {
        return "all run".to_owned();
    }
    let daemon =
        |daemon: &loam_node_api::screen::Daemon| format!("{} {}", daemon.name, daemon.state);
    join(facts.daemons.iter().map(daemon), ", ")
}

/// Notices, then the last warnings. Each is whole, for what to do often stands at its end; what has no
/// room any more is counted.
fn tail(facts: &Facts, width: usize) -> Vec<Line> {
    let mut warnings: Vec<Vec<String>> = Vec::new();
    let mut room = MAX_WARNINGS;
    for warning in facts.warnings.iter().rev() {
        let paragraph = paragraph("  ", warning, width, MAX_WARNINGS);
        if paragraph.len() > room {
            break;
        }
        room -= paragraph.len();
        warnings.push(paragraph);
    }
    let mut room = MAX_TAIL - (MAX_WARNINGS - room);
    let none = Excerpt::default();
    let Excerpt { first, more } = match &facts.status {
        Some(status) => &status.notices,
        None => &none,
    };
    // What keeps the node from its work stands above, if nothing else stands there.
    let (_, advice) = condition::of(facts);
    let trouble = facts
        .status
        .as_ref()
        .and_then(|status| status.trouble.as_ref());
    let trouble = trouble.filter(|trouble| **trouble != advice);
    let first: Vec<&String> = trouble.into_iter().chain(first).collect();
    let mut texts = Vec::new();
    let mut shown = 0;
    for notice in &first {
        let left = first.len() - shown + more;
        // A line for the count of what follows, if anything does.
        let mine = room - usize::from(left > 1);
        let paragraph = paragraph("! ", notice, width, MAX_TAIL - MAX_WARNINGS - 1);
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
    let mut lines: Vec<Line> = texts
        .iter()
        .map(|text| Line::styled(text, Style::new().yellow()))
        .collect();
    lines.extend(
        warnings
            .iter()
            .rev()
            .flatten()
            .map(|text| Line::plain(text)),
    );
    if !lines.is_empty() {
        lines.insert(0, Line::default());
    }
    lines
}

fn join(items: impl Iterator<Item = String>, between: &str) -> String {
    items.collect::<Vec<_>>().join(between)
}

#[cfg(test)]
pub mod tests;
