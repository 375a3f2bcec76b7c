/**
 * The device list, page by page: 10,000 rows are never fetched at once and never fetched again as a whole.
 *
 * Each page is a query of its own under its cursor, so that what changes is fetched again where it stands.
 */
import { useQueries, useQueryClient } from '@tanstack/react-query'
import { useCallback, useEffect, useMemo, useRef, useState } from 'react'

import { get, type Query } from '~/api/client'
import { onDevicesChanged } from '~/api/live'
import { keys } from '~/api/queries'
import type { Device, List } from '~/api/types'
import { useLatest } from '~/ui/latest'

const PAGE = 200
/** Used when the view has jumped far ahead of what is there. */
const BIG_PAGE = 1000
/** A page is fetched again at most this often, however much changes in it. */
const AGAIN_MS = 2500

interface PageAt {
  cursor: string
  limit: number
}

export interface DevicePages {
  rows: Device[]
  /** How many match in all; as many as are there when the server does not say. */
  total: number
  hasMore: boolean
  isLoading: boolean
  isFetching: boolean
  error: unknown
  /** When the first page was last answered. */
  updatedAt: number
  retry: () => void
  /** Tells which rows are in view; fetches what is missing up to there. */
  show: (first: number, last: number) => void
}

export function useDevicePages(query: Query): DevicePages {
  const client = useQueryClient()
  const key = JSON.stringify(query)
  const [state, setState] = useState<{ key: string; pages: PageAt[] }>({ key, pages: [{ cursor: '', limit: PAGE }] })
  // Another filter is another list: it begins at its first page.
  const pages = useMemo(() => (state.key === key ? state.pages : [{ cursor: '', limit: PAGE }]), [state, key])
  const view = useRef({ first: 0, last: 0 })

  const results = useQueries({
    queries: pages.map((page) => ({
      queryKey: [...keys.devicePages, query, page.cursor, page.limit],
      queryFn: ({ signal }: { signal: AbortSignal }) =>
        get<List<Device>>(
          '/devices',
          { ...query, sparkline: 'cpu', limit: page.limit, continue: page.cursor || undefined },
          signal,
        ),
      staleTime: 60_000,
      gcTime: 60_000,
    })),
  })

  const rows = useMemo(() => {
    const out: Device[] = []
    for (const result of results) {
      if (!result.data) break
      out.push(...result.data.items)
    }
    return out
    // The results array is new on each render; what matters is when an answer last changed.
    // oxlint-disable-next-line react/exhaustive-deps
  }, [results.map((r) => r.dataUpdatedAt).join(), key])

  const last = results.at(-1)
  const next = last?.data?.metadata.continue
  const total = results[0]?.data?.metadata.total ?? rows.length

  const more = useCallback(() => {
    if (next === undefined || last?.isFetching) return
    const behind = view.current.last - rows.length
    setState({ key, pages: [...pages, { cursor: next, limit: behind > PAGE * 2 ? BIG_PAGE : PAGE }] })
  }, [next, last?.isFetching, rows.length, pages, key])

  const show = useCallback(
    (first: number, lastShown: number) => {
      view.current = { first, last: lastShown }
      if (lastShown + PAGE / 2 >= rows.length) more()
    },
    [rows.length, more],
  )
  useEffect(() => {
    if (view.current.last + PAGE / 2 >= rows.length && rows.length > 0) more()
  }, [rows.length, more])

  const latest = useLatest({ pages, results, query })
  useEffect(() => {
    const fetched = new Map<string, number>()
    const waiting = new Set<string>()
    const timers = new Set<ReturnType<typeof setTimeout>>()
    const again = (page: PageAt): void => {
      fetched.set(page.cursor, Date.now())
      void client.refetchQueries({
        queryKey: [...keys.devicePages, latest.current.query, page.cursor, page.limit],
        exact: true,
      })
    }
    const stop = onDevicesChanged((uids) => {
      const { pages, results } = latest.current
      let from = 0
      pages.forEach((page, i) => {
        const items = results[i]?.data?.items ?? []
        const to = from + items.length
        const inView = from <= view.current.last && to >= view.current.first
        from = to
        // A device that is new here would stand in some page of its own: the first one is asked, for the total.
        const touched = items.some((d) => uids.has(d.metadata.uid)) || (i === 0 && !inAny(results, uids))
        if (!touched || !(inView || i === 0) || waiting.has(page.cursor)) return
        const wait = AGAIN_MS - (Date.now() - (fetched.get(page.cursor) ?? 0))
        if (wait <= 0) return again(page)
        waiting.add(page.cursor)
        const timer = setTimeout(() => {
          timers.delete(timer)
          waiting.delete(page.cursor)
          again(page)
        }, wait)
        timers.add(timer)
      })
    })
    return () => {
      stop()
      timers.forEach(clearTimeout)
    }
  }, [client, latest])

  const failed = results.find((r) => r.isError)
  return {
    rows,
    total: Math.max(total, rows.length),
    hasMore: next !== undefined,
    isLoading: results[0]?.isPending ?? true,
    isFetching: results.some((r) => r.isFetching),
    error: failed?.error,
    updatedAt: results[0]?.dataUpdatedAt ?? 0,
    retry: () => {
      for (const result of results) if (result.isError) void result.refetch()
    },
    show,
  }
}

function inAny(results: { data?: List<Device> | undefined }[], uids: ReadonlySet<string>): boolean {
  return results.some((r) => r.data?.items.some((d) => uids.has(d.metadata.uid)))
}
