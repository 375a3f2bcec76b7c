/** Policies: their types, and what the page asks of them. */
import { queryOptions } from '@tanstack/react-query'

import { call, get, post, seg } from './client'
import { keys, SHORT_LIST } from './queries'
import type { List, ObjectOf, UnixMs } from './types'

/** The rules as JSON: sections with values. What each value may be, the server checks. */
export type Rules = Record<string, Record<string, unknown>>

export interface PolicySpec {
  description?: string
  selector?: string
  priority?: number
  rules: Rules
}

export type Policy = ObjectOf<PolicySpec, { devices: number }>

export interface PolicyVersion {
  version: number
  at: UnixMs
  actor: string
  spec: PolicySpec
}

export interface Provenance {
  policy: string
  version: number
}

export interface DevicePolicy {
  device: string
  understood: boolean
  effective: { rules: Rules; provenance: Record<string, Provenance>; policies: Provenance[] }
}

/** What a policy would change for devices. */
export interface PolicyPreview {
  matching: number
  changed: number
  changes: { path: string; from?: string; to?: string; policy?: string; devices: number }[]
  devices: string[]
}

export const previewPolicy = (name: string, spec: PolicySpec): Promise<PolicyPreview> => post<PolicyPreview>('/policies:preview', { metadata: { name }, spec })

export const policiesQuery = queryOptions({
  queryKey: [...keys.policies, 'list'],
  queryFn: ({ signal }) => get<List<Policy>>('/policies', { limit: SHORT_LIST }, signal),
})

export const policyQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.policies, 'one', id],
    queryFn: ({ signal }) => get<Policy>(`/policies/${seg(id)}`, undefined, signal),
  })

export const policyVersionsQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.policies, 'versions', id],
    queryFn: ({ signal }) => get<List<PolicyVersion>>(`/policies/${seg(id)}/versions`, { limit: 50 }, signal),
  })

export const devicePolicyQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.policies, 'device', id],
    queryFn: ({ signal }) => get<DevicePolicy>(`/devices/${seg(id)}/policy`, undefined, signal),
  })

export const createPolicy = (name: string, spec: PolicySpec, key: string): Promise<Policy> =>
  post<Policy>('/policies', { metadata: { name }, spec }, key)

/** Replaces the version that was read; somebody else's change in between is a conflict. */
export const replacePolicy = (policy: Policy, spec: PolicySpec): Promise<Policy> =>
  call<Policy>('PUT', `/policies/${seg(policy.metadata.uid)}`, {
    body: { metadata: { name: policy.metadata.name, labels: policy.metadata.labels ?? {} }, spec },
    headers: { 'If-Match': `"${policy.metadata.resourceVersion}"` },
  })

/** What is left of a specification without the sections that say nothing. */
export function essence(spec: PolicySpec): PolicySpec {
  const rules: Rules = {}
  for (const [section, values] of Object.entries(spec.rules)) {
    if (Object.keys(values).length > 0) rules[section] = values
  }
  return { ...spec, rules }
}

/** The value at `restart.maxRestarts`. */
export function valueAt(rules: Rules, path: string): unknown {
  let at: unknown = rules
  for (const part of path.split('.')) {
    if (typeof at !== 'object' || at === null) return undefined
    at = (at as Record<string, unknown>)[part]
  }
  return at
}

/** A value in one line. */
export const shown = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))
