//! Where a program uses a name, and whether that name is declared there.
//!
//! Generated Rust loses the places of the source, so an undefined name reaches us as a bare word from
//! `rustc`. This walk finds it again: it follows Tish's scopes over the syntax tree. Declarations
//! count for their whole block (functions are used before they are written), so what it calls unbound is
//! unbound; what it calls bound may still be used too early.

use std::sync::Arc;

use tishlang_ast::{
    ArrayElement, ArrowBody, CallArg, DestructElement, DestructPattern, ExportDeclaration, Expr, FunParam,
    ImportSpecifier, JsxAttrValue, JsxChild, JsxProp, MemberProp, ObjectProp, Program, Span, Statement,
    TypedParam,
};

/// One use of the wanted name.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) span: Span,
    /// Whether something with this name is declared around.
    pub(crate) bound: bool,
    /// Whether it is written to, not read.
    pub(crate) written: bool,
    /// What else could have been meant: the names declared around an unbound use.
    pub(crate) visible: Vec<Arc<str>>,
}

/// Every use of `wanted` in a file, in order.
pub(crate) fn uses(program: &Program, wanted: &str) -> Vec<Use> {
    let mut walk = Walk {
        wanted,
        scopes: vec![],
        uses: vec![],
    };
    walk.block(&program.statements);
    walk.uses
}

/// A name of generated code as its author wrote it: the compiler marks names that are private to a file
/// (`count__m3`), and those that are no names in Rust.
pub(crate) fn as_written(generated: &str) -> &str {
    let name = ["r#", "__tish_kw_", "__tish_id_"]
        .iter()
        .find_map(|mark| generated.strip_prefix(mark))
        .unwrap_or(generated);
    match name.rsplit_once("__m") {
        Some((written, file)) if !file.is_empty() && file.bytes().all(|b| b.is_ascii_digit()) => written,
        _ => name,
    }
}

struct Walk<'a> {
    wanted: &'a str,
    scopes: Vec<Vec<Arc<str>>>,
    uses: Vec<Use>,
}

