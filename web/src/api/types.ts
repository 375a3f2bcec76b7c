/**
 * The API's types under the page's own short names.
 *
 * They mirror `crates/farshore-api`; `schema.gen.ts` is the source of truth and `types.test-d.ts` holds the two together.
 */

/** Unix milliseconds. */
export type UnixMs = number
export type Labels = Record<string, string>

export interface Metadata {
  uid: string
  name: string
  labels?: Labels
  resourceVersion: number
  managedBy: string
  createdAt: UnixMs
}

export interface ObjectOf<S, T = Record<string, never>> {
  apiVersion: string
  kind: string
  metadata: Metadata
  spec: S
  status: T
}

export interface NewObject<S> {
  metadata: { name: string; labels?: Labels }
  spec: S
}

export interface List<T> {
  items: T[]
  metadata: { continue?: string; total?: number }
}

export interface FieldError {
  field: string
  message: string
}

export interface Problem {
  type: string
  title: string
  status: number
  code: string
  detail: string
  errors?: FieldError[]
  requestId?: string
}

export interface Reason {
  code: string
  message: string
  since: UnixMs
}

export interface Me {
  user?: string
  email: string
  tenant: string
  tenantId: string
  role: string
  permissions: string[]
  tenants: string[]
  expiresAt: UnixMs
}

export type Reachability = 'online' | 'stale' | 'offline' | 'unknown'
export type Health = 'healthy' | 'degraded' | 'failing' | 'unknown'
export type Conformance = 'conforming' | 'converging' | 'diverged' | 'held' | 'unsupported' | 'unknown'
export type Lifecycle =
  | 'pending'
  | 'claimed'
  | 'cordoned'
  | 'draining'
  | 'drained'
  | 'decommissioning'
  | 'decommissioned'
  | 'unknown'

export interface Generation {
  epoch: number
  generation: number
}

export interface Hardware {
  hostname: string
  os: string
  arch: string
  variant: string
  kernel: string
  osName: string
  model: string
  cpus: number
  memoryBytes: number
}

export interface DesiredRelease {
  uid: string
  version: string
  manifest: string
}

export type Because =
  | { source: 'channel'; channel: string }
  | { source: 'pin'; pin: string }
  | { source: 'rollout'; rollout: string; name: string; wave: number; forward: boolean }
  | { source: 'unknown' }

export interface ConfigValue {
  value: string
  layer: 'tenant' | 'app' | 'selector' | 'device'
  from: string
  reference?: string
}

/** What an app is kept apart from; what is left out is the device's own. */
export interface Isolation {
  pid?: 'host' | 'private'
  ipc?: 'host' | 'private'
  uts?: 'host' | 'private'
  network?: 'host' | 'none'
  readOnlyRoot?: boolean
  privateTmp?: boolean
  maskedPaths?: string[]
  writablePaths?: string[]
  seccomp?: 'none' | 'default' | 'strict'
}

export interface DeviceApp {
  app: string
  phase: string
  health: Health
  desired?: DesiredRelease
  because?: Because
  activeRelease?: string
  activeVersion: string
  stagedRelease?: string
  failedRelease?: string
  committed: boolean
  restarts: number
  reasons: Reason[]
  /** What the running instance is kept apart from; `{}`: from nothing; left out: nobody knows. */
  isolation?: Isolation
  config: Record<string, ConfigValue>
  usage?: AppUsage
}

/** `cpu` in cores, `mem_used` in bytes, `processes`, `io_read` and `io_write` in bytes a second; what is not known is left out. */
export interface AppUsage {
  at: number
  values: Record<string, number>
}

/** How a device stands to its control plane: `online`, `silent`, or what is in the way. */
export type Connectivity = 'online' | 'no-interface' | 'dns' | 'proxy' | 'captive-portal' | 'tls' | 'clock' | 'control-plane' | 'silent' | 'unknown'

/** A stretch of time in one state. */
export interface ConnectivitySpan {
  from: UnixMs
  to: UnixMs
  state: Connectivity
  message?: string
}

/** How a device stood to its control plane over the last days. */
export interface DeviceConnectivity {
  state: Connectivity
  since?: UnixMs
  message?: string
  from: UnixMs
  to: UnixMs
  onlineShare?: number
  outages: number
  spans: ConnectivitySpan[]
  truncated: boolean
}

export interface DeviceSpec {
  channel: string
  location: string
  driver: string
}

/** Who tells one signal of a device's kernel: `ebpf`, `netlink`, `proc` or `none`, and why not something better. */
export interface Sense {
  by: string
  reason: string
}

export interface DeviceStatus {
  reachability: Reachability
  health: Health
  conformance: Conformance
  lifecycle: Lifecycle
  reasons: Reason[]
  lastSeenAt?: UnixMs
  agentVersion: string
  capabilities: string[]
  /** Who tells which signal of the kernel; left out by agents that do not say. */
  senses?: Record<string, Sense>
  hardware: Hardware
  accepted: Generation
  desired: Generation
  certificateExpiresAt?: UnixMs
  apps: DeviceApp[]
  latest: Record<string, number>
  sparkline?: (number | null)[]
}

