//! From the parsed text to typed nodes.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::vocabulary::{Param, Type, Value, Vocabulary};
use super::{ConditionError, LIMITS};
use crate::expression::{Order, Search, Sum};
use crate::nearest::nearest;
use crate::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};

/// One part of a checked condition.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Literal(Value),
    Variable {
        name: String,
        kind: Type,
    },
    Call {
        name: String,
        arguments: Vec<Node>,
        kind: Type,
    },
    /// Whether the data behind a part is there.
    Known(Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Choose(Box<Node>, Box<Node>, Box<Node>),
    Compare(Order, Box<Node>, Box<Node>),
    Calculate(Sum, Box<Node>, Box<Node>),
    /// Is a text part of another?
    Search(Search, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Node>),
}

/// Functions that every condition has.
const BUILT_IN: [&str; 5] = ["duration", "known", "min", "max", "has"];

impl Node {
    fn kind(&self) -> Type {
        match self {
            Self::Literal(value) => value.kind(),
            Self::Variable { kind, .. } | Self::Call { kind, .. } => *kind,
            Self::Known(_)
            | Self::Not(_)
            | Self::And(..)
            | Self::Or(..)
            | Self::Compare(..)
            | Self::Search(..)
            | Self::In(..) => Type::Bool,
            Self::Choose(_, yes, _) => yes.kind(),
            Self::Negate(of) | Self::Calculate(_, of, _) => of.kind(),
        }
    }

    /// Visits this part and everything in it.
    pub(super) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        match self {
            Self::Literal(_) | Self::Variable { .. } => {}
            Self::Call { arguments, .. } => arguments.iter().for_each(|node| node.walk(visit)),
            Self::Known(of) | Self::Not(of) | Self::Negate(of) => of.walk(visit),
            Self::And(a, b)
            | Self::Or(a, b)
            | Self::Compare(_, a, b)
            | Self::Calculate(_, a, b)
            | Self::Search(_, a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            Self::Choose(a, b, c) => {
                a.walk(visit);
                b.walk(visit);
                c.walk(visit);
            }
            Self::In(of, list) => {
                of.walk(visit);
                list.iter().for_each(|node| node.walk(visit));
            }
        }
    }
}

type Checked = Result<Node, ConditionError>;

fn fail<T>(what: impl Into<String>) -> Result<T, ConditionError> {
    Err(ConditionError::new(what))
}

/// Checks a whole condition: its names, its types, and that it can ever change.
pub(super) fn check(expr: &IdedExpr, vocabulary: &Vocabulary) -> Checked {
    let mut checker = Checker { vocabulary, parts: 0, depth: 0 };
    let node = checker.node(expr)?;
    if node.kind() != Type::Bool {
        return fail(format!("a condition gives true or false, this gives a {}", node.kind()));
    }
    let mut speaks = false;
    node.walk(&mut |part| speaks |= matches!(part, Node::Variable { .. } | Node::Call { .. }));
    if !speaks {
        return fail("this condition never changes: it refers to no data");
    }
    Ok(node)
}

struct Checker<'a> {
    vocabulary: &'a Vocabulary,
    parts: usize,
    depth: usize,
}

