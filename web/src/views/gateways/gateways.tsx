/** `/gateways`: how the readings of each gateway come in. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { gatewaysQuery, type GatewaySync } from '~/api/gateways'
import { Command, CopyButton } from '~/ui/copy'
import { Glyph } from '~/ui/mark'
import { bytes, count, plural } from '~/ui/number'
import { Empty, Page, Section } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'
import { longDuration, Time, useNow } from '~/ui/time'

import { GatewayKeys } from './keys'
import { GatewayPipelines } from './pipelines'
import { Sinks } from './sinks'
import { SyncNow } from './sync-now'

/** Later than this, a gateway that should report each minute is away. */
const LATE_MS = 3 * 60_000

export function Gateways() {
  const gateways = useQuery(gatewaysQuery)
  const now = useNow()
  const items = gateways.data?.items ?? []
  const lossy = items.filter((gateway) => gateway.losses.length > 0)
  return (
    <Page
      title="Gateways"
      beside={
        gateways.data && (
          <span className="text-muted">
            {plural(items.length, 'gateway')}, {plural(items.reduce((sum, g) => sum + g.report.backlogPoints, 0), 'reading')} waiting
          </span>
        )
      }
      actions={<CopyButton small={false} label="Command" text="farshore sync status" />}
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
        {(all) => (
          <Table
            label="Gateways"
            items={all}
            id={(g) => g.device}
            columns={[
              {
                title: 'Device',
                cell: (g) => (
                  <Link to="/devices/$id" params={{ id: g.deviceName }} className="font-medium hover:text-accent">
                    {g.deviceName}
                  </Link>
                ),
              },
              { title: 'Location', wide: true, cell: (g) => g.location || '–' },
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

/** How a gateway stands, in a word and why. */
export function Standing({ gateway, now }: { gateway: GatewaySync; now: number }) {
  const { report } = gateway
  const away = now - gateway.reportedAt > LATE_MS
  const drain = report.drainSeconds
  const [shape, tone, text] = away
    ? (['ring', 'quiet', 'not heard of'] as const)
    : report.backlogPoints === 0
      ? (['full', 'ok', 'all sent'] as const)
      : drain !== undefined && drain < 5
        ? (['full', 'ok', 'up to date'] as const)
      : (['half', 'warn', drain === undefined ? 'sending' : `sent in about ${longDuration(drain * 1000)}`] as const)
  return (
    <span className="flex items-center gap-1.5" title={report.lastError}>
      <Glyph shape={shape} tone={tone} size={10} />
      {text}
    </span>
  )
}
