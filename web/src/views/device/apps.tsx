/** What runs on the device: what it should have, what it has, because of what, and how that goes. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { newKey, post, seg } from '~/api/client'
import { keys } from '~/api/queries'
import type { AppUsage, Because, Device, DeviceApp } from '~/api/types'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command } from '~/ui/copy'
import { Mark, State } from '~/ui/mark'
import { bytes, plural } from '~/ui/number'
import { Empty, Failure, Section } from '~/ui/panel'
import { phaseLook } from '~/ui/state'
import { Time } from '~/ui/time'

import { keptApart } from './isolation'

export function Source({ because }: { because: Because | undefined }) {
  if (!because) return <span className="text-muted">nothing says so</span>
  if (because.source === 'channel') return <>channel {because.channel}</>
  if (because.source === 'pin') return <>pin {because.pin}</>
  if (because.source === 'unknown') return <span className="text-muted">unknown</span>
  return (
    <>
      {because.forward ? '' : 'rollback of '}rollout{' '}
      <Link to="/rollouts/$id" params={{ id: because.name }} className="link">
        {because.name}
      </Link>
      , wave {because.wave}
    </>
  )
}

function AppActions({ device, app }: { device: Device; app: DeviceApp }) {
  const client = useQueryClient()
  const denied = useDenied('device.operate')
  const act = useMutation({
    mutationFn: (verb: 'resume' | 'restart-app') =>
      post(`/devices/${seg(device.metadata.uid)}:${verb}`, { app: app.app }, newKey()),
    onSuccess: (_, verb) => {
      announce(verb === 'resume' ? `${app.app} resumed` : `${app.app} will be restarted`)
      void client.invalidateQueries({ queryKey: keys.device })
    },
  })
  const held = app.phase === 'held' || device.status.conformance === 'held'
  return (
    <div className="flex flex-col items-end gap-2">
      <div className="flex gap-2">
        <Button
          small
          busy={act.isPending}
          disabledReason={denied ?? (held ? undefined : 'It is not held: there is nothing to resume.')}
          onClick={() => act.mutate('resume')}
        >
          Resume
        </Button>
        <Button
          small
          busy={act.isPending}
          disabledReason={denied ?? (app.activeRelease === undefined ? 'It does not run.' : undefined)}
          onClick={() => act.mutate('restart-app')}
        >
          Restart
        </Button>
      </div>
      {act.isError && <Failure what="That did not work" error={act.error} />}
    </div>
  )
}

/** What was seen of an app as it happened is of one device. */
export const usageKey = (device: string | undefined, app: string): string => `${device}/${app}`

/** The newer of what is stored and what was seen. */
function Usage({ stored, seen }: { stored: AppUsage | undefined; seen: AppUsage | undefined }) {
  const usage = seen && (stored === undefined || seen.at >= stored.at) ? seen : stored
  if (usage === undefined) return null
  const { cpu, mem_used: memory, processes, io_read: read, io_write: written } = usage.values
  const parts = [
    cpu === undefined ? undefined : `${(cpu * 100).toFixed(1)} % of a core`,
    memory === undefined ? undefined : bytes(memory),
    processes === undefined ? undefined : plural(processes, 'process', 'processes'),
    read === undefined ? undefined : `reads ${bytes(read)}/s`,
    written === undefined ? undefined : `writes ${bytes(written)}/s`,
  ].filter((part) => part !== undefined)
  return (
    <>
      <dt className="text-muted">uses</dt>
      <dd className="tabular-nums">
        {parts.join(' · ')} <Time at={usage.at} className="text-sm text-muted" />
      </dd>
    </>
  )
}

