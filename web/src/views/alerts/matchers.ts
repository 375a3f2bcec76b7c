/** Labels that alerts must have, as they are typed. */
import type { Matcher } from '~/api/incidents'

/** `location=Riga, app!=web`; what is wrong with it when it can't be read. */
export function parseMatchers(text: string): Matcher[] | string {
  const matchers: Matcher[] = []
  for (const part of text.split(/[\n,]+/).map((p) => p.trim()).filter(Boolean)) {
    const found = /^([^=!]+?)\s*(!?=)\s*(.*)$/.exec(part)
    if (!found) return `“${part}” is no matcher: write label=value or label!=value.`
    matchers.push({ name: found[1] ?? '', value: found[3] ?? '', isEqual: found[2] === '=' })
  }
  return matchers
}

export const matchersText = (matchers: readonly Matcher[]): string => matchers.map((m) => `${m.name}${m.isEqual === false ? '!=' : '='}${m.value}`).join(', ')
