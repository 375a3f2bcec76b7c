//! From the parsed text to typed parts.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};
use farshore_domain::nearest::nearest;

use super::{Function, LIMITS, Node, Order, Search, Source, Sum, Type};

type Checked = Result<(Node, Type), String>;

const NAMES: [&str; 8] = ["value", "text", "time", "measurement", "field", "tags", "labels", "twin"];
const FUNCTIONS: [&str; 9] = ["abs", "round", "floor", "ceil", "sqrt", "number", "min", "max", "has"];

pub(super) fn check(expr: &IdedExpr) -> Checked {
    Checker { parts: 0, depth: 0 }.node(expr)
}

struct Checker {
    parts: usize,
    depth: usize,
}

impl Checker {
    fn node(&mut self, expr: &IdedExpr) -> Checked {
        self.parts += 1;
        if self.parts > LIMITS.parts {
            return Err(LIMITS.too_many_parts());
        }
        if self.depth > LIMITS.depth {
            return Err(LIMITS.too_deep());
        }
        self.depth += 1;
        let checked = self.inner(&expr.expr);
        self.depth -= 1;
        checked
    }

    fn inner(&mut self, expr: &Expr) -> Checked {
        match expr {
            Expr::Literal(value) => literal(value),
            Expr::Ident(name) => name_of(name),
            Expr::Select(select) => {
                let (source, kind) = source(expr)?;
                let node = Node::Of(source);
                Ok(if select.test { (Node::Known(Box::new(node)), Type::Bool) } else { (node, kind) })
            }
            Expr::Call(call) => self.call(call, expr),
            Expr::Comprehension(_) => {
                Err("all, exists, exists_one, map and filter can't be used: an expression has no loops"
                    .to_owned())
            }
            Expr::List(_) => {
                Err("a list can only stand after `in`: `tags.room in [\"a\", \"b\"]`".to_owned())
            }
            Expr::Map(_) | Expr::Struct(_) => {
                Err("maps and messages can't be used in an expression".to_owned())
            }
            Expr::Unspecified => Err("this is no CEL expression".to_owned()),
        }
    }

    fn of(&mut self, expr: &IdedExpr, wanted: Type, place: &str) -> Result<Box<Node>, String> {
        let (node, kind) = self.node(expr)?;
        if kind != wanted && kind != Type::Any && wanted != Type::Any {
            return Err(format!("{place} needs a {wanted}, this is a {kind}"));
        }
        Ok(Box::new(node))
    }

    fn call(&mut self, call: &CallExpr, whole: &Expr) -> Checked {
        let name = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (None, [a, b, c]) if name == operators::CONDITIONAL => {
                let chooser = self.of(a, Type::Bool, "what stands before '?'")?;
                let (yes, kind) = self.node(b)?;
                let no = self.of(c, kind, "what stands after ':'")?;
                Ok((Node::Choose(chooser, Box::new(yes), no), kind))
            }
            (None, [a]) if name == operators::LOGICAL_NOT => {
                Ok((Node::Not(self.of(a, Type::Bool, "'!'")?), Type::Bool))
            }
            (None, [a]) if name == operators::NEGATE => {
                Ok((Node::Negate(self.of(a, Type::Number, "'-'")?), Type::Number))
            }
            (None, [a, b]) if name == operators::LOGICAL_AND => {
                let left = self.of(a, Type::Bool, "'&&'")?;
                Ok((Node::And(left, self.of(b, Type::Bool, "'&&'")?), Type::Bool))
            }
            (None, [a, b]) if name == operators::LOGICAL_OR => {
                let left = self.of(a, Type::Bool, "'||'")?;
                Ok((Node::Or(left, self.of(b, Type::Bool, "'||'")?), Type::Bool))
            }
            (None, [a, b]) if name == operators::IN => self.member(a, b),
            (None, [_, _]) if name == operators::INDEX => {
                let (source, kind) = source(whole)?;
                Ok((Node::Of(source), kind))
            }
            (None, [a, b]) => {
                if let Some(order) = Order::of(name) {
                    return self.compare(order, a, b);
                }
                let Some(sum) = Sum::of(name) else { return Err(unknown_function(name)) };
                let left = self.of(a, Type::Number, "this calculation")?;
                Ok((Node::Calculate(sum, left, self.of(b, Type::Number, "this calculation")?), Type::Number))
            }
            (None, [a]) => {
                let (function, takes) = match name {
                    "abs" => (Function::Absolute, Type::Number),
                    "round" => (Function::Round, Type::Number),
                    "floor" => (Function::Floor, Type::Number),
                    "ceil" => (Function::Ceiling, Type::Number),
                    "sqrt" => (Function::Root, Type::Number),
                    "number" => (Function::Number, Type::Text),
                    _ => return Err(unknown_function(name)),
                };
                Ok((Node::Call(function, self.of(a, takes, name)?), Type::Number))
            }
            (Some(target), [argument]) if Search::of(name).is_some() => {
                let Some(search) = Search::of(name) else { return Err(unknown_function(name)) };
                let text = self.of(target, Type::Text, name)?;
                Ok((Node::Search(search, text, self.of(argument, Type::Text, name)?), Type::Bool))
            }
            (Some(_), _) => {
                Err(format!("unknown method {name:?}; texts have startsWith, endsWith and contains"))
            }
            (None, _) => Err(unknown_function(name)),
        }
    }

    fn compare(&mut self, order: Order, a: &IdedExpr, b: &IdedExpr) -> Checked {
        let (left, kind) = self.node(a)?;
        if kind == Type::Bool && !matches!(order, Order::Equal | Order::NotEqual) {
            return Err("true and false have no order: compare them with == or !=".to_owned());
        }
        let right = self.of(b, kind, "this comparison")?;
        Ok((Node::Compare(order, Box::new(left), right), Type::Bool))
    }

    fn member(&mut self, a: &IdedExpr, b: &IdedExpr) -> Checked {
        let (of, kind) = self.node(a)?;
        let Expr::List(list) = &b.expr else {
            return Err("`in` needs a list written out: `tags.room in [\"a\", \"b\"]`".to_owned());
        };
        if list.elements.is_empty() {
            return Err("the list after `in` is empty, so this is never true".to_owned());
        }
        let mut values = Vec::new();
        for element in &list.elements {
            values.push(*self.of(element, kind, "this list")?);
        }
        Ok((Node::In(Box::new(of), values), Type::Bool))
    }
}

