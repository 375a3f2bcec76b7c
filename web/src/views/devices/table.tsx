/** The device table: only the rows in view are in the document. On a phone a row is two lines. */
import { useNavigate } from '@tanstack/react-router'
import { flexRender, getCoreRowModel, useReactTable, type Row } from '@tanstack/react-table'
import { useVirtualizer } from '@tanstack/react-virtual'
import { memo, useCallback, useEffect, useRef, useState } from 'react'

import type { Device } from '~/api/types'
import { useKeys } from '~/frame/keys'
import { cx } from '~/ui/cx'
import { Icon } from '~/ui/icon'
import { useLatest } from '~/ui/latest'
import { State } from '~/ui/mark'
import { Time } from '~/ui/time'

import { AppVersion, COLUMNS, MIN_WIDTH, TRACKS } from './columns'
import type { DevicePages } from './pages'

const ROW = 34
const PHONE_ROW = 62
const OVERSCAN = 8
/** More than the rows of a usual screen. */
const SLOTS = 64
/** Grey rows in the place of those on their way. */
const LOADING_ROWS = 30

export interface Selection {
  devices: ReadonlyMap<string, Device>
  set: (devices: ReadonlyMap<string, Device>) => void
}

interface Props {
  pages: DevicePages
  selection: Selection
  sort: string | undefined
  onSort: (sort: string | undefined) => void
  onOpen: () => void
}

function usePhone(): boolean {
  const [phone, setPhone] = useState(() => matchMedia('(max-width: 639px)').matches)
  useEffect(() => {
    const media = matchMedia('(max-width: 639px)')
    const change = (): void => setPhone(media.matches)
    media.addEventListener('change', change)
    return () => media.removeEventListener('change', change)
  }, [])
  return phone
}

