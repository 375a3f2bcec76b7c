/** A device's measurements for a range of time: fetched once, then one sample a second while the page is open. */
import { useQueryClient } from '@tanstack/react-query'
import { useQuery } from '@tanstack/react-query'
import { useEffect, useMemo, useState } from 'react'

import { seg, tenantHeaders } from '~/api/client'
import { fetchMetrics, keys } from '~/api/queries'
import { openStream, type StreamState } from '~/api/sse'
import type { AppUsage, FleetEvent, Sample } from '~/api/types'
import { useLatest } from '~/ui/latest'
import { RANGE_MS, type Range } from '~/ui/range'

export const METRICS = [
  'cpu', 'mem_used', 'mem_total', 'load1', 'load5', 'load15', 'psi_cpu', 'psi_mem', 'psi_io',
  'disk_used', 'disk_total', 'io_latency', 'io_latency_p99', 'net_retx', 'net_rx', 'net_tx', 'temperature',
  'process_exits', 'gpu', 'disk_wear',
] as const
export type Metric = (typeof METRICS)[number]

const POINTS = 360
/** Beyond this the oldest live samples are dropped; the next fetch has them anyway. */
const MOST_LIVE = 900

export interface Figures {
  at: number[]
  columns: Record<string, (number | null)[]>
}

/** Adds live samples that are newer than what was fetched. Pure, for its test. */
export function join(base: Figures, samples: readonly Sample[], from: number): Figures {
  const last = base.at.at(-1) ?? 0
  const newer = samples.filter((s) => s.at > last)
  const skip = base.at.findIndex((at) => at >= from)
  const start = skip < 0 ? base.at.length : skip
  const at = [...base.at.slice(start), ...newer.map((s) => s.at)]
  const columns: Record<string, (number | null)[]> = {}
  for (const metric of METRICS) {
    const before = base.columns[metric]?.slice(start) ?? base.at.slice(start).map(() => null)
    columns[metric] = [...before, ...newer.map((s) => s.values[metric] ?? null)]
  }
  return { at, columns }
}

export interface Measured {
  figures: Figures
  from: number
  to: number
  live: StreamState | 'off'
  isLoading: boolean
  error: unknown
  retry: () => void
}

/** Who is told what the device shows as it happens: events that nobody keeps, and what its apps use. */
export interface Listener {
  event: (event: FleetEvent) => void
  usage: (app: string, usage: AppUsage) => void
}

export function useMeasurements(id: string, range: Range, wanted: boolean, listener: Listener): Measured {
  const client = useQueryClient()
  const tell = useLatest(listener)
  const [samples, setSamples] = useState<Sample[]>([])
  const [live, setLive] = useState<StreamState | 'off'>('off')
  const span = RANGE_MS[range]
  const base = useQuery({
    queryKey: [...keys.metrics, id, range],
    queryFn: ({ signal }) => {
      const to = Date.now()
      return fetchMetrics(id, { stream: 'host', from: to - span, to, metrics: METRICS.join(','), points: POINTS }, signal)
    },
    enabled: wanted,
    staleTime: Number.POSITIVE_INFINITY,
    refetchInterval: Math.max(60_000, span / POINTS),
    gcTime: 0,
  })

  useEffect(() => {
    if (!wanted) return
    // A hidden tab looks at nothing: the device need not hurry for it.
    let stop: (() => void) | undefined
    const watch = (): void => {
      if (document.hidden) {
        stop?.()
        stop = undefined
        setLive('off')
      } else {
        stop ??= openStream({
          url: `/api/devices/${seg(id)}/metrics/stream`,
          headers: tenantHeaders(),
          onState: setLive,
          onMessage: (message) => {
            if (message.event === 'device') void client.invalidateQueries({ queryKey: [...keys.device, id] })
            if (message.event === 'event') tell.current.event(JSON.parse(message.data) as FleetEvent)
            if (message.event !== 'sample') return
            const sample = JSON.parse(message.data) as Sample
            if (sample.stream === 'host') setSamples((before) => [...before.slice(-MOST_LIVE), sample])
            else if (sample.stream.startsWith('app/')) tell.current.usage(sample.stream.slice(4), { at: sample.at, values: sample.values })
          },
        })
      }
    }
    watch()
    document.addEventListener('visibilitychange', watch)
    return () => {
      document.removeEventListener('visibilitychange', watch)
      stop?.()
    }
  }, [id, wanted, client, tell])

  const newest = Math.max(base.dataUpdatedAt, samples.at(-1)?.at ?? 0)
  const [opened] = useState(() => Date.now())
  const to = newest || opened
  const from = to - span
  const data = base.data
  const figures = useMemo(
    () => join({ at: data?.at ?? [], columns: data?.columns ?? {} }, samples, from),
    [data, samples, from],
  )
  return {
    figures,
    from,
    to,
    live,
    isLoading: base.isPending && wanted,
    error: base.error ?? undefined,
    retry: () => void base.refetch(),
  }
}
