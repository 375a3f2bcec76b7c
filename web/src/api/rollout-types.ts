/**
 * What the grown rollout adds to `types.ts`: its specification, what a gate has found, who approved, forecasts and reasons.
 *
 * All of it is optional to read: a rollout made by an earlier server has none of it.
 */
import type { Rollout as PlainRollout, RolloutDevice, RolloutSpec as PlainSpec, RolloutSummary as PlainSummary, UnixMs, WaveSpec as PlainWave, WaveSummary as PlainWaveSummary } from './types'

export type ApprovalRule = 'automatic' | 'one-person' | 'two-people'
/** A number of devices, or a percentage such as `25%`. */
export type Amount = number | string

export interface WaveSpec extends PlainWave {
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

export interface RolloutSpec extends Omit<PlainSpec, 'waves' | 'onFailure'> {
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

/** The sequential test of one wave: where the evidence stands before its halt line. */
export interface Evidence {
  /** The logarithm of how much better "as bad as the threshold" explains the reports than "as good as acceptable". */
  value: number
  /** At or above: halt. */
  haltAt: number
  /** At or below: good enough to go on; missing: nothing passes before the end of the wave. */
  passAt?: number
  /** The share of false halts spent on this wave, 0 to 1. */
  falseHalt?: number
}

export interface ApprovalGiven {
  by: string
  at: UnixMs
  comment?: string
}

export interface WaveSummary extends Omit<PlainWaveSummary, 'state'> {
  state: PlainWaveSummary['state'] | 'awaiting-approval'
  selector?: string
  evidence?: Evidence
  /** How many different people have to approve; 0 or missing: none. */
  approvalsNeeded?: number
  approvals?: ApprovalGiven[]
}

/** One value of a label and how many of its devices may be down at once. */
export interface GroupUse {
  label: string
  value: string
  down: number
  budget: number
}

export interface RolloutSummary extends Omit<PlainSummary, 'waves'> {
  waves: WaveSummary[]
  groups?: GroupUse[]
  /** How many may be in flight now, by slow start; missing: the whole budget. */
  allowedNow?: number
}

export interface HeldBack {
  since: UnixMs
  rollout: string
  reason: string
}

export interface Rollout extends Omit<PlainRollout, 'spec' | 'status'> {
  spec: RolloutSpec
  status: Omit<PlainRollout['status'], 'summary'> & { summary: RolloutSummary; heldBack?: HeldBack }
}

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
