//! Tish to Rust, by the Tish compiler itself.

use std::panic::{self, AssertUnwindSafe};

use tishlang_compile::{
    CompileError, check_call_arity, compile_project_full, merge_modules, resolve_project,
};

use crate::diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Failure, Stage};
use crate::error::Error;
use crate::project::Project;
use crate::scope;
use crate::template::FEATURES;

/// The Rust source of a program.
pub(crate) fn translate(project: &Project) -> Result<String, Error> {
    // The compiler looks up import overrides once relative to the project, once to the working
    // directory: they must be the same.
    std::env::set_current_dir(&project.root).map_err(|error| Error::file("enter", &project.root, &error))?;
    let features = FEATURES.map(String::from);
    let compiled = panic::catch_unwind(AssertUnwindSafe(|| {
        compile_project_full(&project.entry, Some(&project.root), &features, true)
    }));
    let (rust, native_modules, _, native) = match compiled {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(error)) if error.message.contains("tish-canvas") => return Err(failed(draws(project))),
        Ok(Err(error)) => {
            let diagnostics = missing_arguments(project).unwrap_or_else(|| vec![explain(project, &error)]);
            return Err(Error::Program(Failure {
                stage: Stage::Translate,
                diagnostics,
            }));
        }
        Err(_) => {
            let message = "the Tish compiler stumbled over this program";
            let hint =
                "simplify what changed since it last compiled: this is a bug of the compiler, not yours";
            return Err(failed(Diagnostic::new(message).hint(hint)));
        }
    };
    // The checks of `import` and `project` let no native code through. What they'd miss ends here.
    let native_code =
        native.generated_native_rs.is_some() || !native.rust_dependencies_toml.trim().is_empty();
    if native_modules.is_empty() && !native_code {
        return Ok(rust);
    }
    Err(failed(draws(project)))
}

/// The one way left to ask for native code: the compiler takes the name `document`, whatever it stands
/// for, as a wish to draw.
fn draws(project: &Project) -> Diagnostic {
    let message = "this program draws on a `document`, which needs native code that is not built here";
    let diagnostic = placed(project, message, |program| {
        scope::uses(program, "document")
            .first()
            .map(|found| found.span.start)
    });
    diagnostic.hint("if `document` is a variable of yours, give it another name")
}

fn failed(diagnostic: Diagnostic) -> Error {
    Error::Program(Failure::one(Stage::Translate, diagnostic))
}

/// The diagnostic `message`, in the first file in which `look` finds a place for it.
fn placed(
    project: &Project,
    message: &str,
    look: impl Fn(&tishlang_ast::Program) -> Option<(usize, usize)>,
) -> Diagnostic {
    let found = project
        .modules()
        .into_iter()
        .find_map(|module| Some((module, look(&module.program)?)));
    let diagnostic = Diagnostic::new(message);
    match found {
        Some((module, start)) => diagnostic.in_file(module.name.as_str()).at(start, &module.text),
        None => diagnostic,
    }
}

/// Calls that leave out arguments which typed parameters need. The compiler prints these and only
/// counts them in its error, so they are asked for again; `None` when that isn't what was wrong.
fn missing_arguments(project: &Project) -> Option<Vec<Diagnostic>> {
    let modules = resolve_project(&project.entry, Some(&project.root)).ok()?;
    let merged = merge_modules(modules).ok()?;
    let calls = check_call_arity(&merged.program);
    let diagnostics = calls.iter().take(DIAGNOSTICS_MAX).map(|call| {
        let (fact, _) = call.message.split_once(';').unwrap_or((&call.message, ""));
        let name = fact.split('\'').nth(1).map_or("", |name| scope::as_written(name));
        let message = fact.replacen(&format!("'{name}'"), &format!("`{name}`"), 1);
        let diagnostic = placed(project, &message, |program| {
            let mut uses = scope::uses(program, name)
                .into_iter()
                .map(|found| found.span.start);
            uses.find(|start| *start == call.span.start)
        });
        diagnostic.hint("a parameter with a type needs a value; leave the type away to make it optional")
    });
    Some(diagnostics.collect()).filter(|found: &Vec<_>| !found.is_empty())
}

/// The compiler merges all files before it complains, so its place names a line but no file.
fn explain(project: &Project, error: &CompileError) -> Diagnostic {
    let root = format!("{}/", project.root.display());
    let message = error.message.replace(&root, "");
    let Some(span) = error.span else {
        return Diagnostic::new(message);
    };
    let modules = project.modules();
    let mut with_it = modules.iter().filter(|module| {
        module.program.statements.iter().any(|statement| {
            let whole = statement.span();
            whole.start <= span.start && span.end <= whole.end
        })
    });
    match (with_it.next(), with_it.next()) {
        (Some(module), None) => Diagnostic::new(message)
            .in_file(module.name.as_str())
            .at(span.start, &module.text),
        _ => Diagnostic::new(format!(
            "{message} (line {}, column {})",
            span.start.0, span.start.1
        )),
    }
}
