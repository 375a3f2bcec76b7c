/** Rollouts as the API tells them: the specification, the summary, forecasts and chains of reasons. Held to the document by `contract.ts`. */
import type { Counts, HistoryEntry, KnownRelease, ObjectOf, Reason, RolloutDevice, RolloutPhase, UnixMs, Waiting } from './types'

export type ApprovalRule = 'automatic' | 'one-person' | 'two-people'
/** A number of devices, or a percentage such as `25%`. */
export type Amount = number | string

/** Exactly one of `percent`, `count` (both cumulative) and `selector`. */
export interface WaveSpec {
  percent?: number
  count?: number
  soakSeconds?: number
  /** Every device that matches and is in no wave yet. */
  selector?: string
  approval?: ApprovalRule
  gate?: string
}

export interface GroupBudget {
  label: string
  maxUnavailable?: Amount
  minAvailable?: Amount
}

export interface RolloutSpec {
  app: string
  channel: string
  /** The release's uid, or `app@version`. */
  release: string
  /** Percent. */
  failureThreshold?: number
  minReports?: number
  maxUnavailable?: Amount
  permitSeconds?: number
  deviceTimeoutSeconds?: number
  gateTimeoutSeconds?: number
  operatorTimeoutSeconds?: number
  waves?: WaveSpec[]
  growth?: { kind: 'linear' | 'exponential'; waves: number; soakSeconds: number }
  stratifyBy?: string[]
  /** Percent of failures that a good release may have. */
  acceptableFailureRate?: number
  falseHaltPercent?: number
  missedPercent?: number
  slowStart?: boolean
  onSmallWave?: 'halt' | 'pause' | 'retry-elsewhere'
  minAvailable?: Amount
  groupBy?: GroupBudget[]
  /** Left out: `blue-green` where the release has slots. */
  activation?: 'replace' | 'blue-green'
  onFailure?: 'pause' | 'rollback' | 'rollback-wave'
  onInconclusive?: 'pause' | 'rollback' | 'continue'
  offline?: { policy?: 'wait' | 'skip' | 'defer'; deadlineSeconds?: number }
  approval?: ApprovalRule
  gate?: string
  tripwires?: { name: string; when: string }[]
  windows?: { kind: 'maintenance' | 'download' | 'energy'; cron: string; durationSeconds: number; timeZone?: string }[]
  blackouts?: { from: string; to: string; timeZone?: string }[]
  energy?: 'any' | 'off-hours'
  dependsOn?: string[]
  promotion?: { to: string; mode?: 'draft' | 'start'; afterSoakSeconds?: number }
}

/** The sequential test of one wave: where the evidence stands between its two lines. */
export interface Evidence {
  /** The logarithm of how much better "as bad as the threshold" explains the reports than "as good as acceptable". */
  value: number
  /** At or above: halt. */
  haltAt: number
  /** At or below: good enough to go on. */
  passAt: number
  /** The share of false halts spent on this wave, 0 to 1. */
  falseHalt: number
}

export interface ApprovalGiven {
  by: string
  at: UnixMs
}

export interface WaveSummary {
  number: number
  size: number
  fromPercent: number
  toPercent: number
  soakSeconds: number
  state: 'waiting' | 'running' | 'soaking' | 'at-gate' | 'awaiting-approval' | 'passed' | 'halted' | 'unknown'
  startedAt?: UnixMs
  finishedAt?: UnixMs
  soakUntil?: UnixMs
  failed: number
  reported: number
  failureRatio?: number
  counts: Counts
  evidence?: Evidence
  /** Too small for the promised error. */
  small?: boolean
  /** How many different people have to approve; 0 or missing: none. */
  approvalsNeeded?: number
  approvals?: ApprovalGiven[]
}

export interface RolloutSummary {
  uid: string
  name: string
  app: string
  channel: string
  from?: KnownRelease
  to: KnownRelease
  phase: RolloutPhase
  phaseSince: UnixMs
  pause?: { at: UnixMs; by: string; why: string }
  createdAt: UnixMs
  startedAt?: UnixMs
  finishedAt?: UnixMs
  supersededBy?: string
  /** Given where devices start the new release beside the old one. */
  activation?: 'replace' | 'blue-green'
  population: number
  wave: number
  waves: WaveSummary[]
  counts: Counts
  failureRatio?: number
  threshold: number
  inFlight: number
  budget: number
  /** How many may be in flight now, by slow start. */
  allowedNow: number
  reasons: Reason[]
  deadline?: UnixMs
}

export interface HeldBack {
  since: UnixMs
  rollout: string
  reason: string
}

/** The budget of one value of a label: who is down because of what. */
export interface GroupStand {
  label: string
  value: string
  size: number
  maxUnavailable?: Amount
  minAvailable?: Amount
  budget: number
  down: number
  downByRollout: number
  downByOthers: number
  downUnreachable: number
  up: number
  waiting: number
  full: boolean
}

export interface RolloutStatus {
  summary: RolloutSummary
  /** Empty in lists. */
  waiting?: Waiting[]
  /** Those that keep most devices waiting first; empty in lists. */
  groups?: GroupStand[]
  history?: HistoryEntry[]
  heldBack?: HeldBack
}

export type Rollout = ObjectOf<RolloutSpec, RolloutStatus>

/** One link of a chain of reasons. */
export interface Cause {
  code: string
  message: string
  since?: UnixMs
  owner?: 'engine' | 'device' | 'operator' | 'unknown'
  deadline?: UnixMs
  /** The object it is about, as the command line names it: `device/till-7`. */
  link?: string
}

export interface Explanation {
  subject: { kind: string; uid: string; name: string }
  chain: Cause[]
}

export interface RolloutPlan {
  started: boolean
  population: number
  waves: WaveSummary[]
  items: RolloutDevice[]
  metadata: { continue?: string; total?: number }
}

/** In percentiles over the runs that came that far; seconds count from `Forecast.at`. */
export interface ForecastWave {
  wave: number
  devices: number
  startsP50?: number | null
  startsP90?: number | null
  endsP50?: number | null
  endsP90?: number | null
  /** What a wave of this size gets wrong, 0 to 1. */
  realError?: { falseHalt: number; missed: number }
}

export interface Forecast {
  /** The moment that seconds are counted from. */
  at: UnixMs
  devices: number
  /** Virtual rollouts that were played. */
  runs?: number
  /** What was taken for granted, in sentences. */
  assumptions?: string[]
  waves: ForecastWave[]
  finishP50Seconds?: number | null
  finishP90Seconds?: number | null
  /** Share of the runs that succeeded, 0 to 1. */
  finishes: number
  /** How the other runs ended. */
  endings?: { how: string; share: number }[]
  /** `devices` 0: the whole rollout waited. */
  blocked: { code?: string; why: string; devices: number; firstAt?: UnixMs; seconds?: number }[]
  /** `label` is the label's key, empty for the whole fleet; `group` its value. */
  peakDown: { group: string; label: string; devices: number; of: number }[]
  operatingCharacteristic: { failureRate: number; haltProbability: number; devicesTouchedP50: number; devicesTouchedP95: number }[]
  tookMs?: number
}
