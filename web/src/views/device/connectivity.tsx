/** How the device stood to its control plane: now, and a strip of the last seven days. */
import { useQuery } from '@tanstack/react-query'

import { deviceConnectivityQuery } from '~/api/queries'
import type { Connectivity, ConnectivitySpan, DeviceConnectivity } from '~/api/types'
import { cx } from '~/ui/cx'
import { Glyph, TONE_FILL } from '~/ui/mark'
import { percent, plural } from '~/ui/number'
import { Failure, Loading, Section } from '~/ui/panel'
import type { Shape, Tone } from '~/ui/state'
import { Time, exact, longDuration } from '~/ui/time'

interface Look {
  name: string
  shape: Shape
  tone: Tone
  means: string
}

const UNKNOWN: Look = { name: 'not known', shape: 'question', tone: 'quiet', means: 'The device has not said, or uses a word that this page does not know.' }

const LOOKS: Partial<Record<Connectivity, Look>> = {
  online: { name: 'online', shape: 'full', tone: 'ok', means: 'Its channel to the control plane was open.' },
  'no-interface': { name: 'no network', shape: 'cross', tone: 'bad', means: 'No interface but loopback was up.' },
  dns: { name: 'DNS', shape: 'cross', tone: 'bad', means: 'The control plane’s name had no address.' },
  proxy: { name: 'proxy', shape: 'cross', tone: 'bad', means: 'Its proxy did not answer, or did not let it through.' },
  'captive-portal': { name: 'captive portal', shape: 'cross', tone: 'bad', means: 'Somebody else answered in the control plane’s place, in plain HTTP.' },
  tls: { name: 'TLS', shape: 'cross', tone: 'bad', means: 'The certificate that it saw does not lead to the roots it trusts.' },
  clock: { name: 'clock', shape: 'cross', tone: 'bad', means: 'A certificate was not valid at the time that the device believed in.' },
  'control-plane': { name: 'control plane', shape: 'cross', tone: 'bad', means: 'Nobody answered at the control plane’s address, or it did not serve this device.' },
  silent: { name: 'silent', shape: 'ring', tone: 'warn', means: 'Nothing is heard of it. It says why when it is back.' },
}

const lookOf = (state: Connectivity): Look => LOOKS[state] ?? UNKNOWN

export function ConnectivityPanel({ device }: { device: string }) {
  const told = useQuery(deviceConnectivityQuery(device))
  return (
    <Section title="Connectivity">
      {told.isError ? (
        <Failure what="The connectivity can’t be shown" error={told.error} retry={() => void told.refetch()} />
      ) : told.isPending ? (
        <Loading what="the connectivity" lines={2} />
      ) : (
        <Told told={told.data} />
      )}
    </Section>
  )
}

function Told({ told }: { told: DeviceConnectivity }) {
  const now = lookOf(told.state)
  const away = told.spans.filter((span) => span.state !== 'online' && span.state !== 'unknown')
  return (
    <>
      <p className="flex flex-wrap items-center gap-x-2 gap-y-0.5">
        <Glyph shape={now.shape} tone={now.tone} />
        <span className="font-medium">{now.name}</span>
        {told.since !== undefined && told.since > told.from && (
          <span className="text-muted">
            since <Time at={told.since} />
          </span>
        )}
        {told.message !== undefined && <span className="min-w-0 text-muted [overflow-wrap:anywhere]">{told.message}</span>}
      </p>
      {told.spans.length === 0 ? (
        <p className="mt-1 text-muted">It has not told of its connectivity yet.</p>
      ) : (
        <>
          <Strip told={told} />
          <p className="mt-2 text-sm text-muted">
            {told.onlineShare !== undefined && <>Online {percent(told.onlineShare, 2)} of the time that is known. </>}
            {told.outages === 0 ? 'No outage.' : `${plural(told.outages, 'outage')}.`}
            {told.truncated && ' There was more; the oldest is left out.'}
          </p>
          {away.length > 0 && (
            <ol className="mt-1" aria-label="Outages, newest first">
              {away
                .slice(-5)
                .toReversed()
                .map((span) => (
                  <Outage key={span.from} span={span} />
                ))}
            </ol>
          )}
        </>
      )}
    </>
  )
}

function Outage({ span }: { span: ConnectivitySpan }) {
  const look = lookOf(span.state)
  return (
    <li className="flex flex-wrap items-baseline gap-x-2 border-t border-line py-1 text-sm">
      <span className="self-center">
        <Glyph shape={look.shape} tone={look.tone} size={10} />
      </span>
      <Time at={span.from} />
      <span className="text-muted">for {longDuration(span.to - span.from)}</span>
      <span>{look.name}</span>
      <span className="min-w-0 text-muted [overflow-wrap:anywhere]">{span.message ?? look.means}</span>
    </li>
  )
}

/** Seven days from left to right. Short outages keep a width that can be seen. */
function Strip({ told }: { told: DeviceConnectivity }) {
  const length = told.to - told.from
  const share = (at: number): number => ((at - told.from) / length) * 100
  // What is wrong lies above what is well, so that a short outage is not covered.
  const ordered = told.spans.toSorted((a, b) => Number(a.state !== 'online') - Number(b.state !== 'online'))
  const days = Math.max(1, Math.round(length / 86_400_000))
  return (
    <div className="mt-2">
      <div
        role="img"
        aria-label={`The last ${plural(days, 'day')}: ${told.onlineShare === undefined ? 'nothing known' : `online ${percent(told.onlineShare, 2)}`}, ${plural(told.outages, 'outage')}`}
        className="relative h-6 overflow-hidden rounded border border-line bg-hover"
      >
        {ordered.map((span) => {
          const look = lookOf(span.state)
          return (
            <span
              key={`${span.from}`}
              title={`${look.name}, ${exact(span.from)} to ${exact(span.to)}${span.message === undefined ? '' : `: ${span.message}`}`}
              className={cx('absolute inset-y-0 min-w-0.5', TONE_FILL[look.tone], look.tone === 'ok' && 'opacity-60')}
              style={{ left: `${share(span.from)}%`, width: `${share(span.to) - share(span.from)}%` }}
            />
          )
        })}
        {Array.from({ length: days - 1 }, (_, day) => (
          <span key={`day-${day}`} className="absolute inset-y-0 w-px bg-surface" style={{ left: `${((day + 1) / days) * 100}%` }} />
        ))}
      </div>
      <div className="mt-0.5 flex justify-between text-sm text-muted">
        <span>{plural(days, 'day')} ago</span>
        <span>now</span>
      </div>
    </div>
  )
}
