/** Devices by state, as one bar. The words beside it say the same. */
import type { Counts } from '~/api/types'
import { cx } from '~/ui/cx'
import { count } from '~/ui/number'

import { BUCKETS } from './look'

export const total = (counts: Counts): number => BUCKETS.reduce((sum, b) => sum + counts[b.key], 0)

export function CountsBar({ counts, className }: { counts: Counts; className?: string }) {
  const all = total(counts)
  return (
    <span aria-hidden="true" className={cx('flex w-full gap-px overflow-hidden rounded-sm bg-sunken', className)}>
      {BUCKETS.map((b) =>
        counts[b.key] > 0 ? (
          <span key={b.key} style={{ flexGrow: counts[b.key], flexBasis: 0, minWidth: 3, background: b.fill }} />
        ) : null,
      )}
      {all === 0 && <span className="flex-1 bg-sunken" />}
    </span>
  )
}

/** `9 ok · 0 failed · 3 waiting` */
export function countsText(counts: Counts): string {
  return BUCKETS.filter((b) => counts[b.key] > 0 || b.key === 'failed')
    .map((b) => `${count(counts[b.key])} ${b.bucket}`)
    .join(' · ')
}
