/** Documents that a device and the cloud may both change, its twin, and conflicts. */
import { queryOptions } from '@tanstack/react-query'

import { call, get, post, seg } from './client'
import { keys } from './queries'
import type { List, UnixMs } from './types'

export type Json = Record<string, unknown>

export interface DocumentOf {
  device: string
  collection: string
  name: string
  revision: number
  value?: Json
  bytes: number
  author: string
  changedAt: UnixMs
  delivered: boolean
}

export interface DocumentRevision {
  revision: number
  at: UnixMs
  author: string
  cause: string
  value?: Json
  changes?: Json
}

export interface DocumentConflict {
  uid: string
  collection: string
  name: string
  path: string
  rule: { path: string; strategy: string; resolver?: string }
  winner: 'edge' | 'cloud' | 'resolver' | 'open'
  note?: string
  base?: unknown
  edge?: unknown
  cloud?: unknown
  edgeAt?: UnixMs
  cloudAt?: UnixMs
  cloudBy?: string
  at: UnixMs
  open: boolean
  settledAt?: UnixMs
  settledBy?: string
  chosen?: string
}

export interface Twin {
  desired: { version: number; value: Json; changedAt?: UnixMs }
  reported: { version: number; value: Json; changedAt?: UnixMs }
  pending: { path: string; desired: unknown; reported?: unknown; since?: UnixMs }[]
  delivered: boolean
  sync: { syncedAt?: UnixMs; pending: number; pendingSince?: UnixMs; openConflicts: number }
}

/** So many documents of a device are listed. */
export const MOST_DOCUMENTS = 200
const EVERY = 10_000

const of = (device: string): string => `/devices/${seg(device)}`
const at = (device: string, collection: string, name: string): string => `${of(device)}/documents/${seg(collection)}/${seg(name)}`

export const twinQuery = (device: string) =>
  queryOptions({
    queryKey: [...keys.documents, device, 'twin'],
    queryFn: ({ signal }) => get<Twin>(`${of(device)}/twin`, undefined, signal),
    refetchInterval: EVERY,
  })

export const documentsQuery = (device: string) =>
  queryOptions({
    queryKey: [...keys.documents, device, 'list'],
    queryFn: ({ signal }) => get<List<DocumentOf>>(`${of(device)}/documents`, { limit: MOST_DOCUMENTS }, signal),
    refetchInterval: EVERY,
  })

export const documentQuery = (device: string, collection: string, name: string) =>
  queryOptions({
    queryKey: [...keys.documents, device, 'one', collection, name],
    queryFn: ({ signal }) => get<DocumentOf>(at(device, collection, name), undefined, signal),
  })

export const historyQuery = (device: string, collection: string, name: string) =>
  queryOptions({
    queryKey: [...keys.documents, device, 'history', collection, name],
    queryFn: ({ signal }) => get<List<DocumentRevision>>(`${at(device, collection, name)}/history`, { limit: 50 }, signal),
  })

export const conflictsQuery = (device: string) =>
  queryOptions({
    queryKey: [...keys.documents, device, 'conflicts'],
    queryFn: ({ signal }) => get<List<DocumentConflict>>('/document-conflicts', { device, limit: 50 }, signal),
    refetchInterval: EVERY,
  })

const match = (version: number): Record<string, string> => ({ 'If-Match': `"${version}"` })

/** Replaces the revision that was read; somebody else's change in between is a conflict. */
export const writeDocument = (device: string, document: DocumentOf, value: Json): Promise<DocumentOf> =>
  call<DocumentOf>('PUT', at(device, document.collection, document.name), { body: value, headers: match(document.revision) })

export const desire = (device: string, version: number, patch: Json): Promise<Twin> =>
  call<Twin>('PATCH', `${of(device)}/twin`, { body: patch, headers: match(version) })

export const decide = (conflict: DocumentConflict, choose: 'edge' | 'cloud' | 'base'): Promise<DocumentOf> =>
  post<DocumentOf>(`/document-conflicts/${seg(conflict.uid)}:${conflict.open ? 'resolve' : 'restore'}`, { choose })

export const STRATEGIES = ['merge', 'last-write-wins', 'cloud-wins', 'edge-wins', 'manual', 'custom'] as const
export type Strategy = (typeof STRATEGIES)[number]

export interface CollectionRule {
  path: string
  strategy: Strategy
  resolver?: string
}

export interface CollectionChange {
  rules: CollectionRule[]
  readOnly: boolean
  conflictDays?: number
}

export interface DocumentCollection extends CollectionChange {
  name: string
  resourceVersion: number
  changedAt: UnixMs
  changedBy: string
}

export const collectionsQuery = queryOptions({
  queryKey: keys.documentCollections,
  queryFn: ({ signal }) => get<List<DocumentCollection>>('/document-collections', undefined, signal),
})

/** `version` is the one that was read; 0: there must be none. */
export const saveCollection = (name: string, version: number, change: CollectionChange): Promise<DocumentCollection> =>
  call<DocumentCollection>('PUT', `/document-collections/${seg(name)}`, { body: change, headers: match(version) })

export const deleteCollection = (name: string, version: number): Promise<void> =>
  call<void>('DELETE', `/document-collections/${seg(name)}`, { headers: match(version) })

/** What somebody typed, as an object; a message when it is none. */
export function parseObject(text: string): { value: Json } | { wrong: string } {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { value: value as Json }
    return { wrong: 'Write a JSON object: {"name": value}.' }
  } catch (error) {
    return { wrong: `This is no JSON: ${error instanceof Error ? error.message : 'it can’t be read'}.` }
  }
}
