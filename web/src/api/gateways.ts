/** Gateways: how their readings come in. The readings are in `series.ts`. */
import { queryOptions } from '@tanstack/react-query'

import { get } from './client'
import type { ProcessingReport } from './pipelines'
import { keys, SHORT_LIST } from './queries'
import type { List, ObjectOf, UnixMs } from './types'

export interface GatewayReport {
  backlogPoints: number
  backlogBytes: number
  oldestUnsentAt?: UnixMs
  drainSeconds?: number
  lostPoints: number
  refusedBatches: number
  lastError?: string
  streams: { name: string; class: string; backlogPoints: number; backlogBytes: number; oldestUnsentAt?: UnixMs }[]
  processing?: ProcessingReport
}

export interface SyncLoss {
  stream: string
  reason: string
  times: number
  points: number
  from: UnixMs
  to: UnixMs
  lastAt: UnixMs
}

export interface GatewaySync {
  device: string
  deviceName: string
  location: string
  epoch: string
  reportedAt: UnixMs
  report: GatewayReport
  receivedPoints: number
  receivedBatches: number
  receivedBytes: number
  refusedBatches: number
  lastBatchAt?: UnixMs
  newestAt?: UnixMs
  lostPoints: number
  losses: SyncLoss[]
  streams: { stream: string; class: string; points: number; batches: number; bytes: number; refusedBatches: number; newestAt?: UnixMs; lastAt: UnixMs }[]
}

export interface GatewayKeySpec {
  device: string
  location?: string
  lifetimeSeconds?: number
}

export interface GatewayKeyStatus {
  expiresAt: UnixMs
  lastUsedAt?: UnixMs
  /** Only in the answer to the creation. */
  key?: string
}

export type GatewayKey = ObjectOf<GatewayKeySpec, GatewayKeyStatus>

/** A gateway reports at least once a minute. */
const EVERY = 10_000

export const gatewaysQuery = queryOptions({
  queryKey: keys.gateways,
  queryFn: ({ signal }) => get<List<GatewaySync>>('/sync', { limit: SHORT_LIST }, signal),
  refetchInterval: EVERY,
})

export const gatewayKeysQuery = queryOptions({
  queryKey: keys.gatewayKeys,
  queryFn: ({ signal }) => get<List<GatewayKey>>('/gateway-keys', { limit: SHORT_LIST }, signal),
})
