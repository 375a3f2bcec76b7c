/** The device's charts: one time axis, one crosshair, events laid over all of them. */
import { useMemo, useState } from 'react'
import { useNavigate } from '@tanstack/react-router'

import type { Device, FleetEvent } from '~/api/types'
import { Chart, type Mark, type Series } from '~/ui/chart'
import { cx } from '~/ui/cx'
import { Glyph } from '~/ui/mark'
import { bytes, percent } from '~/ui/number'
import { Failure } from '~/ui/panel'
import type { Range } from '~/ui/range'
import { RangePick } from '~/ui/range-pick'
import { clock } from '~/ui/time'

import { eventMark } from './events'
import { useMeasurements, type Figures, type Listener, type Metric } from './measure'

interface Line {
  metric: Metric
  name: string
  color: string
  fill?: boolean
}

interface Graph {
  title: string
  lines: Line[]
  format: (value: number) => string
  atLeast: (figures: Figures) => number
  /** Its figures are bytes: the axis is cut at powers of two. */
  binary?: boolean
  /** Only shown where there are figures: not every machine has it. */
  rare?: boolean
}

const share = (value: number): string => percent(value, value < 0.095 && value > 0 ? 1 : 0)
const lastOf = (figures: Figures, metric: Metric): number =>
  figures.columns[metric]?.findLast((v) => v !== null) ?? 0

const GRAPHS: Graph[] = [
  { title: 'CPU', lines: [{ metric: 'cpu', name: 'busy', color: '--accent', fill: true }], format: share, atLeast: () => 0.5 },
  {
    title: 'Memory',
    lines: [{ metric: 'mem_used', name: 'in use', color: '--accent', fill: true }],
    format: bytes,
    binary: true,
    atLeast: (f) => lastOf(f, 'mem_total') || 1024 ** 3,
  },
  {
    title: 'Load',
    lines: [
      { metric: 'load1', name: '1 min', color: '--accent' },
      { metric: 'load5', name: '5 min', color: '--ok' },
      { metric: 'load15', name: '15 min', color: '--muted' },
    ],
    format: (v) => v.toFixed(1),
    atLeast: () => 1,
  },
  {
    title: 'Pressure (PSI)',
    lines: [
      { metric: 'psi_cpu', name: 'CPU', color: '--accent' },
      { metric: 'psi_mem', name: 'memory', color: '--bad' },
      { metric: 'psi_io', name: 'disk', color: '--warn' },
    ],
    format: share,
    atLeast: () => 0.1,
  },
  {
    title: 'Disk in use',
    lines: [{ metric: 'disk_used', name: 'in use', color: '--accent', fill: true }],
    format: bytes,
    binary: true,
    atLeast: (f) => lastOf(f, 'disk_total') || 1024 ** 3,
  },
  { title: 'Disk latency', lines: [
      { metric: 'io_latency', name: 'mean', color: '--accent' },
      { metric: 'io_latency_p99', name: '99 of 100', color: '--warn' },
    ], format: (v) => `${v.toFixed(v < 10 ? 1 : 0)} ms`, atLeast: () => 5 },
  { title: 'TCP retransmits', lines: [{ metric: 'net_retx', name: 'per second', color: '--warn', fill: true }], format: (v) => `${v.toFixed(1)}/s`, atLeast: () => 2 },
  {
    title: 'Network',
    lines: [
      { metric: 'net_rx', name: 'in', color: '--accent' },
      { metric: 'net_tx', name: 'out', color: '--ok' },
    ],
    format: (v) => `${bytes(v)}/s`,
    binary: true,
    atLeast: () => 1024,
  },
  { title: 'Processes ended', lines: [{ metric: 'process_exits', name: 'per second', color: '--accent', fill: true }], format: (v) => `${v.toFixed(1)}/s`, atLeast: () => 2 },
  { title: 'Temperature', lines: [{ metric: 'temperature', name: 'processor', color: '--warn' }], format: (v) => `${v.toFixed(0)} °C`, atLeast: () => 80 },
  { title: 'Graphics processor', lines: [{ metric: 'gpu', name: 'busy', color: '--accent', fill: true }], format: share, atLeast: () => 1, rare: true },
  { title: 'Disk wear', lines: [{ metric: 'disk_wear', name: 'used up', color: '--warn' }], format: share, atLeast: () => 1, rare: true },
]

