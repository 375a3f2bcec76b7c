import { expect, it } from 'vitest'

import { offersOf, stepOf, type SeriesLatest } from './series'

it('steps are whole seconds, and whole hours where they are near to one', () => {
  const minute = 60_000
  expect([5 * minute, 60 * minute, 360 * minute, 1440 * minute, 10_080 * minute].map(stepOf)).toEqual([2000, 15_000, 90_000, 360_000, 3_600_000])
})

it('what can be drawn are fields with numbers, those of most series first', () => {
  const of = (measurement: string, field: string, kind: string): SeriesLatest => ({ name: '', measurement, field, device: '', deviceName: '', location: '', stream: '', kind, at: 0, value: 1 })
  const { offers, texts, whole } = offersOf([of('door', 'state', 'text'), of('temp-10', 'value', 'float'), of('temp-9', 'value', 'integer'), of('belt', 'on', 'boolean'), of('belt', 'on', 'boolean')], true)
  expect(offers).toEqual([
    { measurement: 'belt', field: 'on', series: 2 },
    { measurement: 'temp-9', field: 'value', series: 1 },
    { measurement: 'temp-10', field: 'value', series: 1 },
  ])
  expect([texts, whole]).toEqual([true, true])
})
