//! Evaluation in three-valued logic: yes, no, and missing with the reason.

use super::check::Node;
use super::vocabulary::{Type, Value};
use super::{Facts, Missing};
use crate::expression::{Order, Sum};

type Evaluated = Result<Value, Missing>;

/// Visits each part once at most; the depth is bounded by the check.
pub(super) fn eval(node: &Node, facts: &dyn Facts) -> Evaluated {
    match node {
        Node::Literal(value) => Ok(value.clone()),
        Node::Variable { name, kind } => typed(facts.variable(name), *kind, name),
        Node::Call { name, arguments, kind } => {
            let mut values = Vec::with_capacity(arguments.len());
            for argument in arguments {
                values.push(eval(argument, facts)?);
            }
            typed(facts.call(name, &values), *kind, name)
        }
        Node::Known(of) => Ok(Value::Bool(eval(of, facts).is_ok())),
        Node::Not(of) => truth(of, facts).map(|value| Value::Bool(!value)),
        Node::Negate(of) => number(of, facts).map(|value| Value::Number(-value)),
        Node::And(a, b) => both(a, b, facts, false),
        Node::Or(a, b) => both(a, b, facts, true),
        Node::Choose(chooser, yes, no) => eval(if truth(chooser, facts)? { yes } else { no }, facts),
        Node::Compare(order, a, b) => compare(*order, &eval(a, facts)?, &eval(b, facts)?),
        Node::Calculate(sum, a, b) => calculate(*sum, eval(a, facts)?, eval(b, facts)?),
        Node::Search(search, a, b) => {
            let (Value::Text(text), Value::Text(part)) = (eval(a, facts)?, eval(b, facts)?) else {
                return Err(mixed());
            };
            Ok(Value::Bool(search.finds(&text, &part)))
        }
        Node::In(of, list) => member(of, list, facts),
    }
}

fn mixed() -> Missing {
    Missing("values of different types met".to_owned())
}

fn typed(value: Evaluated, kind: Type, name: &str) -> Evaluated {
    match value? {
        Value::Number(value) if !value.is_finite() => Err(Missing(format!("{name} is no finite number"))),
        value if value.kind() == kind => Ok(value),
        value => Err(Missing(format!("{name} is a {} and should be a {kind}", value.kind()))),
    }
}

fn truth(node: &Node, facts: &dyn Facts) -> Result<bool, Missing> {
    match eval(node, facts)? {
        Value::Bool(value) => Ok(value),
        _ => Err(mixed()),
    }
}

fn number(node: &Node, facts: &dyn Facts) -> Result<f64, Missing> {
    match eval(node, facts)? {
        Value::Number(value) => Ok(value),
        _ => Err(mixed()),
    }
}

/// `&&` and `||`: one side alone can decide, whatever the other one lacks. `decides` is the value that does.
fn both(a: &Node, b: &Node, facts: &dyn Facts, decides: bool) -> Evaluated {
    let left = truth(a, facts);
    if left == Ok(decides) {
        return Ok(Value::Bool(decides));
    }
    let right = truth(b, facts);
    if right == Ok(decides) {
        return Ok(Value::Bool(decides));
    }
    left?;
    right?;
    Ok(Value::Bool(!decides))
}

fn member(of: &Node, list: &[Node], facts: &dyn Facts) -> Evaluated {
    let value = eval(of, facts)?;
    let mut missing = None;
    for element in list {
        match eval(element, facts) {
            Ok(element) if element == value => return Ok(Value::Bool(true)),
            Ok(_) => {}
            Err(reason) => {
                missing.get_or_insert(reason);
            }
        }
    }
    missing.map_or(Ok(Value::Bool(false)), Err)
}

fn compare(order: Order, a: &Value, b: &Value) -> Evaluated {
    let ordering = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
    .ok_or_else(mixed)?;
    Ok(Value::Bool(order.holds(ordering)))
}

fn calculate(sum: Sum, a: Value, b: Value) -> Evaluated {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            if matches!(sum, Sum::Divide | Sum::Remainder) && b == 0.0 {
                return Err(Missing("it divides by zero".to_owned()));
            }
            let value = sum.calculate(a, b);
            if value.is_finite() {
                Ok(Value::Number(value))
            } else {
                Err(Missing("a number got too large".to_owned()))
            }
        }
        (Value::Duration(a), Value::Duration(b)) => match sum {
            Sum::Add => Ok(Value::Duration(a.saturating_add(b))),
            Sum::Subtract => Ok(Value::Duration(a.saturating_sub(b))),
            Sum::Least => Ok(Value::Duration(a.min(b))),
            Sum::Greatest => Ok(Value::Duration(a.max(b))),
            Sum::Multiply | Sum::Divide | Sum::Remainder => Err(mixed()),
        },
        _ => Err(mixed()),
    }
}
