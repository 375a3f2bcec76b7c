/** Incidents and alerts: their types, and what the page asks of them. */
import { queryOptions } from '@tanstack/react-query'

import { address, ApiError, call, get, post, seg, tenantHeaders, type Query } from './client'
import { keys, SHORT_LIST } from './queries'
import type { List, ObjectOf, UnixMs } from './types'

export interface ActionTaken {
  kind: string
  at: UnixMs
  lastAt: UnixMs
  count: number
  message: string
}

export interface IncidentSpec {
  device: string
  deviceName: string
  location: string
  app?: string
  cause: string
  release?: string
  version?: string
  rollout?: string
  rolloutName?: string
  startedAt: UnixMs
}

export interface IncidentStatus {
  state: 'open' | 'resolved' | 'unknown'
  message: string
  signs: number
  lastAt: UnixMs
  actions: ActionTaken[]
  endedAt?: UnixMs
  resolvedAt?: UnixMs
  resolvedBy?: string
  acknowledgedAt?: UnixMs
  acknowledgedBy?: string
  notes: { at: UnixMs; by: string; did: string; comment: string }[]
  evidence: { part: string; takenAt: UnixMs; bytes: number }[]
}

export type Incident = ObjectOf<IncidentSpec, IncidentStatus>

export interface Alert {
  uid: string
  rule: string
  severity: 'info' | 'warning' | 'critical' | 'unknown'
  state: 'firing' | 'ended' | 'unknown'
  subject: { kind: string; uid: string; name: string }
  location: string
  labels: Record<string, string>
  summary: string
  startedAt: UnixMs
  endedAt?: UnixMs
  acknowledgedAt?: UnixMs
  acknowledgedBy?: string
  comment?: string
  silencedBy: string[]
}

export interface SilenceSpec {
  matchers: Matcher[]
  startsAt?: UnixMs
  endsAt: UnixMs
  comment: string
}

export type Silence = ObjectOf<SilenceSpec, { state: 'pending' | 'active' | 'expired' | 'unknown' }>

export type Severity = 'info' | 'warning' | 'critical'

export interface Matcher {
  name: string
  value: string
  isEqual?: boolean
}

export interface AlertRuleSpec {
  type: string
  enabled: boolean
  severity: Severity
  threshold: number
  selector: string
  description: string
}

export type AlertRule = ObjectOf<AlertRuleSpec, { builtIn: boolean; unit: string; least: number; most: number }>

export interface AlertRouteSpec {
  type: 'webhook' | 'email'
  enabled: boolean
  minSeverity: Severity
  matchers: Matcher[]
  sendResolved: boolean
  groupWaitSeconds: number
  webhook?: { url: string; format: 'farshore' | 'alertmanager'; secret?: string }
  email?: { to: string[]; from: string; host: string; port: number; tls: 'tls' | 'starttls' | 'none'; ca?: string; username?: string; password?: string }
}

export type AlertRoute = ObjectOf<AlertRouteSpec, { secretSet: boolean; secret?: string }>

export type DeliveryState = 'queued' | 'delivered' | 'dead'

export interface AlertDelivery {
  uid: string
  route: string
  routeName: string
  groupKey: string
  state: DeliveryState | 'unknown'
  attempts: number
  nextAt: UnixMs
  lastError?: string
  createdAt: UnixMs
  finishedAt?: UnixMs
  alerts: number
}

export const alertRulesQuery = queryOptions({
  queryKey: keys.alertRules,
  queryFn: ({ signal }) => get<List<AlertRule>>('/alert-rules', { limit: SHORT_LIST }, signal),
})

export const alertRoutesQuery = queryOptions({
  queryKey: keys.alertRoutes,
  queryFn: ({ signal }) => get<List<AlertRoute>>('/alert-routes', { limit: SHORT_LIST }, signal),
})

export const deliveriesQuery = (state: DeliveryState | undefined) =>
  queryOptions({
    queryKey: [...keys.deliveries, state ?? 'all'],
    queryFn: ({ signal }) => get<List<AlertDelivery>>('/alert-deliveries', { limit: 200, state }, signal),
    // Attempts make no event.
    refetchInterval: 5_000,
  })

/** Makes it, or replaces the version that was read. */
export function save<T extends AlertRule | AlertRoute>(path: string, old: T | undefined, name: string, spec: T['spec'], key: string): Promise<T> {
  if (old === undefined) return post<T>(path, { metadata: { name }, spec }, key)
  const body = { metadata: { name: old.metadata.name, labels: old.metadata.labels ?? {} }, spec }
  return call<T>('PUT', `${path}/${seg(old.metadata.uid)}`, { body, headers: { 'If-Match': `"${old.metadata.resourceVersion}"` } })
}

export const incidentsQuery = (query: Query) =>
  queryOptions({
    queryKey: [...keys.incidents, 'list', query],
    queryFn: ({ signal }) => get<List<Incident>>('/incidents', { limit: SHORT_LIST, ...query }, signal),
  })

export const incidentQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.incidents, id],
    queryFn: ({ signal }) => get<Incident>(`/incidents/${seg(id)}`, undefined, signal),
  })

export const alertsQuery = (query: Query) =>
  queryOptions({
    queryKey: [...keys.alerts, query],
    queryFn: ({ signal }) => get<List<Alert>>('/alerts', { limit: SHORT_LIST, ...query }, signal),
    // Alerts fire by time alone, without an event of their subject that the page would hear.
    refetchInterval: 30_000,
  })

export const silencesQuery = queryOptions({
  queryKey: keys.silences,
  queryFn: ({ signal }) => get<List<Silence>>('/silences', { limit: SHORT_LIST }, signal),
})

/** The evidence as a file. It goes through `fetch`, because a plain link would not name the tenant. */
export async function downloadEvidence(incident: Incident): Promise<void> {
  const response = await fetch(address(`/incidents/${seg(incident.metadata.uid)}/evidence`), {
    credentials: 'same-origin',
    headers: tenantHeaders(),
  })
  if (!response.ok) {
    throw new ApiError({
      type: 'about:blank',
      title: 'No evidence',
      status: response.status,
      code: 'unknown',
      detail: `The server answered ${response.status}.`,
    })
  }
  const link = document.createElement('a')
  link.href = URL.createObjectURL(await response.blob())
  link.download = `${incident.metadata.name}.tar.gz`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}