export type Device = ObjectOf<DeviceSpec, DeviceStatus>

export interface LocationSummary {
  location: string
  total: number
  online: number
  unhealthy: number
}

export interface DeviceSummary {
  total: number
  reachability: Record<string, number>
  health: Record<string, number>
  conformance: Record<string, number>
  lifecycle: Record<string, number>
  byLocation: LocationSummary[]
  channels: string[]
}

export interface Measurements {
  stream: string
  at: UnixMs[]
  columns: Record<string, (number | null)[]>
}

export interface Sample {
  stream: string
  at: UnixMs
  values: Record<string, number>
}

export interface FleetEvent {
  uid: string
  sequence: number
  at: UnixMs
  type: string
  subject: { kind: string; uid: string; name: string }
  actor: string
  message: string
  payload: unknown
}

export interface ClaimTokenSpec {
  labels?: Labels
  channel?: string
  location?: string
  lifetimeSeconds?: number
  uses?: number
}

export interface ClaimTokenStatus {
  used: number
  expiresAt: UnixMs
  revoked: boolean
  token?: string
  command?: string
  /** The line for a device without an agent, where the control plane has packages of it. */
  install?: string
}

export type ClaimToken = ObjectOf<ClaimTokenSpec, ClaimTokenStatus>

export interface ArtifactRef {
  digest: string
  size: number
  format: string
}

export interface HealthCheck {
  name: string
  probe:
    | { type: 'http'; port: number | string; path: string }
    | { type: 'tcp'; port: number | string }
    | { type: 'command'; command: string[] }
  intervalSeconds?: number
  timeoutSeconds?: number
  failureThreshold?: number
}

export interface Manifest {
  schema: string
  tenant: string
  app: string
  version: string
  floor?: string
  platforms: { os: string; arch: string; variant?: string; artifact: ArtifactRef }[]
  run: {
    command: string[]
    env?: Record<string, string>
    stopTimeoutSeconds?: number
    limits?: { memoryBytes?: number; cpuMillis?: number; processes?: number }
    isolation?: Isolation
    /** It can run twice, each time on a port of its own. */
    slots?: { blue: number; green: number; switch?: string[]; timeoutSeconds?: number }
  }
  health?: HealthCheck[]
  restart?: { backoffMs?: number; maxBackoffMs?: number; maxRestarts?: number }
  soakSeconds?: number
  startTimeoutSeconds?: number
}

export interface ReleaseSpec {
  manifest: Manifest
  manifestDigest: string
  signedBy: string
  keyName: string
  signedManifest: { manifest: string; signature: string }
}

export type Release = ObjectOf<ReleaseSpec>

export interface Artifact {
  digest: string
  size: number
  name: string
  createdAt: UnixMs
  releases: string[]
}

export type App = ObjectOf<{ description?: string }>
export type Placement = ObjectOf<{ app: string; selector?: string }>
export type Channel = ObjectOf<
  { description?: string },
  { releases: { app: string; release: string; version: string }[] }
>
export type Pin = ObjectOf<{ device: string; app: string; version: string; reason?: string }>
export type Config = ObjectOf<{
  app?: string
  selector?: string
  device?: string
  values?: Record<string, string>
  references?: Record<string, { label?: string; desired?: string; reported?: string; default: string }>
  /** For gateways. */
  gateway?: { pipelines?: string }
}>

export type User = ObjectOf<{ email: string; role: string }, { lastLoginAt?: UnixMs; loginLink?: string }>

export type RolloutPhase =
  | 'pending'
  | 'running'
  | 'paused'
  | 'rolling-back'
  | 'succeeded'
  | 'failed'
  | 'aborted'
  | 'superseded'
  | 'unknown'

export type Bucket =
  | 'waiting'
  | 'updating'
  | 'ok'
  | 'failed'
  | 'unreachable'
  | 'rolling-back'
  | 'rolled-back'
  | 'excluded'
  | 'unknown'

export interface Counts {
  waiting: number
  updating: number
  ok: number
  failed: number
  unreachable: number
  rollingBack: number
  rolledBack: number
  excluded: number
}

export interface HistoryEntry {
  at: UnixMs
  what: string
  who: string
  message: string
  comment?: string
}

export interface KnownRelease {
  uid: string
  version: string
}

/** One thing that a rollout waits for, who has to act, and until when. */
export interface Waiting {
  reason: Reason
  owner: 'engine' | 'device' | 'operator' | 'unknown'
  until: UnixMs
}

export interface RolloutDevice {
  device: string
  name: string
  location: string
  /** Its label `model`; empty without one. */
  model: string
  wave: number
  late: boolean
  bucket: Bucket
  since: UnixMs
  reason?: string
  permitExpiresAt?: UnixMs
}
