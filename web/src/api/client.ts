/** One function for every call: same-origin, cookie session, problem+json errors as [`ApiError`]. */
import type { Problem } from './types'

/** What a call failed with. `status` 0: no answer came at all. */
export class ApiError extends Error {
  readonly problem: Problem
  readonly retryAfterSeconds: number | undefined

  constructor(problem: Problem, retryAfterSeconds?: number) {
    super(problem.detail || problem.title)
    this.name = 'ApiError'
    this.problem = problem
    this.retryAfterSeconds = retryAfterSeconds
  }

  get status(): number {
    return this.problem.status
  }

  /** The message for one field, where the server named it. */
  field(name: string): string | undefined {
    return this.problem.errors?.find((e) => e.field === name || e.field.endsWith(`.${name}`))?.message
  }
}

export type Query = Record<string, string | number | boolean | undefined>

interface Options {
  query?: Query
  body?: unknown
  headers?: Record<string, string>
  signal?: AbortSignal
}

const TENANT_KEY = 'farshore.tenant'

/** The tenant chosen in this browser; undefined: the session's own. */
export function chosenTenant(): string | undefined {
  try {
    return localStorage.getItem(TENANT_KEY) ?? undefined
  } catch {
    return undefined
  }
}

export function chooseTenant(name: string | undefined): void {
  try {
    if (name === undefined) localStorage.removeItem(TENANT_KEY)
    else localStorage.setItem(TENANT_KEY, name)
  } catch {
    // Without storage the session's own tenant stays in use.
  }
}

export function address(path: string, query: Query = {}): string {
  const search = new URLSearchParams()
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== '') search.set(key, String(value))
  }
  const text = search.toString()
  return `/api${path}${text ? `?${text}` : ''}`
}

/** The headers each request carries besides the cookie. */
export function tenantHeaders(tenant: string | undefined = chosenTenant()): Record<string, string> {
  return tenant === undefined ? {} : { 'Farshore-Tenant': tenant }
}

async function problemOf(response: Response): Promise<Problem> {
  const fallback: Problem = {
    type: 'about:blank',
    title: response.statusText || 'Error',
    status: response.status,
    code: 'unknown',
    detail: `The server answered ${response.status} without saying why.`,
  }
  if (!response.headers.get('content-type')?.includes('json')) return fallback
  try {
    return { ...fallback, ...((await response.json()) as Partial<Problem>) }
  } catch {
    return fallback
  }
}

export async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const headers: Record<string, string> = {
    Accept: 'application/json',
    ...tenantHeaders(),
    ...options.headers,
  }
  if (options.body !== undefined) headers['Content-Type'] = 'application/json'
  let response: Response
  try {
    response = await fetch(address(path, options.query), {
      method,
      headers,
      credentials: 'same-origin',
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      ...(options.signal ? { signal: options.signal } : {}),
    })
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error
    throw new ApiError({
      type: 'about:blank',
      title: 'No answer',
      status: 0,
      code: 'no-answer',
      detail: 'The server could not be reached. Check the network, then try again.',
    })
  }
  if (!response.ok) {
    const after = Number(response.headers.get('retry-after'))
    throw new ApiError(await problemOf(response), Number.isFinite(after) && after > 0 ? after : undefined)
  }
  if (response.status === 204 || response.headers.get('content-length') === '0') return undefined as T
  return (await response.json()) as T
}

export const get = <T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> =>
  call<T>('GET', path, { ...(query ? { query } : {}), ...(signal ? { signal } : {}) })

/** `key` makes a repeated press harmless: the same key and body give the same answer. */
export const post = <T>(path: string, body: unknown = {}, key: string = newKey(), signal?: AbortSignal): Promise<T> =>
  call<T>('POST', path, { body, headers: { 'Idempotency-Key': key }, ...(signal ? { signal } : {}) })

export const del = (path: string): Promise<void> => call<void>('DELETE', path)

/** A fresh idempotency key. `randomUUID` exists only in secure contexts, and loopback over http may not be one. */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')
}

/** Keys for a form: the same body keeps its key, so that a repeated press is harmless; a changed body is another request. */
export function keyring(): (body: unknown) => string {
  const keys = new Map<string, string>()
  return (body) => {
    const text = JSON.stringify(body)
    const key = keys.get(text) ?? newKey()
    keys.set(text, key)
    return key
  }
}

/** A path segment. */
export const seg = (text: string): string => encodeURIComponent(text)