impl Checker<'_> {
    fn node(&mut self, expr: &IdedExpr) -> Checked {
        self.parts += 1;
        if self.parts > LIMITS.parts {
            return fail(LIMITS.too_many_parts());
        }
        // Chains like `a + b + c` nest to the left, so levels are counted here too.
        if self.depth > LIMITS.depth {
            return fail(LIMITS.too_deep());
        }
        self.depth += 1;
        let node = self.inner(&expr.expr);
        self.depth -= 1;
        node
    }

    fn inner(&mut self, expr: &Expr) -> Checked {
        match expr {
            Expr::Literal(value) => literal(value),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let Some(name) = dotted(expr) else {
                    return fail(format!("{:?} is no field of a declared name", select.field));
                };
                let variable = self.variable(&name)?;
                Ok(if select.test { Node::Known(Box::new(variable)) } else { variable })
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(_) => {
                fail("all, exists, exists_one, map and filter can't be used: a condition has no loops")
            }
            Expr::List(_) => fail("a list can only stand after `in`: `model in [\"a\", \"b\"]`"),
            Expr::Map(_) | Expr::Struct(_) => fail("maps and messages can't be used in a condition"),
            Expr::Unspecified => fail("this is no CEL expression"),
        }
    }

    fn variable(&self, name: &str) -> Checked {
        match self.vocabulary.type_of(name) {
            Some(kind) => Ok(Node::Variable { name: name.to_owned(), kind }),
            None => fail(self.unknown("name", name)),
        }
    }

    fn unknown(&self, what: &str, name: &str) -> String {
        let text = format!("unknown {what} {name:?}");
        if self.vocabulary.find(name).is_some() {
            return format!("{text}; it is a function: write {name}(…)");
        }
        if self.vocabulary.type_of(name).is_some() {
            return format!("{text}; it is a name, not a function: leave the brackets away");
        }
        match nearest(name, self.vocabulary.names().chain(BUILT_IN)) {
            Some(near) => format!("{text}; did you mean {near:?}?"),
            None => {
                let names: Vec<_> = self.vocabulary.names().take(12).collect();
                format!("{text}; known are {}", names.join(", "))
            }
        }
    }

    fn of_type(&mut self, expr: &IdedExpr, wanted: Type, place: &str) -> Result<Box<Node>, ConditionError> {
        let node = self.node(expr)?;
        if node.kind() != wanted {
            return fail(format!("{place} needs a {wanted}, this is a {}", node.kind()));
        }
        Ok(Box::new(node))
    }

    fn call(&mut self, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (None, [a, b, c]) if name == operators::CONDITIONAL => {
                let chooser = self.of_type(a, Type::Bool, "what stands before '?'")?;
                let yes = self.node(b)?;
                let no = self.of_type(c, yes.kind(), "what stands after ':'")?;
                Ok(Node::Choose(chooser, Box::new(yes), no))
            }
            (None, [a]) if name == operators::LOGICAL_NOT => {
                Ok(Node::Not(self.of_type(a, Type::Bool, "'!'")?))
            }
            (None, [a]) if name == operators::NEGATE => {
                Ok(Node::Negate(self.of_type(a, Type::Number, "'-'")?))
            }
            (None, [a, b]) if name == operators::LOGICAL_AND => {
                let left = self.of_type(a, Type::Bool, "'&&'")?;
                Ok(Node::And(left, self.of_type(b, Type::Bool, "'&&'")?))
            }
            (None, [a, b]) if name == operators::LOGICAL_OR => {
                let left = self.of_type(a, Type::Bool, "'||'")?;
                Ok(Node::Or(left, self.of_type(b, Type::Bool, "'||'")?))
            }
            (None, [a, b]) if name == operators::IN => self.member(a, b),
            (None, [a, b]) if Order::of(name).is_some() => {
                let Some(order) = Order::of(name) else { return fail("no comparison") };
                self.compare(order, a, b)
            }
            (None, [a, b]) if Sum::of(name).is_some() => {
                let Some(sum) = Sum::of(name) else { return fail("no calculation") };
                self.calculate(sum, a, b)
            }
            (None, [a]) if name == "known" => Ok(Node::Known(Box::new(self.node(a)?))),
            (None, [a]) if name == "duration" => duration(a),
            (None, arguments) if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                self.function(name, arguments)
            }
            (Some(target), [argument]) if Search::of(name).is_some() => {
                let Some(search) = Search::of(name) else { return fail("no search") };
                let text = self.of_type(target, Type::Text, name)?;
                Ok(Node::Search(search, text, self.of_type(argument, Type::Text, name)?))
            }
            (Some(_), _) => {
                fail(format!("unknown method {name:?}; texts have startsWith, endsWith and contains"))
            }
            _ => fail("indexes like a[b] can't be used in a condition"),
        }
    }

    fn compare(&mut self, order: Order, a: &IdedExpr, b: &IdedExpr) -> Checked {
        let left = self.node(a)?;
        let kind = left.kind();
        if kind == Type::Bool && !matches!(order, Order::Equal | Order::NotEqual) {
            return fail("true and false have no order: compare them with == or !=");
        }
        let right = self.of_type(b, kind, "this comparison")?;
        Ok(Node::Compare(order, Box::new(left), right))
    }

    fn calculate(&mut self, sum: Sum, a: &IdedExpr, b: &IdedExpr) -> Checked {
        let left = self.node(a)?;
        let kind = left.kind();
        let fits = kind == Type::Number
            || kind == Type::Duration && !matches!(sum, Sum::Multiply | Sum::Divide | Sum::Remainder);
        if !fits {
            return fail(format!("a {kind} can't be calculated with like this"));
        }
        let right = self.of_type(b, kind, "this calculation")?;
        Ok(Node::Calculate(sum, Box::new(left), right))
    }

    fn member(&mut self, a: &IdedExpr, b: &IdedExpr) -> Checked {
        let of = self.node(a)?;
        let Expr::List(list) = &b.expr else {
            return fail("`in` needs a list written out: `model in [\"a\", \"b\"]`");
        };
        if list.elements.is_empty() {
            return fail("the list after `in` is empty, so this is never true");
        }
        let mut values = Vec::new();
        for element in &list.elements {
            values.push(*self.of_type(element, of.kind(), "this list")?);
        }
        Ok(Node::In(Box::new(of), values))
    }

    fn function(&mut self, name: &str, arguments: &[IdedExpr]) -> Checked {
        let Some(function) = self.vocabulary.find(name) else {
            return fail(self.unknown("function", name));
        };
        let (most, least) = (function.params.len(), function.params.len() - function.optional);
        if !(least..=most).contains(&arguments.len()) {
            let wanted = if least == most { most.to_string() } else { format!("{least} to {most}") };
            return fail(format!("{name} takes {wanted} arguments, not {}", arguments.len()));
        }
        let mut nodes = Vec::new();
        for (at, (param, argument)) in function.params.iter().zip(arguments).enumerate() {
            let place = format!("argument {} of {name}", at + 1);
            let wanted = match param {
                Param::Of(kind) => *kind,
                Param::OneOf(_) => Type::Text,
            };
            let node = *self.of_type(argument, wanted, &place)?;
            if let Param::OneOf(words) = param {
                let Node::Literal(Value::Text(word)) = &node else {
                    return fail(format!("{place} must be written out in quotes"));
                };
                if !words.contains(word) {
                    let near = nearest(word, words.iter().map(String::as_str));
                    let hint = near.map_or_else(
                        || {
                            format!(
                                "known are {}",
                                words.iter().take(40).cloned().collect::<Vec<_>>().join(", ")
                            )
                        },
                        |near| format!("did you mean {near:?}?"),
                    );
                    return fail(format!("{place}: unknown {word:?}; {hint}"));
                }
            }
            nodes.push(node);
        }
        Ok(Node::Call { name: name.to_owned(), arguments: nodes, kind: function.returns })
    }
}

