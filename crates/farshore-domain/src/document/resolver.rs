//! The expression of the strategy `custom`: CEL over `base`, `edge` and `cloud`.
//!
//! The grammar is the library's; evaluation is here, over JSON. There are no loops (`map`, `filter`, `all`, … are refused), so what an expression costs is
//! bounded by the length of its text times the size of the document. An expression that can't be evaluated is an error, and the conflict is `manual` then.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};
use serde_json::{Map, Number, Value};

use super::DocumentError;
use crate::expression::Limits;

/// Most bytes of an expression.
pub const MAX_TEXT: usize = 4_096;
const LIMITS: Limits = Limits { what: "a resolver", bytes: MAX_TEXT, parts: 512, depth: 32, choices: 32 };
/// Most bytes of what is worked out on the way, for all places of a document together.
pub const MAX_WORK: usize = 4 * 1024 * 1024;

/// The names that an expression may use.
pub const NAMES: [&str; 6] = ["base", "edge", "cloud", "edgeTime", "cloudTime", "path"];

/// What the names stand for.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'v> {
    pub base: Option<&'v Value>,
    pub edge: Option<&'v Value>,
    pub cloud: Option<&'v Value>,
    pub edge_ms: Option<i64>,
    pub cloud_ms: Option<i64>,
    pub path: &'v str,
}

/// A checked expression.
#[derive(Clone, Debug)]
pub struct Resolver {
    expression: IdedExpr,
}

type Evaluated = Result<Value, DocumentError>;

fn fail<T>(what: impl Into<String>) -> Result<T, DocumentError> {
    Err(DocumentError::new(what))
}

impl Resolver {
    /// # Errors
    /// When it does not compile, uses an unknown name, or has a loop; with line and column where the parser gives them.
    pub fn compile(text: &str) -> Result<Self, DocumentError> {
        let parsed = LIMITS.parse(text).map_err(DocumentError::new)?;
        check(&parsed, 0, &mut 0)?;
        Ok(Self { expression: parsed })
    }

    /// The value that the conflict ends with; `None`: there is none. Takes what it works out from `left`, which begins with [`MAX_WORK`].
    ///
    /// # Errors
    /// When it can't be evaluated.
    pub fn resolve(&self, inputs: &Inputs<'_>, left: &mut usize) -> Result<Option<Value>, DocumentError> {
        let mut work = Work { inputs, left };
        let value = work.eval(&self.expression)?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }
}

fn check(expr: &IdedExpr, depth: usize, parts: &mut usize) -> Result<(), DocumentError> {
    *parts += 1;
    if *parts > LIMITS.parts {
        return fail(LIMITS.too_many_parts());
    }
    if depth > LIMITS.depth {
        return fail(LIMITS.too_deep());
    }
    let mut inner = |expr: &IdedExpr| check(expr, depth + 1, parts);
    match &expr.expr {
        Expr::Literal(LiteralValue::Bytes(_)) => fail("bytes can't be used in a resolver"),
        Expr::Literal(_) => Ok(()),
        Expr::Ident(name) if NAMES.contains(&name.as_str()) => Ok(()),
        Expr::Ident(name) => fail(format!("unknown name {name:?}; known are {}", NAMES.join(", "))),
        Expr::Select(select) => inner(&select.operand),
        Expr::List(list) => list.elements.iter().try_for_each(inner),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) if !entry.optional => {
                inner(&entry.key)?;
                inner(&entry.value)
            }
            _ => fail("a resolver can't use optional or message entries"),
        }),
        Expr::Call(call) => {
            let (name, count) = (call.func_name.as_str(), call.args.len());
            let known = match call.target {
                Some(_) => matches!((name, count), ("startsWith" | "endsWith" | "contains", 1) | ("size", 0)),
                None => matches!(
                    (name, count),
                    (operators::CONDITIONAL, 3)
                        | (
                            operators::LOGICAL_NOT | operators::NEGATE | "size" | "string" | "double" | "int",
                            1
                        )
                        | (
                            operators::LOGICAL_AND
                                | operators::LOGICAL_OR
                                | operators::EQUALS
                                | operators::NOT_EQUALS
                                | operators::LESS
                                | operators::LESS_EQUALS
                                | operators::GREATER
                                | operators::GREATER_EQUALS
                                | operators::ADD
                                | operators::SUBSTRACT
                                | operators::MULTIPLY
                                | operators::DIVIDE
                                | operators::MODULO
                                | operators::INDEX
                                | operators::IN
                                | "min"
                                | "max",
                            2
                        )
                ),
            };
            if !known {
                return fail(format!(
                    "unknown function {name:?}; there are min, max, size, string, int, double, has, startsWith, endsWith and contains"
                ));
            }
            if let Some(target) = &call.target {
                inner(target)?;
            }
            call.args.iter().try_for_each(inner)
        }
        Expr::Comprehension(_) => {
            fail("all, exists, exists_one, map and filter can't be used: a resolver has no loops")
        }
        Expr::Struct(_) | Expr::Unspecified => fail("this can't be used in a resolver"),
    }
}

