//! An app's own view of the file system, in a mount namespace that only it has.
//!
//! It is what the device has mounted at that moment, and stays so: what is mounted later is not seen here, or it would be outside of everything that was closed and hidden.
//! The app's own folder stays where it is, whatever is hidden around it; the folders of the other apps are not there.

use std::ffi::CStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use farshore_domain::release::isolation::Isolation;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};

use super::IsolateError;

/// What is in memory of an app's own: `/tmp`, `/var/tmp` and `/dev/shm`, each.
const OWN_TMP: &CStr = c"mode=1777,size=64m,nr_inodes=16k";
const EMPTY: &CStr = c"mode=000,size=4k,nr_inodes=2";
/// Holds the way to an app's folder, and nothing else.
const WAY: &CStr = c"mode=755,size=64k,nr_inodes=64";

const STILL: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Not written to by what `readOnlyRoot` is about: devices, processes and the kernel's own settings have their own rules.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What of /proc sets the whole machine, as `ProtectKernelTunables=` of systemd has it.
const TUNABLES: [&str; 6] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi"];

/// Nothing that is mounted or unmounted elsewhere comes here, also not by way of what is mounted on demand, and nothing from here goes there.
fn part() -> io::Result<()> {
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

fn tmpfs(target: &Path, flags: MountFlags, options: &CStr) -> io::Result<()> {
    Ok(mount("farshore", target, "tmpfs", STILL | flags, options)?)
}

/// Whether mounts can be made in a namespace that this thread has just entered.
pub(super) fn attempt() -> io::Result<()> {
    part()?;
    tmpfs(Path::new("/"), MountFlags::NOEXEC, EMPTY)
}

fn at(path: &Path, what: &str) -> impl FnOnce(io::Error) -> IsolateError {
    IsolateError::new(format!("{what} {}", path.display()))
}

/// The real path of a folder or file; none where there is nothing.
fn real(path: &Path) -> Result<Option<PathBuf>, IsolateError> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(Some(real)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(at(path, "finding")(error)),
    }
}

/// Makes the view in the namespace that this process has just entered. `app` is the app's folder.
pub(super) fn make(isolation: &Isolation, app: &Path) -> Result<(), IsolateError> {
    // Whatever is made here is for others to walk through.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let way = |error: rustix::io::Errno| at(app, "opening")(error.into());
    let place = rustix::fs::open(app, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(way)?;
    part().map_err(IsolateError::new("parting from the device's mounts"))?;
    let hide = to_hide(isolation, app)?;
    let mut own = Vec::new();
    if isolation.private_tmp == Some(true) {
        for path in ["/tmp", "/var/tmp"].map(Path::new) {
            // One may be a link to the other.
            if let Some(path) = real(path)?.filter(|path| !own.contains(path)) {
                tmpfs(&path, MountFlags::empty(), OWN_TMP).map_err(at(&path, "a private"))?;
                own.push(path);
            }
        }
    }
    if let Some(apps) = app.parent() {
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o755).create(path);
        make(apps).map_err(at(apps, "the way to"))?;
        tmpfs(apps, MountFlags::empty(), WAY).map_err(at(apps, "hiding"))?;
        make(app).map_err(at(app, "the way to"))?;
        let place = format!("/proc/self/fd/{}", place.as_raw_fd());
        mount_bind_recursive(place, app).map_err(|e| at(app, "showing")(e.into()))?;
        own.push(apps.to_owned());
    }
    if isolation.has_ipc() {
        for (path, kind, options) in [("/dev/shm", "tmpfs", OWN_TMP), ("/dev/mqueue", "mqueue", c"")] {
            let path = Path::new(path);
            if path.is_dir() {
                mount("farshore", path, kind, STILL | MountFlags::NOEXEC, options)
                    .map_err(|e| at(path, "a private")(e.into()))?;
            }
        }
    }
    if isolation.has_pid() {
        mount("proc", "/proc", "proc", STILL | MountFlags::NOEXEC, None)
            .map_err(IsolateError::new("a /proc of its own"))?;
        // It covers what the runner's unit had closed in the /proc around it.
        for path in TUNABLES.map(Path::new).into_iter().filter(|path| path.exists()) {
            mount_bind_recursive(path, path).map_err(|e| at(path, "closing")(e.into()))?;
            read_only(path).map_err(at(path, "closing"))?;
        }
    }
    for path in &hide {
        mask(path)?;
    }
    if isolation.read_only_root == Some(true) {
        close_root(isolation, app, &own)?;
    }
    // At last: a check that comes meanwhile sees by it that not everything is closed yet.
    match app.parent() {
        Some(apps) => read_only(apps).map_err(at(apps, "closing")),
        None => Ok(()),
    }
}

/// Whether the view of the namespace that this process is in was made to its end.
pub(super) fn is_whole(app: &Path) -> bool {
    app.parent()
        .is_none_or(|apps| statvfs(apps).is_ok_and(|there| there.f_flag.contains(StatVfsMountFlags::RDONLY)))
}

