import { expect, it } from 'vitest'

import type { Forecast, RolloutSummary, WaveSummary } from '~/api/rollout-types'
import type { Counts } from '~/api/types'

import { timeline } from './timeline'

const counts: Counts = { waiting: 0, updating: 0, ok: 0, failed: 0, unreachable: 0, rollingBack: 0, rolledBack: 0, excluded: 0 }
const wave = (number: number, more: Partial<WaveSummary>): WaveSummary => ({
  number, size: 1, fromPercent: 0, toPercent: 100, soakSeconds: 60, state: 'waiting', failed: 0, reported: 0, counts, ...more,
})
const MIN = 60_000
const summary = (more: Partial<RolloutSummary>): RolloutSummary => ({
  uid: '', name: '', app: '', channel: '', to: { uid: '', version: '' }, phase: 'running', phaseSince: 0, createdAt: 0,
  population: 1, wave: 1, waves: [], counts, threshold: 0.3, inFlight: 0, budget: 1, allowedNow: 1, reasons: [], ...more,
})

it('puts waves that run where they were, and those to come after now, as estimates of the usual length', () => {
  const drawn = timeline(
    summary({
      startedAt: 0,
      waves: [wave(1, { startedAt: 0, finishedAt: 20 * MIN }), wave(2, { startedAt: 20 * MIN }), wave(3, {})],
    }),
    40 * MIN,
  )
  expect(drawn.to).toBe(60 * MIN)
  expect(drawn.bars.map((b) => b.estimate)).toEqual([false, false, true])
  expect(drawn.bars[2]?.left).toBeCloseTo(2 / 3)
  expect(drawn.now).toBeCloseTo(2 / 3)
})

it('shows nothing to come when it is over', () => {
  const drawn = timeline(
    summary({ startedAt: 0, finishedAt: 30 * MIN, waves: [wave(1, { startedAt: 0, finishedAt: 10 * MIN }), wave(2, {})] }),
    90 * MIN,
  )
  expect(drawn.bars).toHaveLength(1)
  expect(drawn.to).toBe(30 * MIN)
  expect(drawn.now).toBeUndefined()
})

it('never divides by nothing when it has only just been made', () => {
  const drawn = timeline(summary({ waves: [wave(1, {})] }), 1000)
  expect(drawn.bars.every((b) => Number.isFinite(b.left) && Number.isFinite(b.width))).toBe(true)
  expect(drawn.ticks.length).toBeLessThan(10)
})

it('shows the way back from the halt to the end, with seconds where it was that short', () => {
  const drawn = timeline(
    summary({
      phase: 'failed', startedAt: 0, finishedAt: 20_000, counts: { ...counts, rolledBack: 3 },
      waves: [wave(1, { state: 'halted', startedAt: 0, finishedAt: 8000 }), wave(2, {})],
    }),
    90 * MIN,
  )
  expect(drawn.wayBack?.left).toBeCloseTo(0.4)
  expect(drawn.wayBack?.width).toBeCloseTo(0.6)
  expect(drawn.seconds).toBe(true)
  expect(drawn.ticks.length).toBeGreaterThan(1)
})

it('takes waves to come from the forecast, with how late they may get, and says when all is done', () => {
  const told = (number: number, from: number, to: number, late: number): Forecast['waves'][number] => ({
    wave: number, devices: 1, startsP50: from, startsP90: from, endsP50: to, endsP90: late, realError: { falseHalt: 0, missed: 0 },
  })
  const forecast: Forecast = {
    devices: 2, waves: [told(1, 0, 600, 900), told(2, 600, 1800, 2400)], finishP50Seconds: 1800, finishP90Seconds: 2400, finishes: 1,
    blocked: [], peakDown: [], operatingCharacteristic: [], at: 20 * MIN,
  }
  const drawn = timeline(summary({ startedAt: 0, waves: [wave(1, { startedAt: 0 }), wave(2, {})] }), 20 * MIN, forecast)
  expect(drawn.to).toBe(60 * MIN)
  expect(drawn.bars[1]).toMatchObject({ left: 0.5, estimate: true })
  expect(drawn.bars[1]?.width).toBeCloseTo(1 / 3)
  expect(drawn.bars[1]?.late?.left).toBeCloseTo(5 / 6)
  expect(drawn.bars[0]?.late?.width).toBeCloseTo(0.25)
  expect(drawn.finish?.p50).toEqual({ at: 50 * MIN, left: 50 / 60 })
  expect(drawn.finish?.p90.left).toBe(1)
})
