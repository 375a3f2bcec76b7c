/**
 * Server-sent events over `fetch`, so that a request can name its tenant and see its status; `EventSource` can do neither.
 * Format: WHATWG HTML, "Server-sent events".
 */

export interface SseMessage {
  event: string
  data: string
  id: string | undefined
}

/** Turns pieces of text, cut anywhere, into messages. Comments come out as event `comment`. */
export class SseParser {
  #rest = ''
  #event = ''
  #data: string[] = []
  #id: string | undefined

  push(text: string): SseMessage[] {
    const out: SseMessage[] = []
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/)
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#line(line, out)
    return out
  }

  #line(line: string, out: SseMessage[]): void {
    if (line === '') {
      if (this.#data.length > 0 || this.#event) {
        out.push({ event: this.#event || 'message', data: this.#data.join('\n'), id: this.#id })
      }
      this.#event = ''
      this.#data = []
      this.#id = undefined
      return
    }
    const colon = line.indexOf(':')
    if (colon === 0) {
      out.push({ event: 'comment', data: line.slice(1).trim(), id: undefined })
      return
    }
    const field = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (field === 'event') this.#event = value
    else if (field === 'data') this.#data.push(value)
    else if (field === 'id') this.#id = value
  }
}

export type StreamState = 'connecting' | 'live' | 'reconnecting' | 'unauthenticated'

export interface StreamOptions {
  url: string
  headers?: Record<string, string>
  onMessage: (message: SseMessage) => void
  onState?: (state: StreamState) => void
  /** Called for anything that arrives, keepalives included. */
  onAlive?: () => void
}

/** The server says something each 15 s; silence for longer than this means the connection is dead. */
const SILENCE_MS = 40_000
const MAX_WAIT_MS = 20_000

/** Keeps a stream open until the returned function is called: resumes after the last id, waits with full jitter between tries. */
export function openStream(options: StreamOptions): () => void {
  let stopped = false
  let tries = 0
  let lastId: string | undefined
  let abort = new AbortController()
  let wake: (() => void) | undefined

  const run = async (): Promise<void> => {
    options.onState?.('connecting')
    while (!stopped) {
      abort = new AbortController()
      let silence: ReturnType<typeof setTimeout> | undefined
      const alive = (): void => {
        clearTimeout(silence)
        silence = setTimeout(() => abort.abort(), SILENCE_MS)
        options.onAlive?.()
      }
      try {
        alive()
        const response = await fetch(options.url, {
          headers: {
            Accept: 'text/event-stream',
            ...options.headers,
            ...(lastId === undefined ? {} : { 'Last-Event-ID': lastId }),
          },
          credentials: 'same-origin',
          cache: 'no-store',
          signal: abort.signal,
        })
        if (response.status === 401) {
          options.onState?.('unauthenticated')
          return
        }
        if (!response.ok || !response.body) throw new Error(`status ${response.status}`)
        options.onState?.('live')
        tries = 0
        const reader = response.body.getReader()
        const decoder = new TextDecoder()
        const parser = new SseParser()
        for (;;) {
          const { done, value } = await reader.read()
          if (done) break
          alive()
          for (const message of parser.push(decoder.decode(value, { stream: true }))) {
            if (message.id !== undefined && message.id !== '') lastId = message.id
            if (message.event !== 'comment') options.onMessage(message)
          }
        }
      } catch {
        // Whatever broke the connection, the answer is the same: say so, wait, try again.
      } finally {
        clearTimeout(silence)
      }
      if (stopped) return
      options.onState?.('reconnecting')
      tries += 1
      const wait = Math.random() * Math.min(MAX_WAIT_MS, 500 * 2 ** Math.min(tries, 6))
      await new Promise<void>((resolve) => {
        wake = resolve
        setTimeout(resolve, wait)
      })
    }
  }
  void run()

  return () => {
    stopped = true
    abort.abort()
    wake?.()
  }
}
