//! A snapshot as text for people, in 80 columns.
//!
//! Names of files and peers are hostile input to a terminal: everything that
//! came from outside goes through [`printable`].

use std::fmt::Write;
use std::time::Duration;

use super::clock::{from_ms, time_of_day};
use super::{PeerFacts, Snapshot};

/// Columns of the narrowest terminal served.
const COLUMNS: usize = 80;

/// Lines of activity and of problems shown; `--json` has all.
const LINES_SHOWN: usize = 10;

/// The whole of a snapshot, lines ended.
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    node_lines(&mut out, snapshot);
    folder_lines(&mut out, snapshot);
    machine_lines(&mut out, snapshot);
    peer_lines(&mut out, &snapshot.peers, snapshot.taken_ms);
    trouble_lines(&mut out, snapshot);
    recent_lines(&mut out, snapshot);
    out
}

/// `512 B`, `4.0 KiB`, `1.5 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `350 ms`, `12 s`, `5 min`, `3 h 20 min`, `7 d 4 h`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Text without anything a terminal or a line-based reader would obey.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_bidi(character) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

fn node_lines(out: &mut String, snapshot: &Snapshot) {
    let node = &snapshot.node;
    let up = Duration::from_millis(snapshot.taken_ms.saturating_sub(node.started_ms));
    let short_id: String = node.id.chars().take(8).collect();
    fact(out, "Node", &format!("{} ({short_id}), replicator {}", node.name, node.version));
    fact(
        out,
        "",
        &format!("pid {}, up {}, listening on {}", node.pid, human_duration(up), node.listen),
    );
}

fn folder_lines(out: &mut String, snapshot: &Snapshot) {
    let folder = &snapshot.folder;
    fact(out, "Folder", &folder.root);
    fact(out, "State", &folder.state);
    if !matches!(folder.mode.as_str(), "" | "both") {
        let own = match folder.own_changes {
            0 => String::new(),
            count => format!(", {count} entries changed here"),
        };
        fact(out, "Mode", &format!("{}{own}", folder.mode));
    }
    fact(
        out,
        "Holds",
        &format!(
            "{} files, {} directories, {} links",
            folder.files, folder.directories, folder.symlinks
        ),
    );
    if folder.pending_in > 0 {
        let bytes = human_bytes(folder.pending_in_bytes);
        fact(out, "Incoming", &format!("{} entries, {bytes}, to apply here", folder.pending_in));
    }
    if folder.pending_out > 0 {
        fact(out, "Outgoing", &format!("{} entries, some node lacks", folder.pending_out));
    }
    let rates = &snapshot.rates;
    if rates.files_per_s >= 0.05 || rates.bytes_per_s >= 0.5 {
        let bytes = human_bytes(rates.bytes_per_s as u64);
        fact(out, "Rate", &format!("{:.1} files/s, {bytes}/s", rates.files_per_s));
    }
    if folder.conflicts > 0 {
        let text = format!("{} kept: see `replicator conflicts list`", folder.conflicts);
        fact(out, "Conflicts", &text);
    }
    if folder.older_files > 0 {
        let text = format!("{} put over newer ones: see the trash of others", folder.older_files);
        fact(out, "Old files", &text);
    }
    if folder.brought_back > 0 {
        let text = format!("took {} entries: they come back from the peers", folder.brought_back);
        fact(out, "Power loss", &text);
    }
    if folder.deletions_held > 0 {
        let text = format!("{} deletions: see `replicator confirm --help`", folder.deletions_held);
        fact(out, "Held back", &text);
    }
}

fn machine_lines(out: &mut String, snapshot: &Snapshot) {
    let capture = &snapshot.capture;
    let hooks =
        if capture.hooks.is_empty() { String::new() } else { format!(" ({})", capture.hooks) };
    fact(out, "Capture", &format!("{}{hooks}", capture.level));
    if !capture.why.is_empty() {
        fact(out, "", &format!("no higher level: {}", capture.why));
    }
    for late in &capture.late {
        fact(out, "", &format!("seen late: {late}"));
    }
    let process = &snapshot.process;
    let text = format!(
        "{}; {} of memory, {:.1} s of CPU time",
        snapshot.engine.kind,
        human_bytes(process.rss_bytes),
        process.cpu_ms as f64 / 1e3
    );
    fact(out, "Engine", &text);
}

fn peer_lines(out: &mut String, peers: &[PeerFacts], now_ms: u64) {
    if peers.is_empty() {
        fact(out, "Peers", "none");
        return;
    }
    let connected = peers.iter().filter(|peer| peer.connected).count();
    let others = match peers.iter().filter(|peer| is_up_elsewhere(peer)).count() {
        0 => String::new(),
        count => format!(", {count} reached by others"),
    };
    fact(out, "Peers", &format!("{connected} of {} connected{others}", peers.len()));
    for peer in peers {
        let since = human_duration(Duration::from_millis(now_ms.saturating_sub(peer.since_ms)));
        let short_id: String = peer.id.chars().take(8).collect();
        // A peer that was only ever dialled has an address and nothing else.
        let who = if short_id.is_empty() {
            String::new()
        } else {
            format!("{} ({short_id}) ", peer.name)
        };
        let sign = match () {
            () if peer.connected => "+",
            () if is_up_elsewhere(peer) => "~",
            () => "-",
        };
        line(out, &format!("  {sign} {who}{}", peer.address));
        if peer.connected {
            let text = format!(
                "    {} for {since}, rtt {:.1} ms, sent {}, received {}, {} behind",
                peer.state,
                peer.rtt_ms,
                human_bytes(peer.sent_bytes),
                human_bytes(peer.received_bytes),
                peer.behind_entries
            );
            line(out, &text);
        } else {
            line(out, &format!("    {} for {since}", peer.state));
        }
        if let Some(error) = &peer.last_error {
            line(out, &format!("    last error: {error}"));
        }
    }
}

