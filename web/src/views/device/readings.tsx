/** What the sensors at this device measured, and how it comes in. Nothing for a device that is no gateway. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useMemo } from 'react'

import { gatewaysQuery } from '~/api/gateways'
import { seriesQuery, type SeriesLine } from '~/api/series'
import { Chart } from '~/ui/chart'
import { cx } from '~/ui/cx'
import { count } from '~/ui/number'
import { Failure, Section } from '~/ui/panel'
import { RANGE_MS, USUAL_RANGE, type Range } from '~/ui/range'
import { Time, useNow } from '~/ui/time'

import { align, figure, seriesName } from '../gateways/lines'
import { Standing } from '../gateways/standing'
import { fills } from './charts'

/** At most this many series are drawn. */
const MOST = 12
const NO_MARKS = [] as const

export function Readings({ device, range }: { device: string; range: Range }) {
  const gateway = useQuery(gatewaysQuery).data?.items.find((one) => one.device === device)
  const readings = useQuery({ ...seriesQuery({ device }, RANGE_MS[range]), enabled: gateway !== undefined })
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
          <Link to="/gateways" search={range === USUAL_RANGE ? {} : { range }} className="hover:text-accent">
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
          <Reading last={i === drawn.length - 1 ? fills(drawn.length) : ''} key={`${line.stream ?? ''} ${seriesName(line)} ${line.field}`} line={line} from={readings.data?.from ?? 0} to={readings.data?.to ?? 0} step={readings.data?.stepMs ?? 0} range={range} />
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

function Reading({ line, from, to, step, range, last: filling }: { line: SeriesLine; from: number; to: number; step: number; range: Range; last: string }) {
  const { at, series } = useMemo(() => {
    const { at, values } = align([line], step)
    return { at, series: [{ name: 'mean', color: '--accent', values: values[0] ?? [] }] }
  }, [line, step])
  const last = line.values.findLast((value) => value !== null)
  return (
    <figure className={cx('min-w-0 bg-surface px-3 pt-2 pb-1', filling)}>
      <figcaption className="flex items-baseline justify-between gap-2">
        <span className="truncate font-medium" title={`${seriesName(line)} (${line.stream ?? ''})`}>
          {seriesName(line)}
        </span>
        <span>{last === undefined || last === null ? '–' : figure(last)}</span>
      </figcaption>
      <Chart label={`${seriesName(line)} over the last ${range}`} at={at} from={from} to={to} series={series} marks={NO_MARKS} format={figure} atLeast={0} sync="readings" near />
    </figure>
  )
}
