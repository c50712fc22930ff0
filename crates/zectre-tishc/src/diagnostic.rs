//! What is wrong with a program, said in the words and places of its author.

use std::fmt;

use serde::Serialize;

/// Most diagnostics told at once; the rest is noise that follows from the first.
pub(crate) const DIAGNOSTICS_MAX: usize = 20;

/// The step that refused the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The project's files: syntax, imports, what a package may ask for.
    Check,
    /// Tish to Rust.
    Translate,
    /// Rust to machine code: undefined names show only here.
    Rustc,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Translate => "translate",
            Self::Rustc => "rustc",
        })
    }
}

/// One thing that is wrong, and where. A place that isn't known is left out, never guessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Relative to the project, with `/`.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line of the program, for showing.
    pub source: Option<String>,
}

impl Diagnostic {
    /// Something wrong with the program as a whole.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            column: None,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// The same, in a file.
    pub(crate) fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// The same, at a line and column of `text`, the file's content.
    pub(crate) fn at(mut self, (line, column): (usize, usize), text: &str) -> Self {
        if line == 0 {
            return self;
        }
        self.line = Some(line);
        self.column = Some(column.max(1));
        self.source = text
            .lines()
            .nth(line - 1)
            .map(|line| line.chars().take(200).collect());
        self
    }

    /// The same, with advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}:{}", self.column.unwrap_or(1))?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        if let (Some(source), Some(line)) = (&self.source, self.line) {
            let column = self.column.unwrap_or(1);
            // Tabs stay tabs, so that the caret stands under its character in any terminal.
            let indent: String = source
                .chars()
                .take(column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let gutter = " ".repeat(line.to_string().len());
            write!(f, "\n  {line} | {source}\n  {gutter} | {indent}^")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  = {hint}")?;
        }
        Ok(())
    }
}

/// A program that can't be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Who refused it.
    pub stage: Stage,
    /// Why: at least one.
    pub diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// One reason.
    pub(crate) fn one(stage: Stage, diagnostic: Diagnostic) -> Self {
        Self {
            stage,
            diagnostics: vec![diagnostic],
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_points_at_its_character() {
        let text = "let a = 1\n\tlet b = = 2\n";
        let shown = Diagnostic::new("unexpected `=`")
            .in_file("src/main.tish")
            .at((2, 10), text)
            .hint("drop it");
        assert_eq!(
            shown.to_string(),
            "src/main.tish:2:10: unexpected `=`\n  2 | \tlet b = = 2\n    | \t        ^\n  = drop it"
        );
    }
}
