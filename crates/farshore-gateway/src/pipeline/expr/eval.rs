//! An expression for the points of one series: what is the same for all of them is filled in.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Function, Known, Node, Order, Source};

/// What a part gives for a point; nothing when something is missing.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::pipeline) enum Val<'v> {
    Number(f64),
    Bool(bool),
    Text(Cow<'v, str>),
}

/// The quickest form of an expression that says the same.
#[derive(Clone, Debug)]
pub(in crate::pipeline) enum Prepared {
    Always(bool),
    Never,
    /// `value` compared with a number.
    Compare(Order, f64),
    Any(Box<Node>),
}

/// A point, as an expression sees it.
#[derive(Clone, Copy)]
struct Facts<'p> {
    value: Option<f64>,
    text: Option<&'p str>,
    at_ns: i64,
}

impl Prepared {
    pub(super) fn new(node: Node) -> Self {
        match node {
            Node::Bool(says) => Self::Always(says),
            Node::Missing => Self::Never,
            Node::Compare(order, a, b) => match (*a, *b) {
                (Node::Value, Node::Number(number)) => Self::Compare(order, number),
                (Node::Number(number), Node::Value) => Self::Compare(turned(order), number),
                (a, b) => Self::Any(Box::new(Node::Compare(order, Box::new(a), Box::new(b)))),
            },
            other => Self::Any(Box::new(other)),
        }
    }

    #[cfg(test)]
    pub(super) fn is_quick(&self) -> bool {
        !matches!(self, Self::Any(_))
    }

    /// Whether it is true for a point; nothing when that can't be said.
    pub(in crate::pipeline) fn is_true(
        &self,
        value: Option<f64>,
        text: Option<&str>,
        at_ns: i64,
    ) -> Option<bool> {
        match self {
            Self::Always(says) => Some(*says),
            Self::Never => None,
            Self::Compare(order, number) => value.map(|value| holds(*order, value.partial_cmp(number))),
            Self::Any(node) => truth(node, Facts { value, text, at_ns }),
        }
    }

    pub(in crate::pipeline) fn eval<'p>(
        &'p self,
        value: Option<f64>,
        text: Option<&'p str>,
        at_ns: i64,
    ) -> Option<Val<'p>> {
        match self {
            Self::Any(node) => eval(node, Facts { value, text, at_ns }),
            other => other.is_true(value, text, at_ns).map(Val::Bool),
        }
    }
}

fn turned(order: Order) -> Order {
    match order {
        Order::Less => Order::Greater,
        Order::LessOrEqual => Order::GreaterOrEqual,
        Order::Greater => Order::Less,
        Order::GreaterOrEqual => Order::LessOrEqual,
        same => same,
    }
}

/// What compares with nothing, a number that is none, is only different.
fn holds(order: Order, ordering: Option<Ordering>) -> bool {
    ordering.map_or(order == Order::NotEqual, |ordering| order.holds(ordering))
}

/// Fills in what is the same for all points, and calculates what can be calculated then.
pub(super) fn fill_in(node: &Node, of: &dyn Fn(&Source) -> Option<Known>) -> Node {
    let fill = |node: &Node| Box::new(fill_in(node, of));
    let filled = match node {
        Node::Of(source) => {
            return match of(source) {
                Some(Known::Number(number)) if number.is_finite() => Node::Number(number),
                Some(Known::Bool(flag)) => Node::Bool(flag),
                Some(Known::Text(text)) => Node::Text(text),
                _ => Node::Missing,
            };
        }
        Node::And(a, b) | Node::Or(a, b) => {
            let (a, b) = (fill(a), fill(b));
            let decides = matches!(node, Node::Or(..));
            return match (*a, *b) {
                (Node::Bool(says), other) | (other, Node::Bool(says)) => {
                    if says == decides {
                        Node::Bool(says)
                    } else {
                        other
                    }
                }
                (a, b) if decides => Node::Or(Box::new(a), Box::new(b)),
                (a, b) => Node::And(Box::new(a), Box::new(b)),
            };
        }
        Node::Choose(chooser, yes, no) => match *fill(chooser) {
            Node::Bool(says) => return *fill(if says { yes } else { no }),
            Node::Missing => return Node::Missing,
            chooser => Node::Choose(Box::new(chooser), fill(yes), fill(no)),
        },
        Node::Known(of) => Node::Known(fill(of)),
        Node::Not(of) => Node::Not(fill(of)),
        Node::Negate(of) => Node::Negate(fill(of)),
        Node::Compare(order, a, b) => Node::Compare(*order, fill(a), fill(b)),
        Node::Calculate(sum, a, b) => Node::Calculate(*sum, fill(a), fill(b)),
        Node::Search(search, a, b) => Node::Search(*search, fill(a), fill(b)),
        Node::In(value, list) => Node::In(fill(value), list.iter().map(|node| fill_in(node, of)).collect()),
        Node::Call(function, argument) => Node::Call(*function, fill(argument)),
        leaf => return leaf.clone(),
    };
    if !is_constant(&filled) {
        return filled;
    }
    match eval(&filled, Facts { value: None, text: None, at_ns: 0 }) {
        Some(Val::Number(number)) => Node::Number(number),
        Some(Val::Bool(flag)) => Node::Bool(flag),
        Some(Val::Text(text)) => Node::Text(text.into()),
        None => Node::Missing,
    }
}

