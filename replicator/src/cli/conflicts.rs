//! `replicator conflicts`: what lost a race between nodes and was kept.
//!
//! Works on the folder itself, with or without a running node: a restored
//! file is a change like any other, which the node then replicates.

use std::path::PathBuf;
use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, print_json};
use crate::apply::conflicts::{self, Conflict};
use crate::root::{self, Root};
use crate::status::{clock, human_bytes, human_duration};

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
    /// Put a kept content back; what is at its place is kept in turn
    Restore {
        #[command(flatten)]
        node: Node,
        /// As `conflicts list` shows it
        id: String,
        /// Put it here, relative to the folder, instead of at its own path
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
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
    },
}

impl Conflicts {
    pub fn execute(&self) -> Result<Exit, Failure> {
        match &self.action {
            Action::List { node, json } => list(&open(node)?, *json),
            Action::Restore { node, id, to } => {
                conflicts::restore(&open(node)?, id, to.as_deref()).map_err(failed)?;
                print(&format!("restored {id}\n"))?;
                Ok(Exit::Fine)
            }
            Action::Drop { node, id, .. } => drop_some(&open(node)?, id.as_deref()),
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

fn drop_some(root: &Root, id: Option<&str>) -> Result<Exit, Failure> {
    let ids = match id {
        Some(id) => vec![id.to_owned()],
        None => conflicts::list(root).map_err(failed)?.into_iter().map(|kept| kept.id).collect(),
    };
    for id in &ids {
        conflicts::drop(root, id).map_err(failed)?;
    }
    print(&format!("dropped {}\n", ids.len()))?;
    Ok(Exit::Fine)
}

/// The folder that the node of this state directory serves, or served last.
fn open(node: &Node) -> Result<Root, Failure> {
    let note = node.place().read_note()?;
    Root::open_beside(&note.root).map_err(|error| {
        let exit = match error {
            root::Error::Denied { .. } => Exit::Permission,
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
