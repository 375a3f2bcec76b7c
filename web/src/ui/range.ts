/** How far back charts go: a word of the address, and what it is in milliseconds. */
export const RANGES = ['5m', '1h', '6h', '24h', '7d'] as const
export type Range = (typeof RANGES)[number]

const MINUTE = 60_000
export const RANGE_MS: Record<Range, number> = {
  '5m': 5 * MINUTE,
  '1h': 60 * MINUTE,
  '6h': 360 * MINUTE,
  '24h': 1440 * MINUTE,
  '7d': 10_080 * MINUTE,
}

/** What is shown where the address does not say. */
export const USUAL_RANGE: Range = '1h'

/** As it stands in the address. */
export function parseRange(search: Record<string, unknown>): { range?: Range } {
  const range = RANGES.find((r) => r === search.range)
  return range ? { range } : {}
}