struct Work<'v> {
    inputs: &'v Inputs<'v>,
    left: &'v mut usize,
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 16 + text.len(),
        Value::Array(elements) => elements.iter().map(weight).fold(16, usize::saturating_add),
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| name.len().saturating_add(weight(member)))
            .fold(16, usize::saturating_add),
        _ => 16,
    }
}

fn too_much<T>() -> Result<T, DocumentError> {
    fail("the resolver works with too much at once")
}

impl Work<'_> {
    /// Counts what a value weighs, so that copies of copies end. Once it was too much, nothing more is worked out: `||` goes on after an error.
    fn charge(&mut self, value: &Value) -> Result<(), DocumentError> {
        let Some(left) = self.left.checked_sub(weight(value)) else {
            *self.left = 0;
            return too_much();
        };
        *self.left = left;
        Ok(())
    }

    fn pay(&mut self, value: Value) -> Evaluated {
        self.charge(&value)?;
        Ok(value)
    }

    fn eval(&mut self, expr: &IdedExpr) -> Evaluated {
        if *self.left == 0 {
            return too_much();
        }
        let value = match &expr.expr {
            Expr::Literal(value) => literal(value)?,
            Expr::Ident(_) | Expr::Select(_) => {
                if let Expr::Select(select) = &expr.expr
                    && select.test
                {
                    return Ok(Value::Bool(self.has(&select.operand, &select.field)?));
                }
                if let Some(place) = place(self.inputs, expr) {
                    // Without a copy of what is around it, and paid before it is copied.
                    let Some(found) = place? else { return Ok(Value::Null) };
                    self.charge(found)?;
                    return Ok(found.clone());
                } else if let Expr::Select(select) = &expr.expr {
                    self.member(&select.operand, &select.field)?.ok_or_else(|| absent(&select.field))?
                } else {
                    self.variable(expr)?
                }
            }
            Expr::List(list) => {
                let mut elements = Vec::with_capacity(list.elements.len());
                for element in &list.elements {
                    elements.push(self.eval(element)?);
                }
                Value::Array(elements)
            }
            Expr::Map(map) => {
                let mut members = Map::new();
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        let Value::String(name) = self.eval(&entry.key)? else {
                            return fail("the names of members are texts");
                        };
                        let value = self.eval(&entry.value)?;
                        members.insert(name, value);
                    }
                }
                Value::Object(members)
            }
            Expr::Call(call) => self.call(call)?,
            Expr::Comprehension(_) | Expr::Struct(_) | Expr::Unspecified => {
                return fail("this can't be used in a resolver");
            }
        };
        self.pay(value)
    }

    fn variable(&self, expr: &IdedExpr) -> Evaluated {
        let Expr::Ident(name) = &expr.expr else { return fail("this is no name") };
        Ok(match name.as_str() {
            "edgeTime" => self.inputs.edge_ms.map_or(Value::Null, Value::from),
            "cloudTime" => self.inputs.cloud_ms.map_or(Value::Null, Value::from),
            "path" => Value::from(self.inputs.path),
            _ => return fail(format!("unknown name {name:?}")),
        })
    }

    /// A member of what is worked out first.
    fn member(&mut self, operand: &IdedExpr, field: &str) -> Result<Option<Value>, DocumentError> {
        match self.eval(operand)? {
            Value::Object(mut members) => Ok(members.remove(field)),
            Value::Null => Ok(None),
            _ => no_object(field),
        }
    }

    fn has(&mut self, operand: &IdedExpr, field: &str) -> Result<bool, DocumentError> {
        let Some(place) = place(self.inputs, operand) else {
            return Ok(self.member(operand, field)?.is_some());
        };
        match place? {
            Some(Value::Object(members)) => Ok(members.contains_key(field)),
            None | Some(Value::Null) => Ok(false),
            Some(_) => no_object(field),
        }
    }

    fn truth(&mut self, expr: &IdedExpr) -> Result<bool, DocumentError> {
        match self.eval(expr)? {
            Value::Bool(value) => Ok(value),
            _ => fail("true or false is needed here"),
        }
    }

    /// `&&` and `||` of CEL: one side alone can decide, whatever is wrong with the other.
    fn both(&mut self, a: &IdedExpr, b: &IdedExpr, decides: bool) -> Evaluated {
        let left = self.truth(a);
        if left == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        let right = self.truth(b);
        if right == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        left?;
        right?;
        Ok(Value::Bool(!decides))
    }

    fn call(&mut self, call: &CallExpr) -> Evaluated {
        let name = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (None, [a, b, c]) if name == operators::CONDITIONAL => {
                if self.truth(a)? {
                    self.eval(b)
                } else {
                    self.eval(c)
                }
            }
            (None, [a, b]) if name == operators::LOGICAL_AND => self.both(a, b, false),
            (None, [a, b]) if name == operators::LOGICAL_OR => self.both(a, b, true),
            (None, [a]) if name == operators::LOGICAL_NOT => Ok(Value::Bool(!self.truth(a)?)),
            (None, [a]) => one(name, &self.eval(a)?),
            (Some(a), []) => one(name, &self.eval(a)?),
            (None, [a, b]) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                two(name, a, b)
            }
            (Some(a), [b]) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                two(name, a, b)
            }
            _ => fail(format!("unknown function {name:?}")),
        }
    }
}

