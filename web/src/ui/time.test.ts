import { expect, it } from 'vitest'

import { axisLabels } from './time'

const at = (day: number, hour: number, minute = 0): number => new Date(2026, 10, day, hour, minute).getTime()

it('says the day once, and where a new one begins', () => {
  const ticks = [at(28, 22), at(28, 23), at(29, 0), at(29, 1)]
  const { day, labels } = axisLabels(ticks, at(28, 21, 40), at(29, 9), false)
  expect(day).toContain('28')
  expect(labels[0]).toBe('22:00')
  expect(labels[2]).toContain('29')
  expect(labels[3]).toBe('01:00')
})

it('says no day on the same day, and seconds where marks are that close', () => {
  const { day, labels } = axisLabels([at(29, 8), at(29, 8) + 5000], at(29, 8), at(29, 9), true)
  expect(day).toBeUndefined()
  expect(labels).toEqual(['08:00:00', '08:00:05'])
})
