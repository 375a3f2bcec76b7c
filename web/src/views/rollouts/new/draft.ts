/** What stands in the form of a new rollout, and the specification and command it means. Pure, for its test. */
import type { ApprovalRule, GroupBudget, RolloutSpec, WaveSpec } from '~/api/rollout-types'

export interface WaveRow {
  key: number
  by: 'percent' | 'count' | 'selector'
  percent: number
  count: number
  selector: string
  soakMinutes: number
  /** Empty: as the rollout says. */
  approval: ApprovalRule | ''
  gate: string
}

export interface Draft {
  waves: WaveRow[]
  growth: 'written' | 'linear' | 'exponential'
  growthWaves: number
  growthSoakMinutes: number
  stratifyBy: string
  failureThreshold: number
  acceptableFailureRate: number
  falseHaltPercent: number
  missedPercent: number
  slowStart: boolean
  onSmallWave: NonNullable<RolloutSpec['onSmallWave']>
  minReports: string
  budgetOf: 'maxUnavailable' | 'minAvailable'
  budget: string
  groupBy: { key: number; label: string; of: 'maxUnavailable' | 'minAvailable'; amount: string }[]
  /** Empty: as the release says. */
  activation: NonNullable<RolloutSpec['activation']> | ''
  onFailure: NonNullable<RolloutSpec['onFailure']>
  onInconclusive: NonNullable<RolloutSpec['onInconclusive']>
  offline: 'wait' | 'skip' | 'defer'
  offlineHours: number
  approval: ApprovalRule
  gate: string
  tripwires: { key: number; name: string; when: string }[]
  windows: { key: number; kind: 'maintenance' | 'download' | 'energy'; cron: string; minutes: number; timeZone: string }[]
  blackouts: { key: number; from: string; to: string }[]
  energy: 'any' | 'off-hours'
  dependsOn: string
  promoteTo: string
  promoteMode: 'draft' | 'start'
  promoteAfterHours: number
}

let keys = 0
export const nextKey = (): number => keys++

export const waveRow = (percent: number, soakMinutes = 10): WaveRow => ({
  key: nextKey(), by: 'percent', percent, count: 1, selector: '', soakMinutes, approval: '', gate: '',
})

export const freshDraft = (): Draft => ({
  waves: [waveRow(5), waveRow(25), waveRow(100)],
  growth: 'written',
  growthWaves: 5,
  growthSoakMinutes: 10,
  stratifyBy: 'model, location',
  failureThreshold: 30,
  acceptableFailureRate: 5,
  falseHaltPercent: 1,
  missedPercent: 5,
  slowStart: true,
  onSmallWave: 'halt',
  minReports: '',
  budgetOf: 'maxUnavailable',
  budget: '25%',
  groupBy: [],
  activation: '',
  onFailure: 'rollback',
  onInconclusive: 'pause',
  offline: 'defer',
  offlineHours: 24,
  approval: 'automatic',
  gate: '',
  tripwires: [],
  windows: [],
  blackouts: [],
  energy: 'any',
  dependsOn: '',
  promoteTo: '',
  promoteMode: 'draft',
  promoteAfterHours: 24,
})

