/** `/devices/$id`: one device, with why it is as it is. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate, useParams, useSearch } from '@tanstack/react-router'
import { useMemo, useState, type ReactNode } from 'react'

import { ApiError } from '~/api/client'
import { deviceQuery, eventsQuery } from '~/api/queries'
import type { AppUsage, Device, FleetEvent } from '~/api/types'
import { useKeys } from '~/frame/keys'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Icon } from '~/ui/icon'
import { LabelList } from '~/ui/label'
import { State } from '~/ui/mark'
import { Menu } from '~/ui/menu'
import { bytes, plural } from '~/ui/number'
import { Empty, Failure, Loading, Page, Section, StaleNote } from '~/ui/panel'
import { USUAL_RANGE } from '~/ui/range'
import { DIMENSIONS } from '~/ui/state'
import { Time, useNow } from '~/ui/time'
import { Why } from '~/ui/why'
import { toYaml } from '~/ui/yaml'

import { ActionDialog, DEVICE_ACTIONS, useVerbItems, type DeviceAction } from '../devices/bulk'
import { neighbours } from '../devices/neighbours'
import { IncidentPanel } from '../incidents/list'
import { AskDialog } from '../operations/ask'
import type { VerbLook } from '../operations/look'
import { OperationsPanel } from '../operations/panel'
import { DevicePolicyPanel } from '../policies/of-device'
import { DeviceApps, DeviceConfig, usageKey } from './apps'
import { Charts } from './charts'
import { ConnectivityPanel } from './connectivity'
import { DeviceDocuments } from './documents'
import { EventList } from './events'
import type { Listener } from './measure'
import { DevicePipelines } from './pipelines'
import { Readings } from './readings'
import { Senses } from './senses'

const EVENTS = 50
/** What is shown as it happens and not kept: so many of the newest. */
const MOST_SEEN = 100

export function DeviceView() {
  const { id } = useParams({ from: '/shell/devices/$id' })
  const { range = USUAL_RANGE } = useSearch({ from: '/shell/devices/$id' })
  const device = useQuery(deviceQuery(id))
  const uid = device.data?.metadata.uid
  const events = useQuery({
    ...eventsQuery({ subjectKind: 'Device', subject: uid, limit: EVENTS }),
    enabled: uid !== undefined,
  })
  const [seen, setSeen] = useState<FleetEvent[]>([])
  const happened = useMemo(() => together(events.data?.items ?? [], seen, uid), [events.data, seen, uid])
  const [used, setUsed] = useState<Record<string, AppUsage>>({})
  const listener: Listener = {
    event: (event) => setSeen((before) => [event, ...before].slice(0, MOST_SEEN)),
    usage: (app, usage) => setUsed((before) => ({ ...before, [usageKey(uid, app)]: usage })),
  }
  const near = neighbours(id)
  const navigate = useNavigate()
  const go = (name: string | undefined): void => {
    if (name !== undefined) void navigate({ to: '/devices/$id', params: { id: name }, search: range === USUAL_RANGE ? {} : { range } })
  }
  useKeys('Device', [
    { keys: ']', does: 'Next device of the list', run: () => go(near?.after) },
    { keys: '[', does: 'Previous device of the list', run: () => go(near?.before) },
    { keys: 'u', does: 'Up to the list', run: () => void navigate({ to: '/devices', search: near?.search ?? {} }) },
  ])

  const above = (
    <nav aria-label="Breadcrumb" className="flex items-center gap-1 text-sm text-muted">
      <Link to="/devices" search={near?.search ?? {}} className="hover:text-ink">
        Devices
      </Link>
      {near && (
        <span className="flex items-center">
          <span className="px-1">
            {near.at + 1} of {near.of}
          </span>
          <button type="button" aria-label="Previous device" onClick={() => go(near.before)} className="rounded p-1 hover:bg-hover hover:text-ink">
            <Icon name="left" size={12} />
          </button>
          <button type="button" aria-label="Next device" onClick={() => go(near.after)} className="rounded p-1 hover:bg-hover hover:text-ink">
            <Icon name="right" size={12} />
          </button>
        </span>
      )}
    </nav>
  )

  if (!device.data) {
    const gone = device.error instanceof ApiError && device.error.status === 404
    return (
      <Page title={id} above={above}>
        {gone ? (
          <Empty title="There is no such device">
            <p className="text-center">It may have left the fleet, or belong to another tenant.</p>
          </Empty>
        ) : device.isError ? (
          <Failure what="The device can’t be shown" error={device.error} retry={() => void device.refetch()} />
        ) : (
          <>
            <Section title="State">
              <Loading what="the device" lines={3} />
            </Section>
            <Section title="Measurements" className="min-h-80">
              <Loading what="measurements" />
            </Section>
          </>
        )}
      </Page>
    )
  }

  const shown = device.data
  return (
    <Page title={shown.metadata.name} above={above} actions={<Actions device={shown} />}>
      {device.isError && <StaleNote error={device.error} since={<Time at={device.dataUpdatedAt} />} />}
      <Header device={shown} />
      <div className="grid items-start gap-4 xl:grid-cols-[3fr_2fr]">
        <DeviceApps device={shown} used={used} />
        <DeviceConfig device={shown} />
      </div>
      {shown.status.lifecycle !== 'pending' && <ConnectivityPanel device={shown.metadata.uid} />}
      <DeviceDocuments device={shown.metadata.uid} />
      <OperationsPanel device={shown.metadata.uid} />
      <IncidentPanel of={{ device: shown.metadata.uid }} without="device" />
      <DevicePolicyPanel device={shown.metadata.uid} />
      {shown.status.lifecycle !== 'pending' && (
        <Charts key={shown.metadata.uid} device={shown} range={range} events={happened} listener={listener} />
      )}
      <Readings device={shown.metadata.uid} range={range} />
      <DevicePipelines device={shown.metadata.uid} />
      <Senses senses={shown.status.senses} />
      <Section title="Events" flush>
        {events.isError ? (
          <div className="p-4">
            <Failure what="The events can’t be listed" error={events.error} retry={() => void events.refetch()} />
          </div>
        ) : events.isPending ? (
          <div className="p-4">
            <Loading what="events" />
          </div>
        ) : happened.length === 0 ? (
          <p className="px-4 py-3 text-muted">Nothing has happened to this device yet.</p>
        ) : (
          <EventList events={happened} />
        )}
      </Section>
    </Page>
  )
}

