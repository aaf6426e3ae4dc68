//! The live view of a local cluster: one line a node, drawn again in place on
//! a terminal, printed on change elsewhere.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use anyhow::Result;
use replicator_tests::{Node, PeerTraffic, Status};

/// Lines of recent activity that stay in sight.
const ACTIVITY_LINES: usize = 8;

/// Columns a line may take; what is longer would wrap and spoil the drawing.
const LINE_CHARS: usize = 79;

/// The state of a node that runs no more, though nobody stopped it.
const ENDED: &str = "ended";

pub struct View {
    terminal: bool,
    start: Instant,
    /// Lines to go back before drawing again.
    drawn: usize,
    before: Vec<Glance>,
    activity: VecDeque<String>,
}

/// What the view knows of a node at one look.
#[derive(Clone, Debug, Default, PartialEq)]
struct Glance {
    state: String,
    capture: String,
    files: u64,
    pending_in: u64,
    pending_out: u64,
    to_come: u64,
    /// Since when something is pending here, by this view's clock.
    behind_since_ms: Option<u128>,
    peers: usize,
    traffic: PeerTraffic,
    taken_ms: u128,
    recent: Vec<(u64, String)>,
    /// Of a node that ended by itself: its last words, and where to read more.
    why: String,
}

impl View {
    pub fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            start: Instant::now(),
            drawn: 0,
            before: Vec::new(),
            activity: VecDeque::new(),
        }
    }

    /// Asks every node and draws what changed.
    pub fn show(&mut self, nodes: &mut [Node]) -> Result<()> {
        let mut now: Vec<Glance> = nodes.iter_mut().map(|node| self.look(node)).collect();
        let before = std::mem::take(&mut self.before);
        for (number, glance) in now.iter_mut().enumerate() {
            glance.note_lag(before.get(number));
        }
        let mut lines = vec![header()];
        for (number, (node, glance)) in nodes.iter().zip(&now).enumerate() {
            let before = before.get(number);
            for change in changes(before, glance) {
                let seconds = self.start.elapsed().as_secs_f64();
                self.activity.push_back(format!("{seconds:7.1} s  {}: {change}", node.name()));
            }
            lines.push(line(node.name(), before, glance));
        }
        self.before = now;
        if self.terminal {
            let extra = self.activity.len().saturating_sub(ACTIVITY_LINES);
            self.activity.drain(..extra);
            for (node, glance) in nodes.iter().zip(&self.before) {
                lines.extend(folded(&ending(node.name(), glance)));
            }
            lines.push(String::new());
            lines.extend(self.activity.iter().cloned());
            return self.draw(&lines);
        }
        self.activity.drain(..).for_each(|line| println!("{line}"));
        Ok(())
    }

    fn look(&self, node: &mut Node) -> Glance {
        let taken_ms = self.start.elapsed().as_millis();
        if let Some(status) = node.ended() {
            let (words, log) = (node.last_words(), node.log_file());
            let why = format!("{status}: {words} (log: {})", log.display());
            return Glance { state: ENDED.into(), why, taken_ms, ..Glance::default() };
        }
        match node.status() {
            Ok(status) => Glance::of(&status, taken_ms),
            Err(_) => Glance { state: "no answer".into(), taken_ms, ..Glance::default() },
        }
    }

    /// Goes back over what was drawn last and draws over it.
    fn draw(&mut self, lines: &[String]) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.drawn > 0 {
            write!(out, "\x1b[{}A", self.drawn)?;
        }
        for line in lines {
            let fitting: String = line.chars().take(LINE_CHARS).collect();
            writeln!(out, "\r\x1b[2K{fitting}")?;
        }
        // What an earlier, longer drawing left below.
        write!(out, "\x1b[J")?;
        self.drawn = lines.len();
        Ok(out.flush()?)
    }
}

impl Glance {
    fn of(status: &Status, taken_ms: u128) -> Self {
        Self {
            state: status.state().to_string(),
            capture: status.capture().to_string(),
            files: status.files(),
            pending_in: status.pending_in(),
            pending_out: status.pending_out(),
            to_come: status.pending_in_bytes(),
            behind_since_ms: None,
            peers: status.peers_connected(),
            traffic: status.traffic(),
            taken_ms,
            recent: status.recent(),
            why: String::new(),
        }
    }

    /// The node says what it has not done, not for how long.
    fn note_lag(&mut self, before: Option<&Glance>) {
        let since = before.and_then(|before| before.behind_since_ms).unwrap_or(self.taken_ms);
        self.behind_since_ms = (self.pending_in + self.pending_out > 0).then_some(since);
    }

    fn lag(&self) -> String {
        match self.behind_since_ms {
            None => "none".into(),
            Some(since) => {
                let ms = self.taken_ms.saturating_sub(since);
                format!("{}.{} s", ms / 1000, ms % 1000 / 100)
            }
        }
    }