impl Walk<'_> {
    fn name(&mut self, name: &Arc<str>, span: Span, written: bool) {
        if name.as_ref() != self.wanted {
            return;
        }
        let bound = self.scopes.iter().flatten().any(|declared| declared == name);
        let visible = if bound {
            vec![]
        } else {
            self.scopes.iter().flatten().cloned().collect()
        };
        self.uses.push(Use {
            span,
            bound,
            written,
            visible,
        });
    }

    fn scoped(&mut self, names: Vec<Arc<str>>, inside: impl FnOnce(&mut Self)) {
        self.scopes.push(names);
        inside(self);
        self.scopes.pop();
    }

    fn block(&mut self, statements: &[Statement]) {
        let mut names = vec![];
        for statement in statements {
            declared(statement, &mut names);
        }
        self.scoped(names, |walk| walk.statements(statements));
    }

    fn statements(&mut self, statements: &[Statement]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn function(&mut self, params: &[FunParam], rest: Option<&TypedParam>, body: impl FnOnce(&mut Self)) {
        let mut names: Vec<Arc<str>> = params.iter().flat_map(FunParam::bound_names).collect();
        names.extend(rest.map(|rest| Arc::clone(&rest.name)));
        self.scoped(names, |walk| {
            for param in params {
                let (FunParam::Simple(TypedParam { default, .. }) | FunParam::Destructure { default, .. }) =
                    param;
                walk.maybe(default.as_ref());
            }
            body(walk);
        });
    }

    fn maybe(&mut self, expr: Option<&Expr>) {
        if let Some(expr) = expr {
            self.expr(expr);
        }
    }

    fn all<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>) {
        exprs.into_iter().for_each(|expr| self.expr(expr));
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Block { statements, .. } => self.block(statements),
            Statement::Multi { statements, .. } => self.statements(statements),
            Statement::VarDecl { init: value, .. } | Statement::Return { value, .. } => {
                self.maybe(value.as_ref());
            }
            Statement::VarDeclDestructure { init: expr, .. }
            | Statement::ExprStmt { expr, .. }
            | Statement::Throw { value: expr, .. } => self.expr(expr),
            Statement::If {
                cond,
                then_branch,
                else_branch,
                ..
            } => {
                self.expr(cond);
                self.block(std::slice::from_ref(then_branch));
                if let Some(branch) = else_branch {
                    self.block(std::slice::from_ref(branch));
                }
            }
            Statement::While { cond, body, .. } | Statement::DoWhile { body, cond, .. } => {
                self.expr(cond);
                self.block(std::slice::from_ref(body));
            }
            Statement::FunDecl {
                params,
                rest_param,
                body,
                ..
            } => {
                self.function(params, rest_param.as_ref(), |walk| {
                    walk.block(std::slice::from_ref(body));
                });
            }
            Statement::Export { declaration, .. } => match declaration.as_ref() {
                ExportDeclaration::Named(inner) => self.statement(inner),
                ExportDeclaration::Default(expr) => self.expr(expr),
                ExportDeclaration::ReExport {
                    specifiers,
                    from: None,
                    ..
                } => self.exported(specifiers),
                ExportDeclaration::ReExport { .. } => {}
            },
            Statement::For { .. } | Statement::ForOf { .. } | Statement::ForIn { .. } => {
                self.for_loop(statement);
            }
            Statement::Switch { .. } | Statement::Try { .. } => self.branching(statement),
            Statement::Break { .. }
            | Statement::Continue { .. }
            | Statement::Import { .. }
            | Statement::TypeAlias { .. }
            | Statement::DeclareVar { .. }
            | Statement::DeclareFun { .. } => {}
        }
    }

    /// `export { a, b as c }`: names of this file.
    fn exported(&mut self, specifiers: &[ImportSpecifier]) {
        for specifier in specifiers {
            if let ImportSpecifier::Named { name, name_span, .. } = specifier {
                self.name(name, *name_span, false);
            }
        }
    }

    fn for_loop(&mut self, statement: &Statement) {
        match statement {
            Statement::For {
                init,
                cond,
                update,
                body,
                ..
            } => {
                let mut names = vec![];
                if let Some(init) = init {
                    declared(init, &mut names);
                }
                self.scoped(names, |walk| {
                    if let Some(init) = init {
                        walk.statement(init);
                    }
                    walk.all(cond.iter().chain(update));
                    walk.block(std::slice::from_ref(body));
                });
            }
            Statement::ForOf {
                name,
                iterable: over,
                body,
                ..
            }
            | Statement::ForIn {
                name,
                object: over,
                body,
                ..
            } => {
                self.expr(over);
                self.scoped(vec![Arc::clone(name)], |walk| {
                    walk.block(std::slice::from_ref(body));
                });
            }
            _ => {}
        }
    }

    fn branching(&mut self, statement: &Statement) {
        match statement {
            Statement::Switch {
                expr,
                cases,
                default_body,
                ..
            } => {
                self.expr(expr);
                for (value, body) in cases {
                    self.maybe(value.as_ref());
                    self.block(body);
                }
                self.block(default_body.as_deref().unwrap_or_default());
            }
            Statement::Try {
                body,
                catch_param,
                catch_body,
                finally_body,
                ..
            } => {
                self.block(std::slice::from_ref(body));
                self.scoped(catch_param.iter().cloned().collect(), |walk| {
                    if let Some(body) = catch_body {
                        walk.block(std::slice::from_ref(body));
                    }
                });
                if let Some(body) = finally_body {
                    self.block(std::slice::from_ref(body));
                }
            }
            _ => {}
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Literal { .. } | Expr::NativeModuleLoad { .. } => {}
            Expr::Ident { name, span } => self.name(name, *span, false),
            Expr::Assign { name, value, span }
            | Expr::CompoundAssign {
                name, value, span, ..
            }
            | Expr::LogicalAssign {
                name, value, span, ..
            } => {
                self.name(name, *span, true);
                self.expr(value);
            }
            Expr::PostfixInc { name, span }
            | Expr::PostfixDec { name, span }
            | Expr::PrefixInc { name, span }
            | Expr::PrefixDec { name, span } => self.name(name, *span, true),
            Expr::Binary { left, right, .. } | Expr::NullishCoalesce { left, right, .. } => {
                self.all([left.as_ref(), right.as_ref()]);
            }
            Expr::Unary { operand, .. } | Expr::TypeOf { operand, .. } | Expr::Await { operand, .. } => {
                self.expr(operand);
            }
            Expr::Delete { target, .. } => self.expr(target),
            Expr::Conditional {
                cond,
                then_branch,
                else_branch,
                ..
            } => {
                self.all([cond.as_ref(), then_branch.as_ref(), else_branch.as_ref()]);
            }
            Expr::ArrowFunction { params, body, .. } => self.function(params, None, |walk| match body {
                ArrowBody::Expr(expr) => walk.expr(expr),
                ArrowBody::Block(body) => walk.block(std::slice::from_ref(body)),
            }),
            Expr::TemplateLiteral { exprs, .. } => self.all(exprs),
            Expr::Call { callee, args, .. } | Expr::New { callee, args, .. } => {
                self.expr(callee);
                self.all(args.iter().map(|(CallArg::Expr(arg) | CallArg::Spread(arg))| arg));
            }
            Expr::Array { elements, .. } => {
                self.all(
                    elements
                        .iter()
                        .map(|(ArrayElement::Expr(item) | ArrayElement::Spread(item))| item),
                );
            }
            Expr::Object { props, .. } => self.all(
                props
                    .iter()
                    .map(|(ObjectProp::KeyValue(_, value, _) | ObjectProp::Spread(value))| value),
            ),
            Expr::JsxElement { .. } | Expr::JsxFragment { .. } => self.jsx(expr),
            Expr::Member { .. }
            | Expr::Index { .. }
            | Expr::MemberAssign { .. }
            | Expr::IndexAssign { .. } => {
                self.member(expr);
            }
        }
    }

    fn member(&mut self, expr: &Expr) {
        match expr {
            Expr::Member { object, prop, .. } => {
                self.expr(object);
                if let MemberProp::Expr(prop) = prop {
                    self.expr(prop);
                }
            }
            Expr::Index { object, index, .. } => self.all([object.as_ref(), index.as_ref()]),
            Expr::MemberAssign { object, value, .. } => self.all([object.as_ref(), value.as_ref()]),
            Expr::IndexAssign {
                object, index, value, ..
            } => {
                self.all([object.as_ref(), index.as_ref(), value.as_ref()]);
            }
            _ => {}
        }
    }

    fn jsx(&mut self, expr: &Expr) {
        match expr {
            Expr::JsxElement {
                tag,
                tag_span,
                props,
                children,
                ..
            } => {
                self.name(tag, *tag_span, false);
                self.jsx_props(props);
                self.jsx_children(children);
            }
            Expr::JsxFragment { children, .. } => self.jsx_children(children),
            _ => {}
        }
    }

    fn jsx_props(&mut self, props: &[JsxProp]) {
        for prop in props {
            if let JsxProp::Spread(value)
            | JsxProp::Attr {
                value: JsxAttrValue::Expr(value),
                ..
            } = prop
            {
                self.expr(value);
            }
        }
    }

    fn jsx_children(&mut self, children: &[JsxChild]) {
        for child in children {
            if let JsxChild::Expr(expr) = child {
                self.expr(expr);
            }
        }
    }
}

