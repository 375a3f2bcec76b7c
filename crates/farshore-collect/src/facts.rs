//! What a machine is: read once, sent with the claim and each hello.

use crate::file::{KernelFile, Roots, clean_line, read_into, read_line};
use crate::source::{parse_meminfo, parse_stat};

/// Facts that do not change while the machine runs. Text is clean of control characters and at most 256 long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Operating system of this program's build, as Rust spells it: `linux`.
    pub os: &'static str,
    /// Architecture of this program's build, as Rust spells it: `x86_64`, `aarch64`, `arm`.
    pub arch: &'static str,
    /// Kernel release, such as `6.1.0-25-arm64`.
    pub kernel: Option<String>,
    /// `PRETTY_NAME` of os-release.
    pub os_name: Option<String>,
    /// Model of the machine, from the device tree or from DMI.
    pub model: Option<String>,
    /// Processors that are online.
    pub cpu_count: Option<u32>,
    /// Memory that the kernel can use, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// The kernel's random id of this boot.
    pub boot_id: Option<String>,
    /// The machine's name.
    pub hostname: Option<String>,
}

impl HostFacts {
    /// Reads the facts. What cannot be read is absent.
    #[must_use]
    pub fn read(roots: &Roots) -> Self {
        let mut buffer = Vec::new();
        let stat = KernelFile::new(roots, "/proc/stat").read(&mut buffer, "processor times", parse_stat).ok();
        let memory =
            KernelFile::new(roots, "/proc/meminfo").read(&mut buffer, "memory sizes", parse_meminfo).ok();
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: read_line(roots, "/proc/sys/kernel/osrelease"),
            os_name: os_name(roots, "/etc/os-release").or_else(|| os_name(roots, "/usr/lib/os-release")),
            model: model(roots),
            cpu_count: stat.map(|stat| stat.online).filter(|count| *count > 0),
            memory_total_bytes: memory.map(|memory| memory.total),
            boot_id: read_line(roots, "/proc/sys/kernel/random/boot_id").filter(|id| is_uuid(id)),
            hostname: read_line(roots, "/proc/sys/kernel/hostname").filter(|name| name != "(none)"),
        }
    }
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// `PRETTY_NAME` of an os-release file (os-release(5): shell-like assignments).
fn os_name(roots: &Roots, path: &str) -> Option<String> {
    let mut buffer = Vec::new();
    read_into(&roots.locate(path), &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer);
    let value = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    clean_line(&unquoted(value.trim()))
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            let mut out = String::with_capacity(inner.len());
            let mut chars = inner.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\\' if quote == '"' => out.extend(chars.next()),
                    c => out.push(c),
                }
            }
            return out;
        }
    }
    value.to_owned()
}

fn model(roots: &Roots) -> Option<String> {
    // What firmware says when nobody filled it in.
    const FILLERS: [&str; 6] = [
        "to be filled by o.e.m.",
        "system manufacturer",
        "system product name",
        "default string",
        "none",
        "unknown",
    ];

    let tree = ["/proc/device-tree/model", "/sys/firmware/devicetree/base/model"];
    if let Some(model) = tree.iter().find_map(|path| read_line(roots, path)) {
        return Some(model);
    }
    let dmi = |field: &str| {
        read_line(roots, &format!("/sys/class/dmi/id/{field}"))
            .filter(|text| !FILLERS.contains(&text.to_ascii_lowercase().as_str()))
    };
    match (dmi("sys_vendor"), dmi("product_name")) {
        (Some(vendor), Some(product)) if product.starts_with(&vendor) => Some(product),
        (Some(vendor), Some(product)) => Some(format!("{vendor} {product}")),
        (None, Some(product)) => Some(product),
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_of_os_release_are_undone() {
        assert_eq!(unquoted(r#""Debian GNU/Linux 12 \"bookworm\"""#), r#"Debian GNU/Linux 12 "bookworm""#);
        assert_eq!(unquoted("'Yocto'"), "Yocto");
        assert_eq!(unquoted("Alpine"), "Alpine");
        assert_eq!(unquoted("\""), "\"");
        assert_eq!(unquoted("\"\\\""), "");
    }

    fn model_of(files: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        model(&Roots::under(folder.path()))
    }

    #[test]
    fn the_model_comes_from_the_device_tree_or_from_dmi() {
        let pi = "Raspberry Pi 4 Model B Rev 1.4";
        assert_eq!(model_of(&[("proc/device-tree/model", &format!("{pi}\0"))]).as_deref(), Some(pi));
        let (vendor, product) = ("sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name");
        assert_eq!(
            model_of(&[(vendor, "Dell Inc.\n"), (product, "Edge 3000\n")]).as_deref(),
            Some("Dell Inc. Edge 3000")
        );
        assert_eq!(model_of(&[(vendor, "Acme\n"), (product, "Acme K1\n")]).as_deref(), Some("Acme K1"));
        assert_eq!(
            model_of(&[(vendor, "To Be Filled By O.E.M.\n"), (product, "System Product Name\n")]),
            None
        );
        assert_eq!(model_of(&[]), None);
    }
}
