//! Templates of configuration files: `${NAME}` stands for a value, `$${` for the two characters `${`.

use std::collections::BTreeMap;

/// Why a template can't be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("line {line}: {name:?} has no value on this device")]
    NoValue { line: usize, name: String },
    #[error("line {line}: a ${{ is not closed")]
    Open { line: usize },
    #[error("it is no UTF-8 text")]
    NoText,
}

/// Fills in a template. A name without a value is an error: half a configuration is worse than none.
///
/// # Errors
/// A [`TemplateError`] with its line.
pub fn fill(template: &[u8], values: &BTreeMap<String, String>) -> Result<Vec<u8>, TemplateError> {
    let text = std::str::from_utf8(template).map_err(|_| TemplateError::NoText)?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let line = 1 + text
            .len()
            .checked_sub(after.len())
            .and_then(|at| text.get(..at))
            .map_or(0, |done| done.bytes().filter(|b| *b == b'\n').count());
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (name, tail) = after.split_once('}').ok_or(TemplateError::Open { line })?;
        let value = values.get(name).ok_or_else(|| TemplateError::NoValue { line, name: name.to_owned() })?;
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_values_once_and_what_is_missing_is_an_error() {
        let values = BTreeMap::from([("A".to_owned(), "${B}".to_owned()), ("B".to_owned(), String::new())]);
        assert_eq!(fill(b"x=${A}${B}\n$A $${A}", &values).unwrap(), b"x=${B}\n$A ${A}");
        let missing = fill(b"a\nb ${C}", &values);
        assert_eq!(missing, Err(TemplateError::NoValue { line: 2, name: "C".to_owned() }));
        assert_eq!(fill(b"${A", &values), Err(TemplateError::Open { line: 1 }));
        assert_eq!(fill(&[0xff], &values), Err(TemplateError::NoText));
    }
}
