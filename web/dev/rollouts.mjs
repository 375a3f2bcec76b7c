/** Invented rollouts beyond the first ones of `fleet.mjs`, and what the server answers about a rollout. */
import * as fleet from './fleet.mjs'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const { start } = fleet
const zero = { waiting: 0, updating: 0, ok: 0, failed: 0, unreachable: 0, rollingBack: 0, rolledBack: 0, excluded: 0 }
const WORDS = { rollingBack: 'rolling-back', rolledBack: 'rolled-back' }

function make(name, app, channel, versions, status, spec = {}) {
  const release = (version) => fleet.releases.find((r) => r.spec.manifest.app === app && r.spec.manifest.version === version)
  const known = (version) => ({ uid: release(version).metadata.uid, version })
  const uid = fleet.uid()
  const { history = [], waiting = [], heldBack, ...rest } = status
  return {
    apiVersion: 'farshore.dev/v1', kind: 'Rollout',
    metadata: { uid, name, resourceVersion: 3, managedBy: 'api', createdAt: start - 2 * HOUR },
    spec: { app, channel, release: `${app}@${versions[1]}`, waves: [{ percent: 5, soakSeconds: 600 }, { percent: 25, soakSeconds: 600 }, { percent: 100, soakSeconds: 600 }], failureThreshold: 30, acceptableFailureRate: 5, maxUnavailable: '2%', onFailure: 'rollback', ...spec },
    status: {
      summary: { uid, name, app, channel, createdAt: start - 2 * HOUR, from: known(versions[0]), to: known(versions[1]), counts: zero, threshold: 0.3, inFlight: 0, budget: 66, allowedNow: 66, reasons: [], ...rest },
      waiting, history, ...(heldBack ? { heldBack } : {}),
    },
  }
}

const wave = (number, size, fromPercent, toPercent, state, counts, more = {}) => {
  const all = { ...zero, ...counts }
  const reported = all.ok + all.failed
  return { number, size, fromPercent, toPercent, soakSeconds: 600, state, counts: all, failed: all.failed, reported, ...(reported > 0 ? { failureRatio: all.failed / reported } : {}), ...more }
}

export const awaiting = make('price-sync-2-4-1-prod', 'price-sync', 'prod', ['2.4.0', '2.4.1'], {
  phase: 'running', phaseSince: start - 50 * MINUTE, startedAt: start - 50 * MINUTE, population: 3290, wave: 1, failureRatio: 2 / 161,
  waves: [
    wave(1, 165, 0, 5, 'awaiting-approval', { ok: 159, failed: 2, unreachable: 4 }, { startedAt: start - 50 * MINUTE, evidence: { value: -3.6, haltAt: 5.7, passAt: -2.98, falseHalt: 0.0033 }, approvalsNeeded: 2, approvals: [{ by: 'user:ops@northwind.example', at: start - 6 * MINUTE }] }),
    wave(2, 658, 5, 25, 'waiting', { waiting: 650, unreachable: 8 }),
    wave(3, 2467, 25, 100, 'waiting', { waiting: 2440, unreachable: 27 }),
  ],
  counts: { ...zero, ok: 159, failed: 2, unreachable: 39, waiting: 3090 },
  deadline: start + 6 * 24 * HOUR,
  waiting: [{ reason: { code: 'WaitingForApproval', message: 'wave 1 waits for 1 more person to approve', since: start - 9 * MINUTE }, owner: 'operator', until: start + 6 * 24 * HOUR }],
  history: [
    { at: start - 51 * MINUTE, what: 'RolloutCreated', who: 'user:anna@northwind.example', message: 'made' },
    { at: start - 50 * MINUTE, what: 'RolloutStarted', who: 'user:anna@northwind.example', message: 'started: 3,290 devices in 3 waves', comment: 'ticket 861' },
    { at: start - 9 * MINUTE, what: 'ApprovalNeeded', who: 'engine', message: 'wave 1 is good: 2 of 161 failed (1 %); two people have to approve' },
    { at: start - 6 * MINUTE, what: 'GateApproved', who: 'user:ops@northwind.example', message: 'wave 1 approved, 1 of 2', comment: 'prices on shelf 4 are right' },
  ],
}, { approval: 'two-people', groupBy: [{ label: 'location', maxUnavailable: '10%' }] })

export const draft = make('edge-web-1-1-everywhere', 'edge-web', 'canary', ['1.0.0', '1.1.0'], {
  phase: 'pending', phaseSince: start - 4 * MINUTE, population: 0, wave: 0, budget: 0, deadline: start + 7 * 24 * HOUR,
  waves: [wave(1, 0, 0, 1, 'waiting', {}), wave(2, 0, 1, 25, 'waiting', {}), wave(3, 0, 25, 100, 'waiting', {})],
  waiting: [{ reason: { code: 'WaitingForStart', message: 'waits for somebody to start it; otherwise it is aborted and devices keep what they have', since: start - 4 * MINUTE }, owner: 'operator', until: start + 7 * 24 * HOUR }],
  history: [{ at: start - 4 * MINUTE, what: 'RolloutCreated', who: 'user:anna@northwind.example', message: 'made, to be started later' }],
}, { waves: [{ percent: 1, soakSeconds: 600 }, { percent: 25, soakSeconds: 600 }, { percent: 100, soakSeconds: 600 }] })

