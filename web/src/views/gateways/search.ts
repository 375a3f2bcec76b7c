/** What stands in the address of the gateways: which of them are shown, and what is drawn of their readings. Pure. */
import { AGGREGATES, type Aggregate, type Offer, type SeriesLine } from '~/api/series'
import { parseRange, USUAL_RANGE, type Range } from '~/ui/range'
import { shellWord } from '~/ui/words'

export const BYS = ['location', 'device', 'series'] as const
/** What makes a line. */
export type By = (typeof BYS)[number]

export interface GatewaySearch {
  location?: string
  device?: string
  measurement?: string
  field?: string
  aggregate?: Aggregate
  by?: By
  range?: Range
}

const TEXTS = ['location', 'device', 'measurement', 'field'] as const

export function parseGatewaySearch(search: Record<string, unknown>): GatewaySearch {
  const out: GatewaySearch = parseRange(search)
  for (const key of TEXTS) {
    const value = search[key]
    if (typeof value === 'string' && value !== '') out[key] = value
  }
  const aggregate = AGGREGATES.find((one) => one === search.aggregate)
  const by = BYS.find((one) => one === search.by)
  return { ...out, ...(aggregate === undefined ? {} : { aggregate }), ...(by === undefined ? {} : { by }) }
}

interface Place {
  device: string
  deviceName: string
  location: string
}

/** The gateways that are shown. */
export const shownOf = <T extends Place>(all: readonly T[], { location, device }: GatewaySearch): T[] =>
  all.filter((one) => (location === undefined || one.location === location) && (device === undefined || one.deviceName === device || one.device === device))

/** What makes a line where the address does not say: a level below what is shown. */
export function usualBy(search: GatewaySearch, shown: readonly Place[]): By {
  if (search.device !== undefined) return 'series'
  if (search.location !== undefined) return 'device'
  return new Set(shown.map((one) => one.location)).size > 1 ? 'location' : 'device'
}

/** With another location or device and the same drawn of it. */
export function withPlace({ location: _l, device: _d, by: _b, ...rest }: GatewaySearch, offer: Offer | undefined, place: { location?: string; device?: string }): GatewaySearch {
  return { ...rest, ...(offer === undefined ? {} : { measurement: offer.measurement, ...(offer.field === '' ? {} : { field: offer.field }) }), ...place }
}

/** Where a line leads: into its location, into its device, or from there to the device's own page. Undefined: nowhere, as it has no location. */
export function into(line: SeriesLine, by: By, search: GatewaySearch, offer: Offer): { device: string } | { search: GatewaySearch } | undefined {
  if (by === 'location') return line.location ? { search: withPlace(search, offer, { location: line.location }) } : undefined
  const device = line.deviceName ?? line.device
  if (device === undefined) return undefined
  if (search.device !== undefined) return { device }
  return { search: withPlace(search, offer, { ...(line.location ? { location: line.location } : {}), device }) }
}

/** The command that reads the same. */
export function command(search: GatewaySearch, offer: Offer, by: By, stepMs: number): string {
  const { location, device, aggregate, range = USUAL_RANGE } = search
  const parts = ['farshore series', `-m ${shellWord(offer.measurement)}`]
  if (offer.field !== '') parts.push(`-f ${shellWord(offer.field)}`)
  if (device !== undefined) parts.push(`-d ${shellWord(device)}`)
  else if (location !== undefined) parts.push(`--location ${shellWord(location)}`)
  parts.push(`--since ${range}`, `--step ${stepMs / 1000}s`)
  if (aggregate !== undefined && aggregate !== 'mean') parts.push(`-a ${aggregate}`)
  if (by !== 'series') parts.push(`--by ${by}`)
  return parts.join(' ')
}