    /// Bytes a second since `before`.
    fn rate(&self, before: &Glance) -> u64 {
        let elapsed_ms = self.taken_ms.saturating_sub(before.taken_ms).max(1) as u64;
        self.traffic.since(before.traffic) * 1000 / elapsed_ms
    }
}

/// What a person would want to be told between two looks.
fn changes(before: Option<&Glance>, now: &Glance) -> Vec<String> {
    let nothing = Glance::default();
    let before = before.unwrap_or(&nothing);
    let mut lines = Vec::new();
    if before.peers != now.peers {
        let peers = if now.peers == 1 { "peer" } else { "peers" };
        lines.push(format!("{} {peers} connected", now.peers));
    }
    if now.state == ENDED {
        // Its last words may arrive a moment after its end.
        lines.extend((before.why != now.why).then(|| format!("{ENDED}: {}", now.why)));
    } else if (&before.state, &before.capture) != (&now.state, &now.capture) {
        lines.push(format!("{}, {} files, {} capture", now.state, now.files, now.capture));
    }
    let seen = before.recent.last();
    let news = match seen.and_then(|last| now.recent.iter().rposition(|line| line == last)) {
        Some(position) => &now.recent[position + 1..],
        None => &now.recent[..],
    };
    lines.extend(news.iter().map(|(_, text)| text.clone()));
    lines
}

fn header() -> String {
    format!(
        "{:<8} {:<12} {:>7} {:>7} {:>10} {:>12} {:>7}  {}",
        "node", "state", "files", "to do", "to come", "rate", "lag", "capture"
    )
}

/// Entries that some node has yet to apply are `to do`, bytes not here yet `to
/// come`; `lag` is for how long there has been any of it.
fn line(name: &str, before: Option<&Glance>, now: &Glance) -> String {
    let rate = before.map_or(0, |before| now.rate(before));
    format!(
        "{name:<8} {:<12.12} {:>7} {:>7} {:>10} {:>12} {:>7}  {}",
        now.state,
        now.files,
        now.pending_in + now.pending_out,
        bytes(now.to_come),
        format!("{}/s", bytes(rate)),
        now.lag(),
        now.capture
    )
}

/// Why a node ended, to stay in sight; nothing for one that runs.
fn ending(name: &str, now: &Glance) -> String {
    if now.why.is_empty() { String::new() } else { format!("{name} {ENDED}: {}", now.why) }
}

/// Text in lines that fit.
fn folded(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().filter(|one| !one.is_control()).collect();
    characters.chunks(LINE_CHARS).map(|line| line.iter().collect()).collect()
}

/// A size as people read it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = "B";
    let mut size = count as f64;
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(4096), "4.0 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn rates_come_from_what_both_looks_saw() {
        let before = Glance { taken_ms: 1000, ..Glance::default() };
        let traffic = PeerTraffic { sent: 400, received: 100 };
        let now = Glance { taken_ms: 1500, traffic, ..Glance::default() };
        assert_eq!(now.rate(&before), 1000);
    }

    #[test]
    fn lag_runs_from_the_first_look_that_saw_something_pending() {
        let mut first = Glance { taken_ms: 1000, pending_in: 1, ..Glance::default() };
        first.note_lag(None);
        assert_eq!(first.lag(), "0.0 s");
        let capture = "fanotify".to_owned();
        let mut later = Glance { taken_ms: 3500, pending_out: 2, capture, ..Glance::default() };
        later.note_lag(Some(&first));
        assert_eq!(later.lag(), "2.5 s");
        assert!(line("node1", Some(&first), &later).chars().count() <= LINE_CHARS);
        let mut done = Glance { taken_ms: 4000, ..Glance::default() };
        done.note_lag(Some(&later));
        assert_eq!(done.lag(), "none");
    }

    #[test]
    fn activity_is_told_once() {
        let line = |number: u64| (number, format!("applied file-{number}"));
        let before = Glance { recent: vec![line(1), line(2)], ..Glance::default() };
        let now = Glance { recent: vec![line(2), line(3)], ..Glance::default() };
        assert_eq!(changes(Some(&before), &now), ["applied file-3"]);
        assert_eq!(changes(Some(&now), &now), Vec::<String>::new());
    }

    #[test]
    fn why_a_node_ended_is_told_once_and_stays_in_sight() {
        let ended =
            |why: &str| Glance { state: ENDED.into(), why: why.into(), ..Glance::default() };
        let (early, now) = (ended(" (log: /l)"), ended("the port is in use (log: /l)"));
        assert_eq!(changes(Some(&early), &now), ["ended: the port is in use (log: /l)"]);
        assert_eq!(changes(Some(&now), &now), Vec::<String>::new());
        assert_eq!(folded(&ending("node1", &Glance::default())), Vec::<String>::new());
        let long = ended(&format!("why (log: /{})", "long/".repeat(50)));
        let lines = folded(&ending("node1", &long));
        assert!(lines.iter().all(|line| line.chars().count() <= LINE_CHARS), "{lines:?}");
        assert_eq!(lines.concat(), format!("node1 ended: {}", long.why));
    }
}
