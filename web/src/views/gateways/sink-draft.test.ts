import { expect, test } from 'vitest'

import type { SinkSpec } from '~/api/sinks'

import { draftOf, specOf } from './sink-draft'

test('a sink comes back from the form as it was, without what only the server knows', () => {
  const common = { enabled: false, start: 'earliest' as const, streams: ['data/a', 'alert/*'], measurements: ['temp'], selector: 'site=riga' }
  const all: SinkSpec[] = [
    { type: 'webhook', ...common, webhook: { url: 'https://example.com/hook' } },
    { type: 'otlp', ...common, otlp: { url: 'https://example.com:4318' } },
    { type: 'parquet', ...common, parquet: { everySeconds: 60, keepDays: 7 } },
  ]
  for (const spec of all) expect(specOf(draftOf(spec))).toEqual(spec)
})

test('what is left empty is left out, and what is no number goes to the server as it is', () => {
  const draft = draftOf(undefined)
  expect(specOf({ ...draft, url: 'https://x' })).toEqual({ type: 'webhook', enabled: true, start: 'now', streams: [], measurements: [], webhook: { url: 'https://x' } })
  expect(specOf({ ...draft, type: 'parquet', everySeconds: 'soon' }).parquet).toEqual({ everySeconds: 'soon', keepDays: 400 })
  expect(specOf({ ...draft, type: 'otlp', secret: 'Bearer x' }).otlp?.authorization).toBe('Bearer x')
})
