//! The device's reboot, by the program that the runner's settings name.

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use super::RunnerError;

/// How long the program may take to say that the device is going down.
const WITHIN: Duration = Duration::from_secs(30);

/// Whether there is a program that could be run.
pub(super) fn is_possible(command: &[String]) -> bool {
    let executable = |program: &String| std::fs::metadata(program).is_ok_and(|meta| meta.mode() & 0o111 != 0);
    command.first().is_some_and(executable)
}

/// Runs the program. An empty command means that this device is not rebooted from here.
pub(super) async fn reboot(command: &[String]) -> Result<(), RunnerError> {
    let Some((program, arguments)) = command.split_first() else { return Err(RunnerError::NoReboot) };
    let failed = |source| RunnerError::io("rebooting", source);
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(WITHIN, child)
        .await
        .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    if status.success() {
        tracing::warn!("the device is being rebooted");
        return Ok(());
    }
    Err(failed(std::io::Error::other(format!("{program} ended with {status}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_runs_the_program_and_says_when_there_is_none_or_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let sign = folder.path().join("rebooted");
        let touch = ["/usr/bin/touch".to_owned(), sign.display().to_string()];
        assert!(is_possible(&touch));
        assert!(!is_possible(&[]) && !is_possible(&["/nowhere/reboot".to_owned()]));
        assert!(!is_possible(&["/etc/passwd".to_owned()]));
        reboot(&touch).await.unwrap();
        assert!(sign.exists());
        assert!(matches!(reboot(&[]).await, Err(RunnerError::NoReboot)));
        assert!(reboot(&["/bin/false".to_owned()]).await.is_err());
        assert!(reboot(&["/nowhere/reboot".to_owned()]).await.is_err());
    }
}