/// `a.b.c` as one name.
fn dotted(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", dotted(&select.operand.expr)?, select.field)),
        _ => None,
    }
}

fn literal(value: &LiteralValue) -> Checked {
    #[expect(
        clippy::cast_precision_loss,
        reason = "numbers are one type; beyond 2^53 the nearest one is meant"
    )]
    let value = match value {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Int(value) => Value::Number(*value.inner() as f64),
        LiteralValue::UInt(value) => Value::Number(*value.inner() as f64),
        LiteralValue::Double(value) if value.inner().is_finite() => Value::Number(*value.inner()),
        LiteralValue::Double(_) => return fail("this number is too large"),
        LiteralValue::String(value) => Value::Text(value.inner().to_owned()),
        LiteralValue::Bytes(_) => return fail("bytes can't be used in a condition"),
        LiteralValue::Null => {
            return fail("null can't be used in a condition; missing data is asked for by known(…)");
        }
    };
    Ok(Node::Literal(value))
}

/// `duration("1h30m")`, at most 366 days.
fn duration(argument: &IdedExpr) -> Checked {
    let wrong = "duration needs a text like \"90s\", \"5m\" or \"1h30m\", at most 366 days";
    let Expr::Literal(LiteralValue::String(text)) = &argument.expr else { return fail(wrong) };
    let (mut total, mut number) = (0_i64, None::<i64>);
    let mut rest = text.inner();
    while let Some(first) = rest.chars().next() {
        if let Some(digit) = first.to_digit(10) {
            number = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(i64::from(digit)));
            if number.is_none() {
                return fail(wrong);
            }
            rest = rest.strip_prefix(first).unwrap_or_default();
            continue;
        }
        let units = [("ms", 1), ("s", SECOND_MS), ("m", MINUTE_MS), ("h", HOUR_MS), ("d", DAY_MS)];
        let found = units.iter().find_map(|(unit, ms)| rest.strip_prefix(unit).map(|after| (after, *ms)));
        let (Some((after, ms)), Some(count)) = (found, number.take()) else { return fail(wrong) };
        total = total.saturating_add(count.saturating_mul(ms));
        rest = after;
    }
    if number.is_some() || text.inner().is_empty() || total > 366 * DAY_MS {
        return fail(wrong);
    }
    Ok(Node::Literal(Value::Duration(total)))
}