/// What has to be masked, looked for before anything is covered; what lies below something else that is hidden is hidden with it.
fn to_hide(isolation: &Isolation, app: &Path) -> Result<Vec<PathBuf>, IsolateError> {
    let mut covered: Vec<PathBuf> = app.parent().map(Path::to_owned).into_iter().collect();
    if isolation.private_tmp == Some(true) {
        for path in ["/tmp", "/var/tmp"].map(Path::new) {
            covered.extend(real(path)?);
        }
    }
    let mut found = Vec::new();
    for path in isolation.masked_paths.iter().flatten().map(Path::new) {
        let masking = format!("masking {}", path.display());
        let Some(real) = real(path)? else {
            if is_out_of_sight(path, &covered)? {
                continue;
            }
            // It would be seen as soon as it is: the app does not run before.
            let why =
                "it is not there, and would be seen as soon as it is; mask the folder that it belongs in";
            return Err(IsolateError::said(masking, why));
        };
        if app.starts_with(&real) || real.starts_with(app) {
            return Err(IsolateError::said(masking, "that is the app's own folder, or holds it"));
        }
        found.push(real);
    }
    // Folders come before what is in them.
    found.sort();
    let mut hide: Vec<PathBuf> = Vec::new();
    for path in found {
        if !covered.iter().chain(&hide).any(|above| path.starts_with(above)) {
            hide.push(path);
        }
    }
    Ok(hide)
}

/// Whether what is not there could not be seen either: below something that is covered, or in a folder that the runner's unit has closed for everybody
/// (`ProtectHome=`, `InaccessiblePaths=`: an empty folder that nobody may enter, on a mount that can't be written).
fn is_out_of_sight(path: &Path, covered: &[PathBuf]) -> Result<bool, IsolateError> {
    for above in path.ancestors().skip(1) {
        let Some(above) = real(above)? else { continue };
        let mode = fs::metadata(&above).map_err(at(&above, "looking at"))?.permissions().mode();
        let closed = mode & 0o777 == 0
            && statvfs(&above).is_ok_and(|there| there.f_flag.contains(StatVfsMountFlags::RDONLY));
        return Ok(closed || covered.iter().any(|folder| above.starts_with(folder)));
    }
    Ok(false)
}

/// Nothing is seen at a path any more.
fn mask(real: &Path) -> Result<(), IsolateError> {
    if real.is_dir() {
        return tmpfs(real, MountFlags::NOEXEC | MountFlags::RDONLY, EMPTY).map_err(at(real, "masking"));
    }
    mount_bind_recursive("/dev/null", real).map_err(|e| at(real, "masking")(e.into()))?;
    read_only(real).map_err(at(real, "masking"))
}

/// Makes every mount read-only but for those that are the app's to write.
fn close_root(isolation: &Isolation, app: &Path, own: &[PathBuf]) -> Result<(), IsolateError> {
    let mut open = vec![app.join("data")];
    for path in isolation.writable_paths.iter().flatten() {
        let path = Path::new(path);
        let missing =
            || IsolateError::said(format!("keeping {} writable", path.display()), "it is not there");
        let found = real(path)?.ok_or_else(missing)?;
        // The policy was asked about the path as it is written.
        if found != path {
            let why = format!("it leads to {}", found.display());
            return Err(IsolateError::said(format!("keeping {} writable", path.display()), &why));
        }
        open.push(found);
    }
    for path in &open {
        // A mount of its own stays as it is when the one around it is closed.
        mount_bind_recursive(path, path).map_err(|e| at(path, "keeping open")(e.into()))?;
    }
    open.extend(KERNELS.map(PathBuf::from));
    let table = fs::read("/proc/self/mountinfo").map_err(IsolateError::new("reading the mounts"))?;
    for point in points(&String::from_utf8_lossy(&table)) {
        let is_open = own.contains(&point) || open.iter().any(|path| point.starts_with(path));
        if is_open {
            continue;
        }
        match read_only(&point) {
            Ok(()) => {}
            // Below something that hides it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let closed =
                    statvfs(&point).is_ok_and(|there| there.f_flag.contains(StatVfsMountFlags::RDONLY));
                if !closed {
                    return Err(at(&point, "closing")(error));
                }
            }
        }
    }
    Ok(())
}

/// Makes the mount at a path read-only, and leaves everything else about it.
fn read_only(point: &Path) -> io::Result<()> {
    let now = statvfs(point)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (set, flag) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        flags.set(flag, now.contains(set));
    }
    Ok(mount_remount(point, flags, c"")?)
}

/// Where something is mounted, from `proc_pid_mountinfo(5)`: the fifth field, in which blanks and backslashes are octal. What is mounted on demand has
/// nothing to write, and here it stays so; to look at it would mount it on the device.
fn points(table: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (mount, about) = line.split_once(" - ")?;
        let path = mount.split(' ').nth(4)?;
        (!about.starts_with("autofs ")).then(|| PathBuf::from(unescape(path)))
    };
    let mut points: Vec<_> = table.lines().filter_map(point).collect();
    points.sort();
    points.dedup();
    points
}

fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let table = "36 35 98:0 /mnt1 /mnt2\\040a rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 0:5 / / rw - overlay overlay rw\n38 35 0:6 / /net rw - autofs systemd-1 rw\n39 1 0:7 / /\\134x rw - tmpfs a b\nnonsense\n";
        assert_eq!(points(table), ["/", "/\\x", "/mnt2 a"].map(PathBuf::from));
    }
}
