/** What narrows the list of rollouts: all of it stands in the address. Pure, for its test. */
import { isFinal } from '~/api/rollouts'
import type { Rollout } from '~/api/rollout-types'

import { needOf } from './attention'

export const SHOWS = ['attention', 'open', 'over'] as const
export type Show = (typeof SHOWS)[number]

export interface RolloutFilters {
  show?: Show
  app?: string
  channel?: string
  q?: string
}

export function parseRolloutFilters(search: Record<string, unknown>): RolloutFilters {
  const out: RolloutFilters = {}
  const show = SHOWS.find((s) => s === search.show)
  if (show) out.show = show
  for (const key of ['app', 'channel', 'q'] as const) {
    const value = search[key]
    if (typeof value === 'string' && value !== '') out[key] = value
  }
  return out
}

export function fitsFilters(rollout: Rollout, filters: RolloutFilters, now: number): boolean {
  const s = rollout.status.summary
  if (filters.app !== undefined && s.app !== filters.app) return false
  if (filters.channel !== undefined && s.channel !== filters.channel) return false
  if (filters.q !== undefined && !`${s.name} ${s.to.version}`.includes(filters.q.trim().toLowerCase())) return false
  switch (filters.show) {
    case 'attention':
      return needOf(s, now) !== undefined
    case 'open':
      return !isFinal(s.phase)
    case 'over':
      return isFinal(s.phase)
    case undefined:
      return true
  }
}
