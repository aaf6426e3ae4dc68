//! `replicator conflicts`: what lost a race between nodes and was kept.
//!
//! Works on the folder itself, with or without a running node: a restored
//! file is a change like any other, which the node then replicates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, print_json};
use crate::apply::conflicts::{self, Conflict};
use crate::root::{self, Root};
use crate::status::{clock, human_bytes, human_duration, printable};

/// Show, restore or drop what lost a race between nodes.
///
/// When two nodes change one file at once, one content wins everywhere and
/// the other is kept here.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Conflicts {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show what is kept; exit code 1 when there is any
    List {
        #[command(flatten)]
        node: Node,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a kept content back; what is at its place goes to the trash
    Restore {
        #[command(flatten)]
        node: Node,
        /// As `conflicts list` shows it
        id: String,
        /// Put it here instead, in the folder or anywhere else; nothing may
        /// be there
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Print what was restored as JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a kept content for good
    Drop {
        #[command(flatten)]
        node: Node,
        /// As `conflicts list` shows it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Print what was dropped as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Conflicts {
    pub fn execute(&self) -> Result<Exit, Failure> {
        match &self.action {
            Action::List { node, json } => list(&open(node)?, *json),
            Action::Restore { node, id, to, json } => {
                restore(&open(node)?, id, to.as_deref(), *json)
            }
            Action::Drop { node, id, json, .. } => drop_some(&open(node)?, id.as_deref(), *json),
        }
    }
}

fn list(root: &Root, json: bool) -> Result<Exit, Failure> {
    let kept = conflicts::list(root).map_err(failed)?;
    if json {
        print_json(&kept)?;
    } else if kept.is_empty() {
        print("no conflicts\n")?;
    } else {
        print(&kept.iter().map(describe).collect::<String>())?;
    }
    Ok(if kept.is_empty() { Exit::Fine } else { Exit::Differs })
}

fn restore(root: &Root, id: &str, to: Option<&Path>, json: bool) -> Result<Exit, Failure> {
    let restored = conflicts::restore(root, id, to).map_err(failed)?;
    if json {
        print_json(&restored)?;
    } else {
        let place = to.map_or(restored.path, |to| to.display().to_string());
        print(&format!("restored {id} to {}\n", printable(&place)))?;
    }
    Ok(Exit::Fine)
}

fn drop_some(root: &Root, id: Option<&str>, json: bool) -> Result<Exit, Failure> {
    let dropped = match id {
        Some(id) => conflicts::drop(root, id).map(|dropped| vec![dropped]),
        None => conflicts::drop_all(root),
    };
    let dropped = dropped.map_err(failed)?;
    if json {
        print_json(&dropped)?;
    } else {
        print(&format!("dropped {}\n", dropped.len()))?;
    }
    Ok(Exit::Fine)
}

/// The folder that the node of this state directory serves, or served last.
fn open(node: &Node) -> Result<Root, Failure> {
    let place = node.place();
    let note = place.read_note()?;
    Root::open_beside(&note.root, place.owner()?).map_err(|error| {
        let exit = match error {
            root::Error::Denied { .. } | root::Error::Stranger { .. } => Exit::Permission,
            _ => Exit::Configuration,
        };
        Failure::new(exit, error.to_string())
    })
}

fn describe(kept: &Conflict) -> String {
    let age = Duration::from_secs((clock::now_ms() / 1000).saturating_sub(kept.seconds));
    format!(
        "{}  {} ago  {:>10}  {}\n",
        kept.id,
        human_duration(age),
        human_bytes(kept.size),
        kept.path
    )
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}