/** `edge-web-1-1-0-prod`; names are DNS labels, unique among rollouts. */
export const nameFor = (app: string, version: string, channel: string): string =>
  `${app}-${version}-${channel}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 63)

/** What is wrong with the waves; undefined: nothing. The server looks again, and at everything else. */
export function wrongWaves(waves: readonly Pick<WaveRow, 'by' | 'percent' | 'count' | 'selector'>[]): string | undefined {
  let before = 0
  for (const [i, w] of waves.entries()) {
    if (w.by === 'selector') {
      if (w.selector.trim() === '') return `Wave ${i + 1} needs a selector, such as ring=canary.`
    } else if (w.by === 'count') {
      if (!Number.isInteger(w.count) || w.count < 1) return `Wave ${i + 1} is at least one device.`
    } else {
      if (!Number.isInteger(w.percent) || w.percent < 1 || w.percent > 100) return `Wave ${i + 1} is 1 to 100 percent.`
      if (w.percent <= before) return `Percent is cumulative: wave ${i + 1} must be more than ${before}.`
      before = w.percent
    }
  }
  const last = waves.at(-1)
  return last?.by === 'percent' && last.percent === 100 ? undefined : 'The last wave must reach every device: 100 percent.'
}

const amount = (text: string): number | string => (/^\d+$/.test(text.trim()) ? Number(text) : text.trim())
const words = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean)
const seconds = (minutes: number): number => Math.round(minutes * 60)

/** Only what differs from the defaults, so that the file says what was meant. */
export function specOf(target: { app: string; channel: string; release: string }, d: Draft): RolloutSpec {
  const wave = (w: WaveRow): WaveSpec => ({
    ...(w.by === 'percent' ? { percent: w.percent } : w.by === 'count' ? { count: w.count } : { selector: w.selector.trim() }),
    soakSeconds: seconds(w.soakMinutes),
    ...(w.approval === '' ? {} : { approval: w.approval }),
    ...(w.gate.trim() === '' ? {} : { gate: w.gate.trim() }),
  })
  const group = (g: Draft['groupBy'][number]): GroupBudget => ({ label: g.label.trim(), [g.of]: amount(g.amount) })
  const strata = words(d.stratifyBy)
  const spec: RolloutSpec = {
    ...target,
    ...(d.growth === 'written'
      ? { waves: d.waves.map(wave) }
      : { growth: { kind: d.growth, waves: d.growthWaves, soakSeconds: seconds(d.growthSoakMinutes) } }),
    failureThreshold: d.failureThreshold,
    [d.budgetOf]: amount(d.budget),
    onFailure: d.onFailure,
  }
  if (d.activation !== '') spec.activation = d.activation
  if (strata.join() !== 'model,location') spec.stratifyBy = strata
  if (d.acceptableFailureRate !== 5) spec.acceptableFailureRate = d.acceptableFailureRate
  if (d.falseHaltPercent !== 1) spec.falseHaltPercent = d.falseHaltPercent
  if (d.missedPercent !== 5) spec.missedPercent = d.missedPercent
  if (!d.slowStart) spec.slowStart = false
  if (d.onSmallWave !== 'halt') spec.onSmallWave = d.onSmallWave
  if (d.minReports.trim() !== '') spec.minReports = Number(d.minReports)
  if (d.groupBy.length > 0) spec.groupBy = d.groupBy.map(group)
  if (d.onInconclusive !== 'pause') spec.onInconclusive = d.onInconclusive
  if (d.offline !== 'defer') spec.offline = { policy: d.offline, deadlineSeconds: Math.round(d.offlineHours * 3600) }
  if (d.approval !== 'automatic') spec.approval = d.approval
  if (d.gate.trim() !== '') spec.gate = d.gate.trim()
  if (d.tripwires.length > 0) spec.tripwires = d.tripwires.map(({ name, when }) => ({ name: name.trim(), when: when.trim() }))
  if (d.windows.length > 0) {
    spec.windows = d.windows.map((w) => ({
      kind: w.kind, cron: w.cron.trim(), durationSeconds: seconds(w.minutes), ...(w.timeZone.trim() === '' ? {} : { timeZone: w.timeZone.trim() }),
    }))
  }
  if (d.blackouts.length > 0) spec.blackouts = d.blackouts.map(({ from, to }) => ({ from, to }))
  if (d.energy !== 'any') spec.energy = d.energy
  if (words(d.dependsOn).length > 0) spec.dependsOn = words(d.dependsOn)
  if (d.promoteTo !== '') spec.promotion = { to: d.promoteTo, mode: d.promoteMode, afterSoakSeconds: Math.round(d.promoteAfterHours * 3600) }
  return spec
}

/** What the verb `rollout create` can say by itself. */
const FLAGS: readonly (keyof RolloutSpec)[] = ['app', 'channel', 'release', 'waves', 'failureThreshold', 'maxUnavailable', 'activation', 'onFailure']

/** `farshore rollout create …`, or the file by way of `farshore apply` where the verb has no flag for what is asked. */
export function commandOf(name: string, spec: RolloutSpec, yaml: string, start: boolean): string {
  const plain =
    Object.keys(spec).every((key) => FLAGS.some((flag) => flag === key)) &&
    spec.onFailure !== 'rollback-wave' &&
    (spec.waves ?? []).every((w) => w.selector === undefined && w.approval === undefined && w.gate === undefined)
  if (!plain) return `farshore apply -f - <<'EOF'\n${yaml}EOF`
  const waves = (spec.waves ?? []).map((w) => `--wave ${w.percent === undefined ? w.count : `${w.percent}%`}:${w.soakSeconds}s`)
  return [
    `farshore rollout create --name ${name} --app ${spec.app} --channel ${spec.channel} --to ${spec.release.split('@')[1] ?? ''}`,
    ...waves,
    `--failure-threshold ${spec.failureThreshold}`,
    `--max-unavailable ${spec.maxUnavailable}`,
    ...(spec.activation === undefined ? [] : [`--activation ${spec.activation}`]),
    `--on-failure ${spec.onFailure}`,
    ...(start ? [] : ['--no-start']),
  ].join(' ')
}
