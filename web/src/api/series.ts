/** Series: what the sensors at gateways measured. */
import { keepPreviousData, queryOptions } from '@tanstack/react-query'

import { get } from './client'
import { keys, SHORT_LIST } from './queries'
import type { List, UnixMs } from './types'

export const AGGREGATES = ['mean', 'min', 'max', 'sum', 'count', 'last'] as const
export type Aggregate = (typeof AGGREGATES)[number]
export type SeriesGroup = 'series' | 'device' | 'location' | 'all'

/** A line has a value for each step that holds points; what its points do not share is left out. */
export interface SeriesLine {
  measurement: string
  field: string
  tags?: Record<string, string>
  device?: string
  deviceName?: string
  location?: string
  stream?: string
  at: UnixMs[]
  values: (number | null)[]
}

export interface SeriesRange {
  from: UnixMs
  to: UnixMs
  stepMs: number
  aggregate: Aggregate
  by: SeriesGroup
  items: SeriesLine[]
  /** The answer is not whole. */
  truncated: boolean
}

export interface SeriesLatest {
  name: string
  measurement: string
  field: string
  tags?: Record<string, string>
  device: string
  deviceName: string
  location: string
  stream: string
  /** `float`, `integer`, `boolean`, `text` or `json`. */
  kind: string
  at: UnixMs
  value: unknown
}

/** Which series, of which gateways. */
export interface Select {
  location?: string
  device?: string
  measurement?: string
  field?: string
  aggregate?: Aggregate
  by?: SeriesGroup
}

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
/** About so many steps are drawn. */
const STEPS = 240
/** Asked again once a step, but not more often than the first and not less often than the second. */
const EVERY = [10 * SECOND, 5 * MINUTE] as const

/** How long a step is: whole seconds; whole hours where it is near to one, because the server has hours ready. */
export function stepOf(span: number): number {
  const unit = span / STEPS > HOUR / 2 ? HOUR : SECOND
  return Math.ceil(span / STEPS / unit) * unit
}

/** What was measured over the last `span` milliseconds. The first step is a whole one. */
export const seriesQuery = (select: Select, span: number) =>
  queryOptions({
    queryKey: [...keys.readings, select, span],
    queryFn: ({ signal }) => {
      const step = stepOf(span)
      const to = Date.now()
      const from = Math.floor((to - span) / step) * step
      return get<SeriesRange>('/series', { ...select, from, to, step }, signal)
    },
    refetchInterval: Math.min(Math.max(stepOf(span), EVERY[0]), EVERY[1]),
    placeholderData: keepPreviousData,
  })

/** What can be drawn: a measurement's field, and how many series have it. */
export interface Offer {
  measurement: string
  field: string
  series: number
}

export interface Offers {
  offers: Offer[]
  /** Some of the series are texts, which are not drawn. */
  texts: boolean
  /** All series were looked at. */
  whole: boolean
}

/** So many pages of series are looked at, to say what can be drawn. */
const MOST_PAGES = 5

/** The fields that hold numbers, the one with the most series first. Pure, for its test. */
export function offersOf(items: readonly SeriesLatest[], whole: boolean): Offers {
  const found = new Map<string, Offer>()
  let texts = false
  for (const { measurement, field, kind } of items) {
    if (kind === 'text' || kind === 'json') {
      texts = true
      continue
    }
    const key = JSON.stringify([measurement, field])
    const offer = found.get(key) ?? { measurement, field, series: 0 }
    found.set(key, { ...offer, series: offer.series + 1 })
  }
  const word = new Intl.Collator('en', { numeric: true }).compare
  const offers = [...found.values()].toSorted((a, b) => b.series - a.series || word(a.measurement, b.measurement) || word(a.field, b.field))
  return { offers, texts, whole }
}

/** What the gateways of a location, or one of them, have that can be drawn. */
export const offersQuery = (of: { location?: string; device?: string }) =>
  queryOptions({
    queryKey: [...keys.offered, of],
    queryFn: async ({ signal }) => {
      const items: SeriesLatest[] = []
      let from: string | undefined
      for (let page = 0; page < MOST_PAGES; page += 1) {
        const list: List<SeriesLatest> = await get('/series/latest', { ...of, limit: SHORT_LIST, continue: from }, signal)
        items.push(...list.items)
        from = list.metadata.continue
        if (from === undefined) break
      }
      return offersOf(items, from === undefined)
    },
    refetchInterval: MINUTE,
  })
