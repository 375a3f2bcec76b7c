/**
 * Filters of the device list: in the address, as chips, and as text that can be typed.
 *
 * `reachability=offline` is a field; `store=12`, `site in (a,b)`, `!canary` are labels, in the grammar of `-l`; other words are looked for in names.
 */
import type { Query } from '~/api/client'
import { shellWord } from '~/ui/words'

export const FIELDS = ['reachability', 'health', 'conformance', 'lifecycle', 'location', 'channel', 'app', 'version'] as const
export type Field = (typeof FIELDS)[number]

export interface Filters extends Partial<Record<Field, string>> {
  q?: string
  labelSelector?: string
  sort?: string
}

const KEYS = [...FIELDS, 'q', 'labelSelector', 'sort'] as const

export function parseFilters(search: Record<string, unknown>): Filters {
  const out: Filters = {}
  for (const key of KEYS) {
    const value = search[key]
    const text = typeof value === 'number' ? String(value) : value
    if (typeof text === 'string' && text.trim() !== '') out[key] = text.trim()
  }
  return out
}

/** What the API is asked; `sort` too. */
export const toQuery = (filters: Filters): Query => ({ ...filters })

/** Filters without the order: what narrows the list. */
export function narrowing(filters: Filters): Filters {
  const { sort: _sort, ...rest } = filters
  return rest
}

/** Filters without the four states: the counts by state stay whole while one of them is picked. */
export function withoutStates(filters: Filters): Filters {
  const { reachability: _r, health: _h, conformance: _c, lifecycle: _l, ...rest } = narrowing(filters)
  return rest
}

/** Cuts a selector at its commas, leaving those inside brackets. */
export function requirements(selector: string): string[] {
  return selector
    .split(/,(?![^(]*\))/)
    .map((part) => part.trim())
    .filter(Boolean)
}

export interface Chip {
  /** As one would type it. */
  text: string
  without: Filters
}

export function chips(filters: Filters): Chip[] {
  const out: Chip[] = []
  for (const part of requirements(filters.labelSelector ?? '')) {
    const rest = requirements(filters.labelSelector ?? '').filter((other) => other !== part)
    const { labelSelector: _gone, ...others } = filters
    out.push({ text: part, without: rest.length > 0 ? { ...others, labelSelector: rest.join(',') } : others })
  }
  for (const field of FIELDS) {
    const value = filters[field]
    if (value === undefined) continue
    const { [field]: _gone, ...others } = filters
    out.push({ text: `${field}=${value}`, without: others })
  }
  if (filters.q !== undefined) {
    const { q: _gone, ...others } = filters
    out.push({ text: `“${filters.q}”`, without: others })
  }
  return out
}

const KEY = String.raw`[A-Za-z0-9][\w./-]*`
const SET = new RegExp(String.raw`^${KEY}\s+(?:notin|in)\s*\([^)]*\)`)
const PAIR = new RegExp(String.raw`^(${KEY})\s*(==|!=|=)\s*([\w.-]*)`)
const ABSENT = new RegExp(String.raw`^!${KEY}`)

/** Adds what was typed to the filters. */
export function addText(filters: Filters, typed: string): Filters {
  const out: Filters = { ...filters }
  const labels = requirements(filters.labelSelector ?? '')
  const words: string[] = []
  let rest = typed.trim()
  while (rest !== '') {
    const set = SET.exec(rest)
    const absent = ABSENT.exec(rest)
    const pair = PAIR.exec(rest)
    let taken: string
    if (set) {
      taken = set[0]
      labels.push(taken.replaceAll(/\s*,\s*/g, ','))
    } else if (absent) {
      taken = absent[0]
      labels.push(taken)
    } else if (pair) {
      taken = pair[0]
      const [, key = '', operator = '=', value = ''] = pair
      const field = FIELDS.find((f) => f === key)
      if (field && operator !== '!=') out[field] = value
      else labels.push(`${key}${operator === '==' ? '=' : operator}${value}`)
    } else {
      taken = /^[^\s,]+/.exec(rest)?.[0] ?? rest
      words.push(taken)
    }
    rest = rest.slice(taken.length).replace(/^[\s,]+/, '')
  }
  const unique = [...new Set(labels)]
  if (unique.length > 0) out.labelSelector = unique.join(',')
  if (words.length > 0) out.q = words.join(' ')
  return parseFilters(out as Record<string, unknown>)
}

/** The command that lists the same. */
export function command(filters: Filters): string {
  const parts = ['farshore get devices']
  if (filters.labelSelector !== undefined) parts.push(`-l ${shellWord(filters.labelSelector)}`)
  const fields = FIELDS.flatMap((field) => (filters[field] === undefined ? [] : [`${field}=${filters[field]}`]))
  if (fields.length > 0) parts.push(`--field-selector ${shellWord(fields.join(','))}`)
  if (filters.q !== undefined) parts.push(`-q ${shellWord(filters.q)}`)
  if (filters.sort !== undefined) parts.push(`--sort ${shellWord(filters.sort)}`)
  return parts.join(' ')
}

/** Sets one field, or takes it away when it has that value already. */
export function toggle(filters: Filters, field: Field, value: string): Filters {
  const { [field]: before, ...others } = filters
  return before === value ? others : { ...others, [field]: value }
}
