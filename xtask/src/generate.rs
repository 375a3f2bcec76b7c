//! `cargo xtask gen`: the files that are written by programs and committed all the same, so that a change of the contract
//! can be read in a review. `cargo xtask check` fails when one is out of date.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{self, Step};
use crate::{bpf, fuzz, web};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing; fail when something is out of date
    #[arg(long)]
    check: bool,
    /// Leave the page's API types out
    #[arg(long)]
    skip_web: bool,
    /// What to write instead of what follows from the API
    #[arg(value_enum)]
    what: Option<What>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// The eBPF object, with clang
    Bpf,
}

fn openapi() -> PathBuf {
    tools::root().join("openapi.json")
}

fn schema() -> PathBuf {
    web::folder().join("src/api/schema.gen.ts")
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(What::Bpf) = arguments.what {
        return bpf::generate();
    }
    if arguments.check {
        if let Step::Skipped(why) = check(arguments.skip_web)? {
            eprintln!("skipped: {why}");
        }
        return Ok(());
    }
    fuzz::generate()?;
    fs::write(openapi(), document()?).context("cannot write openapi.json")?;
    eprintln!("wrote {}", openapi().display());
    if !arguments.skip_web
        && let Step::Skipped(why) = web::script("gen")?
    {
        eprintln!("the page's API types are skipped: {why}");
    }
    Ok(())
}

/// # Errors
/// Names the file that is out of date and the command that writes it anew.
pub(crate) fn check(skip_web: bool) -> Result<Step> {
    if !openapi().exists() {
        return Ok(Step::Skipped("there is no openapi.json yet; cargo xtask gen writes it".into()));
    }
    let committed = fs::read_to_string(openapi()).context("cannot read openapi.json")?;
    if let Some(line) = first_difference(&committed, &document()?) {
        bail!("openapi.json is out of date from line {line} on; type: cargo xtask gen");
    }
    if skip_web {
        return Ok(Step::Done);
    }
    let before = fs::read_to_string(schema()).unwrap_or_default();
    if let Step::Skipped(why) = web::script("gen")? {
        return Ok(Step::Skipped(format!("openapi.json is up to date; the page's API types: {why}")));
    }
    let after = fs::read_to_string(schema()).context("npm run gen wrote no web/src/api/schema.gen.ts")?;
    if let Some(line) = first_difference(&before, &after) {
        // A check changes nothing.
        fs::write(schema(), &before).context("cannot put schema.gen.ts back")?;
        bail!("web/src/api/schema.gen.ts is out of date from line {line} on; type: cargo xtask gen");
    }
    Ok(Step::Done)
}

/// The OpenAPI document, as the server itself describes its routes.
fn document() -> Result<String> {
    let program = tools::build_programs(false)?.join("farshore");
    let mut text = tools::output(Command::new(program).arg("openapi"))?;
    let document: serde_json::Value =
        serde_json::from_str(&text).context("`farshore openapi` wrote no JSON document")?;
    if document.get("openapi").is_none() {
        bail!("`farshore openapi` wrote a document without an OpenAPI version");
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// The number of the first line that differs.
fn first_difference(left: &str, right: &str) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left.lines().zip(right.lines()).take_while(|(left, right)| left == right).count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(first_difference("", "a"), Some(1));
    }
}
