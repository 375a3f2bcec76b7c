/** `/gateways`: how the readings of each gateway come in. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'
import { useMemo } from 'react'

import { gatewaysQuery, type GatewaySync } from '~/api/gateways'
import { FilterChip } from '~/ui/chip'
import { Command, CopyButton } from '~/ui/copy'
import { bytes, count, plural } from '~/ui/number'
import { Empty, Loading, Page, Section } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'
import { Time, useNow } from '~/ui/time'
import { shellWord } from '~/ui/words'

import { GatewayKeys } from './keys'
import { GatewayPipelines } from './pipelines'
import { FleetReadings } from './readings'
import { shownOf, withPlace, type GatewaySearch } from './search'
import { Sinks } from './sinks'
import { Standing } from './standing'
import { SyncNow } from './sync-now'

const NONE: readonly GatewaySync[] = []
/** From so many on, the list scrolls by itself. */
const MANY = 12

export function Gateways() {
  const gateways = useQuery(gatewaysQuery)
  const now = useNow()
  const search = useSearch({ from: '/shell/gateways' })
  const navigate = useNavigate({ from: '/gateways' })
  const items = gateways.data?.items ?? NONE
  const shown = useMemo(() => shownOf(items, search), [items, search])
  const lossy = shown.filter((gateway) => gateway.losses.length > 0)
  const { location, device, ...others } = search
  const without = (rest: GatewaySearch): void => void navigate({ search: rest })
  return (
    <Page
      title="Gateways"
      beside={
        gateways.data && (
          <>
            <span className="text-muted">
              {plural(shown.length, 'gateway')}, {plural(shown.reduce((sum, g) => sum + g.report.backlogPoints, 0), 'reading')} waiting
            </span>
            {location !== undefined && <FilterChip text={`location=${location}`} onRemove={() => without(others)} />}
            {device !== undefined && <FilterChip text={`device=${device}`} onRemove={() => without(location === undefined ? others : { ...others, location })} />}
          </>
        )
      }
      actions={<CopyButton small={false} label="Command" text={location === undefined ? 'farshore sync status' : `farshore sync status --location ${shellWord(location)}`} />}
    >
      <Resource
        query={gateways}
        what="gateways"
        empty={
          <Empty title="No gateway has sent readings yet">
            <p>A gateway takes readings from a site’s sensors, keeps them when there is no link, and sends each of them once. On a claimed device:</p>
            <Command text="farshore-agent gateway" />
          </Empty>
        }
      >
        {() => shown.length === 0 ? (
          <div className="panel">
            <Empty title="No gateway here">
              <p className="text-center">
                The address names a location or a device that no gateway has sent from.{' '}
                <Link to="/gateways" className="link">
                  Show all gateways
                </Link>
              </p>
            </Empty>
          </div>
        ) : (
          <Table
            label="Gateways"
            items={shown}
            id={(g) => g.device}
            bounded={shown.length > MANY}
            columns={[
              {
                title: 'Device',
                cell: (g) => (
                  <Link to="/devices/$id" params={{ id: g.deviceName }} className="font-medium hover:text-accent sm:whitespace-nowrap">
                    {g.deviceName}
                  </Link>
                ),
              },
              {
                title: 'Location',
                wide: true,
                cell: (g) =>
                  g.location === '' ? (
                    '–'
                  ) : (
                    <Link to="/gateways" search={withPlace(search, undefined, { location: g.location })} className="hover:text-accent">
                      {g.location}
                    </Link>
                  ),
              },
              { title: 'State', plain: true, cell: (g) => <Standing gateway={g} now={now} /> },
              { title: 'Waiting', right: true, cell: (g) => count(g.report.backlogPoints) },
              { title: 'Oldest unsent', wide: true, right: true, cell: (g) => (g.report.backlogPoints > 0 ? <Time at={g.report.oldestUnsentAt} className="text-muted" /> : <span className="text-muted">–</span>) },
              { title: 'Received', wide: true, right: true, cell: (g) => `${count(g.receivedPoints)} (${bytes(g.receivedBytes)})` },
              { title: 'Lost', right: true, cell: (g) => <span className={g.lostPoints > 0 ? 'text-warn' : 'text-muted'}>{count(g.lostPoints)}</span> },
              { title: 'Pipelines', wide: true, cell: (g) => <Processing gateway={g} /> },
              { title: 'Reported', wide: true, right: true, cell: (g) => <Time at={g.reportedAt} className="text-muted" /> },
              { title: 'Actions', plain: true, right: true, cell: (g) => <SyncNow device={g.deviceName} /> },
            ]}
          />
        )}
      </Resource>
      {gateways.isPending && (
        <Section title="Readings" className="min-h-96">
          <Loading what="readings" lines={6} />
        </Section>
      )}
      {shown.length > 0 && <FleetReadings search={search} shown={shown} />}
      <GatewayPipelines gateways={items} />
      <Sinks />
      <GatewayKeys />
      {lossy.length > 0 && (
        <Section title="Losses" flush>
          <ul className="divide-y divide-line">
            {lossy.flatMap((gateway) =>
              gateway.losses.map((loss) => (
                <li key={`${gateway.device} ${loss.stream} ${loss.reason}`} className="px-4 py-2">
                  <span className="font-medium">{gateway.deviceName}</span> {REASONS[loss.reason] ?? loss.reason}:{' '}
                  {plural(loss.points, 'reading')} of <code className="font-mono text-sm">{loss.stream}</code>, from <Time at={loss.from} /> to <Time at={loss.to} />
                  <span className="text-muted">, noticed <Time at={loss.lastAt} /></span>
                </li>
              )),
            )}
          </ul>
        </Section>
      )}
    </Page>
  )
}

/** What it processes readings by, and whether something is wrong with that. */
function Processing({ gateway }: { gateway: GatewaySync }) {
  const processing = gateway.report.processing
  if (processing === undefined) return <span className="text-muted">–</span>
  const raised = processing.pipelines.reduce((sum, pipeline) => sum + pipeline.activeAlerts, 0)
  const wrong = processing.refused?.why ?? processing.trouble
  const from = { 'control-plane': processing.config ?? 'config', file: 'its own file', aggregates: 'aggregates', program: 'its program' }
  return (
    <span title={wrong}>
      {processing.source === undefined ? <span className="text-muted">none</span> : from[processing.source]}
      {processing.refused !== undefined && <span className="text-bad">, newer ones not taken</span>}
      {processing.refused === undefined && processing.trouble !== undefined && <span className="text-warn">, trouble</span>}
      {raised > 0 && <span className="text-bad">, {plural(raised, 'alert')}</span>}
    </span>
  )
}

const REASONS: Record<string, string> = {
  'drop-oldest': 'gave up the oldest, because its queue was full',
  'drop-newest': 'did not keep the newest, because its queue was full',
  thinned: 'kept summaries in place of readings, because its queue was full',
  expired: 'gave up what was too old',
  corrupt: 'read something else from its disk than it had written',
  'corrupt-batch': 'read something else from its disk than it had written',
  'torn-tail': 'was cut off while writing; this may never have been acknowledged',
  refused: 'set aside what can never be read here',
}
