/** The tab's end of the event stream: says how fresh the page is, and makes queries follow what changes. */
import type { QueryClient } from '@tanstack/react-query'
import { useSyncExternalStore } from 'react'

import { Hub, type HubMessage } from './hub'
import { keys } from './queries'
import type { StreamState } from './sse'

export interface Live {
  state: StreamState
  /** When something was last heard, in this browser's clock; 0: never. */
  aliveAt: number
}

let live: Live = { state: 'connecting', aliveAt: 0 }
const watchers = new Set<() => void>()
const deviceWatchers = new Set<(uids: ReadonlySet<string>) => void>()

export function useLive(): Live {
  return useSyncExternalStore(
    (watcher) => {
      watchers.add(watcher)
      return () => watchers.delete(watcher)
    },
    () => live,
  )
}

/** Calls back with the devices that changed, gathered over a second. */
export function onDevicesChanged(watcher: (uids: ReadonlySet<string>) => void): () => void {
  deviceWatchers.add(watcher)
  return () => deviceWatchers.delete(watcher)
}

function connect(tenant: string, listener: (message: HubMessage) => void): () => void {
  if (typeof SharedWorker !== 'undefined') {
    try {
      const worker = new SharedWorker(new URL('./stream.worker.ts', import.meta.url), {
        type: 'module',
        name: 'farshore-events',
      })
      worker.port.onmessage = (message: MessageEvent<HubMessage>) => listener(message.data)
      worker.port.postMessage({ listen: tenant })
      // A worker whose program does not load says so here, and only here.
      let own: (() => void) | undefined
      worker.addEventListener('error', () => {
        own ??= new Hub().listen(tenant, listener)
      })
      const bye = (): void => worker.port.postMessage({ bye: true })
      addEventListener('pagehide', bye)
      return () => {
        removeEventListener('pagehide', bye)
        bye()
        own?.()
      }
    } catch {
      // Some private modes forbid shared workers: a stream of this tab's own does the same.
    }
  }
  return new Hub().listen(tenant, listener)
}

/** Which lists and objects an event touches, by the kind of its subject. */
const TOUCHES: Record<string, readonly (readonly string[])[]> = {
  Device: [],
  Rollout: [keys.rollouts, keys.channels],
  Release: [keys.releases, keys.artifacts],
  Artifact: [keys.artifacts],
  App: [keys.apps],
  Placement: [keys.placements],
  Channel: [keys.channels],
  Pin: [keys.pins],
  Config: [keys.configs, keys.pipelines],
  ClaimToken: [keys.claimTokens],
  User: [keys.users],
  Incident: [keys.incidents, keys.alerts],
  Silence: [keys.silences, keys.alerts],
  AlertRule: [keys.alertRules, keys.alerts],
  AlertRoute: [keys.alertRoutes],
  Sink: [keys.sinks],
  Policy: [keys.policies],
}

const GATHER_MS = 1000
const SUMMARY_MS = 3000

/** Starts following; returns what stops it. */
export function followEvents(client: QueryClient, tenant: string, onSignedOut: () => void): () => void {
  let changed = new Set<string>()
  let gathering: ReturnType<typeof setTimeout> | undefined
  let summary: ReturnType<typeof setTimeout> | undefined

  const deviceChanged = (uid: string, name: string): void => {
    changed.add(uid).add(name)
    gathering ??= setTimeout(() => {
      const uids = changed
      changed = new Set()
      gathering = undefined
      for (const id of uids) void client.invalidateQueries({ queryKey: [...keys.device, id] })
      deviceWatchers.forEach((watcher) => watcher(uids))
    }, GATHER_MS)
    summary ??= setTimeout(() => {
      summary = undefined
      void client.invalidateQueries({ queryKey: keys.summary })
    }, SUMMARY_MS)
  }

  const stop = connect(tenant, (message) => {
    if (message.type === 'state') {
      const back = live.state === 'reconnecting' && message.state === 'live'
      live = { state: message.state, aliveAt: message.aliveAt }
      watchers.forEach((watcher) => watcher())
      if (message.state === 'unauthenticated') onSignedOut()
      if (back) void client.invalidateQueries()
    } else if (message.type === 'reset') {
      void client.invalidateQueries()
    } else if (message.type === 'device-changed') {
      deviceChanged(message.uid, message.name)
    } else {
      const { event } = message
      if (event.subject.kind === 'Device') deviceChanged(event.subject.uid, event.subject.name)
      if (event.type.startsWith('alert.')) void client.invalidateQueries({ queryKey: keys.alerts })
      for (const queryKey of TOUCHES[event.subject.kind] ?? []) void client.invalidateQueries({ queryKey })
      void client.invalidateQueries({ queryKey: keys.events })
    }
  })

  return () => {
    stop()
    clearTimeout(gathering)
    clearTimeout(summary)
    live = { state: 'connecting', aliveAt: 0 }
    watchers.forEach((watcher) => watcher())
  }
}
