//! `cargo xtask check`: what can be judged without running the product. CI runs exactly this.

mod dependencies;
mod direction;
mod exposure;
mod licence;

use anyhow::Result;

use crate::metadata::Metadata;
use crate::tools::{self, Step, Steps};
use crate::{bpf, fuzz, generate, web};

/// Licences, bans and sources of another workspace of this repository.
///
/// # Errors
/// As [`dependencies::check`].
pub(crate) fn dependencies_of(metadata: &Metadata) -> Result<()> {
    dependencies::check(metadata)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave the page out
    #[arg(long)]
    skip_web: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut steps = Steps::default();
    steps.step("format", || {
        tools::run(&mut tools::cargo(&["fmt", "--all", "--check"]))?;
        Ok(Step::Done)
    });
    steps.step("crate directions", || {
        direction::check(&Metadata::load()?)?;
        Ok(Step::Done)
    });
    steps.step("dependencies", || {
        dependencies::check(&Metadata::load()?)?;
        Ok(Step::Done)
    });
    steps.step("cargo-deny", dependencies::cargo_deny);
    steps.step("unit files", exposure::check);
    steps.step("eBPF object", bpf::check);
    steps.step("lints", || {
        let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        tools::run(&mut tools::cargo(&lints))?;
        Ok(Step::Done)
    });
    steps.step("fuzzing", fuzz::check);
    steps.step("generated files", || generate::check(arguments.skip_web));
    if !arguments.skip_web {
        steps.step("page", web::check);
    }
    steps.finish("check")
}
