/** The devices of a rollout by state, by location and by model. A press on a state lists its devices; long lists are read page by page. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { useEffect } from 'react'

import { rolloutDevicesQuery } from '~/api/rollouts'
import type { Rollout } from '~/api/rollout-types'
import type { RolloutDevice } from '~/api/types'
import { cx } from '~/ui/cx'
import { Glyph } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Failure, Loading, Section } from '~/ui/panel'

import { CountsBar, countsText } from './counts-bar'
import { DeviceRows } from './device-rows'
import { groupDevices, type Grouping } from './groups'
import { BUCKETS, type BucketLook } from './look'

const GROUPINGS: readonly { by: Grouping; title: string }[] = [
  { by: 'location', title: 'by location' },
  { by: 'model', title: 'by model' },
]

export function RolloutDevices({ rollout, bucket, by }: { rollout: Rollout; bucket: string | undefined; by: Grouping | undefined }) {
  const navigate = useNavigate({ from: '/rollouts/$id' })
  const { counts } = rollout.status.summary
  const chosen = BUCKETS.find((b) => b.bucket === bucket)
  const show = (next: { bucket?: string | undefined; by?: Grouping | undefined }): void => {
    const search = { ...(next.bucket === undefined ? {} : { bucket: next.bucket }), ...(next.by === undefined ? {} : { by: next.by }) }
    void navigate({ search, replace: true })
  }
  return (
    <Section
      title="Devices"
      flush
      actions={GROUPINGS.map((g) => (
        <button
          key={g.by}
          type="button"
          aria-pressed={by === g.by}
          onClick={() => show({ bucket, by: by === g.by ? undefined : g.by })}
          className={cx('h-7 rounded border px-2 text-sm transition-colors', by === g.by ? 'border-accent bg-accent-soft' : 'border-transparent hover:bg-hover')}
        >
          {g.title}
        </button>
      ))}
    >
      <div className="flex flex-wrap gap-1 px-3 py-2">
        {BUCKETS.map((b) => {
          const n = counts[b.key]
          const on = b.bucket === bucket
          return (
            <button
              key={b.key}
              type="button"
              aria-pressed={on}
              title={b.means}
              onClick={() => show({ bucket: on ? undefined : b.bucket, by })}
              className={cx(
                'flex h-7 items-center gap-1.5 rounded border px-2 transition-colors',
                on ? 'border-accent bg-accent-soft' : 'border-transparent hover:bg-hover',
              )}
            >
              <Glyph shape={b.shape} tone={n > 0 ? b.tone : 'quiet'} />
              <span className={n === 0 ? 'text-muted' : ''}>{b.bucket}</span>
              <span className={cx('font-medium', n === 0 && 'text-muted')}>{count(n)}</span>
            </button>
          )
        })}
      </div>
      {by !== undefined && <Grouped rollout={rollout} by={by} />}
      {chosen && <Listed rollout={rollout} bucket={chosen} />}
    </Section>
  )
}

/** Reads on until all is there. */
function useAllDevices(rollout: Rollout, bucket: string | undefined, all: boolean) {
  const query = useInfiniteQuery(rolloutDevicesQuery(rollout.metadata.uid, bucket))
  const { hasNextPage, isFetching, isError, fetchNextPage } = query
  useEffect(() => {
    if (all && hasNextPage && !isFetching && !isError) void fetchNextPage()
  }, [all, hasNextPage, isFetching, isError, fetchNextPage])
  const items: RolloutDevice[] = query.data?.pages.flatMap((page) => page.items) ?? []
  return { query, items, total: query.data?.pages.at(-1)?.metadata.total ?? items.length }
}

function Listed({ rollout, bucket }: { rollout: Rollout; bucket: BucketLook }) {
  const { query, items, total } = useAllDevices(rollout, bucket.bucket, false)
  if (query.isError && items.length === 0) {
    return (
      <div className="border-t border-line p-4">
        <Failure what="The devices can’t be listed" error={query.error} retry={() => void query.refetch()} />
      </div>
    )
  }
  if (query.isPending) {
    return (
      <div className="border-t border-line p-4">
        <Loading what="devices" />
      </div>
    )
  }
  if (items.length === 0) return <p className="border-t border-line px-4 py-3 text-muted">No device is {bucket.bucket} now.</p>
  return (
    <DeviceRows
      label={`Devices that are ${bucket.bucket}`}
      items={items}
      total={total}
      onEnd={() => {
        if (query.hasNextPage && !query.isFetching) void query.fetchNextPage()
      }}
    />
  )
}

const SHOWN_GROUPS = 60

function Grouped({ rollout, by }: { rollout: Rollout; by: Grouping }) {
  const { query, items, total } = useAllDevices(rollout, undefined, true)
  if (query.isError) {
    return (
      <div className="border-t border-line p-4">
        <Failure what="The devices can’t be counted" error={query.error} retry={() => void query.refetch()} />
      </div>
    )
  }
  if (query.isPending) {
    return (
      <div className="border-t border-line p-4">
        <Loading what="devices" />
      </div>
    )
  }
  const groups = groupDevices(items, by)
  return (
    <div className="border-t border-line px-4 py-3">
      {items.length < total && (
        <p role="status" className="mb-2 text-sm text-muted">
          {count(items.length)} of {plural(total, 'device')} counted so far
        </p>
      )}
      <ul className="grid gap-x-8 gap-y-2.5 sm:grid-cols-2 xl:grid-cols-3">
        {groups.slice(0, SHOWN_GROUPS).map((group) => (
          <li key={group.name}>
            <p className="flex items-baseline justify-between gap-3">
              <span className="truncate font-medium">{group.name || `no ${by}`}</span>
              <span className="shrink-0 text-sm">
                {group.counts.failed > 0 && <span className="text-bad">{count(group.counts.failed)} failed · </span>}
                <span className="text-muted">{plural(group.total, 'device')}</span>
              </span>
            </p>
            <CountsBar counts={group.counts} className="mt-1 h-2" />
            <p className="mt-0.5 truncate text-sm text-muted">{countsText(group.counts)}</p>
          </li>
        ))}
      </ul>
      {groups.length > SHOWN_GROUPS && <p className="mt-2 text-sm text-muted">and {count(groups.length - SHOWN_GROUPS)} more with fewer failures</p>}
    </div>
  )
}
