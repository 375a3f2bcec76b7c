import { describe, expect, it } from 'vitest'

import type { DocumentCollection } from '~/api/documents'

import { changeOf, draftOf, freshRule } from './draft'

const menu: DocumentCollection = {
  name: 'menu',
  rules: [
    { path: '', strategy: 'cloud-wins' },
    { path: '/total', strategy: 'custom', resolver: 'edge + cloud - base' },
  ],
  readOnly: false,
  conflictDays: 90,
  resourceVersion: 3,
  changedAt: 0,
  changedBy: 'user:ann@example.com',
}

describe('rules as they are typed', () => {
  it('come back as they were', () => {
    expect(changeOf(draftOf(menu))).toEqual({ readOnly: false, conflictDays: 90, rules: menu.rules })
  })

  it('begin with merge for the whole document', () => {
    expect(changeOf(draftOf(undefined))).toEqual({ readOnly: false, rules: [{ path: '', strategy: 'merge' }] })
  })

  it('leave a resolver out where it decides nothing, and send what is no number as it is', () => {
    const draft = draftOf(menu)
    const rules = draft.rules.map((rule) => ({ ...rule, strategy: 'manual' as const }))
    expect(changeOf({ ...draft, rules, conflictDays: 'ten' })).toEqual({
      readOnly: false,
      conflictDays: 'ten',
      rules: [
        { path: '', strategy: 'manual' },
        { path: '/total', strategy: 'manual' },
      ],
    })
    expect(new Set([...draft.rules, freshRule(draft)].map((rule) => rule.key)).size).toBe(3)
  })
})
