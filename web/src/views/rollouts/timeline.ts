/** Where each wave lies on the time axis. Pure, for its test. */
import type { Forecast, RolloutSummary } from '~/api/rollout-types'

export interface Bar {
  number: number
  /** Shares of the axis, 0 to 1. */
  left: number
  width: number
  /** Not begun: its place is from the forecast, or an estimate from the waves before. */
  estimate: boolean
  /** From its likely end (p50) to the end that nine of ten runs reach (p90). */
  late: Stretch | undefined
}

interface Stretch {
  left: number
  width: number
}

export interface Timeline {
  from: number
  to: number
  /** Where now is, 0 to 1; undefined: outside. */
  now: number | undefined
  bars: Bar[]
  ticks: { at: number; left: number }[]
  /** Close together: ticks need their seconds. */
  seconds: boolean
  /** From the halt until everyone who can be reached has the old release again. */
  wayBack: Stretch | undefined
  /** When half, and nine of ten, of the forecast's runs are through. */
  finish: { p50: Moment; p90: Moment } | undefined
}

interface Moment {
  at: number
  left: number
}

const MINUTE = 60_000
const SECOND = 1000
const STEPS = [
  ...[5, 10, 15, 30].map((s) => s * SECOND),
  ...[1, 2, 5, 10, 15, 30, 60, 120, 240, 360, 720, 1440, 2880, 10_080].map((m) => m * MINUTE),
]
const MOST_TICKS = 6

/** When the way back began; undefined: it goes forward, or ended without one. */
function backFrom(summary: RolloutSummary): number | undefined {
  const { rollingBack, rolledBack } = summary.counts
  if (summary.phase !== 'rolling-back' && rollingBack + rolledBack === 0) return undefined
  const halted = summary.waves.find((w) => w.state === 'halted')
  return halted?.finishedAt ?? (summary.phase === 'rolling-back' ? summary.phaseSince : undefined)
}

export function timeline(summary: RolloutSummary, now: number, forecast?: Forecast): Timeline {
  const over = summary.finishedAt !== undefined
  const from = summary.startedAt ?? now
  const done = summary.waves.filter((w) => w.startedAt !== undefined && w.finishedAt !== undefined)
  const usual =
    done.length > 0
      ? done.reduce((sum, w) => sum + (w.finishedAt ?? 0) - (w.startedAt ?? 0), 0) / done.length
      : undefined
  const spans: { number: number; from: number; to: number; estimate: boolean; late?: number }[] = []
  const later = (seconds: number): number => (forecast?.at ?? now) + seconds * SECOND
  const latest = (seconds: number | null | undefined): { late?: number } => (seconds === null || seconds === undefined ? {} : { late: later(seconds) })
  let at = from
  for (const wave of summary.waves) {
    const told = over ? undefined : forecast?.waves.find((w) => w.wave === wave.number)
    if (wave.startedAt !== undefined) {
      const end = wave.finishedAt ?? summary.finishedAt ?? Math.max(now, wave.soakUntil ?? 0)
      const late = wave.finishedAt === undefined ? latest(told?.endsP90) : {}
      spans.push({ number: wave.number, from: wave.startedAt, to: Math.max(end, wave.startedAt), estimate: false, ...late })
      at = Math.max(at, end)
    } else if (typeof told?.startsP50 === 'number' && typeof told.endsP50 === 'number') {
      const begin = Math.max(from, later(told.startsP50))
      const end = Math.max(begin, later(told.endsP50))
      spans.push({ number: wave.number, from: begin, to: end, estimate: true, ...latest(told.endsP90) })
      at = Math.max(at, end)
    } else if (!over) {
      const length = Math.max(usual ?? 0, wave.soakSeconds * SECOND, 10 * SECOND)
      spans.push({ number: wave.number, from: at, to: at + length, estimate: true })
      at += length
    }
  }
  const [p50, p90] = [forecast?.finishP50Seconds, forecast?.finishP90Seconds]
  const finish = over || typeof p50 !== 'number' || typeof p90 !== 'number' ? undefined : { p50: later(p50), p90: later(p90) }
  const ends = spans.flatMap((s) => [s.to, s.late ?? s.to])
  const to = Math.max(over ? (summary.finishedAt ?? now) : now, ...ends, finish?.p90 ?? 0, from + 10 * SECOND)
  const share = (time: number): number => (time - from) / (to - from)
  const step = STEPS.find((s) => (to - from) / s <= MOST_TICKS) ?? STEPS.at(-1) ?? MINUTE
  const ticks: Timeline['ticks'] = []
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) ticks.push({ at: tick, left: share(tick) })
  const back = backFrom(summary)
  const backTo = summary.finishedAt ?? now
  return {
    from,
    to,
    seconds: step < MINUTE,
    wayBack: back === undefined || backTo <= back ? undefined : { left: share(back), width: share(backTo) - share(back) },
    now: now >= from && now <= to && !over ? share(now) : undefined,
    bars: spans.map((s) => ({
      number: s.number,
      left: share(s.from),
      width: share(s.to) - share(s.from),
      estimate: s.estimate,
      late: s.late === undefined || s.late <= s.to ? undefined : { left: share(s.to), width: share(s.late) - share(s.to) },
    })),
    finish: finish && { p50: { at: finish.p50, left: share(finish.p50) }, p90: { at: finish.p90, left: share(finish.p90) } },
    ticks,
  }
}
