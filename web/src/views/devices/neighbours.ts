/** The list one came from: `[` and `]` on a device's page go through it. Kept for the tab. */

const KEY = 'farshore.neighbours'
const MOST = 5000

interface Kept {
  names: string[]
  search: Record<string, string>
}

export function keepNeighbours(names: string[], search: Record<string, string>): void {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ names: names.slice(0, MOST), search } satisfies Kept))
  } catch {
    // Without storage there are no neighbours, and the keys say so.
  }
}

function kept(): Kept | undefined {
  try {
    const text = sessionStorage.getItem(KEY)
    return text === null ? undefined : (JSON.parse(text) as Kept)
  } catch {
    return undefined
  }
}

export interface Neighbours {
  at: number
  of: number
  before: string | undefined
  after: string | undefined
  search: Record<string, string>
}

export function neighbours(name: string): Neighbours | undefined {
  const list = kept()
  const at = list?.names.indexOf(name) ?? -1
  if (!list || at < 0) return undefined
  return { at, of: list.names.length, before: list.names[at - 1], after: list.names[at + 1], search: list.search }
}
