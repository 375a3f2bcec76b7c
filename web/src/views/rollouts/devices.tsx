/** The devices of a rollout by state: a press on a state lists them. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate } from '@tanstack/react-router'

import { rolloutDevicesQuery } from '~/api/rollouts'
import type { Rollout, RolloutDevice } from '~/api/types'
import { cx } from '~/ui/cx'
import { Glyph } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Failure, Loading, Section } from '~/ui/panel'
import { Time } from '~/ui/time'

import { BUCKETS, type BucketLook } from './look'

export function RolloutDevices({ rollout, bucket }: { rollout: Rollout; bucket: string | undefined }) {
  const navigate = useNavigate({ from: '/rollouts/$id' })
  const { counts } = rollout.status.summary
  const chosen = BUCKETS.find((b) => b.bucket === bucket)
  return (
    <Section title="Devices by state" flush>
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
              onClick={() => void navigate({ search: on ? {} : { bucket: b.bucket }, replace: true })}
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
      {chosen && <Listed rollout={rollout} bucket={chosen} />}
    </Section>
  )
}

const SHOWN_PLACES = 8

function Listed({ rollout, bucket }: { rollout: Rollout; bucket: BucketLook }) {
  const devices = useQuery(rolloutDevicesQuery(rollout.metadata.uid, bucket.bucket))
  if (devices.isError) {
    return (
      <div className="p-4">
        <Failure what="The devices can’t be listed" error={devices.error} retry={() => void devices.refetch()} />
      </div>
    )
  }
  if (devices.isPending) {
    return (
      <div className="border-t border-line p-4">
        <Loading what="devices" />
      </div>
    )
  }
  const { items } = devices.data
  if (items.length === 0) return <p className="border-t border-line px-4 py-3 text-muted">No device is {bucket.bucket} now.</p>
  const places = byLocation(items)
  return (
    <div className="border-t border-line">
      <p className="px-4 pt-2 text-sm text-muted">
        By location: {places.slice(0, SHOWN_PLACES).map(([place, n]) => `${place || 'none'} ${count(n)}`).join(' · ')}
        {places.length > SHOWN_PLACES ? ` · ${plural(places.length - SHOWN_PLACES, 'more location')}` : ''}
      </p>
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard */}
      <div className="mt-1 max-h-96 overflow-auto" tabIndex={0} role="region" aria-label={`Devices that are ${bucket.bucket}`}>
        <table className="w-full">
          <thead className="sticky top-0 bg-surface">
            <tr className="text-left text-sm text-muted">
              <th className="px-4 py-1 font-normal">Device</th>
              <th className="px-4 py-1 font-normal">Location</th>
              <th className="px-4 py-1 font-normal">Wave</th>
              <th className="px-4 py-1 font-normal">Since</th>
              <th className="w-1/2 px-4 py-1 font-normal max-sm:hidden">Why</th>
            </tr>
          </thead>
          <tbody className="divide-y divide-line">
            {items.map((d) => (
              <tr key={d.device}>
                <td className="px-4 py-1">
                  <Link to="/devices/$id" params={{ id: d.name }} className="link">
                    {d.name}
                  </Link>
                </td>
                <td className="px-4 py-1">{d.location}</td>
                <td className="px-4 py-1">
                  {d.wave}
                  {d.late && <span className="text-muted"> joined late</span>}
                </td>
                <td className="px-4 py-1 whitespace-nowrap">
                  <Time at={d.since} />
                </td>
                <td className="px-4 py-1 max-sm:hidden">
                  {d.reason}
                  {d.permitExpiresAt !== undefined && (
                    <span className="text-muted">
                      permit ends <Time at={d.permitExpiresAt} />
                    </span>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  )
}

function byLocation(devices: RolloutDevice[]): [string, number][] {
  const places = new Map<string, number>()
  for (const device of devices) places.set(device.location, (places.get(device.location) ?? 0) + 1)
  return [...places].toSorted((a, b) => b[1] - a[1])
}
