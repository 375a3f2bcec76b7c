/** The rules of a collection as they are typed. */
import type { CollectionChange, CollectionRule, DocumentCollection, Strategy } from '~/api/documents'

/** For so many days decided conflicts are kept when nobody says otherwise. */
export const USUAL_DAYS = 30

export interface RuleDraft {
  key: number
  path: string
  strategy: Strategy
  resolver: string
}

export interface Draft {
  readOnly: boolean
  conflictDays: string
  rules: RuleDraft[]
}

export const freshRule = (draft: Draft): RuleDraft => ({ key: Math.max(0, ...draft.rules.map((rule) => rule.key)) + 1, path: '', strategy: 'merge', resolver: '' })

export function draftOf(collection: DocumentCollection | undefined): Draft {
  const rules = (collection?.rules ?? [{ path: '', strategy: 'merge' as const }]).map((rule, index) => ({ key: index + 1, path: rule.path, strategy: rule.strategy, resolver: rule.resolver ?? '' }))
  return { readOnly: collection?.readOnly ?? false, conflictDays: collection?.conflictDays === undefined ? '' : String(collection.conflictDays), rules }
}

/** As it is sent. What is no number goes as it was typed: the server says what is wrong with it. */
export function changeOf(draft: Draft): CollectionChange {
  const rules = draft.rules.map((rule): CollectionRule => ({ path: rule.path, strategy: rule.strategy, ...(rule.strategy === 'custom' ? { resolver: rule.resolver } : {}) }))
  const days = draft.conflictDays === '' ? undefined : /^\d{1,6}$/.test(draft.conflictDays) ? Number(draft.conflictDays) : draft.conflictDays
  return { readOnly: draft.readOnly, rules, ...(days === undefined ? {} : { conflictDays: days as number }) }
}
