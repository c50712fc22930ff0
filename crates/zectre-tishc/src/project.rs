//! A project as it is on disk: checked, read and parsed before the Tish compiler touches it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tishlang_ast::{ExportDeclaration, Program, Span, Statement};

use crate::diagnostic::{Diagnostic, Failure, Stage};
use crate::error::Error;
use crate::import::{self, Target};
use crate::syntax;

/// Most files one program may consist of.
const FILES_MAX: usize = 2_000;
/// Largest source file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Largest `package.json`.
const PACKAGE_BYTES_MAX: u64 = 256 * 1024;

/// One source file.
pub(crate) struct Module {
    /// Relative to the project, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) program: Program,
    /// What each import leads to, by what is written in it; the runtime's modules are left out.
    pub(crate) imports: HashMap<String, PathBuf>,
}

/// A program's files, all inside of one directory.
pub(crate) struct Project {
    /// Canonical.
    pub(crate) root: PathBuf,
    /// Canonical, inside of `root`.
    pub(crate) entry: PathBuf,
    /// By canonical path.
    pub(crate) modules: HashMap<PathBuf, Module>,
}

impl Project {
    /// Reads the program that starts at `entry` (relative to `dir`), and refuses it where it asks
    /// for something that a build doesn't give.
    pub(crate) fn open(dir: &Path, entry: &Path) -> Result<Self, Error> {
        let root = dir
            .canonicalize()
            .ok()
            .filter(|root| root.is_dir())
            .ok_or_else(|| Error::Usage(format!("--project: there is no directory `{}`", dir.display())))?;
        let overrides = package_json(&root)?;
        let entry = find_entry(&root, entry)?;
        let mut reader = Reader {
            root: &root,
            overrides: &overrides,
            modules: HashMap::new(),
            path: vec![],
        };
        reader
            .read(&entry)
            .map_err(|diagnostic| check_failed(*diagnostic))?;
        let modules = reader.modules;
        Ok(Self { root, entry, modules })
    }

    /// The modules, the entry first, then by name: so that diagnostics come in a steady order.
    pub(crate) fn modules(&self) -> Vec<&Module> {
        let mut all: Vec<(&PathBuf, &Module)> = self.modules.iter().collect();
        all.sort_by_key(|(path, module)| (**path != self.entry, module.name.as_str()));
        all.into_iter().map(|(_, module)| module).collect()
    }
}

fn check_failed(diagnostic: Diagnostic) -> Error {
    Error::Program(Failure::one(Stage::Check, diagnostic))
}

fn find_entry(root: &Path, entry: &Path) -> Result<PathBuf, Error> {
    let shown = entry
        .strip_prefix(".")
        .unwrap_or(entry)
        .to_string_lossy()
        .into_owned();
    let refuse = |message: &str, hint: &str| {
        Err(check_failed(
            Diagnostic::new(message).in_file(shown.clone()).hint(hint),
        ))
    };
    if entry.is_absolute() {
        return refuse(
            "the entry must be a path inside of the project",
            "write it as `src/main.tish`",
        );
    }
    match root.join(entry).canonicalize() {
        Ok(path) if !path.starts_with(root) => refuse(
            "the entry lies outside of the project",
            "put the program's files into the project",
        ),
        Ok(path) if path.is_file() => Ok(path),
        _ => refuse(
            "this file, where the program starts, does not exist",
            "create it, or name another with `build.source` in zectre.yaml or `tish.source` in package.json",
        ),
    }
}

