/** Parts of a long form: one that folds, and rows of one kind. */
import type { ReactNode } from 'react'

import { Button, buttonClass } from './button'
import { Icon } from './icon'

/** Folded away until it is opened, or something in it is wrong. */
export function Part({ title, note, open, children }: { title: string; note: string; open: boolean; children: ReactNode }) {
  return (
    <details className="border-t border-line first:border-t-0" {...(open ? { open: true } : {})}>
      <summary className="px-4 py-2.5 hover:bg-hover">
        <span className="font-medium">{title}</span> <span className="text-sm text-muted">{note}</span>
      </summary>
      <div className="grid gap-4 px-4 pt-1 pb-4 sm:grid-cols-2 lg:grid-cols-3">{children}</div>
    </details>
  )
}

/** Rows of one kind, with a button that adds one. */
export function Rows<T extends { key: number }>({ what, rows, add, onSet, children, error }: {
  what: string
  rows: readonly T[]
  add: () => T
  onSet: (rows: T[]) => void
  children: (row: T, change: (part: Partial<T>) => void, index: number) => ReactNode
  error: (index: number) => string | undefined
}) {
  return (
    <div className="flex flex-col gap-2 sm:col-span-2 lg:col-span-3">
      {rows.map((row, i) => (
        <div key={row.key}>
          <div className="flex flex-wrap items-center gap-2">
            {children(row, (part) => onSet(rows.map((r) => (r.key === row.key ? { ...r, ...part } : r))), i)}
            <button type="button" aria-label={`Remove ${what} ${i + 1}`} className={buttonClass('ghost', true)} onClick={() => onSet(rows.filter((r) => r.key !== row.key))}>
              <Icon name="close" size={12} />
            </button>
          </div>
          {error(i) !== undefined && <p className="mt-0.5 text-sm text-bad">{error(i)}</p>}
        </div>
      ))}
      <div>
        <Button small onClick={() => onSet([...rows, add()])}>
          <Icon name="plus" size={12} />
          Add a {what}
        </Button>
      </div>
    </div>
  )
}
