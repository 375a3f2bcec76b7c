/** A table of incidents; the same in the list, on a device and on a rollout. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import type { Query } from '~/api/client'
import { incidentsQuery, type Incident } from '~/api/incidents'
import { useMe } from '~/frame/me'
import { Mark } from '~/ui/mark'
import { plural } from '~/ui/number'
import { Failure, Section } from '~/ui/panel'
import { Table, type Column } from '~/ui/table'
import { Time } from '~/ui/time'

import { actionOf, causeOf, INCIDENT_STATES, UNKNOWN } from './look'

const device: Column<Incident> = {
  title: 'Device',
  cell: (i) => (
    <Link to="/devices/$id" params={{ id: i.spec.deviceName }} className="hover:text-accent">
      {i.spec.deviceName}
    </Link>
  ),
}

const columns: Column<Incident>[] = [
  {
    title: 'Incident',
    cell: (i) => (
      <Link to="/incidents/$id" params={{ id: i.metadata.name }} className="font-medium hover:text-accent">
        {causeOf(i.spec.cause)}
        {i.spec.app !== undefined && <span className="text-muted"> · {i.spec.app}</span>}
      </Link>
    ),
  },
  device,
  {
    title: 'State',
    cell: (i) => <Mark word={i.status.state} look={INCIDENT_STATES[i.status.state] ?? UNKNOWN} />,
  },
  {
    title: 'Done by the device',
    wide: true,
    cell: (i) =>
      i.status.actions.length === 0
        ? '–'
        : i.status.actions.map((a) => actionOf(a.kind) + (a.count > 1 ? ` ×${a.count}` : '')).join(', '),
  },
  { title: 'Began', right: true, cell: (i) => <Time at={i.spec.startedAt} /> },
]

export function IncidentTable({ items, without }: { items: readonly Incident[]; without?: 'device' }) {
  const shown = without === 'device' ? columns.filter((c) => c !== device) : columns
  return <Table label="Incidents" items={items} id={(i) => i.metadata.uid} columns={shown} />
}

const FEW = 5

/** The incidents of one device or rollout; nothing where there never was one. */
export function IncidentPanel({ of, without }: { of: Query; without?: 'device' }) {
  const me = useMe()
  const may = me?.permissions.includes('incident.read') === true
  const incidents = useQuery({ ...incidentsQuery({ ...of, limit: 20 }), enabled: may })
  const items = incidents.data?.items ?? []
  if (incidents.isError) return <Failure what="The incidents can’t be listed" error={incidents.error} retry={() => void incidents.refetch()} />
  if (items.length === 0) return null
  const open = items.filter((i) => i.status.state === 'open').length
  return (
    <Section title="Incidents" flush actions={<span className="text-sm text-muted">{open > 0 ? `${plural(open, 'incident')} open` : 'none open'}</span>}>
      <IncidentTable items={items.slice(0, FEW)} {...(without ? { without } : {})} />
    </Section>
  )
}
