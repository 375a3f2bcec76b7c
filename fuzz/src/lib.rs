//! See `targets`.

pub mod targets;

/// Runs one of them.
///
/// # Panics
/// When there is none of this name, or the input breaks it.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(data);
}
