/** A plain table for short lists. On a phone a row is a paragraph: its cells one after another, each with its title but the first. */
import type { ReactNode } from 'react'

import { cx } from './cx'

export interface Column<T> {
  title: string
  cell: (item: T) => ReactNode
  right?: boolean
  /** Left out on a phone. */
  wide?: boolean
  /** Says what it is by itself, without its title beside it on a phone. */
  plain?: boolean
}

interface Props<T> {
  label: string
  columns: Column<T>[]
  items: readonly T[]
  id: (item: T) => string
  /** A long list scrolls by itself, so that what stands below it can be reached. */
  bounded?: boolean
}

export function Table<T>({ label, columns, items, id, bounded = false }: Props<T>) {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard
    <div className={cx('panel overflow-x-auto', bounded && 'max-h-[28rem] overflow-y-auto')} tabIndex={0} role="region" aria-label={label}>
      <table className="w-full">
        <thead className={cx('max-sm:sr-only', bounded && 'sticky top-0 z-10 bg-surface')}>
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
            <tr key={id(item)} className="hover:bg-hover max-sm:flex max-sm:flex-wrap max-sm:items-baseline max-sm:gap-x-4 max-sm:gap-y-1 max-sm:px-4 max-sm:py-2.5">
              {columns.map((c, index) => (
                <td key={c.title} className={cx('sm:px-4 sm:py-2', c.right && 'sm:text-right sm:whitespace-nowrap', c.wide && 'max-sm:hidden')}>
                  {index > 0 && !c.plain && (
                    <span aria-hidden className="mr-1.5 text-sm text-muted sm:hidden">
                      {c.title}
                    </span>
                  )}
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
