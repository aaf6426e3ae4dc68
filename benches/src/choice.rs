//! Which systems are measured: those that were asked for and are installed.

use anyhow::{Result, bail};

use crate::lsyncd::Lsyncd;
use crate::rsync::Rsync;
use crate::syncthing::Syncthing;
use crate::system::{Replicator, System};

/// One that can be measured: the name that `--systems` takes, and how to get
/// it; `None` where it is not installed.
type Known = (&'static str, fn() -> Option<Box<dyn System>>);

/// All of them, this program first.
const KNOWN: [Known; 5] = [
    ("replicator", || boxed(Some(Replicator::default()))),
    ("rsync", || boxed(Rsync::installed())),
    ("lsyncd0", || boxed(Lsyncd::installed(0))),
    ("lsyncd1", || boxed(Lsyncd::installed(1))),
    ("syncthing", || boxed(Syncthing::installed())),
];

pub struct Choice(Vec<Known>);

impl Choice {
    /// Those of these names; no names choose all.
    pub fn of(names: &[String]) -> Result<Self> {
        for name in names {
            if KNOWN.iter().all(|(known, _)| known != name) {
                let known = KNOWN.map(|(known, _)| known).join(", ");
                bail!("--systems: '{name}' is no system; known are {known}");
            }
        }
        let is_chosen =
            |known: &Known| names.is_empty() || names.iter().any(|name| name == known.0);
        let choice = Self(KNOWN.into_iter().filter(is_chosen).collect());
        if choice.systems().is_empty() {
            bail!("nothing to measure: {}", not_installed(&choice.missing()));
        }
        Ok(choice)
    }

    /// A fresh one of each that is installed.
    pub fn systems(&self) -> Vec<Box<dyn System>> {
        self.0.iter().filter_map(|(_, get)| get()).collect()
    }

    /// Which of them are not installed.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, get)| get().is_none()).map(|(name, _)| *name).collect()
    }
}

/// That these cannot be measured, in one line.
pub fn not_installed(names: &[&str]) -> String {
    format!("not installed, so not measured: {}", names.join(", "))
}

fn boxed(system: Option<impl System + 'static>) -> Option<Box<dyn System>> {
    system.map(|system| Box::new(system) as _)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(names: &[&str]) -> Result<Choice, String> {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        Choice::of(&names).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_that_nobody_has_is_refused_with_those_that_are_known() {
        for names in [&["rsnyc"][..], &["replicator", "lsyncd"], &[""]] {
            let Err(refused) = choice(names) else { panic!("{names:?} are taken") };
            assert!(refused.ends_with("replicator, rsync, lsyncd0, lsyncd1, syncthing"));
        }
    }

    #[test]
    fn those_asked_for_are_measured_or_said_to_be_missing() {
        let alone = choice(&["replicator"]).unwrap();
        assert_eq!(alone.systems().len(), 1);
        assert!(alone.missing().is_empty());
        let all = choice(&[]).unwrap();
        assert_eq!(all.systems().len() + all.missing().len(), KNOWN.len());
        assert_eq!(all.systems()[0].name(), "replicator");
        for missing in all.missing() {
            let Err(refused) = choice(&[missing]) else { panic!("{missing} is not there") };
            assert!(refused.contains("not installed") && refused.contains(missing), "{refused}");
        }
    }
}
