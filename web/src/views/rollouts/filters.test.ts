import { expect, it } from 'vitest'

import type { Rollout, RolloutSummary } from '~/api/rollout-types'

import { fitsFilters, parseRolloutFilters } from './filters'

const rollout = (more: Partial<RolloutSummary>): Rollout =>
  ({ status: { summary: { name: 'web-1-1', app: 'web', channel: 'prod', to: { uid: '', version: '1.1' }, phase: 'running', phaseSince: 0, wave: 1, waves: [], ...more } } }) as unknown as Rollout

it('reads filters from the address and leaves out what it does not know', () => {
  expect(parseRolloutFilters({ show: 'over', app: 'web', q: '', x: 1 })).toEqual({ show: 'over', app: 'web' })
  expect(parseRolloutFilters({ show: 'everything' })).toEqual({})
})

it('keeps what fits, by state, app, channel and name', () => {
  const fits = (more: Partial<RolloutSummary>, filters: Parameters<typeof fitsFilters>[1]): boolean => fitsFilters(rollout(more), filters, 1000)
  expect(fits({}, { show: 'open' })).toBe(true)
  expect(fits({}, { show: 'attention' })).toBe(false)
  expect(fits({ phase: 'paused' }, { show: 'attention' })).toBe(true)
  expect(fits({ waves: [{ number: 1, state: 'awaiting-approval', approvalsNeeded: 2 }] as unknown as RolloutSummary['waves'] }, { show: 'attention' })).toBe(true)
  expect(fits({ phase: 'failed', finishedAt: 0 }, { show: 'over', app: 'web', channel: 'prod', q: '1.1' })).toBe(true)
  expect(fits({}, { channel: 'dev' })).toBe(false)
  expect(fits({}, { q: 'price' })).toBe(false)
})