/// Checks `package.json` and gives its `tish.packageOverrides`: imports that are to lead elsewhere.
fn package_json(root: &Path) -> Result<HashMap<String, String>, Error> {
    let path = root.join("package.json");
    if path.symlink_metadata().is_err() {
        return Ok(HashMap::new());
    }
    let refuse = |message: String, hint: &str| {
        Err(check_failed(
            Diagnostic::new(message).in_file("package.json").hint(hint),
        ))
    };
    if !path.canonicalize().is_ok_and(|target| target.starts_with(root)) {
        return refuse(
            "it is a symbolic link out of the project".into(),
            "put the file itself there",
        );
    }
    let text = match read_bounded(&path, PACKAGE_BYTES_MAX) {
        Ok(text) => text,
        Err(message) => return refuse(message, "npm's own limits are lower"),
    };
    let package: Value = match serde_json::from_str(&text) {
        Ok(package) => package,
        Err(error) => {
            let message = format!("not valid JSON: {error}");
            let diagnostic = Diagnostic::new(message).in_file("package.json");
            return Err(check_failed(diagnostic.at((error.line(), error.column()), &text)));
        }
    };
    let tish = &package["tish"];
    for key in ["rustDependencies", "crate", "schemes"] {
        let empty = tish[key].as_object().is_some_and(serde_json::Map::is_empty);
        if tish[key].is_null() || empty {
            continue;
        }
        let needle = format!("\"{key}\"");
        let line = text
            .lines()
            .position(|line| line.contains(&needle))
            .map_or(0, |index| index + 1);
        let message = format!("`tish.{key}` runs native code during the build, which is not allowed here");
        let hint = "remove it, or deploy the program as a container image";
        let diagnostic = Diagnostic::new(message)
            .in_file("package.json")
            .at((line, 1), &text)
            .hint(hint);
        return Err(check_failed(diagnostic));
    }
    let overrides = tish["packageOverrides"].as_object().into_iter().flatten();
    Ok(overrides
        .filter_map(|(from, to)| Some((from.clone(), to.as_str()?.to_owned())))
        .collect())
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > bytes_max {
        return Err(format!("it has {size} bytes; at most {bytes_max} are read"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// Follows imports, depth first, as the compiler will.
struct Reader<'a> {
    root: &'a Path,
    overrides: &'a HashMap<String, String>,
    modules: HashMap<PathBuf, Module>,
    /// The files that are being read, each imported by the one before: one that comes up again is a cycle.
    path: Vec<PathBuf>,
}

impl Reader<'_> {
    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(self.root).unwrap_or(path);
        below
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect::<Vec<_>>()
            .join("/")
    }

    fn read(&mut self, path: &Path) -> Result<(), Box<Diagnostic>> {
        let name = self.name(path);
        let whole = |message: String| Box::new(Diagnostic::new(message).in_file(name.clone()));
        if self.modules.len() + self.path.len() >= FILES_MAX {
            return Err(whole(format!("the program has more than {FILES_MAX} files")));
        }
        let text = read_bounded(path, FILE_BYTES_MAX).map_err(whole)?;
        let program = syntax::parse(&name, &text)?;
        let from = path.parent().unwrap_or(self.root).to_owned();
        let mut imports = HashMap::new();
        self.path.push(path.to_owned());
        for (spec, span) in imported(&program) {
            let here = |message: String| {
                Diagnostic::new(message)
                    .in_file(name.clone())
                    .at(span.start, &text)
            };
            let lead = self.overrides.get(spec).map_or(spec, String::as_str);
            let target = import::resolve(lead, &from, self.root)
                .map_err(|refusal| Box::new(here(refusal.message).hint(refusal.hint)))?;
            let Target::File(target) = target else { continue };
            if let Some(start) = self.path.iter().position(|open| *open == target) {
                let around: Vec<String> = self.path[start..]
                    .iter()
                    .chain([&target])
                    .map(|path| self.name(path))
                    .collect();
                let message = format!("the imports go in a circle: {}", around.join(" → "));
                let hint = "move what both need into a third file";
                return Err(Box::new(here(message).hint(hint)));
            }
            if !self.modules.contains_key(&target) {
                self.read(&target)?;
            }
            imports.insert(spec.to_owned(), target);
        }
        self.path.pop();
        self.modules.insert(
            path.to_owned(),
            Module {
                name,
                text,
                program,
                imports,
            },
        );
        Ok(())
    }
}

/// What a file imports or passes on, and where it says so.
fn imported(program: &Program) -> impl Iterator<Item = (&str, Span)> {
    program.statements.iter().filter_map(|statement| match statement {
        Statement::Import { from, span, .. } => Some((from.as_ref(), *span)),
        Statement::Export { declaration, span } => match declaration.as_ref() {
            ExportDeclaration::ReExport { from: Some(from), .. } => Some((from.as_ref(), *span)),
            _ => None,
        },
        _ => None,
    })
}
