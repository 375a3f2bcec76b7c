/** The columns of the device list. */
import { createColumnHelper, type ColumnDef } from '@tanstack/react-table'

import type { Device, DeviceApp } from '~/api/types'
import { Glyph, State } from '~/ui/mark'
import { percent } from '~/ui/number'
import { Sparkline } from '~/ui/sparkline'
import { phaseLook } from '~/ui/state'
import { Time } from '~/ui/time'

declare module '@tanstack/react-table' {
  // oxlint-disable-next-line typescript/no-unused-vars -- the names must match the library's
  interface ColumnMeta<TData, TValue> {
    /** A track of the grid. */
    track: string
    /** What the API sorts by. */
    sort?: string
  }
}

const column = createColumnHelper<Device>()

export function AppVersion({ app }: { app: DeviceApp }) {
  const { shape, tone } = phaseLook(app.phase)
  const moving = app.desired !== undefined && app.desired.version !== app.activeVersion
  return (
    <span className="inline-flex min-w-0 items-center gap-1.5" title={`${app.app}: ${app.phase}, ${app.health}`}>
      <Glyph shape={shape} tone={tone} />
      <span className="truncate">{app.app}</span>
      <span className="shrink-0 font-medium">{app.activeVersion || '–'}</span>
      {moving && <span className="shrink-0 text-muted">→ {app.desired?.version}</span>}
    </span>
  )
}

export const COLUMNS: ColumnDef<Device>[] = [
  column.display({
    id: 'name',
    header: 'Name',
    meta: { track: 'minmax(110px, 1.3fr)', sort: 'name' },
    cell: ({ row }) => (
      // A plain link: the router's own costs more than the rest of the row. The row takes the press.
      <a
        href={`/devices/${encodeURIComponent(row.original.metadata.name)}`}
        tabIndex={-1}
        className="truncate font-medium hover:text-accent"
      >
        {row.original.metadata.name}
      </a>
    ),
  }),
  ...(['reachability', 'health', 'conformance', 'lifecycle'] as const).map((dimension) =>
    column.display({
      id: dimension,
      header: { reachability: 'Reach', health: 'Health', conformance: 'Conformance', lifecycle: 'Lifecycle' }[dimension],
      meta: { track: { reachability: '76px', health: '88px', conformance: '108px', lifecycle: '84px' }[dimension] },
      cell: ({ row }) => <State of={dimension} word={row.original.status[dimension]} reasons={row.original.status.reasons} />,
    }),
  ),
  column.display({
    id: 'cpu',
    header: 'CPU, last hour',
    meta: { track: '120px' },
    cell: ({ row }) => {
      const now = row.original.status.latest.cpu
      return (
        <span className="flex items-center gap-2">
          <Sparkline values={row.original.status.sparkline ?? []} />
          <span className="w-9 text-right text-sm text-muted">{now === undefined ? '' : percent(now)}</span>
        </span>
      )
    },
  }),
  column.display({
    id: 'apps',
    header: 'Apps',
    meta: { track: 'minmax(134px, 1.1fr)' },
    cell: ({ row }) => {
      const [first, ...others] = row.original.status.apps
      if (!first) return <span className="text-muted">none</span>
      return (
        <span className="flex min-w-0 items-center gap-1.5">
          <AppVersion app={first} />
          {others.length > 0 && <span className="text-sm text-muted">+{others.length}</span>}
        </span>
      )
    },
  }),
  column.display({
    id: 'location',
    header: 'Location',
    meta: { track: 'minmax(76px, 0.6fr)', sort: 'location' },
    cell: ({ row }) => <span className="truncate">{row.original.spec.location || '–'}</span>,
  }),
  column.display({
    id: 'channel',
    header: 'Channel',
    meta: { track: '60px' },
    cell: ({ row }) => <span className="truncate">{row.original.spec.channel}</span>,
  }),
  column.display({
    id: 'labels',
    header: 'Labels',
    meta: { track: 'minmax(64px, 1fr)' },
    cell: ({ row }) => {
      const text = Object.entries(row.original.metadata.labels ?? {}).map(([k, v]) => `${k}=${v}`)
      return (
        <span className="truncate font-mono text-xs text-muted" title={text.join('\n')}>
          {text.join(' ')}
        </span>
      )
    },
  }),
  column.display({
    id: 'lastSeen',
    header: 'Last seen',
    meta: { track: '82px', sort: 'lastSeen' },
    cell: ({ row }) => <Time at={row.original.status.lastSeenAt} className="whitespace-nowrap text-muted" />,
  }),
]

export const TRACKS = `24px ${COLUMNS.map((c) => c.meta?.track ?? '1fr').join(' ')}`
/** Below this the columns do not fit and the table scrolls sideways. */
export const MIN_WIDTH = 1134