const DRAFT_SIZES = [10, 2490, 7500]
const DRAFT_WAVES = draft.status.summary.waves.map((w, i) => ({ ...w, size: DRAFT_SIZES[i], counts: { ...zero, waiting: DRAFT_SIZES[i] } }))

export const held = make('edge-web-1-1-lab', 'edge-web', 'dev', ['1.0.0', '1.1.0'], {
  phase: 'failed', phaseSince: start - 26 * HOUR, startedAt: start - 27 * HOUR, finishedAt: start - 26 * HOUR, population: 60, wave: 1, failureRatio: 5 / 15,
  waves: [wave(1, 15, 0, 25, 'halted', { rolledBack: 10, failed: 5 }, { startedAt: start - 27 * HOUR, finishedAt: start - 26.6 * HOUR, failed: 5, reported: 15, failureRatio: 5 / 15, evidence: { value: 6.1, haltAt: 5.7, passAt: -2.98, falseHalt: 0.0033 } }), wave(2, 45, 25, 100, 'waiting', { waiting: 45 })],
  counts: { ...zero, rolledBack: 10, failed: 5, waiting: 45 },
  reasons: [{ code: 'Halted', message: 'halted in wave 1: 5 of 15 failed (33 %), threshold 30 %', since: start - 26.6 * HOUR }],
  heldBack: { since: start - 26.6 * HOUR, rollout: 'edge-web-1-1-lab', reason: '5 of 15 failed in wave 1' },
})

export const more = [awaiting, draft, held]

/** The sequential test and a budget of groups for the rollout that runs. */
export function grow(rollouts) {
  const s = rollouts[0].status.summary
  rollouts[0].spec.groupBy = [{ label: 'location', maxUnavailable: '10%' }]
  s.waves[1].evidence = { value: 0.72, haltAt: 5.7, passAt: -2.98, falseHalt: 0.0033 }
  for (const r of rollouts) r.status.summary.allowedNow ??= r.status.summary.budget
}

/** A rollout's devices in the order in which it takes them, each where its wave's counts say. */
export function members(rollout, devices, waves = rollout.status.summary.waves) {
  const out = []
  let at = 0
  for (const w of waves) {
    for (const [key, n] of Object.entries(w.counts)) {
      const bucket = WORDS[key] ?? key
      for (let i = 0; i < n; i++, at++) {
        const device = devices[(at * 37) % devices.length]
        out.push({
          device: device.metadata.uid, name: device.metadata.name, location: device.spec.location, model: device.status.hardware.model, wave: w.number, late: at % 90 === 89, bucket, since: start - (at % 50) * MINUTE,
          ...(bucket === 'failed' ? { reason: 'check http answered 503 three times' } : bucket === 'excluded' ? { reason: 'pinned' } : {}),
          ...(bucket === 'updating' ? { permitExpiresAt: Date.now() + 200_000 } : {}),
        })
      }
    }
  }
  return out
}

export function page(items, query) {
  const from = Number(query.get('continue') || 0)
  const limit = Math.min(1000, Number(query.get('limit') ?? 100))
  return { items: items.slice(from, from + limit), metadata: { total: items.length, ...(from + limit < items.length ? { continue: String(from + limit) } : {}) } }
}

export function plan(rollout, devices, query) {
  const waves = rollout.status.summary.phase === 'pending' ? DRAFT_WAVES : rollout.status.summary.waves
  const all = members(rollout, devices, waves)
  return { started: rollout.status.summary.phase !== 'pending', population: waves.reduce((n, w) => n + w.size, 0), waves, ...page(all, query) }
}

export function why(rollout) {
  const { summary: s, waiting, heldBack } = rollout.status
  const moves = `${s.app} in ${s.channel} from ${s.from?.version ?? 'nothing'} to ${s.to.version}`
  const place = s.phase === 'pending' ? 'is not started' : ['running', 'paused'].includes(s.phase) ? `is ${s.phase} in wave ${s.wave} of ${s.waves.length}` : `is ${s.phase}`
  return {
    subject: { kind: 'Rollout', uid: s.uid, name: s.name },
    chain: [
      { code: 'Running', message: `it moves ${moves}, and ${place}`, since: s.phaseSince },
      ...(heldBack ? [{ code: 'HeldBack', message: `${s.app} ${s.to.version} is held back in ${s.channel}: rollout ${s.name}: ${heldBack.reason}`, since: heldBack.since, owner: 'operator' }] : []),
      ...s.reasons,
      ...waiting.map((w) => ({ ...w.reason, owner: w.owner, deadline: w.until })),
      ...(s.phase === 'running' && s.counts.updating > 0 ? [{ code: 'Window', message: 'kiosk-0003 may only change in its maintenance window, which opens at 02:00 (Europe/Riga)', since: start - 20 * MINUTE, owner: 'device', deadline: start + 5 * HOUR, link: 'device/kiosk-0003' }] : []),
    ],
  }
}