fn is_constant(node: &Node) -> bool {
    match node {
        Node::Number(_) | Node::Bool(_) | Node::Text(_) | Node::Missing => true,
        Node::Value | Node::ValueText | Node::Time | Node::Of(_) => false,
        Node::Known(of) | Node::Not(of) | Node::Negate(of) | Node::Call(_, of) => is_constant(of),
        Node::And(a, b)
        | Node::Or(a, b)
        | Node::Compare(_, a, b)
        | Node::Calculate(_, a, b)
        | Node::Search(_, a, b) => is_constant(a) && is_constant(b),
        Node::Choose(a, b, c) => is_constant(a) && is_constant(b) && is_constant(c),
        Node::In(of, list) => is_constant(of) && list.iter().all(is_constant),
    }
}

fn truth(node: &Node, facts: Facts<'_>) -> Option<bool> {
    match eval(node, facts)? {
        Val::Bool(says) => Some(says),
        _ => None,
    }
}

fn number(node: &Node, facts: Facts<'_>) -> Option<f64> {
    match eval(node, facts)? {
        Val::Number(number) => Some(number),
        _ => None,
    }
}

/// Visits each part once at most; the depth is bounded by the check.
fn eval<'p>(node: &'p Node, facts: Facts<'p>) -> Option<Val<'p>> {
    Some(match node {
        Node::Number(number) => Val::Number(*number),
        Node::Bool(flag) => Val::Bool(*flag),
        Node::Text(text) => Val::Text(Cow::Borrowed(text)),
        Node::Missing | Node::Of(_) => return None,
        Node::Value => Val::Number(facts.value?),
        Node::ValueText => Val::Text(Cow::Borrowed(facts.text?)),
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century keep their microseconds")]
        Node::Time => Val::Number(facts.at_ns as f64 / 1e9),
        Node::Known(of) => Val::Bool(eval(of, facts).is_some()),
        Node::Not(of) => Val::Bool(!truth(of, facts)?),
        Node::Negate(of) => Val::Number(-number(of, facts)?),
        Node::And(a, b) => Val::Bool(both(a, b, facts, false)?),
        Node::Or(a, b) => Val::Bool(both(a, b, facts, true)?),
        Node::Choose(chooser, yes, no) => return eval(if truth(chooser, facts)? { yes } else { no }, facts),
        Node::Compare(order, a, b) => Val::Bool(compare(*order, &eval(a, facts)?, &eval(b, facts)?)?),
        Node::Calculate(sum, a, b) => {
            let result = sum.calculate(number(a, facts)?, number(b, facts)?);
            Val::Number(Some(result).filter(|number| number.is_finite())?)
        }
        Node::Search(search, a, b) => {
            let (Val::Text(text), Val::Text(part)) = (eval(a, facts)?, eval(b, facts)?) else { return None };
            Val::Bool(search.finds(&text, &part))
        }
        Node::In(of, list) => {
            let value = eval(of, facts)?;
            Val::Bool(list.iter().any(|element| eval(element, facts).is_some_and(|element| element == value)))
        }
        Node::Call(Function::Number, argument) => {
            let Val::Text(text) = eval(argument, facts)? else { return None };
            Val::Number(text.trim().parse::<f64>().ok().filter(|number| number.is_finite())?)
        }
        Node::Call(function, argument) => {
            let argument = number(argument, facts)?;
            let result = match function {
                Function::Absolute => argument.abs(),
                Function::Round => argument.round(),
                Function::Floor => argument.floor(),
                Function::Ceiling => argument.ceil(),
                Function::Root => argument.sqrt(),
                Function::Number => argument,
            };
            Val::Number(Some(result).filter(|number| number.is_finite())?)
        }
    })
}

/// One side alone can decide, whatever the other one lacks.
fn both(a: &Node, b: &Node, facts: Facts<'_>, decides: bool) -> Option<bool> {
    let left = truth(a, facts);
    if left == Some(decides) {
        return left;
    }
    let right = truth(b, facts);
    if right == Some(decides) {
        return right;
    }
    left.and(right).map(|_| !decides)
}

fn compare(order: Order, a: &Val<'_>, b: &Val<'_>) -> Option<bool> {
    let ordering = match (a, b) {
        (Val::Number(a), Val::Number(b)) => a.partial_cmp(b),
        (Val::Text(a), Val::Text(b)) => Some(a.cmp(b)),
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    ordering.map(|ordering| holds(order, Some(ordering)))
}