export function DeviceTable({ pages, selection, sort, onSort, onOpen }: Props) {
  const scroller = useRef<HTMLDivElement>(null)
  const navigate = useNavigate()
  const phone = usePhone()
  const [active, setActive] = useState(-1)
  const anchor = useRef(-1)
  const { rows: data, total, show } = pages

  // oxlint-disable-next-line react/incompatible-library -- the compiler is not used
  const table = useReactTable({
    data,
    columns: COLUMNS,
    getCoreRowModel: getCoreRowModel(),
    getRowId: (device) => device.metadata.uid,
    manualSorting: true,
  })
  const rows = table.getRowModel().rows
  const height = phone ? PHONE_ROW : ROW
  const virtual = useVirtualizer({
    count: pages.isLoading ? LOADING_ROWS : total,
    getScrollElement: () => scroller.current,
    estimateSize: () => height,
    overscan: OVERSCAN,
    useFlushSync: false,
  })
  useEffect(() => virtual.measure(), [height, virtual])
  const items = virtual.getVirtualItems()
  const slots = SLOTS * Math.max(1, Math.ceil(items.length / SLOTS))
  const first = items[0]?.index ?? 0
  const last = items.at(-1)?.index ?? 0
  useEffect(() => show(first, last), [first, last, show])

  const open = (device: Device | undefined): void => {
    if (!device) return
    onOpen()
    void navigate({ to: '/devices/$id', params: { id: device.metadata.name } })
  }
  const go = (index: number): void => {
    const to = Math.max(0, Math.min(index, rows.length - 1))
    setActive(to)
    virtual.scrollToIndex(to)
  }
  const pick = (index: number, range: boolean): void => {
    const next = new Map(selection.devices)
    const one = rows[index]?.original
    if (!one) return
    if (range && anchor.current >= 0) {
      const [from, to] = [Math.min(anchor.current, index), Math.max(anchor.current, index)]
      for (const row of rows.slice(from, to + 1)) next.set(row.original.metadata.uid, row.original)
    } else {
      if (!next.delete(one.metadata.uid)) next.set(one.metadata.uid, one)
      anchor.current = index
    }
    setActive(index)
    selection.set(next)
  }

  const latest = useLatest({ pick, open: (index: number) => open(rows[index]?.original) })
  const onPick = useCallback((index: number, range: boolean) => latest.current.pick(index, range), [latest])
  const onOpenRow = useCallback((index: number) => latest.current.open(index), [latest])

  useKeys('Devices: list', [
    { keys: 'j', does: 'Next device', run: () => go(active + 1) },
    { keys: 'k', does: 'Previous device', run: () => go(active - 1) },
    { keys: 'x', does: 'Select the device', run: () => pick(active, false) },
    { keys: 'o', does: 'Open the device', run: () => open(rows[active]?.original) },
  ])

  const allPicked = data.length > 0 && data.every((d) => selection.devices.has(d.metadata.uid))
  const somePicked = selection.devices.size > 0

  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-element-interactions -- arrow keys move through the rows
    <div
      ref={scroller}
      role="table"
      aria-label="Devices"
      aria-rowcount={total + 1}
      aria-busy={pages.isLoading}
      // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard
      tabIndex={0}
      data-quiet-focus
      onKeyDown={(event) => {
        if (event.target !== event.currentTarget) return
        if (event.key === 'ArrowDown') go(active + 1)
        else if (event.key === 'ArrowUp') go(active - 1)
        else if (event.key === 'Home') go(0)
        else if (event.key === 'Enter') open(rows[active]?.original)
        else return
        event.preventDefault()
      }}
      className="panel relative min-h-64 flex-1 overflow-auto contain-strict"
    >
      {!phone && (
        <div role="rowgroup" className="sticky top-0 z-10 border-b border-line bg-surface" style={{ minWidth: MIN_WIDTH }}>
          <div role="row" aria-rowindex={1} className="grid h-8 items-center gap-x-2 px-3" style={{ gridTemplateColumns: TRACKS }}>
            <span role="columnheader" className="flex">
              <input
                type="checkbox"
                aria-label="Select all that are loaded"
                checked={allPicked}
                ref={(box) => {
                  if (box) box.indeterminate = somePicked && !allPicked
                }}
                onChange={() =>
                  selection.set(allPicked ? new Map() : new Map(data.map((d) => [d.metadata.uid, d])))
                }
                className="accent-accent"
              />
            </span>
            {table.getHeaderGroups()[0]?.headers.map((header) => {
              const by = header.column.columnDef.meta?.sort
              const name = flexRender(header.column.columnDef.header, header.getContext())
              const way = by !== undefined && sort === by ? 'ascending' : by !== undefined && sort === `-${by}` ? 'descending' : undefined
              return (
                <span key={header.id} role="columnheader" aria-sort={way} className="truncate text-sm text-muted">
                  {by === undefined ? (
                    name
                  ) : (
                    <button
                      type="button"
                      className="inline-flex items-center gap-1 hover:text-ink"
                      onClick={() => onSort(way === undefined ? by : way === 'ascending' ? `-${by}` : undefined)}
                    >
                      {name}
                      {way !== undefined && <Icon name={way === 'ascending' ? 'up' : 'down'} size={12} />}
                    </button>
                  )}
                </span>
              )
            })}
          </div>
        </div>
      )}
      <div role="rowgroup" className="relative" style={{ height: virtual.getTotalSize(), minWidth: phone ? undefined : MIN_WIDTH }}>
        {items.map((item) => {
          const row = rows[item.index]
          const style = { height: item.size, transform: `translateY(${item.start}px)` }
          // Rows that leave the view give their elements to those that come: nothing is made while scrolling.
          const slot = item.index % slots
          if (!row) return <EmptyRow key={slot} index={item.index} style={style} phone={phone} />
          const Shown = phone ? PhoneRow : WideRow
          return (
            <Shown
              key={slot}
              row={row}
              device={row.original}
              index={item.index}
              top={item.start}
              picked={selection.devices.has(row.id)}
              active={active === item.index}
              onPick={onPick}
              onOpen={onOpenRow}
            />
          )
        })}
      </div>
    </div>
  )
}

