//! From a name that `rustc` doesn't know back to the lines of the program that use it.

use tishlang_ast::{ExportDeclaration, ImportSpecifier, Statement};

use crate::diagnostic::Diagnostic;
use crate::project::{Module, Project};
use crate::scope::{self, Use};

/// Most places shown for one name that is declared somewhere, and yet unknown where it's used.
const CANDIDATES_MAX: usize = 5;
/// How alike two names must be (0 to 1) for one to be offered in place of the other.
const LIKENESS_MIN: f64 = 0.75;

/// What every program knows without declaring it, for "did you mean".
const GLOBALS: [&str; 40] = [
    "Array",
    "Boolean",
    "Date",
    "Error",
    "Infinity",
    "JSON",
    "Map",
    "Math",
    "NaN",
    "Number",
    "Object",
    "Promise",
    "RangeError",
    "RegExp",
    "Set",
    "String",
    "Symbol",
    "SyntaxError",
    "TypeError",
    "clearInterval",
    "clearTimeout",
    "console",
    "decodeURI",
    "encodeURI",
    "fetch",
    "fetchAll",
    "fileExists",
    "htmlEscape",
    "isDir",
    "isFinite",
    "isNaN",
    "mkdir",
    "parseFloat",
    "parseInt",
    "process",
    "readDir",
    "readFile",
    "serve",
    "setInterval",
    "setTimeout",
];

/// What is written in JavaScript and means nothing in Tish, and what does.
const OF_JAVASCRIPT: [(&str, &str); 4] = [
    ("undefined", "Tish has `null`, and no `undefined`"),
    ("var", "Tish has no `var`: write `let`, or `const`"),
    (
        "class",
        "Tish has no classes: write functions that return objects",
    ),
    ("require", "Tish has no `require`: write `import … from …`"),
];

/// Where the undefined `name` is used. Empty only when it isn't in the program at all.
pub(crate) fn undefined(project: &Project, name: &str) -> Vec<Diagnostic> {
    let imports = missing_exports(project, name);
    if !imports.is_empty() {
        return imports;
    }
    let uses = all_uses(project, name);
    let unbound: Vec<&(&Module, Use)> = uses.iter().filter(|(_, found)| !found.bound).collect();
    if unbound.is_empty() {
        let message = format!("`{name}` is not defined where it is used");
        let hint = "it is declared in the program, but not before, or not around, this line";
        let candidates = uses.iter().take(CANDIDATES_MAX);
        return candidates
            .map(|(module, found)| at(module, found, message.clone()).hint(hint))
            .collect();
    }
    let diagnostics = unbound.into_iter().map(|(module, found)| {
        let foreign = OF_JAVASCRIPT.iter().find(|(word, _)| *word == name);
        let hint = match (foreign, closest(name, &found.visible)) {
            (Some((_, instead)), _) => (*instead).to_owned(),
            (None, Some(other)) => format!("did you mean `{other}`?"),
            (None, None) => format!("declare it with `let {name} = …`, or import it from the file that does"),
        };
        at(module, found, format!("`{name}` is not defined")).hint(hint)
    });
    diagnostics.collect()
}

/// Where `name`, a constant, is written to.
pub(crate) fn written(project: &Project, name: &str) -> Vec<Diagnostic> {
    let uses = all_uses(project, name);
    let writes = uses
        .iter()
        .filter(|(_, found)| found.written)
        .take(CANDIDATES_MAX);
    let message = format!("`{name}` is a constant and can't be assigned to");
    let hint = format!("declare it with `let {name}` to change it later");
    writes
        .map(|(module, found)| at(module, found, message.clone()).hint(hint.clone()))
        .collect()
}

fn all_uses<'a>(project: &'a Project, name: &str) -> Vec<(&'a Module, Use)> {
    let modules = project.modules().into_iter();
    modules
        .flat_map(|module| {
            scope::uses(&module.program, name)
                .into_iter()
                .map(move |found| (module, found))
        })
        .collect()
}

fn at(module: &Module, found: &Use, message: String) -> Diagnostic {
    Diagnostic::new(message)
        .in_file(module.name.as_str())
        .at(found.span.start, &module.text)
}

fn closest(name: &str, visible: &[std::sync::Arc<str>]) -> Option<String> {
    let names = visible.iter().map(AsRef::as_ref).chain(GLOBALS);
    names
        .filter(|other| *other != name)
        .map(|other| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase()),
                other,
            )
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other.to_owned())
}

/// `import { name } from './other'` where the other file has no such export. The Tish compiler takes
/// the import at its word, so this, too, ends as an undefined name.
fn missing_exports(project: &Project, name: &str) -> Vec<Diagnostic> {
    let mut diagnostics = vec![];
    for module in project.modules() {
        for statement in &module.program.statements {
            let Statement::Import {
                specifiers,
                from,
                span,
            } = statement
            else {
                continue;
            };
            let Some(other) = module
                .imports
                .get(from.as_ref())
                .and_then(|path| project.modules.get(path))
            else {
                continue;
            };
            let wants = specifiers.iter().any(
                |specifier| matches!(specifier, ImportSpecifier::Named { name: wanted, .. } if wanted.as_ref() == name),
            );
            let Some(exports) = exports(other).filter(|exports| wants && !exports.iter().any(|e| e == name))
            else {
                continue;
            };
            let message = format!("`{}` does not export `{name}`", other.name);
            let hint = match exports.as_slice() {
                [] => "it exports nothing: write `export` before what others need".to_owned(),
                some => format!("it exports {}", some.join(", ")),
            };
            let diagnostic = Diagnostic::new(message).in_file(module.name.as_str());
            diagnostics.push(diagnostic.at(span.start, &module.text).hint(hint));
        }
    }
    diagnostics
}

/// What a file exports, or `None` when it passes on everything of another.
fn exports(module: &Module) -> Option<Vec<String>> {
    let mut names = vec![];
    for statement in &module.program.statements {
        let Statement::Export { declaration, .. } = statement else {
            continue;
        };
        match declaration.as_ref() {
            ExportDeclaration::Named(inner) => {
                let mut declared = vec![];
                scope::declared(inner, &mut declared);
                names.extend(declared.iter().map(ToString::to_string));
            }
            ExportDeclaration::Default(_) => names.push("default".to_owned()),
            ExportDeclaration::ReExport { all: true, .. } => return None,
            ExportDeclaration::ReExport { specifiers, .. } => {
                names.extend(specifiers.iter().filter_map(|specifier| match specifier {
                    ImportSpecifier::Named { name, alias, .. } => {
                        Some(alias.as_ref().unwrap_or(name).to_string())
                    }
                    _ => None,
                }));
            }
        }
    }
    Some(names)
}