/// No neighbour of this node, but as alive as one.
fn is_up_elsewhere(peer: &PeerFacts) -> bool {
    !peer.connected && peer.membership == "up"
}

fn trouble_lines(out: &mut String, snapshot: &Snapshot) {
    if snapshot.errors_total > 0 || !snapshot.errors.is_empty() {
        let total = snapshot.errors_total.max(snapshot.errors.len() as u64);
        fact(out, "Problems", &format!("{total} not replicated now"));
        for error in snapshot.errors.iter().take(LINES_SHOWN) {
            line(out, &format!("  {}: {}", error.path, error.reason));
        }
    }
    let lost: Vec<_> = snapshot.losses.iter().filter(|(_, count)| **count > 0).collect();
    if !lost.is_empty() {
        fact(out, "Repaired", "knowledge lost since the start, by cause");
        for (cause, count) in lost {
            line(out, &format!("  {count:>8} {cause}"));
        }
    }
}

fn recent_lines(out: &mut String, snapshot: &Snapshot) {
    if snapshot.recent.is_empty() {
        return;
    }
    fact(out, "Recent", "");
    let skipped = snapshot.recent.len().saturating_sub(LINES_SHOWN);
    for activity in &snapshot.recent[skipped..] {
        let when = time_of_day(from_ms(activity.when_ms));
        line(out, &format!("  {when} {:<16} {}", activity.what, activity.path));
    }
}

fn fact(out: &mut String, label: &str, text: &str) {
    line(out, &format!("{label:<10} {text}"));
}

/// One line, made printable and cut to the width in its middle: both ends of
/// a path matter.
fn line(out: &mut String, text: &str) {
    let text = printable(text);
    let text = text.trim_end();
    let count = text.chars().count();
    if count <= COLUMNS {
        out.push_str(text);
    } else {
        let tail = COLUMNS / 2;
        out.extend(text.chars().take(COLUMNS - tail - 3));
        out.push_str("...");
        out.extend(text.chars().skip(count - tail));
    }
    out.push('\n');
}

/// Characters that reorder the text around them.
fn is_bidi(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ActivityLine, PathError};

    #[test]
    fn no_line_is_wider_than_a_terminal_or_obeyed_by_it() {
        let mut snapshot = Snapshot::default();
        snapshot.folder.root = "/very/long".repeat(50);
        snapshot.folder.conflicts = 3;
        snapshot.losses.insert("ring full".into(), 2);
        snapshot.note_error(PathError { path: "a\x1b[2Jb\n".into(), reason: "no space".into() });
        snapshot.note(ActivityLine { when_ms: 0, what: "applied".into(), path: "ü".repeat(200) });
        snapshot.peers.push(PeerFacts {
            id: "ab".into(),
            name: "evil\r\u{202e}".into(),
            last_error: Some("x".repeat(300)),
            ..Default::default()
        });
        let text = render(&snapshot);
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        assert!(text.contains("a\\u{1b}[2Jb\\n: no space"), "{text}");
        assert!(text.contains("replicator conflicts list"));
        assert!(text.contains("0 of 1 connected"));
        assert!(!text.contains('\u{202e}'));
    }

    #[test]
    fn an_address_where_nobody_answers_is_told_with_the_reason() {
        let peer = PeerFacts {
            address: "typo.invalid:7400".into(),
            state: "not reached".into(),
            since_ms: 1_000,
            last_error: Some("the name cannot be resolved".into()),
            ..Default::default()
        };
        let snapshot = Snapshot { taken_ms: 13_000, peers: vec![peer], ..Default::default() };
        let lines = [
            "Peers      0 of 1 connected",
            "  - typo.invalid:7400",
            "    not reached for 12 s",
            "    last error: the name cannot be resolved",
        ];
        let text = render(&snapshot);
        assert!(text.ends_with(&format!("{}\n", lines.join("\n"))), "{text}");
    }

    #[test]
    fn members_that_others_reach_are_told_from_the_dead() {
        let peer = |name: &str, state: &str, membership: &str| PeerFacts {
            id: "0123456789abcdef".into(),
            name: name.into(),
            address: "10.0.0.1:7400".into(),
            connected: state == "connected",
            state: state.into(),
            membership: membership.into(),
            since_ms: 1_000,
            ..Default::default()
        };
        let peers = vec![
            peer("near", "connected", "up"),
            peer("far", "up, reached by others", "up"),
            peer("dead", "down", "down"),
        ];
        let snapshot = Snapshot { taken_ms: 13_000, peers, ..Default::default() };
        let lines = [
            "Peers      1 of 3 connected, 1 reached by others",
            "  + near (01234567) 10.0.0.1:7400",
            "    connected for 12 s, rtt 0.0 ms, sent 0 B, received 0 B, 0 behind",
            "  ~ far (01234567) 10.0.0.1:7400",
            "    up, reached by others for 12 s",
            "  - dead (01234567) 10.0.0.1:7400",
            "    down for 12 s",
        ];
        let text = render(&snapshot);
        assert!(text.ends_with(&format!("{}\n", lines.join("\n"))), "{text}");
    }

    #[test]
    fn numbers_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (1_048_575, "1.0 MiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
        for (ms, text) in [
            (350, "350 ms"),
            (12_000, "12 s"),
            (300_000, "5 min"),
            (12_000_000, "3 h 20 min"),
            (619_200_000, "7 d 4 h"),
        ] {
            assert_eq!(human_duration(Duration::from_millis(ms)), text);
        }
    }
}