/// `base.a.b` without copying what is around it. `None`: it is no such place.
fn place<'v>(inputs: &Inputs<'v>, expr: &IdedExpr) -> Option<Result<Option<&'v Value>, DocumentError>> {
    match &expr.expr {
        Expr::Ident(name) => match name.as_str() {
            "base" => Some(Ok(inputs.base)),
            "edge" => Some(Ok(inputs.edge)),
            "cloud" => Some(Ok(inputs.cloud)),
            _ => None,
        },
        Expr::Select(select) if !select.test => {
            let around = match place(inputs, &select.operand)? {
                Ok(around) => around,
                Err(error) => return Some(Err(error)),
            };
            let member = around.and_then(Value::as_object).and_then(|members| members.get(&select.field));
            Some(member.map(Some).ok_or_else(|| absent(&select.field)))
        }
        _ => None,
    }
}

fn no_object<T>(field: &str) -> Result<T, DocumentError> {
    fail(format!("{field:?} is asked of what is no object"))
}

fn absent(field: &str) -> DocumentError {
    DocumentError::new(format!("there is no {field:?}; has(…) asks whether there is"))
}

fn literal(value: &LiteralValue) -> Evaluated {
    Ok(match value {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Int(value) => Value::from(*value.inner()),
        LiteralValue::UInt(value) => Value::from(*value.inner()),
        LiteralValue::Double(value) => number(*value.inner())?,
        LiteralValue::String(value) => Value::from(value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::Bytes(_) => return fail("bytes can't be used in a resolver"),
    })
}

fn number(value: f64) -> Evaluated {
    Number::from_f64(value).map(Value::Number).ok_or_else(|| DocumentError::new("a number got too large"))
}

fn one(name: &str, a: &Value) -> Evaluated {
    match (name, a) {
        (operators::NEGATE, Value::Number(n)) => match n.as_i64().and_then(i64::checked_neg) {
            Some(n) => Ok(n.into()),
            None => number(-n.as_f64().unwrap_or(f64::NAN)),
        },
        ("size", Value::String(text)) => Ok(text.chars().count().into()),
        ("size", Value::Array(elements)) => Ok(elements.len().into()),
        ("size", Value::Object(members)) => Ok(members.len().into()),
        ("string", Value::String(text)) => Ok(text.as_str().into()),
        ("string", Value::Number(_) | Value::Bool(_)) => Ok(a.to_string().into()),
        ("double", Value::Number(n)) => number(n.as_f64().unwrap_or(f64::NAN)),
        ("int", Value::Number(n)) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Ok(n.into()),
            #[expect(clippy::cast_possible_truncation, reason = "what int is for; the range is looked at")]
            (None, Some(n)) if n.abs() < 9e15 => Ok((n.trunc() as i64).into()),
            _ => fail("a number got too large"),
        },
        _ => fail(format!("{} can't be worked out of this", said(name))),
    }
}

