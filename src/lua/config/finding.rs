//! What is wrong with a configuration or a script, said as `file:line: message`.

use std::fmt;
use std::path::PathBuf;

use crate::lua::watch::Fingerprints;

/// One problem and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub file: PathBuf,
    /// From 1; `None` where the file as a whole is meant (it is missing, say).
    pub line: Option<u32>,
    pub message: String,
    /// Lua's own, for run-time errors.
    pub traceback: Option<String>,
}

impl Finding {
    /// A problem of a whole file.
    pub fn of_file(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            message: message.into(),
            traceback: None,
        }
    }

    /// A problem at a line.
    pub fn at(file: impl Into<PathBuf>, line: u32, message: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            ..Self::of_file(file, message)
        }
    }
}

/// `file:line: message` on one line; the alternate form (`{:#}`) adds the traceback below.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)?;
        match &self.traceback {
            Some(traceback) if f.alternate() => write!(f, "\n{traceback}"),
            _ => Ok(()),
        }
    }
}

/// Why a configuration was refused: everything that is wrong with it, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub findings: Vec<Finding>,
    /// What would have been said beside it.
    pub warnings: Vec<Finding>,
    /// What was read (or looked for in vain) until then: another try makes sense once one of these changes.
    pub fingerprints: Fingerprints,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(finding, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
