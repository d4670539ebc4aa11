//! What the doctor finds out at one stage.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing is wrong.
    Ok,
    /// Something is wrong.
    Failed,
    /// It was not looked at; the finding says why.
    Skipped,
}

/// One stage: what was found, and if it failed, one cause and one next step.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// The name of the stage, as logs and metrics have it.
    pub stage: &'static str,
    /// How it ended.
    pub status: Status,
    /// How long it took.
    #[serde(rename = "micros", serialize_with = "micros")]
    pub took: Duration,
    /// What was found, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

fn micros<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
}

/// A stage that is under way.
#[derive(Debug)]
pub struct Begun {
    stage: &'static str,
    since: Instant,
}

/// Begins a stage.
pub fn begin(stage: &'static str) -> Begun {
    Begun { stage, since: Instant::now() }
}

/// A stage that is not looked at, with the reason.
pub fn skipped(stage: &'static str, why: impl Into<String>) -> Stage {
    Stage {
        stage,
        status: Status::Skipped,
        took: Duration::ZERO,
        found: vec![why.into()],
        cause: None,
        next: None,
    }
}

impl Begun {
    fn end(self, status: Status, found: Vec<String>) -> Stage {
        let took = self.since.elapsed();
        Stage { stage: self.stage, status, took, found, cause: None, next: None }
    }

    /// Nothing is wrong.
    pub fn ok(self, found: impl Into<String>) -> Stage {
        self.all_ok(vec![found.into()])
    }

    /// Nothing is wrong, and there is more than one thing to say.
    pub fn all_ok(self, found: Vec<String>) -> Stage {
        self.end(Status::Ok, found)
    }

    /// Something is wrong.
    pub fn failed(self, cause: impl Into<String>, next: impl Into<String>) -> Stage {
        self.failed_after(Vec::new(), cause, next)
    }

    /// Something is wrong, and this much was found before.
    pub fn failed_after(
        self,
        found: Vec<String>,
        cause: impl Into<String>,
        next: impl Into<String>,
    ) -> Stage {
        let mut stage = self.end(Status::Failed, found);
        stage.cause = Some(cause.into());
        stage.next = Some(next.into());
        stage
    }

    /// It cannot be looked at, which shows only now.
    pub fn skipped(self, why: impl Into<String>) -> Stage {
        self.end(Status::Skipped, vec![why.into()])
    }
}
