/** Sinks: where readings go on to. */
import { queryOptions } from '@tanstack/react-query'

import { call, get, post, seg } from './client'
import { keys, SHORT_LIST } from './queries'
import type { List, ObjectOf, UnixMs } from './types'

export interface SinkSpec {
  type: 'webhook' | 'otlp' | 'parquet'
  enabled: boolean
  streams: string[]
  measurements: string[]
  selector?: string
  start: 'now' | 'earliest'
  webhook?: { url: string; secret?: string }
  otlp?: { url: string; authorization?: string }
  parquet?: { everySeconds: number; keepDays: number }
}

export interface SinkStatus {
  state: 'disabled' | 'running' | 'failing'
  secretSet: boolean
  /** Only in the answer to the creation. */
  secret?: string
  waitingBatches: number
  deliveredBatches: number
  deliveredPoints: number
  skippedBatches: number
  lastDeliveredAt?: UnixMs
  attempts: number
  lastError?: string
  lastErrorAt?: UnixMs
  nextAt?: UnixMs
  folder?: string
}

export type Sink = ObjectOf<SinkSpec, SinkStatus>

export const sinksQuery = queryOptions({
  queryKey: keys.sinks,
  queryFn: ({ signal }) => get<List<Sink>>('/sinks', { limit: SHORT_LIST }, signal),
  // What is handed over makes no event.
  refetchInterval: 5_000,
})

/** Makes it, or replaces the version that was read. */
export function saveSink(old: Sink | undefined, name: string, spec: SinkSpec, key: string): Promise<Sink> {
  if (old === undefined) return post<Sink>('/sinks', { metadata: { name }, spec }, key)
  const body = { metadata: { name: old.metadata.name, labels: old.metadata.labels ?? {} }, spec }
  return call<Sink>('PUT', `/sinks/${seg(old.metadata.uid)}`, { body, headers: { 'If-Match': `"${old.metadata.resourceVersion}"` } })
}
