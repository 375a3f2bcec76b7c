//! What boards tell in files that not every board has: how worn its flash is, how busy its graphics processor.

use std::path::PathBuf;

use crate::file::{ReadError, Roots, read_into};

/// More disks or graphics processors than this are not looked at.
const MOST: usize = 32;

/// Files that exist below the folders matching `parent/*/rest`.
fn below(roots: &Roots, parent: &str, rest: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(roots.locate(parent)) else { return Vec::new() };
    let paths = entries.flatten().take(MOST).map(|entry| entry.path().join(rest));
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.exists()).collect();
    paths.sort();
    paths
}

/// The files that tell, found once.
#[derive(Debug, Default)]
pub(crate) struct Hardware {
    wear: Vec<PathBuf>,
    gpu: Vec<PathBuf>,
}

impl Hardware {
    pub(crate) fn find(roots: &Roots) -> Self {
        // eMMC and SD; UFS.
        let mut wear = below(roots, "/sys/block", "device/life_time");
        wear.extend(below(roots, "/sys/block", "device/device/health_descriptor/life_time_estimation_a"));
        // Jetson, old and new; AMD.
        let mut gpu: Vec<PathBuf> = ["/sys/devices/gpu.0/load", "/sys/devices/platform/gpu.0/load"]
            .into_iter()
            .map(|path| roots.locate(path))
            .filter(|path| path.exists())
            .collect();
        gpu.extend(below(roots, "/sys/class/devfreq", "device/load"));
        gpu.extend(below(roots, "/sys/class/drm", "device/gpu_busy_percent"));
        Self { wear, gpu }
    }

    /// The most worn one, as a share of its life.
    pub(crate) fn wear(&self, buffer: &mut Vec<u8>) -> Result<f64, ReadError> {
        let tell = |path: &PathBuf| {
            read_into(path, buffer).ok()?;
            parse_life_time(str::from_utf8(buffer).ok()?)
        };
        let worst = self.wear.iter().filter_map(tell).reduce(f64::max);
        worst.ok_or(ReadError::Malformed {
            path: "/sys/block".to_owned(),
            what: "disk that tells how worn it is",
        })
    }

    /// The busiest one.
    pub(crate) fn gpu(&self, buffer: &mut Vec<u8>) -> Result<f64, ReadError> {
        let tell = |path: &PathBuf| {
            read_into(path, buffer).ok()?;
            let number: f64 = str::from_utf8(buffer).ok()?.trim().parse().ok()?;
            let whole = if path.ends_with("gpu_busy_percent") { 100.0 } else { 1000.0 };
            (0.0..=whole).contains(&number).then_some(number / whole)
        };
        let busiest = self.gpu.iter().filter_map(tell).reduce(f64::max);
        busiest.ok_or(ReadError::Malformed {
            path: "/sys/devices".to_owned(),
            what: "graphics processor that tells its load",
        })
    }
}

/// JEDEC eMMC 5.0 and UFS: one or two numbers, each in tenths of the rated life; 0 is not told, 11 is beyond it.
fn parse_life_time(text: &str) -> Option<f64> {
    let tenths = text.split_ascii_whitespace().filter_map(|word| {
        let number = u8::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()?;
        (1..=11).contains(&number).then(|| f64::from(number) / 10.0)
    });
    tenths.reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wear_is_that_of_the_worse_kind_of_cell() {
        assert_eq!(parse_life_time("0x01 0x03\n"), Some(0.3));
        assert_eq!(parse_life_time("0x0b 0x00\n"), Some(1.1));
        assert_eq!(parse_life_time("0x00 0x00\n"), None, "not told is not new");
        assert_eq!(parse_life_time("0xff\n"), None);
    }

    #[test]
    fn boards_are_read_where_they_tell_and_absent_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots::under(root.path());
        let mut buffer = Vec::new();
        let none = Hardware::find(&roots);
        assert!(none.wear(&mut buffer).is_err() && none.gpu(&mut buffer).is_err());
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("sys/block/mmcblk0/device/life_time", "0x02 0x01\n");
        write("sys/devices/gpu.0/load", "337\n");
        let board = Hardware::find(&roots);
        assert_eq!(board.wear(&mut buffer).ok(), Some(0.2));
        assert_eq!(board.gpu(&mut buffer).ok(), Some(0.337));
    }
}