interface RowProps {
  row: Row<Device>
  device: Device
  index: number
  top: number
  picked: boolean
  active: boolean
  onPick: (index: number, range: boolean) => void
  onOpen: (index: number) => void
}

/** Only what shows decides: the table's own row is new on each render. */
const same = (a: RowProps, b: RowProps): boolean =>
  a.device === b.device && a.top === b.top && a.index === b.index && a.picked === b.picked && a.active === b.active

const rowLook = (picked: boolean, active: boolean): string =>
  cx(
    'absolute inset-x-0 top-0 cursor-pointer border-b border-line hover:bg-hover [contain:layout_paint_style]',
    picked && 'bg-accent-soft',
    active && 'shadow-[inset_3px_0_0_var(--accent)]',
  )

const WideRow = memo(function WideRow({ row, index, top, picked, active, onPick, onOpen }: RowProps) {
  return (
    // oxlint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/interactive-supports-focus -- the table has the keys
    <div
      role="row"
      aria-rowindex={index + 2}
      aria-selected={picked}
      onClick={(event) => {
        if (!(event.target instanceof Element) || event.target.closest('input') !== null) return
        if (event.target.closest('a') !== null) {
          // A link that is to open elsewhere is the browser's.
          if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
          event.preventDefault()
        }
        onOpen(index)
      }}
      className={cx(rowLook(picked, active), 'grid items-center gap-x-2 px-3')}
      style={{ height: ROW, transform: `translateY(${top}px)`, gridTemplateColumns: TRACKS }}
    >
      <span role="cell" className="flex">
        <input
          type="checkbox"
          tabIndex={-1}
          aria-label={`Select ${row.original.metadata.name}`}
          checked={picked}
          onClick={(event) => onPick(index, event.shiftKey)}
          readOnly
          className="accent-accent"
        />
      </span>
      {row.getVisibleCells().map((cell) => (
        <span key={cell.id} role="cell" className="flex min-w-0">
          {flexRender(cell.column.columnDef.cell, cell.getContext())}
        </span>
      ))}
    </div>
  )
}, same)

const PhoneRow = memo(function PhoneRow({ device, index, top, picked, active, onOpen }: RowProps) {
  const app = device.status.apps[0]
  return (
    // oxlint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/interactive-supports-focus -- the table has the keys
    <div
      role="row"
      aria-rowindex={index + 2}
      aria-selected={picked}
      onClick={() => onOpen(index)}
      className={cx(rowLook(picked, active), 'flex flex-col justify-center gap-1 px-3')}
      style={{ height: PHONE_ROW, transform: `translateY(${top}px)` }}
    >
      <span role="cell" className="flex justify-between gap-3">
        <span className="truncate font-medium">{device.metadata.name}</span>
        <Time at={device.status.lastSeenAt} className="shrink-0 text-sm text-muted" />
      </span>
      <span role="cell" className="flex gap-3 overflow-hidden text-sm">
        <State of="reachability" word={device.status.reachability} />
        <State of="health" word={device.status.health} />
        {device.status.conformance !== 'conforming' && <State of="conformance" word={device.status.conformance} />}
        {app && <AppVersion app={app} />}
      </span>
    </div>
  )
}, same)

function EmptyRow({ index, style, phone }: { index: number; style: React.CSSProperties; phone: boolean }) {
  return (
    <div
      role="row"
      aria-rowindex={index + 2}
      className="absolute inset-x-0 top-0 flex items-center gap-6 border-b border-line px-3"
      style={style}
    >
      <span role="cell" className="flex w-full items-center gap-6">
        <span className="skeleton" style={{ width: phone ? '60%' : 150, marginLeft: phone ? 0 : 40 }} />
        {!phone && <span className="skeleton" style={{ width: 60 }} />}
        {!phone && <span className="skeleton" style={{ width: 60 }} />}
        {!phone && <span className="skeleton" style={{ width: 80 }} />}
      </span>
    </div>
  )
}
