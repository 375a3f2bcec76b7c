/** Lines of readings, as they are drawn and named. Pure. */
import type { Aggregate, SeriesLine } from '~/api/series'
import { count } from '~/ui/number'

import type { By } from './search'

/** Readings this many times farther apart than they usually are have a gap between them. */
const GAP = 2.5

export interface Drawn {
  /** Starts of steps, Unix milliseconds: those of all lines together. */
  at: number[]
  /** For each line a value at each of them; null in a gap, undefined where the line goes on past it. */
  values: (number | null | undefined)[][]
}

/** What readings are usually apart. */
function usual(at: readonly number[]): number {
  const apart = at.slice(1).map((ms, i) => ms - (at[i] ?? ms))
  return apart.toSorted((a, b) => a - b)[Math.floor((apart.length - 1) / 2)] ?? 0
}

/** Puts lines on one axis of time. Where a line has nothing for much longer than usual it is cut, not drawn across. */
export function align(lines: readonly Pick<SeriesLine, 'at' | 'values'>[], step: number): Drawn {
  const gaps = lines.map(({ at }) => {
    const limit = usual(at) * GAP
    return at.slice(1).flatMap((ms, i): [number, number][] => {
      const before = at[i] ?? ms
      return ms - before > limit ? [[before, ms]] : []
    })
  })
  const at = [...new Set([...lines.flatMap((line) => line.at), ...gaps.flat().map(([from]) => from + step)])].toSorted((a, b) => a - b)
  const values = lines.map((line, n) => {
    const own = new Map(line.at.map((ms, i) => [ms, line.values[i] ?? null]))
    const cut = gaps[n] ?? []
    let next = 0
    return at.map((ms) => {
      while ((cut[next]?.[1] ?? Number.POSITIVE_INFINITY) <= ms) next += 1
      const [from] = cut[next] ?? [Number.POSITIVE_INFINITY]
      return own.has(ms) ? own.get(ms) : ms > from ? null : undefined
    })
  })
  return { at, values }
}

/** Sums and counts of a step that is not over would look like a fall. */
export function finished(line: SeriesLine, aggregate: Aggregate, step: number, to: number): SeriesLine {
  const last = line.at.at(-1)
  if ((aggregate !== 'sum' && aggregate !== 'count') || last === undefined || last + step <= to) return line
  return { ...line, at: line.at.slice(0, -1), values: line.values.slice(0, -1) }
}

/** A figure that nobody has said the unit of. */
export const figure = (value: number): string => (Math.abs(value) >= 10_000 ? count(value) : String(Number(value.toPrecision(5))))

/** `climate · humidity`; a field that says nothing is left out. */
export const offerName = (of: { measurement: string; field: string }): string =>
  [of.measurement, ...(of.field === '' || of.field === 'value' ? [] : [of.field])].join(' · ')

const tagsOf = (line: SeriesLine): string[] => Object.entries(line.tags ?? {}).map(([name, value]) => `${name}=${value}`)

/** `climate · humidity · room=a`. */
export const seriesName = (line: SeriesLine): string => [offerName(line), ...tagsOf(line)].join(' · ')

const NOWHERE = 'no location'

/** What tells the lines of one answer apart, and no more; they are in the order of these names. */
export function named(lines: readonly SeriesLine[], by: By): { name: string; line: SeriesLine }[] {
  const streams = new Set(lines.map((line) => line.stream)).size > 1
  const devices = new Set(lines.map((line) => line.device)).size > 1
  const name = (line: SeriesLine): string => {
    if (by === 'location') return line.location || NOWHERE
    const device = line.deviceName ?? line.device ?? ''
    if (by === 'device') return device
    const own = tagsOf(line).join(' · ') || offerName(line)
    return [...(devices ? [device] : []), own, ...(streams && line.stream !== undefined ? [line.stream] : [])].join(' · ')
  }
  const order = new Intl.Collator('en', { numeric: true }).compare
  return lines.map((line) => ({ name: name(line), line })).toSorted((a, b) => order(a.name, b.name))
}

export interface Spread {
  last: number | undefined
  least: number | undefined
  most: number | undefined
}

/** The last value of a line, and between what it lay. */
export function spread(values: readonly (number | null)[]): Spread {
  let [last, least, most]: (number | undefined)[] = []
  for (const value of values) {
    if (value === null) continue
    last = value
    if (least === undefined || value < least) least = value
    if (most === undefined || value > most) most = value
  }
  return { last, least, most }
}