interface Props {
  device: Device
  range: Range
  events: FleetEvent[]
  listener: Listener
}

export function Charts({ device, range, events, listener }: Props) {
  const navigate = useNavigate({ from: '/devices/$id' })
  const measured = useMeasurements(device.metadata.uid, range, device.status.lifecycle !== 'pending', listener)
  const { figures, from, to } = measured
  const [cursor, setCursor] = useState<number | null>(null)
  const marks: Mark[] = useMemo(() => events.map((e) => ({ at: e.at, ...eventMark(e) })), [events])
  const graphs = useMemo(
    () => GRAPHS.filter((graph) => graph.rare !== true || graph.lines.some((line) => lastOrUndefined(figures, line.metric) !== undefined)),
    [figures],
  )
  const series = useMemo(
    () =>
      graphs.map((graph) =>
        graph.lines.map((line): Series => ({ ...line, values: figures.columns[line.metric] ?? [] })),
      ),
    [figures, graphs],
  )
  // The stream is open to a silent device, too: it goes on when the device comes back.
  const live = measured.live === 'live' && device.status.reachability === 'online'
  const at = cursor === null ? undefined : figures.at[cursor]

  return (
    <section className="panel min-w-0" aria-label="Measurements">
      <header className="flex min-h-10 flex-wrap items-center gap-x-4 gap-y-1 border-b border-line px-4 py-1">
        <h2 className="font-semibold">Measurements</h2>
        <span className="flex items-center gap-1.5 text-sm text-muted">
          <Glyph shape={live ? 'full' : 'ring'} tone={live ? 'ok' : 'quiet'} size={10} />
          {live ? 'one sample a second' : measured.live === 'connecting' ? 'connecting' : 'not live'}
        </span>
        <span className="text-sm text-muted">{at === undefined ? '' : `at ${clock(at)}`}</span>
        <RangePick className="ml-auto" range={range} onPick={(next) => void navigate({ search: { range: next }, replace: true })} />
      </header>
      {measured.error !== undefined && (
        <div className="p-4 pb-0">
          <Failure what="The measurements can’t be read" error={measured.error} retry={measured.retry} />
        </div>
      )}
      <div className="grid gap-px overflow-hidden bg-line sm:grid-cols-2 xl:grid-cols-3">
        {graphs.map((graph, i) => (
          <figure key={graph.title} className={cx('min-w-0 bg-surface px-3 pt-2 pb-1', i === graphs.length - 1 && fills(graphs.length))}>
            <figcaption className="flex items-baseline justify-between gap-2">
              <span className="font-medium">{graph.title}</span>
              <span className="flex gap-2.5 truncate text-sm text-muted">
                {graph.lines.map((line) => {
                  const value = cursor === null ? lastOrUndefined(figures, line.metric) : figures.columns[line.metric]?.[cursor]
                  return (
                    <span key={line.metric} className="flex items-center gap-1 whitespace-nowrap">
                      {graph.lines.length > 1 && (
                        <>
                          <span aria-hidden="true" className="h-0.5 w-2.5" style={{ background: `var(${line.color})` }} />
                          {line.name}
                        </>
                      )}
                      <span className="text-ink">{value === undefined || value === null ? '–' : graph.format(value)}</span>
                    </span>
                  )
                })}
              </span>
            </figcaption>
            <Chart
              label={`${graph.title} over the last ${range}`}
              at={figures.at}
              from={from}
              to={to}
              series={series[i] ?? []}
              marks={marks}
              format={graph.format}
              atLeast={graph.atLeast(figures)}
              sync="device"
              binary={graph.binary === true}
              {...(i === 0 ? { onCursor: setCursor } : {})}
            />
          </figure>
        ))}
      </div>
    </section>
  )
}

/** The last graph fills what its row has left, in two columns and in three. */
export const fills = (count: number): string =>
  cx(count % 2 === 1 && 'sm:max-xl:col-span-2', count % 3 === 1 && 'xl:col-span-3', count % 3 === 2 && 'xl:col-span-2')

const lastOrUndefined = (figures: Figures, metric: Metric): number | undefined =>
  figures.columns[metric]?.findLast((v): v is number => v !== null)
