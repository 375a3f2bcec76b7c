/** What the sensors at this device measured, and how it comes in. Nothing for a device that is no gateway. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useMemo } from 'react'

import { gatewaysQuery, readingsQuery, type SeriesLine } from '~/api/gateways'
import { RANGE_MS, type Range } from '~/ui/range'
import { Chart } from '~/ui/chart'
import { cx } from '~/ui/cx'
import { count } from '~/ui/number'
import { Failure, Section } from '~/ui/panel'
import { Time, useNow } from '~/ui/time'

import { Standing } from '../gateways/gateways'
import { fills } from './charts'

/** At most this many series are drawn. */
const MOST = 12
const NO_MARKS = [] as const
const figure = (value: number): string => (Math.abs(value) >= 10_000 ? count(value) : String(Number(value.toPrecision(5))))

const nameOf = (line: SeriesLine): string => {
  const tags = Object.entries(line.tags ?? {}).map(([name, value]) => `${name}=${value}`)
  return [line.measurement, ...(line.field === '' || line.field === 'value' ? [] : [line.field]), ...tags].join(' · ')
}

export function Readings({ device, range }: { device: string; range: Range }) {
  const gateway = useQuery(gatewaysQuery).data?.items.find((one) => one.device === device)
  const readings = useQuery({ ...readingsQuery(device, RANGE_MS[range]), enabled: gateway !== undefined })
  const now = useNow()
  if (gateway === undefined) return null
  const lines = readings.data?.items ?? []
  const drawn = lines.slice(0, MOST)
  return (
    <Section
      title="Readings of sensors"
      flush
      actions={
        <span className="flex flex-wrap items-center gap-x-4 text-sm text-muted">
          <Standing gateway={gateway} now={now} />
          {gateway.report.oldestUnsentAt !== undefined && gateway.report.backlogPoints > 0 && (
            <span>
              {count(gateway.report.backlogPoints)} waiting, the oldest <Time at={gateway.report.oldestUnsentAt} />
            </span>
          )}
          <Link to="/gateways" className="hover:text-accent">
            All gateways
          </Link>
        </span>
      }
    >
      {readings.isError && (
        <div className="p-4">
          <Failure what="The readings can’t be read" error={readings.error} retry={() => void readings.refetch()} />
        </div>
      )}
      {readings.data && lines.length === 0 && <p className="px-4 py-3 text-muted">No readings in the last {range}.</p>}
      <div className="grid gap-px overflow-hidden bg-line sm:grid-cols-2 xl:grid-cols-3">
        {drawn.map((line, i) => (
          <Reading last={i === drawn.length - 1 ? fills(drawn.length) : ''} key={`${line.stream ?? ''} ${nameOf(line)} ${line.field}`} line={line} from={readings.data?.from ?? 0} to={readings.data?.to ?? 0} range={range} />
        ))}
      </div>
      {lines.length > MOST && (
        <p className="border-t border-line px-4 py-2 text-sm text-muted">
          {count(lines.length - MOST)} more series; <code className="font-mono">farshore series -d {gateway.deviceName}</code> shows all.
        </p>
      )}
    </Section>
  )
}

function Reading({ line, from, to, range, last: filling }: { line: SeriesLine; from: number; to: number; range: Range; last: string }) {
  const series = useMemo(() => [{ name: 'mean', color: '--accent', values: line.values }], [line.values])
  const last = line.values.findLast((value) => value !== null)
  return (
    <figure className={cx('min-w-0 bg-surface px-3 pt-2 pb-1', filling)}>
      <figcaption className="flex items-baseline justify-between gap-2">
        <span className="truncate font-medium" title={`${nameOf(line)} (${line.stream ?? ''})`}>
          {nameOf(line)}
        </span>
        <span>{last === undefined || last === null ? '–' : figure(last)}</span>
      </figcaption>
      <Chart label={`${nameOf(line)} over the last ${range}`} at={line.at} from={from} to={to} series={series} marks={NO_MARKS} format={figure} atLeast={0} sync="readings" near />
    </figure>
  )
}
