//! Log lines of tasks and builds.

use crate::{id::TaskId, time::Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most bytes of one line; a longer one is cut and ends in `…`.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// The most lines of one batch: the cost of a round trip is spread over as many.
pub const BATCH_LINES_MAX: usize = 4_000;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The platform itself.
    System,
}

impl Stream {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }

    /// From what was stored; anything unknown counts as the platform's own.
    pub fn from_stored(text: &str) -> Self {
        match text {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            _ => Self::System,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Counts up from 1 within the task or build, without gaps.
    pub seq: u64,
    /// When the agent read it.
    pub time: Time,
    /// Where it came from.
    pub stream: Stream,
    /// The line, without its end.
    pub message: String,
}

/// A line of one of a deployment's tasks: a [`LogLine`] with the task it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskLogLine {
    /// The task.
    pub task_id: TaskId,
    /// Its line.
    #[serde(flatten)]
    pub line: LogLine,
}

/// `POST /tasks/{id}/logs`: a batch from an agent; lines already stored are ignored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendLogsRequest {
    /// At most 4,000, in order.
    pub lines: Vec<LogLine>,
}
