//! What the Tish parser says, in words and with a place.
//!
//! The parser answers with a string. Most carry `Span { start: (line, column), … }`; those that
//! don't come from the lexer (which stops where its last good token ended) or from the end of file.

use tishlang_ast::Program;
use tishlang_lexer::Lexer;

use crate::diagnostic::Diagnostic;

/// Parses one file. `file` is its name in diagnostics.
pub(crate) fn parse(file: &str, text: &str) -> Result<Program, Box<Diagnostic>> {
    tishlang_parser::parse(text).map_err(|message| Box::new(explain(file, text, &message)))
}

fn explain(file: &str, text: &str, message: &str) -> Diagnostic {
    let place = span_start(message).or_else(|| lexed_until(text));
    let diagnostic = Diagnostic::new(humane(message)).in_file(file);
    let diagnostic = match place {
        Some(place) => diagnostic.at(place, text),
        None => diagnostic,
    };
    match hint(message) {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

/// `(line, column)` out of `… Span { start: (2, 9), end: (2, 10) }`.
pub(crate) fn span_start(message: &str) -> Option<(usize, usize)> {
    let (_, rest) = message.split_once("start: (")?;
    let (numbers, _) = rest.split_once(')')?;
    let (line, column) = numbers.split_once(',')?;
    Some((line.trim().parse().ok()?, column.trim().parse().ok()?))
}

/// Where the last token that can be read ends: the place of an error without one.
fn lexed_until(text: &str) -> Option<(usize, usize)> {
    Lexer::new(text)
        .map_while(Result::ok)
        .last()
        .map(|token| token.span.end)
}

/// The message without its span, with tokens as they are written: `Unexpected token: Assign at
/// Span {…}` becomes ``unexpected `=` ``.
fn humane(message: &str) -> String {
    let message = match message.find(" (at Span {").or_else(|| message.find(" at Span {")) {
        Some(end) => &message[..end],
        None => message,
    };
    if let Some(kind) = message.strip_prefix("Unexpected token: ") {
        return format!("unexpected {}", token(kind));
    }
    if let Some((expected, got)) = message
        .strip_prefix("Expected ")
        .and_then(|rest| rest.split_once(", got "))
    {
        return format!("expected {}, found {}", token(expected), token(got));
    }
    let mut chars = message.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "this file can't be parsed".to_owned(),
    }
}

/// A token kind of the lexer, as the author would write it.
fn token(kind: &str) -> String {
    let kind = kind
        .strip_prefix("Some(")
        .and_then(|inner| inner.strip_suffix(')'))
        .unwrap_or(kind);
    let written = match kind {
        "Assign" => "=",
        "LParen" => "(",
        "RParen" => ")",
        "LBrace" => "{",
        "RBrace" => "}",
        "LBracket" => "[",
        "RBracket" => "]",
        "Semicolon" => ";",
        "Comma" => ",",
        "Dot" => ".",
        "Spread" => "...",
        "Colon" => ":",
        "Eq" => "==",
        "Ne" => "!=",
        "StrictEq" => "===",
        "StrictNe" => "!==",
        "Lt" => "<",
        "Le" => "<=",
        "Gt" => ">",
        "Ge" => ">=",
        "Plus" => "+",
        "Minus" => "-",
        "PlusPlus" => "++",
        "MinusMinus" => "--",
        "Star" => "*",
        "StarStar" => "**",
        "Slash" => "/",
        "Percent" => "%",
        "And" => "&&",
        "Or" => "||",
        "Not" => "!",
        "Question" => "?",
        "Arrow" => "=>",
        "Ident" => return "a name".to_owned(),
        "Indent" => return "a deeper indentation".to_owned(),
        "Dedent" => return "a shallower indentation".to_owned(),
        "String" => return "a string".to_owned(),
        "Number" => return "a number".to_owned(),
        "EOF" | "None" => return "the end of the file".to_owned(),
        other if other.chars().all(char::is_alphanumeric) => return format!("`{}`", other.to_lowercase()),
        other => return other.to_owned(),
    };
    format!("`{written}`")
}

fn hint(message: &str) -> Option<&'static str> {
    if message.contains("got EOF") {
        Some("something opened above is never closed: look for a missing `}`, `)` or quote")
    } else if message.contains("Unterminated string") {
        Some("close the string with the quote it began with")
    } else if message.contains("nesting too deep") {
        Some("split the expression into smaller ones")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Diagnostic {
        *parse("a.tish", text).expect_err("the text is broken")
    }

    #[test]
    fn a_parse_error_has_its_place_and_reads_like_the_source() {
        let error = error("let a = 1\nlet b = = 2\n");
        assert_eq!((error.line, error.column), (Some(2), Some(9)));
        assert_eq!(error.message, "unexpected `=`");
        assert_eq!(error.source.as_deref(), Some("let b = = 2"));
    }

    #[test]
    fn errors_without_a_place_get_one() {
        let unclosed = error("let a = [1,\n  2,\n");
        assert!(unclosed.line.is_some_and(|line| line >= 2), "{unclosed:?}");
        let string = error("let a = 1\nlet b = \"no end\n");
        assert_eq!(string.line, Some(2), "{string:?}");
    }
}