fn name_of(name: &str) -> Checked {
    Ok(match name {
        "value" => (Node::Value, Type::Number),
        "text" => (Node::ValueText, Type::Text),
        "time" => (Node::Time, Type::Number),
        "measurement" => (Node::Of(Source::Measurement), Type::Text),
        "field" => (Node::Of(Source::Field), Type::Text),
        "tags" | "labels" | "twin" => {
            let part = if name == "twin" { "PATH" } else { "NAME" };
            return Err(format!("{name} alone is no value: write {name}.{part}"));
        }
        _ => {
            let near = nearest(name, NAMES);
            let hint = near.map_or_else(
                || format!("known are {}", NAMES.join(", ")),
                |near| format!("did you mean {near:?}?"),
            );
            return Err(format!("unknown name {name:?}; {hint}"));
        }
    })
}

/// `tags.NAME`, `tags["NAME"]`, `labels.…`, `twin.a.b`.
fn source(expr: &Expr) -> Result<(Source, Type), String> {
    let mut path = Vec::new();
    let mut rest = expr;
    let root = loop {
        match rest {
            Expr::Ident(name) => break name.as_str(),
            Expr::Select(select) => {
                path.push(select.field.as_str());
                rest = &select.operand.expr;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, index] = call.args.as_slice() else {
                    return Err("an index is one text".to_owned());
                };
                let Expr::Literal(LiteralValue::String(name)) = &index.expr else {
                    return Err("an index is a text written out: tags[\"room\"]".to_owned());
                };
                path.push(name.inner());
                rest = &operand.expr;
            }
            _ => {
                return Err(
                    "only tags, labels and twin have parts: tags.NAME, labels.NAME, twin.PATH".to_owned()
                );
            }
        }
    };
    path.reverse();
    match (root, path.as_slice()) {
        ("tags", [name]) => Ok((Source::Tag((*name).to_owned()), Type::Text)),
        ("labels", [name]) => Ok((Source::Label((*name).to_owned()), Type::Text)),
        ("twin", [_, ..]) => Ok((Source::Twin(path.join(".")), Type::Any)),
        _ => {
            let hint = nearest(root, ["tags", "labels", "twin"]);
            let hint = hint.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            Err(format!(
                "{root}.{} is no name; there are tags.NAME, labels.NAME and twin.PATH{hint}",
                path.join(".")
            ))
        }
    }
}

fn unknown_function(name: &str) -> String {
    match nearest(name, FUNCTIONS) {
        Some(near) if near != name => format!("unknown function {name:?}; did you mean {near:?}?"),
        Some(_) => format!("{name} takes another number of arguments"),
        None => format!("unknown function {name:?}; known are {}", FUNCTIONS.join(", ")),
    }
}

fn literal(value: &LiteralValue) -> Checked {
    #[expect(
        clippy::cast_precision_loss,
        reason = "numbers are one type; beyond 2^53 the nearest one is meant"
    )]
    Ok(match value {
        LiteralValue::Boolean(value) => (Node::Bool(*value.inner()), Type::Bool),
        LiteralValue::Int(value) => (Node::Number(*value.inner() as f64), Type::Number),
        LiteralValue::UInt(value) => (Node::Number(*value.inner() as f64), Type::Number),
        LiteralValue::Double(value) if value.inner().is_finite() => {
            (Node::Number(*value.inner()), Type::Number)
        }
        LiteralValue::Double(_) => return Err("this number is too large".to_owned()),
        LiteralValue::String(value) => (Node::Text(value.inner().into()), Type::Text),
        LiteralValue::Bytes(_) => return Err("bytes can't be used in an expression".to_owned()),
        LiteralValue::Null => {
            return Err(
                "null can't be used in an expression; ask has(tags.NAME) for what may be missing".to_owned()
            );
        }
    })
}