fn said(name: &str) -> String {
    name.replace('_', "")
}

fn order(a: &Value, b: &Value) -> Result<std::cmp::Ordering, DocumentError> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
    .ok_or_else(|| DocumentError::new("values of different types can't be ordered"))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => order(a, b).is_ok_and(std::cmp::Ordering::is_eq),
        _ => a == b,
    }
}

fn two(name: &str, a: Value, b: Value) -> Evaluated {
    Ok(match name {
        operators::EQUALS => Value::Bool(equal(&a, &b)),
        operators::NOT_EQUALS => Value::Bool(!equal(&a, &b)),
        operators::LESS => Value::Bool(order(&a, &b)?.is_lt()),
        operators::LESS_EQUALS => Value::Bool(order(&a, &b)?.is_le()),
        operators::GREATER => Value::Bool(order(&a, &b)?.is_gt()),
        operators::GREATER_EQUALS => Value::Bool(order(&a, &b)?.is_ge()),
        "min" => {
            if order(&a, &b)?.is_le() {
                a
            } else {
                b
            }
        }
        "max" => {
            if order(&a, &b)?.is_ge() {
                a
            } else {
                b
            }
        }
        operators::INDEX => match (a, b) {
            (Value::Object(mut members), Value::String(name)) => {
                members.remove(&name).ok_or_else(|| absent(&name))?
            }
            (Value::Array(mut elements), Value::Number(at)) => {
                match at.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < elements.len()) {
                    Some(at) => elements.swap_remove(at),
                    None => return fail("there is no such element"),
                }
            }
            _ => return fail("[…] is asked of what has no such parts"),
        },
        operators::IN => match (a, b) {
            (a, Value::Array(elements)) => Value::Bool(elements.iter().any(|element| equal(element, &a))),
            (Value::String(name), Value::Object(members)) => Value::Bool(members.contains_key(&name)),
            _ => return fail("in asks a list or an object"),
        },
        "startsWith" | "endsWith" | "contains" => match (a, b) {
            (Value::String(text), Value::String(part)) => Value::Bool(match name {
                "startsWith" => text.starts_with(&part),
                "endsWith" => text.ends_with(&part),
                _ => text.contains(&part),
            }),
            _ => return fail(format!("{name} asks texts")),
        },
        operators::ADD
        | operators::SUBSTRACT
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO => {
            return calculate(name, a, b);
        }
        _ => return fail(format!("unknown function {name:?}")),
    })
}

