/** What needs somebody now, the worst first. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import type { ReactNode } from 'react'

import { alertsQuery, incidentsQuery } from '~/api/incidents'
import { devicesQuery } from '~/api/queries'
import type { Rollout } from '~/api/rollout-types'
import type { DeviceSummary } from '~/api/types'
import { useMe } from '~/frame/me'
import { Glyph } from '~/ui/mark'
import { plural } from '~/ui/number'
import type { Shape, Tone } from '~/ui/state'
import { Time, useNow } from '~/ui/time'

import { needOf } from '../rollouts/attention'

interface Item {
  key: string
  shape: Shape
  tone: Tone
  title: ReactNode
  note: ReactNode
  at?: number | undefined
}

const NAMED = 3
const SEVERITIES: readonly [string, Shape, Tone][] = [
  ['critical', 'cross', 'bad'],
  ['warning', 'bang', 'warn'],
]

/** The first ones by name, the others as a number. */
function some(notes: readonly string[]): string {
  const more = notes.length - NAMED
  return `${notes.slice(0, NAMED).join('; ')}${more > 0 ? ` and ${plural(more, 'other')}` : ''}`
}

function useNames(query: { [key: string]: string }, wanted: boolean): string {
  const found = useQuery({ ...devicesQuery({ ...query, limit: NAMED }), enabled: wanted })
  const names = found.data?.items.map((d) => d.metadata.name) ?? []
  const more = (found.data?.metadata.total ?? names.length) - names.length
  return names.length === 0 ? '' : `${names.join(', ')}${more > 0 ? ` and ${plural(more, 'other')}` : ''}`
}

export function useAttention(summary: DeviceSummary | undefined, rollouts: readonly Rollout[]): Item[] {
  const n = (dimension: 'reachability' | 'health' | 'conformance' | 'lifecycle', word: string): number => summary?.[dimension][word] ?? 0
  const pending = useNames({ lifecycle: 'pending' }, n('lifecycle', 'pending') > 0)
  const failing = useNames({ health: 'failing' }, n('health', 'failing') > 0)
  const held = useNames({ conformance: 'held' }, n('conformance', 'held') > 0)
  const offline = useNames({ reachability: 'offline', sort: '-lastSeen' }, n('reachability', 'offline') > 0)
  const may = useMe()?.permissions.includes('incident.read') === true
  const incidents = useQuery({ ...incidentsQuery({ state: 'open' }), enabled: may })
  const firing = useQuery({ ...alertsQuery({ state: 'firing' }), enabled: may })
  const items: Item[] = []
  const now = useNow()

  const needed = rollouts
    .flatMap((rollout) => {
      const need = needOf(rollout.status.summary, now)
      return need ? [{ rollout, need }] : []
    })
    .toSorted((a, b) => a.need.rank - b.need.rank || b.rollout.status.summary.phaseSince - a.rollout.status.summary.phaseSince)
  const shown = (urgent: boolean): void => {
    for (const { rollout, need } of needed) {
      if (need.rank < 5 !== urgent) continue
      const s = rollout.status.summary
      items.push({
        key: rollout.metadata.uid,
        shape: need.shape,
        tone: need.tone,
        title: (
          <Link to="/rollouts/$id" params={{ id: rollout.metadata.name }} className="hover:text-accent">
            Rollout {rollout.metadata.name} {need.what}
          </Link>
        ),
        note: s.reasons[0]?.message ?? rollout.status.waiting?.[0]?.reason.message ?? '',
        at: s.phaseSince,
      })
    }
  }
  shown(true)

  const [open, fires] = [incidents.data?.items ?? [], firing.data?.items ?? []]
  if (open.length > 0) {
    items.push({
      key: 'incidents',
      shape: 'cross',
      tone: 'bad',
      title: (
        <Link to="/incidents" search={{ state: 'open' }} className="hover:text-accent">
          {plural(open.length, 'incident is', 'incidents are')} open
        </Link>
      ),
      note: some(open.map((i) => `${i.spec.deviceName}: ${i.status.message}`)),
      at: Math.max(...open.map((i) => i.status.lastAt)),
    })
  }
  // What is about a rollout or an incident stands above already.
  const unseen = fires.filter((a) => a.acknowledgedAt === undefined && a.silencedBy.length === 0 && a.subject.kind !== 'Rollout' && a.subject.kind !== 'Incident')
  for (const [severity, shape, tone] of SEVERITIES) {
    const of = unseen.filter((a) => a.severity === severity)
    if (of.length === 0) continue
    items.push({
      key: `alerts-${severity}`,
      shape,
      tone,
      title: (
        <Link to="/alerts" className="hover:text-accent">
          {plural(of.length, `${severity} alert fires`, `${severity} alerts fire`)}
        </Link>
      ),
      note: some(of.map((a) => a.summary)),
      at: Math.max(...of.map((a) => a.startedAt)),
    })
  }
  const states: [string, Shape, Tone, number, Record<string, string>, string, string][] = [
    ['pending', 'dot', 'info', n('lifecycle', 'pending'), { lifecycle: 'pending' }, 'waits for approval', pending],
    ['failing', 'cross', 'bad', n('health', 'failing'), { health: 'failing' }, 'fails its health checks', failing],
    ['held', 'bars', 'warn', n('conformance', 'held'), { conformance: 'held' }, 'went back by itself and is held', held],
    ['offline', 'ring', 'warn', n('reachability', 'offline'), { reachability: 'offline', sort: '-lastSeen' }, 'stopped reporting', offline],
  ]
  const many: Record<string, string> = {
    pending: 'wait for approval',
    failing: 'fail their health checks',
    held: 'went back by themselves and are held',
    offline: 'stopped reporting',
  }
  for (const [key, shape, tone, count, search, one, names] of states) {
    if (count === 0) continue
    items.push({
      key,
      shape,
      tone,
      title: (
        <Link to="/devices" search={search} className="hover:text-accent">
          {plural(count, 'device')} {count === 1 ? one : many[key]}
        </Link>
      ),
      note: names,
    })
  }
  // A draft is work that somebody left, not trouble: last.
  shown(false)
  return items
}

export function Attention({ items }: { items: Item[] }) {
  return (
    <ul className="divide-y divide-line">
      {items.map((item) => (
        <li key={item.key} className="flex items-start gap-3 px-4 py-2.5">
          <span className="pt-1">
            <Glyph shape={item.shape} tone={item.tone} />
          </span>
          <div className="min-w-0 flex-1">
            <p className="font-medium">{item.title}</p>
            {item.note !== '' && <p className="truncate text-sm text-muted">{item.note}</p>}
          </div>
          {item.at !== undefined && <Time at={item.at} className="shrink-0 text-sm text-muted" />}
        </li>
      ))}
    </ul>
  )
}
