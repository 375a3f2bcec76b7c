/** Rows of a rollout's devices: only those in view are in the document. On a phone each is two lines. */
import { Link } from '@tanstack/react-router'
import { useVirtualizer } from '@tanstack/react-virtual'
import { useEffect, useRef } from 'react'

import type { RolloutDevice } from '~/api/types'
import { useLatest } from '~/ui/latest'
import { count } from '~/ui/number'
import { clock, Time } from '~/ui/time'

const ROW = 34
const OVERSCAN = 8
const TRACKS = 'minmax(120px,1.2fr) minmax(90px,1fr) 90px 110px minmax(0,3fr)'

interface Props {
  label: string
  items: readonly (RolloutDevice & { aboutSeconds?: number })[]
  total: number
  /** The last row that is there has come near. */
  onEnd?: () => void
  /** What stands in the last column instead of the reason. */
  planned?: boolean
}

export function DeviceRows({ label, items, total, onEnd, planned = false }: Props) {
  const scroller = useRef<HTMLDivElement>(null)
  // oxlint-disable-next-line react/incompatible-library -- the compiler is not used
  const virtual = useVirtualizer({
    count: items.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW,
    overscan: OVERSCAN,
    useFlushSync: false,
  })
  const rows = virtual.getVirtualItems()
  const last = rows.at(-1)?.index ?? 0
  const end = useLatest(onEnd)
  useEffect(() => {
    if (last >= items.length - OVERSCAN * 2 && items.length < total) end.current?.()
  }, [last, items.length, total, end])
  return (
    <div className="border-t border-line">
      <div
        ref={scroller}
        role="table"
        aria-label={label}
        aria-rowcount={total + 1}
        // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard
        tabIndex={0}
        data-quiet-focus
        className="max-h-96 overflow-auto"
      >
        <div role="rowgroup" className="sticky top-0 z-10 border-b border-line bg-surface max-sm:sr-only">
          <div role="row" aria-rowindex={1} className="grid h-7 items-center gap-x-4 px-4 text-sm text-muted" style={{ gridTemplateColumns: TRACKS }}>
            <span role="columnheader">Device</span>
            <span role="columnheader">Location</span>
            <span role="columnheader">Wave</span>
            <span role="columnheader">{planned ? 'About' : 'Since'}</span>
            <span role="columnheader">{planned ? 'Model' : 'Why'}</span>
          </div>
        </div>
        <div role="rowgroup" className="relative" style={{ height: virtual.getTotalSize() }}>
          {rows.map((row) => {
            const d = items[row.index]
            if (!d) return null
            return (
              <div
                key={d.device}
                role="row"
                aria-rowindex={row.index + 2}
                className="absolute inset-x-0 top-0 flex items-center gap-x-4 border-b border-line px-4 [contain:layout_paint_style] sm:grid"
                style={{ height: ROW, transform: `translateY(${row.start}px)`, gridTemplateColumns: TRACKS }}
              >
                <span role="cell" className="min-w-0 truncate max-sm:flex-1">
                  <Link to="/devices/$id" params={{ id: d.name }} className="link">
                    {d.name}
                  </Link>
                </span>
                <span role="cell" className="truncate max-sm:hidden">
                  {d.location}
                </span>
                <span role="cell" className="truncate">
                  <span className="text-muted sm:hidden">wave </span>
                  {d.wave}
                  {d.late && <span className="text-muted"> joined late</span>}
                </span>
                <span role="cell" className="truncate">
                  {planned ? (d.aboutSeconds === undefined ? '' : clock(Date.now() + d.aboutSeconds * 1000)) : <Time at={d.since} />}
                </span>
                <span role="cell" className="truncate max-sm:hidden" title={d.reason}>
                  {planned ? d.model : d.reason}
                  {d.permitExpiresAt !== undefined && (
                    <span className="text-muted">
                      permit ends <Time at={d.permitExpiresAt} />
                    </span>
                  )}
                </span>
              </div>
            )
          })}
        </div>
      </div>
      {items.length < total && (
        <p className="border-t border-line px-4 py-1.5 text-sm text-muted">
          {count(items.length)} of {count(total)} read; scroll for more
        </p>
      )}
    </div>
  )
}
