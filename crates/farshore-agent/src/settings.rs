//! Arguments and environment, checked in full: every error is told at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use farshore_agent::roles::RunSettings;
use farshore_agent::runner::{ALLOWED_FILE, Allowed, AppsUser, RunnerSettings};
use farshore_agent::{Proxy, Registries, use_proxy};
use farshore_domain::label::Labels;
use farshore_domain::release::slot::Slot;
use farshore_trust::token::ClaimToken;

use crate::gateway_role::{GatewayArgs, GatewaySettings};
use crate::journal_verb::{JournalArgs, JournalWork};
use crate::pipeline_verb::{PipelineArgs, PipelineWork};

/// The agent of a Farshore device.
#[derive(Debug, Parser)]
#[command(name = "farshore-agent", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Keep this device what its control plane wants it to be. Needs no privileges.
    Run(RunArgs),
    /// Start and stop apps from verified manifests, for `run`.
    Runner(RunnerArgs),
    /// Take readings by HTTP, MQTT and OTLP, and keep them until the cloud has them. Needs neither a claim nor the other roles.
    Gateway(GatewayArgs),
    /// Look into a gateway's journal, check it, take points out and put them back.
    Journal(JournalArgs),
    /// Check pipelines of the gateway, and try them on recorded points.
    Pipeline(PipelineArgs),
    /// Register this device with its control plane.
    Claim(ClaimArgs),
    /// Say what the agent does and why, with or without network.
    Status(StatusArgs),
    /// Say what this device can do.
    Capabilities(CapabilitiesArgs),
    /// Supervise one app (started by the runner).
    #[command(hide = true)]
    Shim {
        folder: PathBuf,
        /// In which of the app's slots.
        #[arg(long)]
        green: bool,
    },
    /// Put eBPF programs into the kernel and hand them over (started by the runner).
    #[command(hide = true)]
    EyesLoader,
    /// Become an app (started by its supervisor).
    #[command(hide = true)]
    AppExec {
        spec: PathBuf,
        #[arg(long)]
        check: Option<String>,
        #[arg(long, conflicts_with = "check")]
        hook: Option<String>,
    },
    /// Become a command from afar (started by the runner).
    #[command(hide = true)]
    CommandExec { spec: PathBuf },
    /// Make a container's network, or take it back (started by runc, as a hook).
    #[command(hide = true)]
    ContainerNetwork { verb: NetworkVerb },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkVerb {
    Add,
    Del,
}

#[derive(Debug, Args)]
pub(crate) struct StateDir {
    /// Where the agent keeps its identity and its journal.
    #[arg(long, env = "FARSHORE_STATE_DIR", default_value = "/var/lib/farshore-agent")]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The claim token. Others on this machine can read arguments: prefer the file or the environment.
    #[arg(long, env = "FARSHORE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the claim token.
    #[arg(long, env = "FARSHORE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A label of this device, `key=value`; may be given again.
    #[arg(long = "label", env = "FARSHORE_LABELS", value_delimiter = ',')]
    labels: Vec<String>,
}

// The way out of a site that lets nothing else through. (A doc comment here would become the help of the verbs.)
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// The HTTP proxy through which the control plane is reached: http://[user:password@]host[:port].
    #[arg(long, env = "FARSHORE_PROXY", hide_env_values = true)]
    proxy: Option<String>,
}

impl ProxyArgs {
    /// The same, or what a file of variables says where neither argument nor environment says anything.
    pub(crate) fn or(self, text: Option<String>) -> Self {
        Self { proxy: self.proxy.or(text) }
    }

