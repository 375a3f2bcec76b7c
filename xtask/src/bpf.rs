//! `cargo xtask gen bpf` compiles the eBPF programs; the check holds that the object that is checked in is what the source says.
//!
//! The same clang makes the same bytes of the same source, so where it is installed the object is built anew and compared. Where it is
//! not, or is another version, the digests written beside the object at its last build are compared: a source that was changed without a
//! new object is found either way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{self, Step};

const SOURCES: [&str; 2] = ["kernel.h", "eyes.bpf.c"];
const OBJECT: &str = "eyes.bpf.o";
/// The compiler's version, then `sha256sum` of sources and object.
const RECORD: &str = "eyes.bpf.built";

fn folder() -> PathBuf {
    tools::root().join("crates/farshore-collect/bpf")
}

fn digests() -> Result<String> {
    tools::output(Command::new("sha256sum").args(SOURCES).arg(OBJECT).current_dir(folder()))
}

/// The first line of what clang says of itself; `None` where there is none.
fn clang() -> Result<Option<(PathBuf, String)>> {
    let Some(program) = tools::which("clang") else { return Ok(None) };
    let said = tools::output(Command::new(&program).arg("--version"))?;
    Ok(Some((program, said.lines().next().unwrap_or_default().trim().to_owned())))
}

fn compile(clang: &Path, target: &Path) -> Result<()> {
    let Some(strip) = tools::which("llvm-strip") else {
        bail!("llvm-strip is not installed (apt-get install llvm)")
    };
    // Nothing of this machine gets into the object: no include paths, no folder names.
    let options = ["-O2", "-g", "-target", "bpfel", "-mcpu=v3", "-Wall", "-Werror", "-nostdinc"];
    let mut build = Command::new(clang);
    build.args(options).args(["-fdebug-compilation-dir=.", "-c", "eyes.bpf.c", "-o"]).arg(target);
    tools::run(build.current_dir(folder()))?;
    tools::run(Command::new(strip).arg("-g").arg(target))
}

/// # Errors
/// Without clang, and when the programs do not compile.
pub(crate) fn generate() -> Result<()> {
    let Some((program, version)) = clang()? else {
        bail!("clang is not installed (apt-get install clang llvm)")
    };
    compile(&program, &folder().join(OBJECT))?;
    fs::write(folder().join(RECORD), format!("{version}\n{}", digests()?))
        .context("cannot write the record")?;
    eprintln!("wrote {}", folder().join(OBJECT).display());
    Ok(())
}

/// # Errors
/// When the object is not what the source says.
pub(crate) fn check() -> Result<Step> {
    let record = fs::read_to_string(folder().join(RECORD)).context("cannot read eyes.bpf.built")?;
    let (built_by, recorded) = record.split_once('\n').context("eyes.bpf.built is damaged")?;
    if recorded != digests()? {
        bail!("the eBPF object is not what was built from this source; type: cargo xtask gen bpf");
    }
    let Some((program, version)) = clang()? else {
        return Ok(Step::Skipped(format!(
            "digests agree; clang is not installed, so it was not built anew ({built_by})"
        )));
    };
    if version != built_by {
        return Ok(Step::Skipped(format!("digests agree; built by {built_by}, and here is {version}")));
    }
    let scratch = tempfile::tempdir().context("cannot make a folder")?;
    let fresh = scratch.path().join(OBJECT);
    compile(&program, &fresh)?;
    if fs::read(&fresh).context("cannot read the object")?
        != fs::read(folder().join(OBJECT)).context("cannot read the object")?
    {
        bail!("the eBPF object is not what clang makes of the source; type: cargo xtask gen bpf");
    }
    Ok(Step::Done)
}
