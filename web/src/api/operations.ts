/** Operations: what devices are asked to do, one or many; their types, and what the page asks of them. */
import { queryOptions } from '@tanstack/react-query'

import { address, get, post, seg, tenantHeaders } from './client'
import { keys } from './queries'
import { openStream } from './sse'
import type { List, ObjectOf, UnixMs } from './types'

export type OperationState = 'queued' | 'delivered' | 'running' | 'succeeded' | 'failed' | 'expired' | 'cancelled' | 'unsupported' | 'unknown'

export interface OperationSpec {
  kind: string
  device: string
  deviceName: string
  app?: string
  arguments: { runbook?: string; command?: string; arguments?: string[]; followSeconds?: number }
  reason: string
  requestedBy: string
  request?: string
  expiresAt: UnixMs
  timeLimitSeconds: number
}

export interface OperationStatus {
  state: OperationState
  message: string
  waits: string
  deadlineAt?: UnixMs
  startedAt?: UnixMs
  finishedAt?: UnixMs
  cancelRequestedAt?: UnixMs
  exitCode?: number
  outputBytes: number
  outputTotal: number
}

export type Operation = ObjectOf<OperationSpec, OperationStatus>

export type Verb =
  | 'restart-app'
  | 'logs'
  | 'diagnostics'
  | 'inventory'
  | 'exec'
  | 'rollback'
  | 'drain'
  | 'reboot'
  | 'force-sync'
  | 'cordon'
  | 'uncordon'
  | 'set-channel'

export interface Ask {
  app?: string
  arguments?: { runbook?: string; command?: string; arguments?: string[]; followSeconds?: number }
  reason: string
}

export interface Operate {
  verb: Verb
  /** By name or uid. */
  devices?: string[]
  /** Devices whose labels match. */
  selector?: string
  ask: Ask
  channel?: string
}

export interface PlannedDevice {
  uid: string
  name: string
  reachability: string
  does: string
  refused?: { code: string; message: string }
  operation?: string
}

export interface Plan {
  preview: string
  total: number
  accepted: number
  refused: number
  pace: string
  devices: PlannedDevice[]
  request?: string
}

export const isOver = (state: OperationState): boolean => !['queued', 'delivered', 'running'].includes(state)

/** Under the device's own key, so that whatever makes the device be read again does so with its operations. */
export const operationsQuery = (device: string) =>
  queryOptions({
    queryKey: [...keys.device, device, 'operations'],
    queryFn: ({ signal }) => get<List<Operation>>('/operations', { device, limit: 20 }, signal),
    refetchInterval: (query) => (query.state.data?.items.some((o) => !isOver(o.status.state)) ? 2_000 : false),
  })

export const preview = (body: Operate): Promise<Plan> => post<Plan>('/devices:operate', { ...body, dryRun: true })

export const operate = (body: Operate, token: string, key: string): Promise<Plan> =>
  post<Plan>('/devices:operate', { ...body, dryRun: false, preview: token }, key)

export const cancelOperation = (operation: Operation): Promise<Operation> =>
  post<Operation>(`/operations/${seg(operation.metadata.uid)}:cancel`, {})

function bytesOf(base64: string): Uint8Array {
  const text = atob(base64)
  return Uint8Array.from(text, (c) => c.charCodeAt(0))
}

/** Follows what an operation says, from its beginning to its end. Pieces that come again after a broken connection are told once. */
export function followOutput(uid: string, onText: (text: string) => void, onEnd: (operation: Operation) => void): () => void {
  const decoder = new TextDecoder()
  let told = 0
  const stop = openStream({
    url: address(`/operations/${seg(uid)}/output`),
    headers: tenantHeaders(),
    onMessage: (message) => {
      if (message.event === 'output') {
        const piece = JSON.parse(message.data) as { offset: number; bytes: string }
        const fresh = bytesOf(piece.bytes).slice(Math.max(0, told - piece.offset))
        if (fresh.length === 0) return
        told += fresh.length
        onText(decoder.decode(fresh, { stream: true }))
      } else if (message.event === 'end') {
        stop()
        onEnd(JSON.parse(message.data) as Operation)
      }
    },
  })
  return stop
}