fn calculate(name: &str, a: Value, b: Value) -> Evaluated {
    match (name, a, b) {
        (operators::ADD, Value::String(a), Value::String(b)) => Ok((a + &b).into()),
        (operators::ADD, Value::Array(mut a), Value::Array(mut b)) => {
            a.append(&mut b);
            Ok(a.into())
        }
        (name, Value::Number(a), Value::Number(b)) => {
            if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
                let whole = match name {
                    operators::ADD => a.checked_add(b),
                    operators::SUBSTRACT => a.checked_sub(b),
                    operators::MULTIPLY => a.checked_mul(b),
                    operators::DIVIDE => a.checked_div(b),
                    _ => a.checked_rem(b),
                };
                return whole
                    .map(Value::from)
                    .ok_or_else(|| DocumentError::new("a number got too large, or was divided by zero"));
            }
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            number(match name {
                operators::ADD => a + b,
                operators::SUBSTRACT => a - b,
                operators::MULTIPLY => a * b,
                operators::DIVIDE => a / b,
                _ => a % b,
            })
        }
        _ => fail(format!("{} can't be worked out of these", said(name))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolve(text: &str) -> Result<Option<Value>, DocumentError> {
        let (base, edge, cloud) =
            (json!({"n": 1}), json!({"n": 5, "tags": ["a"]}), json!({"n": 3, "tags": ["b"], "x": 1.5}));
        let inputs = Inputs {
            base: Some(&base),
            edge: Some(&edge),
            cloud: Some(&cloud),
            edge_ms: Some(10),
            cloud_ms: None,
            path: "/counts",
        };
        Resolver::compile(text)?.resolve(&inputs, &mut { MAX_WORK })
    }

    #[test]
    fn what_an_expression_gives() {
        for (text, value) in [
            ("edge", json!({"n": 5, "tags": ["a"]})),
            ("edge.n > cloud.n ? edge.n : cloud.n", json!(5)),
            ("max(edge.n, cloud.n)", json!(5)),
            ("edge.n + cloud.n - base.n", json!(7)),
            ("edge.tags + cloud.tags", json!(["a", "b"])),
            (r#"{"n": min(edge.n, cloud.n), "by": "rule"}"#, json!({"n": 3, "by": "rule"})),
            ("has(edge.x) ? edge.x : cloud.x * 2", json!(3.0)),
            ("edgeTime == 10 && cloudTime == null ? 'e' : 'c'", json!("e")),
            ("path.startsWith('/co') || edge.nothing", json!(true)),
            ("'a' in edge.tags && 'n' in cloud && edge.tags[0] == 'a'", json!(true)),
            ("size(edge.tags) + size('ab')", json!(3)),
            ("string(edge.n) + '/' + string(int(cloud.x))", json!("5/1")),
            ("cloud['n'] % 2 == 1 && !false", json!(true)),
        ] {
            assert_eq!(resolve(text), Ok(Some(value)), "{text}");
        }
        assert_eq!(resolve("null"), Ok(None));
    }

    #[test]
    fn what_does_not_compile_or_fails_is_an_error() {
        let deep = format!("{}edge{}", "(".repeat(100), ")".repeat(100));
        let long = format!("edge{}", " + edge".repeat(600));
        for wrong in [
            "",
            "edge +",
            "egde",
            "edge.map(x, x)",
            "edge.tags.all(t, t == 'a')",
            "run(edge)",
            "b'x'",
            deep.as_str(),
            long.as_str(),
        ] {
            assert!(Resolver::compile(wrong).is_err(), "{wrong}");
        }
        for failing in [
            "edge.nothing",
            "edge.n / 0",
            "edge.n + 'a'",
            "edge.tags[7]",
            "edge < cloud",
            "9223372036854775807 + 1",
            "edge ? 1 : 2",
        ] {
            assert!(Resolver::compile(failing).is_ok() && resolve(failing).is_err(), "{failing}");
        }
        let error = Resolver::compile("edge.n >\n > 1").unwrap_err();
        assert!(error.0.starts_with("line 2"), "{error}");
    }

    #[test]
    fn copies_of_copies_come_to_an_end() {
        let large = Value::from("x".repeat(100_000));
        let inputs =
            Inputs { base: None, edge: Some(&large), cloud: None, edge_ms: None, cloud_ms: None, path: "" };
        let text = format!("[{}]", vec!["edge"; 100].join(", "));
        let resolve = |text: &str, left: &mut usize| Resolver::compile(text).unwrap().resolve(&inputs, left);
        assert!(resolve(&text, &mut { MAX_WORK }).is_err());
        // `||` looks at its other side after an error, but there is nothing left to do that with.
        let mut left = MAX_WORK;
        let text = vec!["edge != edge"; 25].join(" || ") + " || true";
        assert!(resolve(&text, &mut left).is_err());
        assert_eq!(left, 0);
        // What one place of a document took is gone for the next one.
        let mut left = 150_000;
        assert_eq!(resolve("edge", &mut left), Ok(Some(large.clone())));
        assert!(resolve("edge", &mut left).is_err() && resolve("1", &mut left).is_err());
    }
}
