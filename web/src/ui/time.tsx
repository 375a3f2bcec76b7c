/** Times: relative to look at, exact on focus or hover. */
import { useSyncExternalStore } from 'react'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** `12 s`, `3 min`, `5 h`, `2 d`. */
export function duration(ms: number): string {
  const n = Math.abs(ms)
  if (n < MINUTE) return `${Math.floor(n / SECOND)} s`
  if (n < HOUR) return `${Math.floor(n / MINUTE)} min`
  if (n < 2 * DAY) return `${Math.floor(n / HOUR)} h`
  return `${Math.floor(n / DAY)} d`
}

/** With its second unit: `1 min 20 s`, `2 h 47 min`, `3 d 4 h`. */
export function longDuration(ms: number): string {
  const n = Math.abs(ms)
  for (const [unit, part] of [[DAY, HOUR], [HOUR, MINUTE], [MINUTE, SECOND]] as const) {
    if (n < unit) continue
    const whole = Math.floor(n / unit)
    const rest = Math.floor((n % unit) / part)
    const words = { [DAY]: ['d', 'h'], [HOUR]: ['h', 'min'], [MINUTE]: ['min', 's'] }[unit] ?? []
    return rest === 0 ? `${whole} ${words[0]}` : `${whole} ${words[0]} ${rest} ${words[1]}`
  }
  return duration(n)
}

/** `just now`, `3 min ago`, `in 5 h`. */
export function relative(at: number, now: number): string {
  const past = now - at
  if (Math.abs(past) < 5 * SECOND) return 'just now'
  return past > 0 ? `${duration(past)} ago` : `in ${duration(past)}`
}

const exactFormat = new Intl.DateTimeFormat(undefined, {
  year: 'numeric',
  month: 'short',
  day: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
  timeZoneName: 'short',
})
const clockFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const dayFormat = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' })

export const exact = (at: number): string => exactFormat.format(at)

const secondsFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })
/** `14:03:20` */
export const clockSeconds = (at: number): string => secondsFormat.format(at)

/** `14:03`, or `Nov 19 14:03` when that is another day. */
export function clock(at: number, now: number = Date.now()): string {
  const same = new Date(at).toDateString() === new Date(now).toDateString()
  return same ? clockFormat.format(at) : `${dayFormat.format(at)} ${clockFormat.format(at)}`
}

/** What stands at the marks of an axis of time: the time, or the day where another one begins. `day` is the first one's, unless that is today. */
export function axisLabels(ticks: readonly number[], from: number, now: number, seconds: boolean): { day: string | undefined; labels: string[] } {
  const day = (at: number): string => new Date(at).toDateString()
  const labels = ticks.map((at, i) => {
    if (day(at) !== day(ticks[i - 1] ?? from)) return dayFormat.format(at)
    return seconds ? clockSeconds(at) : clockFormat.format(at)
  })
  return { day: day(from) === day(now) ? undefined : dayFormat.format(from), labels }
}

/** One clock for the whole page, so that a thousand ages cost one timer. */
class Clock {
  #now = Date.now()
  #watchers = new Set<() => void>()
  #timer: ReturnType<typeof setInterval> | undefined
  readonly #every: number

  constructor(every: number) {
    this.#every = every
  }

  readonly now = (): number => this.#now

  readonly watch = (watcher: () => void): (() => void) => {
    if (this.#watchers.size === 0) this.#now = Date.now()
    this.#watchers.add(watcher)
    this.#timer ??= setInterval(() => {
      this.#now = Date.now()
      this.#watchers.forEach((w) => w())
    }, this.#every)
    return () => {
      this.#watchers.delete(watcher)
      if (this.#watchers.size > 0) return
      clearInterval(this.#timer)
      this.#timer = undefined
    }
  }
}

const CLOCKS = { second: new Clock(SECOND), slow: new Clock(5 * SECOND) }

/** Now, renewed each second or each five. */
export function useNow(pace: keyof typeof CLOCKS = 'slow'): number {
  return useSyncExternalStore(CLOCKS[pace].watch, CLOCKS[pace].now)
}

export function Time({ at, className }: { at: number | undefined; className?: string }) {
  const now = useNow()
  if (at === undefined) return <span className={className}>never</span>
  return (
    <time dateTime={new Date(at).toISOString()} title={exact(at)} className={className}>
      {relative(at, now)}
    </time>
  )
}