    pub(crate) fn validate(self, errors: &mut Vec<String>) {
        match self.proxy.filter(|text| !text.trim().is_empty()).map(|text| Proxy::parse(&text)) {
            Some(Ok(proxy)) => use_proxy(proxy),
            // It may hold a password: what was given is not repeated.
            Some(Err(error)) => errors.push(format!("--proxy (FARSHORE_PROXY) {error}")),
            None => {}
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    state: StateDir,
    #[command(flatten)]
    proxy: ProxyArgs,
    /// The runner's socket.
    #[arg(long, env = "FARSHORE_RUNNER_SOCKET", default_value = "/run/farshore/runner.sock")]
    runner_socket: PathBuf,
    /// Logins to registries that images come from, as `docker login` and `skopeo login` write them.
    #[arg(long, env = "FARSHORE_REGISTRIES", default_value = "/etc/farshore/registries.json")]
    registries: PathBuf,
    /// Root certificates of registries, in PEM.
    #[arg(long, env = "FARSHORE_REGISTRY_ROOTS", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    registry_roots: PathBuf,
    #[command(flatten)]
    token: TokenArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunnerArgs {
    /// Where to listen.
    #[arg(long, env = "FARSHORE_RUNNER_SOCKET", default_value = "/run/farshore/runner.sock")]
    socket: PathBuf,
    /// Where apps live.
    #[arg(long, env = "FARSHORE_APPS_DIR", default_value = "/var/lib/farshore-apps")]
    apps_dir: PathBuf,
    /// The user id that `run` has; root and the runner's own may always ask.
    #[arg(long, env = "FARSHORE_ALLOW_UID")]
    allow_uid: Option<u32>,
    /// Run all apps as this user instead of each as its own.
    #[arg(long, env = "FARSHORE_APPS_USER", conflicts_with = "unprivileged")]
    apps_user: Option<String>,
    /// Run apps as the user of the runner: for development.
    #[arg(long, env = "FARSHORE_UNPRIVILEGED")]
    unprivileged: bool,
    /// Where control groups are mounted.
    #[arg(long, env = "FARSHORE_CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    cgroup_root: PathBuf,
    /// The control group that apps get theirs in; empty for none.
    #[arg(long, env = "FARSHORE_CGROUP", default_value = "farshore-apps")]
    cgroup: String,
    /// What this device allows its apps beyond being plain processes: units, containers, files, root. None of it without the file.
    #[arg(long, env = "FARSHORE_EXECUTORS", default_value = ALLOWED_FILE)]
    executors: PathBuf,
    /// What reboots the device when a policy allows that as the last step of healing; empty for never.
    #[arg(long, env = "FARSHORE_REBOOT_COMMAND", default_value = "/usr/bin/systemctl reboot")]
    reboot_command: String,
    /// Whether eBPF programs may be loaded into the kernel; without them less is seen.
    #[arg(long, env = "FARSHORE_EBPF", default_value = "on")]
    ebpf: Switch,
    /// The socket at which systemd starts a loader for them; without it the runner starts one itself.
    #[arg(long, env = "FARSHORE_EYES_SOCKET")]
    eyes_socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct ClaimArgs {
    #[command(flatten)]
    state: StateDir,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    token: TokenArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    state: StateDir,
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct CapabilitiesArgs {
    /// The runner's socket.
    #[arg(long, env = "FARSHORE_RUNNER_SOCKET", default_value = "/run/farshore/runner.sock")]
    runner_socket: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// Settings that are good.
#[derive(Debug)]
pub(crate) enum Role {
    Run(RunSettings),
    Runner(Box<RunnerSettings>),
    Gateway(Box<GatewaySettings>),
    Journal(JournalWork),
    Pipeline(Box<PipelineWork>),
    Claim { state: PathBuf, token: ClaimToken, labels: BTreeMap<String, String> },
    Status { state: PathBuf, output: Output },
    Capabilities { socket: PathBuf },
    Shim { folder: PathBuf, slot: Slot },
    AppExec { spec: PathBuf, check: Option<String>, hook: Option<String> },
    CommandExec { spec: PathBuf },
    ContainerNetwork { verb: NetworkVerb },
    EyesLoader,
}

impl TokenArgs {
    fn validate(self, errors: &mut Vec<String>) -> (Option<ClaimToken>, BTreeMap<String, String>) {
        let text = match (self.token, self.token_file) {
            (Some(_), Some(_)) => {
                errors.push("give --token or --token-file, not both".to_owned());
                None
            }
            (Some(text), None) => Some(text),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) => Some(text),
                Err(error) => {
                    errors.push(format!("--token-file {}: {error}", path.display()));
                    None
                }
            },
            (None, None) => None,
        };
        let token = text.and_then(|text| match text.trim().parse::<ClaimToken>() {
            Ok(token) => Some(token),
            Err(error) => {
                errors.push(format!("the claim token: {error}"));
                None
            }
        });
        let mut pairs = BTreeMap::new();
        for label in self.labels.iter().filter(|label| !label.is_empty()) {
            match label.split_once('=') {
                Some((key, value)) => drop(pairs.insert(key.to_owned(), value.to_owned())),
                None => errors.push(format!("--label {label}: write key=value")),
            }
        }
        if let Err(error) = Labels::new(pairs.clone()) {
            errors.push(format!("--label: {error}"));
        }
        (token, pairs)
    }
}

impl Verb {
    /// Checks everything; all that is wrong at once.
    pub(crate) fn validate(self) -> Result<Role, Vec<String>> {
        let mut errors = Vec::new();
        let role = match self {
            Self::Run(RunArgs { state, proxy, runner_socket, registries, registry_roots, token }) => {
                proxy.validate(&mut errors);
                let (token, labels) = token.validate(&mut errors);
                let registries = Registries { logins: registries, roots: registry_roots };
                Role::Run(RunSettings { state: state.state_dir, runner_socket, registries, token, labels })
            }
            Self::Runner(args) => {
                let user = match (args.unprivileged, args.apps_user) {
                    (true, _) => AppsUser::Unprivileged,
                    (false, Some(name)) => AppsUser::Named(name),
                    (false, None) => AppsUser::PerApp,
                };
                if user != AppsUser::Unprivileged && !rustix::process::geteuid().is_root() {
                    errors.push(
                        "apps can only get users of their own from root; give --unprivileged".to_owned(),
                    );
                }
                if !args.cgroup.is_empty()
                    && args.cgroup.split('/').any(|part| part.is_empty() || part.starts_with('.'))
                {
                    errors
                        .push("--cgroup is a path below --cgroup-root, such as a.slice/b.service".to_owned());
                }
                let mut settings = RunnerSettings::new(args.socket, args.apps_dir, user);
                settings.allow_uid = args.allow_uid;
                match Allowed::load(&args.executors) {
                    Ok(allowed) => settings.allowed = allowed,
                    Err(error) => errors.push(format!("--executors: {}", farshore_agent::chain(&error))),
                }
                settings.eyes = args.eyes_socket;
                settings.ebpf = args.ebpf == Switch::On;
                settings.cgroups = (!args.cgroup.is_empty()).then_some((args.cgroup_root, args.cgroup));
                settings.reboot = args.reboot_command.split_whitespace().map(str::to_owned).collect();
                Role::Runner(Box::new(settings))
            }
            Self::Gateway(args) => return args.validate().map(|settings| Role::Gateway(Box::new(settings))),
            Self::Journal(args) => return args.validate().map(Role::Journal),
            Self::Pipeline(args) => return args.validate().map(|work| Role::Pipeline(Box::new(work))),
            Self::Claim(ClaimArgs { state, proxy, token }) => {
                proxy.validate(&mut errors);
                let (token, labels) = token.validate(&mut errors);
                match token {
                    Some(token) => Role::Claim { state: state.state_dir, token, labels },
                    None => {
                        if errors.is_empty() {
                            errors.push("a claim needs --token or --token-file".to_owned());
                        }
                        return Err(errors);
                    }
                }
            }
            Self::Status(StatusArgs { state, output }) => Role::Status { state: state.state_dir, output },
            Self::Capabilities(CapabilitiesArgs { runner_socket }) => {
                Role::Capabilities { socket: runner_socket }
            }
            Self::Shim { folder, green } => {
                Role::Shim { folder, slot: if green { Slot::Green } else { Slot::Blue } }
            }
            Self::AppExec { spec, check, hook } => Role::AppExec { spec, check, hook },
            Self::CommandExec { spec } => Role::CommandExec { spec },
            Self::ContainerNetwork { verb } => Role::ContainerNetwork { verb },
            Self::EyesLoader => Role::EyesLoader,
        };
        if errors.is_empty() { Ok(role) } else { Err(errors) }
    }
}
