import { expect, it } from 'vitest'

import type { Sample } from '~/api/types'

import { join } from './measure'

it('adds only samples newer than what was fetched, and null where a metric is missing', () => {
  const base = { at: [1000, 2000], columns: { cpu: [0.1, 0.2] } }
  const samples: Sample[] = [
    { stream: 'host', at: 2000, values: { cpu: 0.9 } },
    { stream: 'host', at: 3000, values: { cpu: 0.3 } },
    { stream: 'host', at: 4000, values: { load1: 1 } },
  ]
  const joined = join(base, samples, 0)
  expect(joined.at).toEqual([1000, 2000, 3000, 4000])
  expect(joined.columns.cpu).toEqual([0.1, 0.2, 0.3, null])
  expect(joined.columns.load1).toEqual([null, null, null, 1])
})

it('drops what has left the range', () => {
  const joined = join({ at: [1000, 2000, 3000], columns: { cpu: [1, 2, 3] } }, [], 2500)
  expect(joined.at).toEqual([3000])
  expect(joined.columns.cpu).toEqual([3])
})
