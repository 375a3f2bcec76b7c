/** One connection to `/api/events/stream` for each tenant, shared by whoever listens. Runs in the shared worker, or in the tab where there is none. */
import { openStream, type StreamState } from './sse'
import type { FleetEvent } from './types'

export type HubMessage =
  | { type: 'event'; event: FleetEvent }
  | { type: 'device-changed'; uid: string; name: string }
  | { type: 'reset' }
  | { type: 'state'; state: StreamState; aliveAt: number }

export type Listener = (message: HubMessage) => void

interface Line {
  listeners: Set<Listener>
  state: StreamState
  aliveAt: number
  stop: () => void
}

const ALIVE_EVERY_MS = 1000

export class Hub {
  #lines = new Map<string, Line>()

  listen(tenant: string, listener: Listener): () => void {
    const line = this.#lines.get(tenant) ?? this.#open(tenant)
    line.listeners.add(listener)
    listener({ type: 'state', state: line.state, aliveAt: line.aliveAt })
    return () => {
      line.listeners.delete(listener)
      if (line.listeners.size === 0) {
        line.stop()
        this.#lines.delete(tenant)
      }
    }
  }

  #open(tenant: string): Line {
    const line: Line = { listeners: new Set(), state: 'connecting', aliveAt: 0, stop: () => {} }
    const tell = (message: HubMessage): void => line.listeners.forEach((listener) => listener(message))
    this.#lines.set(tenant, line)
    line.stop = openStream({
      url: '/api/events/stream',
      headers: { 'Farshore-Tenant': tenant },
      onState: (state) => {
        line.state = state
        if (state === 'live') line.aliveAt = Date.now()
        tell({ type: 'state', state, aliveAt: line.aliveAt })
        // Signed out: the next listener, after a login, starts anew.
        if (state === 'unauthenticated') this.#lines.delete(tenant)
      },
      onAlive: () => {
        if (line.state !== 'live' || Date.now() - line.aliveAt < ALIVE_EVERY_MS) return
        line.aliveAt = Date.now()
        tell({ type: 'state', state: line.state, aliveAt: line.aliveAt })
      },
      onMessage: (message) => {
        if (message.event === 'reset') return tell({ type: 'reset' })
        const data: unknown = parse(message.data)
        if (data === undefined) return
        if (message.event === 'device-changed') {
          return tell({ type: 'device-changed', ...(data as { uid: string; name: string }) })
        }
        return tell({ type: 'event', event: data as FleetEvent })
      },
    })
    return line
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
