import { describe, expect, it } from 'vitest'

import type { SeriesLine } from '~/api/series'

import { align, figure, finished, named, spread } from './lines'

const line = (part: Partial<SeriesLine>): SeriesLine => ({ measurement: 'temp', field: 'value', at: [], values: [], ...part })

describe('lines on one axis of time', () => {
  it('go on past the steps that only others have', () => {
    const { at, values } = align([{ at: [0, 10, 20, 30], values: [1, 2, 3, 4] }, { at: [0, 20], values: [5, 6] }], 10)
    expect(at).toEqual([0, 10, 20, 30])
    expect(values).toEqual([[1, 2, 3, 4], [5, undefined, 6, undefined]])
  })

  it('are cut where one has nothing for much longer than usual, also when it is the only one', () => {
    const lone = { at: [0, 10, 20, 60, 70], values: [1, 2, 3, 4, 5] }
    expect(align([lone], 10)).toEqual({ at: [0, 10, 20, 30, 60, 70], values: [[1, 2, 3, null, 4, 5]] })
    const other = { at: [0, 10, 20, 30, 40, 50, 60, 70], values: [0, 0, 0, 0, 0, 0, 0, 0] }
    expect(align([lone, other], 10).values[0]).toEqual([1, 2, 3, null, null, null, 4, 5])
  })

  it('are cut at the only pause among three readings', () => {
    expect(align([{ at: [0, 10, 500], values: [1, 2, 3] }], 10).values).toEqual([[1, 2, null, 3]])
  })

  it('are not cut where readings are far apart always', () => {
    expect(align([{ at: [0, 60, 120], values: [1, 2, 3] }], 10)).toEqual({ at: [0, 60, 120], values: [[1, 2, 3]] })
  })

  it('keep what is no number as a gap', () => {
    expect(align([{ at: [0, 10], values: [1, null] }], 10).values).toEqual([[1, null]])
    expect(align([], 10)).toEqual({ at: [], values: [] })
  })
})

it('a step that is not over is left out of sums and counts only', () => {
  const of = line({ at: [0, 10], values: [1, 2] })
  expect(finished(of, 'count', 10, 15).at).toEqual([0])
  expect(finished(of, 'sum', 10, 20).at).toEqual([0, 10])
  expect(finished(of, 'mean', 10, 15).at).toEqual([0, 10])
})

describe('names of lines', () => {
  it('say what tells them apart, in the order of people', () => {
    const hall = (n: number): SeriesLine => line({ deviceName: `hall-${n}`, device: `d${n}`, tags: { room: 'a' }, stream: 'data/default' })
    expect(named([hall(10), hall(9)], 'device').map((one) => one.name)).toEqual(['hall-9', 'hall-10'])
    expect(named([hall(10), hall(9)], 'series').map((one) => one.name)).toEqual(['hall-9 · room=a', 'hall-10 · room=a'])
    expect(named([hall(9)], 'series')[0]?.name).toBe('room=a')
    expect(named([hall(9), { ...hall(9), stream: 'data/slow' }], 'series').map((one) => one.name)).toEqual(['room=a · data/default', 'room=a · data/slow'])
  })

  it('say of a line without tags what it measures, and of none that has a location that it has none', () => {
    expect(named([line({ deviceName: 'hall-9', stream: 'data/default' })], 'series')[0]?.name).toBe('temp')
    expect(named([line({ location: '' })], 'location')[0]?.name).toBe('no location')
  })
})

it('the spread of values leaves gaps out', () => {
  expect(spread([null, 3, -1, 2, null])).toEqual({ last: 2, least: -1, most: 3 })
  expect(spread([null])).toEqual({ last: undefined, least: undefined, most: undefined })
})

it('figures have five digits, and long ones none behind the point', () => {
  expect([0.1 + 0.2, -3.14159, 123_456.7].map(figure)).toEqual(['0.3', '-3.1416', '123,457'])
})
