/** Where one wanted to go before the login: only ever an address of this page. */
export function parseNext(search: Record<string, unknown>): { next?: string } {
  const { next } = search
  if (typeof next !== 'string' || !next.startsWith('/')) return {}
  // Browsers read `//host` and `/\\host` as another site; tabs and line breaks are dropped before they look.
  const target = new URL(next, location.origin)
  if (target.origin !== location.origin || next.startsWith('//') || /[\\\s]/.test(next)) return {}
  return { next: target.pathname + target.search }
}