/** Kept events and those that are only shown, newest first. */
function together(kept: FleetEvent[], seen: FleetEvent[], uid: string | undefined): FleetEvent[] {
  const known = new Set(kept.map((event) => event.uid))
  const others = seen.filter((event) => event.subject.uid === uid && !known.has(event.uid))
  return others.length === 0 ? kept : [...kept, ...others].toSorted((a, b) => b.at - a.at)
}

function Actions({ device }: { device: Device }) {
  const [asked, setAsked] = useState<DeviceAction | undefined>()
  const [verb, setVerb] = useState<VerbLook | undefined>()
  const verbs = useVerbItems(setVerb, device)
  const denied = { 'claim.write': useDenied('claim.write'), 'device.write': useDenied('device.write'), 'device.revoke': useDenied('device.revoke') } as Record<string, string | undefined>
  const { name } = device.metadata
  const pending = device.status.lifecycle === 'pending'
  return (
    <>
      {pending &&
        DEVICE_ACTIONS.slice(0, 2).map((action) => (
          <Button key={action.name} kind={action.danger ? 'danger' : 'primary'} disabledReason={denied[action.permission]} onClick={() => setAsked(action)}>
            {action.title}…
          </Button>
        ))}
      <CopyButton small={false} label="Command" text={`farshore describe device/${name}`} />
      <CopyButton small={false} label="YAML" text={() => toYaml(device)} />
      {!pending && <Menu label="Operate" button="Operate…" items={verbs} />}
      <Menu
        label="More actions"
        button={<Icon name="more" />}
        items={DEVICE_ACTIONS.slice(2).map((action) => ({
          label: `${action.title}…`,
          onPick: () => setAsked(action),
          disabledReason: denied[action.permission] ?? action.cannot(device),
        }))}
      />
      {verb && <AskDialog look={verb} devices={[device]} onClose={() => setVerb(undefined)} />}
      {asked && <ActionDialog action={asked} devices={[device]} onClose={() => setAsked(undefined)} />}
    </>
  )
}

const SOON_MS = 4 * 3_600_000

function Header({ device }: { device: Device }) {
  const { status, spec, metadata } = device
  const now = useNow()
  const expires = status.certificateExpiresAt
  const expiry = expires === undefined ? 'none yet' : expires < now ? 'expired' : undefined
  const behind = status.desired.generation !== status.accepted.generation || status.desired.epoch !== status.accepted.epoch
  const hw = status.hardware
  const facts: [string, ReactNode][] = [
    ['Last seen', <Time key="t" at={status.lastSeenAt} />],
    ['Location', spec.location || '–'],
    ['Channel', spec.channel],
    [
      'Certificate',
      expiry ?? (
        <span key="c" className={(expires ?? 0) - now < SOON_MS ? 'text-warn' : undefined}>
          expires <Time at={expires} />
        </span>
      ),
    ],
    ['Agent', status.agentVersion || '–'],
    [
      'Desired state',
      behind
        ? `has ${status.accepted.epoch}.${status.accepted.generation}, should have ${status.desired.epoch}.${status.desired.generation}`
        : `${status.accepted.epoch}.${status.accepted.generation}, the newest`,
    ],
    ['Machine', [hw.model, hw.cpus > 0 ? `${plural(hw.cpus, 'CPU')}` : '', hw.memoryBytes > 0 ? bytes(hw.memoryBytes) : ''].filter(Boolean).join(', ') || '–'],
    ['System', [hw.osName || hw.os, hw.arch, hw.kernel].filter(Boolean).join(', ') || '–'],
  ]
  return (
    <section className="panel grid gap-x-8 gap-y-3 px-4 py-3 xl:grid-cols-[minmax(300px,2fr)_3fr]" aria-label="State">
      <div className="min-w-0">
        <div className="flex flex-wrap gap-x-5 gap-y-1 text-lg">
          {DIMENSIONS.map((dimension) => (
            <State key={dimension} of={dimension} word={status[dimension]} reasons={status.reasons} focusable />
          ))}
        </div>
        <div className="mt-2">
          {status.reasons.length === 0 ? <p className="text-muted">Nothing stands out.</p> : <Why reasons={status.reasons} />}
        </div>
        <div className="mt-2">
          <LabelList labels={metadata.labels} />
        </div>
      </div>
      <dl className="grid grid-cols-2 content-start gap-x-6 gap-y-2 sm:grid-cols-4">
        {facts.map(([name, value]) => (
          <div key={name} className="min-w-0">
            <dt className="text-sm text-muted">{name}</dt>
            <dd className="[overflow-wrap:anywhere]">{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  )
}
