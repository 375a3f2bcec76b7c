//! What a unit file says in its `[Service]` section, in order, as far as it can be given to `systemd-run`.

/// Directives that are not part of the sandbox, and why a test does not run under them.
const LEFT_OUT: &[(&str, &str)] = &[
    ("Type", "a test is no service"),
    ("ExecStart", "a test is no service"),
    ("Restart", "a test is no service"),
    ("RestartSec", "a test is no service"),
    ("OOMPolicy", "a test is no service"),
    ("OOMScoreAdjust", "a test has no more right to memory than anything else"),
    ("KillMode", "what a test leaves behind is ended with it"),
    ("RuntimeDirectory", "tests work in temporary folders"),
    ("RuntimeDirectoryMode", "tests work in temporary folders"),
    ("RuntimeDirectoryPreserve", "tests work in temporary folders"),
    ("StateDirectory", "tests work in temporary folders"),
    ("StateDirectoryMode", "tests work in temporary folders"),
    ("MemoryMax", "a test's process holds the other end of its connections too"),
    ("TasksMax", "a test's process holds the other end of its connections too"),
    ("SocketBindDeny", "a test's process holds the other end of its connections too"),
    ("IPAddressDeny", "it belongs to the control group, which a test's apps and servers share with it"),
];

/// Of these, systemd-run takes the last one only, where a unit file adds up what several lines list.
const ADDED_UP: &[&str] = &["CapabilityBoundingSet", "RestrictNamespaces"];

/// The sandbox of a unit with its drop-ins: their directives without those that are left out.
pub(crate) fn sandbox<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (key, value) in files.into_iter().flat_map(service_section) {
        if LEFT_OUT.iter().any(|(left_out, _)| *left_out == key) {
            continue;
        }
        let before = found.iter_mut().find(|(known, _)| *known == key && ADDED_UP.contains(&known.as_str()));
        match before {
            // An empty one takes back what was there.
            Some((_, listed)) if value.is_empty() || listed.is_empty() => *listed = value,
            Some((_, listed)) => *listed = format!("{listed} {value}"),
            None => found.push((key, value)),
        }
    }
    found
}

/// Keys and values of `[Service]` (systemd.syntax(7): comments begin with # or ;, a backslash continues a line).
fn service_section(unit: &str) -> Vec<(String, String)> {
    let joined = unit.replace("\\\n", " ");
    joined
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[Service]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_what_the_service_section_says_in_order() {
        let unit = "[Unit]\nDescription=x\n[Service]\nType=exec\nExecStart=/bin/sh -c 'a \\\n  b'\n# no\nUser=me\n\
                    SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\nCapabilityBoundingSet=\n\
                    [Install]\nWantedBy=multi-user.target\n";
        let expect = [
            ("User", "me"),
            ("SystemCallFilter", "@system-service"),
            ("SystemCallFilter", "~@privileged @resources"),
            ("CapabilityBoundingSet", ""),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(sandbox([unit]), expect);
    }

    #[test]
    fn a_drop_in_adds_to_what_the_unit_lists_or_takes_it_back() {
        let unit = "[Service]\nCapabilityBoundingSet=CAP_CHOWN\nRestrictNamespaces=yes\nSystemCallFilter=@system-service\n";
        let drop_in = "[Service]\nCapabilityBoundingSet=CAP_KILL\nRestrictNamespaces=\nRestrictNamespaces=pid mnt\nSystemCallFilter=@mount\n";
        let expect = [
            ("CapabilityBoundingSet", "CAP_CHOWN CAP_KILL"),
            ("RestrictNamespaces", "pid mnt"),
            ("SystemCallFilter", "@system-service"),
            ("SystemCallFilter", "@mount"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(sandbox([unit, drop_in]), expect);
    }
}
