/** A plain table for short lists. */
import type { ReactNode } from 'react'

import { cx } from './cx'

export interface Column<T> {
  title: string
  cell: (item: T) => ReactNode
  right?: boolean
  /** Left out on a phone. */
  wide?: boolean
}

export function Table<T>({ label, columns, items, id }: { label: string; columns: Column<T>[]; items: readonly T[]; id: (item: T) => string }) {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard
    <div className="panel overflow-x-auto" tabIndex={0} role="region" aria-label={label}>
      <table className="w-full">
        <thead>
          <tr className="border-b border-line text-left text-sm text-muted">
            {columns.map((c) => (
              <th key={c.title} className={cx('px-4 py-1.5 font-normal', c.right && 'text-right', c.wide && 'max-sm:hidden')}>
                {c.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {items.map((item) => (
            <tr key={id(item)} className="hover:bg-hover">
              {columns.map((c) => (
                <td key={c.title} className={cx('px-4 py-2', c.right && 'text-right whitespace-nowrap', c.wide && 'max-sm:hidden')}>
                  {c.cell(item)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}