export function DeviceApps({ device, used }: { device: Device; used: Record<string, AppUsage> }) {
  const { apps, lifecycle } = device.status
  return (
    <Section title="Apps" flush>
      {apps.length === 0 ? (
        <Empty title="No apps">
          <p>
            {lifecycle === 'pending'
              ? 'It gets its apps when it is approved.'
              : 'No placement selects this device. A placement says which devices run an app:'}
          </p>
          {lifecycle !== 'pending' && <Command text={`farshore explain device/${device.metadata.name}`} />}
        </Empty>
      ) : (
        <ul className="divide-y divide-line">
          {apps.map((app) => (
            <li key={app.app} className="flex flex-wrap gap-x-6 gap-y-2 px-4 py-3">
              <div className="min-w-56 flex-1">
                <p className="flex flex-wrap items-center gap-x-3 gap-y-1">
                  <Link to="/apps" className="font-semibold hover:text-accent">
                    {app.app}
                  </Link>
                  <Mark word={app.phase} look={phaseLook(app.phase)} reasons={app.reasons} focusable />
                  <State of="health" word={app.health} focusable />
                  {app.restarts > 0 && <span className="text-warn">{plural(app.restarts, 'restart')}</span>}
                  {!app.committed && <span className="text-muted">not committed yet</span>}
                </p>
                <dl className="mt-1.5 grid grid-cols-[auto_1fr] gap-x-4 gap-y-0.5">
                  <dt className="text-muted">runs</dt>
                  <dd className="font-medium">{app.activeVersion || 'nothing'}</dd>
                  <dt className="text-muted">should run</dt>
                  <dd>
                    <span className="font-medium">{app.desired?.version ?? 'nothing'}</span>
                    <span className="text-muted"> because of </span>
                    <Source because={app.because} />
                  </dd>
                  {app.isolation && (
                    <>
                      <dt className="text-muted">isolation</dt>
                      <dd>{keptApart(app.isolation).join(', ') || <span className="text-muted">none</span>}</dd>
                    </>
                  )}
                  <Usage stored={app.usage} seen={used[usageKey(device.metadata.uid, app.app)]} />
                </dl>
                {app.reasons.length > 0 && (
                  <ul className="mt-1.5">
                    {app.reasons.map((reason) => (
                      <li key={`${reason.code}${reason.since}`}>
                        <span className="[overflow-wrap:anywhere]">{reason.message}</span> <Time at={reason.since} className="text-sm text-muted" />
                      </li>
                    ))}
                  </ul>
                )}
              </div>
              <AppActions device={device} app={app} />
            </li>
          ))}
        </ul>
      )}
    </Section>
  )
}

const LAYERS: Record<string, string> = {
  tenant: 'for the whole tenant',
  app: 'for the app',
  selector: 'for devices with matching labels',
  device: 'for this device',
}

export function DeviceConfig({ device }: { device: Device }) {
  const rows = device.status.apps.flatMap((app) =>
    Object.entries(app.config).map(([key, value]) => ({ app: app.app, key, ...value })),
  )
  return (
    <Section title="Config" flush>
      {rows.length === 0 ? (
        <p className="px-4 py-3 text-muted">No values are set for its apps.</p>
      ) : (
        <div className="overflow-x-auto">
          <table className="w-full">
            <thead>
              <tr className="border-b border-line text-left text-sm text-muted">
                <th className="px-4 py-1.5 font-normal">Name</th>
                <th className="px-4 py-1.5 font-normal">Value</th>
                <th className="px-4 py-1.5 font-normal">Comes from</th>
              </tr>
            </thead>
            <tbody className="divide-y divide-line">
              {rows.map((row) => (
                <tr key={`${row.app}${row.key}`}>
                  <td className="px-4 py-1.5 font-mono text-sm">{row.key}</td>
                  <td className="max-w-72 px-4 py-1.5 font-mono text-sm break-words">{row.value}</td>
                  <td className="px-4 py-1.5">
                    {row.from} <span className="text-muted">{LAYERS[row.layer] ?? row.layer}</span>
                    {row.reference !== undefined && <span className="block text-sm text-muted">taken from {row.reference}</span>}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Section>
  )
}