export function forecast(rollout) {
  const s = rollout.status.summary
  const open = (s.phase === 'pending' ? DRAFT_WAVES : s.waves).filter((w) => !['passed', 'halted'].includes(w.state))
  let at = 0
  const waves = open.map((w) => {
    const took = 600 + Math.sqrt(w.size) * 60
    const startsP50 = at
    at += took
    const small = w.size < 40
    return { wave: w.number, devices: w.size, startsP50, startsP90: startsP50 * 1.3, endsP50: at, endsP90: at * 1.35 + 200, realError: small ? { falseHalt: 0.42 / w.size, missed: 1.2 / w.size } : { falseHalt: 0.002, missed: 0.01 } }
  })
  const devices = open.reduce((n, w) => n + w.size, 0)
  return {
    at: Date.now(), runs: 60, assumptions: ['the release is good: 1 % of the devices fail', 'people approve a gate within an hour'], endings: [{ how: 'halted', share: 0.01 }, { how: 'paused as inconclusive', share: 0.02 }],
    devices, waves, finishP50Seconds: at, finishP90Seconds: at * 1.35 + 200, finishes: 0.97,
    blocked: [{ why: 'outside the maintenance window of Europe/Helsinki (02:00, 2 h)', devices: Math.round(devices * 0.13), firstAt: start + 3 * HOUR }],
    peakDown: [{ group: 'fleet', label: '', devices: Math.max(1, Math.round(devices * 0.02)), of: devices }, ...[['riga-1', 14], ['helsinki-1', 13], ['tallinn-1', 11], ['vilnius-1', 9]].map(([group, n]) => ({ group, label: 'location', devices: n, of: 140 }))],
    operatingCharacteristic: [[0.01, 0.004, devices, devices], [0.05, 0.009, devices, devices], [0.1, 0.31, Math.round(devices * 0.6), devices], [0.3, 0.998, 14, 96]].map(([failureRate, haltProbability, devicesTouchedP50, devicesTouchedP95]) => ({ failureRate, haltProbability, devicesTouchedP50, devicesTouchedP95 })),
    tookMs: 840,
  }
}

/** What a verb changes, as the page sees it. */
export function act(rollout, verb, body, who) {
  const s = rollout.status.summary
  rollout.status.history = [...rollout.status.history, { at: Date.now(), what: `Rollout-${verb}`, who: `user:${who}`, message: `${verb} by ${who}`, ...(body.comment ? { comment: body.comment } : {}) }]
  const current = s.waves.find((w) => w.number === s.wave)
  if (verb === 'start') Object.assign(s, { phase: 'running', phaseSince: Date.now(), startedAt: Date.now(), population: 10_000, wave: 1, budget: 200, counts: { ...zero, waiting: 10_000 }, waves: DRAFT_WAVES.map((w, i) => ({ ...w, ...(i === 0 ? { state: 'running', startedAt: Date.now() } : {}) })) })
  if (verb === 'pause') s.phase = 'paused'
  if (verb === 'resume') s.phase = 'running'
  if (verb === 'abort') s.phase = body.rollback ? 'rolling-back' : 'aborted'
  if (verb === 'rollback' || verb === 'reject') s.phase = 'rolling-back'
  if (verb === 'release-hold') delete rollout.status.heldBack
  if (verb === 'approve') {
    current.approvals = [...(current.approvals ?? []), { by: `user:${who}`, at: Date.now() }]
    if (current.approvals.length >= current.approvalsNeeded) {
      Object.assign(current, { state: 'passed', finishedAt: Date.now() })
      Object.assign(s.waves[s.wave] ?? {}, { state: 'running', startedAt: Date.now() })
      s.wave += 1
    }
  }
}

/** A rollout from the form: a draft that can be simulated, or one that runs. */
export function create(body, start) {
  const { spec } = body
  const errors = []
  if (!spec.release) errors.push({ field: 'spec.release', message: 'is missing; write edge-web@1.1.0' })
  if (spec.maxUnavailable === '0%') errors.push({ field: 'spec.maxUnavailable', message: 'of 0% lets no device change; write at least 1' })
  spec.windows?.forEach((w, i) => { if (w.cron.split(' ').length !== 5) errors.push({ field: `spec.windows[${i}].cron`, message: 'is five fields: minute, hour, day of month, month, day of week' }) })
  if (errors.length > 0) return { errors }
  const made = make(body.metadata.name, spec.app, spec.channel, ['1.0.0', '1.1.0'], { ...structuredClone(draft.status.summary), phase: 'pending', phaseSince: Date.now(), uid: undefined, waiting: draft.status.waiting, history: [{ at: Date.now(), what: 'RolloutCreated', who: 'user:anna@northwind.example', message: 'made' }] }, spec)
  Object.assign(made.status.summary, { uid: made.metadata.uid, name: body.metadata.name, app: spec.app, channel: spec.channel })
  if (start) act(made, 'start', {}, 'anna@northwind.example')
  return { made }
}
