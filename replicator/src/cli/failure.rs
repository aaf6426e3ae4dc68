//! How a command ends when it cannot do its job: one line, one exit code.

use std::process::ExitCode;

use crate::config;
use crate::status::{PlaceError, control, printable};

/// The exit codes of every command. 64 and up are those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Fine,
    /// Something differs, or some of it was skipped.
    Differs,
    Failed,
    Usage,
    /// No replicator to talk to.
    Unreachable,
    Permission,
    Configuration,
    /// Decided by another room.
    Other(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Differs => 1,
            Self::Failed => 2,
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::Permission => 77,
            Self::Configuration => 78,
            Self::Other(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command did not do its job.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Says it on standard error, and in the log if there is one by now.
    pub fn report(&self) -> ExitCode {
        let message = printable(&self.message);
        eprintln!("replicator: {message}");
        tracing::error!(target: super::logging::FILE_ONLY, "{message}");
        self.exit.into()
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::new(Exit::Other(error.exit_code()), error.to_string())
    }
}

impl From<control::Error> for Failure {
    fn from(error: control::Error) -> Self {
        Self::new(Exit::Other(error.exit_code()), error.to_string())
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        Self::new(Exit::Other(error.exit_code()), error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    /// For what no user can cause or mend otherwise.
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}