/// The names that a statement adds to its block.
pub(crate) fn declared(statement: &Statement, names: &mut Vec<Arc<str>>) {
    match statement {
        Statement::VarDecl { name, .. }
        | Statement::FunDecl { name, .. }
        | Statement::DeclareVar { name, .. }
        | Statement::DeclareFun { name, .. } => names.push(Arc::clone(name)),
        Statement::VarDeclDestructure { pattern, .. } => pattern_names(pattern, names),
        Statement::Multi { statements, .. } => {
            for statement in statements {
                declared(statement, names);
            }
        }
        Statement::Export { declaration, .. } => {
            if let ExportDeclaration::Named(inner) = declaration.as_ref() {
                declared(inner, names);
            }
        }
        Statement::Import { specifiers, .. } => names.extend(specifiers.iter().map(|specifier| {
            let (ImportSpecifier::Named { name, .. }
            | ImportSpecifier::Namespace { name, .. }
            | ImportSpecifier::Default { name, .. }) = specifier;
            match specifier {
                ImportSpecifier::Named {
                    alias: Some(alias), ..
                } => Arc::clone(alias),
                _ => Arc::clone(name),
            }
        })),
        _ => {}
    }
}

fn pattern_names(pattern: &DestructPattern, names: &mut Vec<Arc<str>>) {
    let mut element = |element: &DestructElement| match element {
        DestructElement::Ident(name, _) | DestructElement::Rest(name, _) => names.push(Arc::clone(name)),
        DestructElement::Pattern(inner) => pattern_names(inner, names),
    };
    match pattern {
        DestructPattern::Array(elements) => elements.iter().flatten().for_each(&mut element),
        DestructPattern::Object(props) => props.iter().for_each(|prop| element(&prop.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<((usize, usize), bool)> {
        let program = tishlang_parser::parse(source).unwrap();
        uses(&program, "x")
            .iter()
            .map(|found| (found.span.start, found.bound))
            .collect()
    }

    #[test]
    fn marks_of_generated_names_are_taken_off() {
        for (generated, written) in [
            ("count", "count"),
            ("count__m12", "count"),
            ("r#type", "type"),
            ("__tish_kw_self", "self"),
            ("a__m", "a__m"),
        ] {
            assert_eq!(as_written(generated), written);
        }
    }

    #[test]
    fn scopes_end_where_their_block_ends() {
        assert_eq!(found("let y = x\n"), [((1, 9), false)]);
        assert_eq!(found("let x = 1\nconsole.log(x)\n"), [((2, 13), true)]);
        assert_eq!(
            found("fn f(x) { return x }\nf(x)\n"),
            [((1, 18), true), ((2, 3), false)]
        );
        assert_eq!(
            found("if (true) { let x = 1 }\nlet y = { x: 2, z: x }\n"),
            [((2, 20), false)]
        );
        assert_eq!(
            found("let f = (a, x) => x\n").first().map(|use_| use_.1),
            Some(true)
        );
        assert_eq!(
            found("for (let x of []) { x }\nx = 1\n"),
            [((1, 21), true), ((2, 1), false)]
        );
        assert_eq!(
            found("try { x() } catch (x) { x }\n"),
            [((1, 7), false), ((1, 25), true)]
        );
        assert_eq!(
            found("let { a, b: x } = {}\nlet t = `${x} is x`\n")
                .first()
                .map(|u| u.1),
            Some(true)
        );
        assert_eq!(found("import { y as x } from './y'\nx()\n"), [((2, 1), true)]);
        assert!(found("// x\nlet s = \"x\"\nlet y = s.x\n").is_empty());
    }
}
