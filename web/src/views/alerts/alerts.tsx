/** `/alerts`: what fires, by location; acknowledge, silence. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useSearch } from '@tanstack/react-router'
import { useState } from 'react'

import { del, post, seg } from '~/api/client'
import { alertsQuery, silencesQuery, type Alert, type Silence } from '~/api/incidents'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Mark } from '~/ui/mark'
import { plural } from '~/ui/number'
import { Empty, Failure, Page, Section } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table, type Column } from '~/ui/table'
import { Time } from '~/ui/time'

import { byLocation } from './group'
import { AlertPlaces, SEVERITIES, UNKNOWN } from './places'
import { SilenceDialog } from './silence'

function Subject({ alert }: { alert: Alert }) {
  const { kind, name } = alert.subject
  const className = 'font-medium hover:text-accent'
  if (kind === 'Device') return <Link to="/devices/$id" params={{ id: name }} className={className}>{name}</Link>
  if (kind === 'Rollout') return <Link to="/rollouts/$id" params={{ id: name }} className={className}>{name}</Link>
  if (kind === 'Incident') return <Link to="/incidents/$id" params={{ id: name }} className={className}>{name}</Link>
  return <span className="font-medium">{name}</span>
}

export function Alerts() {
  const { state = 'firing' } = useSearch({ from: '/shell/alerts' })
  const alerts = useQuery(alertsQuery({ state }))
  const [silencing, setSilencing] = useState<Alert | 'new' | undefined>()
  const denied = useDenied('incident.write')
  return (
    <Page
      title="Alerts"
      actions={
        <>
          <AlertPlaces at={state} />
          <Button disabledReason={denied} onClick={() => setSilencing('new')}>
            New silence…
          </Button>
          <CopyButton small={false} label="Command" text="farshore get alerts" />
        </>
      }
    >
      <Resource
        query={alerts}
        what="alerts"
        empty={
          <Empty title={state === 'firing' ? 'Nothing fires' : 'No alert was over yet'}>
            <p className="text-center">Alerts come from rules: a device that is not heard, an app that ends again and again, a rollout that halted, …</p>
          </Empty>
        }
      >
        {(items) => (
          <>
            {byLocation(items).map(({ location, alerts: some }) => (
              <Section
                key={location}
                flush
                title={location === '' ? 'Without a location' : location}
                actions={<span className="text-sm text-muted">{plural(some.length, 'alert')}</span>}
              >
                <AlertTable alerts={some} denied={denied} label={location} onSilence={setSilencing} />
              </Section>
            ))}
          </>
        )}
      </Resource>
      <Silences denied={denied} />
      {silencing && <SilenceDialog alert={silencing === 'new' ? undefined : silencing} onClose={() => setSilencing(undefined)} />}
    </Page>
  )
}

interface AlertTableProps {
  alerts: Alert[]
  label: string
  denied: string | undefined
  onSilence: (alert: Alert) => void
}

function AlertTable({ alerts, label, denied, onSilence }: AlertTableProps) {
  const client = useQueryClient()
  const run = useMutation({
    mutationFn: (alert: Alert) => post<Alert>(`/alerts/${seg(alert.uid)}:acknowledge`, {}),
    onSuccess: () => {
      announce('Alert acknowledged')
      void client.invalidateQueries({ queryKey: keys.alerts })
    },
  })
  const columns: Column<Alert>[] = [
    { title: 'Severity', cell: (a) => <Mark word={a.severity} look={SEVERITIES[a.severity] ?? UNKNOWN} /> },
    { title: 'About', plain: true, cell: (a) => <Subject alert={a} /> },
    {
      title: 'Summary',
      plain: true,
      cell: (a) => (
        <>
          <span className="[overflow-wrap:anywhere]">{a.summary}</span>
          <span className="block text-sm text-muted">
            {a.rule}
            {a.silencedBy.length > 0 && ` · silenced by ${a.silencedBy.join(', ')}`}
            {a.acknowledgedBy !== undefined && ` · acknowledged by ${a.acknowledgedBy}`}
          </span>
        </>
      ),
    },
    { title: 'Since', cell: (a) => <Time at={a.startedAt} /> },
    {
      title: 'Actions',
      plain: true,
      right: true,
      cell: (a) =>
        a.state === 'firing' && (
          <span className="flex gap-1 sm:justify-end">
            <Button
              small
              aria-label={`Acknowledge ${a.subject.name}`}
              busy={run.isPending && run.variables.uid === a.uid}
              disabledReason={denied ?? (a.acknowledgedBy === undefined ? undefined : `${a.acknowledgedBy} has done so already.`)}
              onClick={() => run.mutate(a)}
            >
              Acknowledge
            </Button>
            <Button small aria-label={`Silence ${a.subject.name}`} disabledReason={denied} onClick={() => onSilence(a)}>
              Silence…
            </Button>
          </span>
        ),
    },
  ]
  return (
    <>
      {run.isError && <Failure what="That did not work" error={run.error} />}
      <Table label={`Alerts: ${label === '' ? 'without a location' : label}`} items={alerts} id={(a) => a.uid} columns={columns} />
    </>
  )
}

/** Silences that hold or will hold. */
function Silences({ denied }: { denied: string | undefined }) {
  const client = useQueryClient()
  const silences = useQuery(silencesQuery)
  const run = useMutation({
    mutationFn: (silence: Silence) => del(`/silences/${seg(silence.metadata.uid)}`),
    onSuccess: () => {
      announce('Silence ended')
      void client.invalidateQueries({ queryKey: keys.silences })
      void client.invalidateQueries({ queryKey: keys.alerts })
    },
  })
  const items = (silences.data?.items ?? []).filter((s) => s.status.state !== 'expired')
  if (items.length === 0) return null
  return (
    <Section title="Silences" flush>
      {run.isError && <Failure what="That did not work" error={run.error} />}
      <Table
        label="Silences"
        items={items}
        id={(s) => s.metadata.uid}
        columns={[
          { title: 'Name', cell: (s) => <span className="font-medium">{s.metadata.name}</span> },
          { title: 'Matches', cell: (s) => s.spec.matchers.map((m) => `${m.name}${m.isEqual === false ? '≠' : '='}${m.value}`).join(', ') },
          { title: 'Ends', cell: (s) => <Time at={s.spec.endsAt} /> },
          { title: 'Comment', wide: true, cell: (s) => s.spec.comment },
          {
            title: 'Actions',
            plain: true,
            right: true,
            cell: (s) => (
              <Button small kind="danger" aria-label={`End ${s.metadata.name}`} disabledReason={denied} onClick={() => run.mutate(s)}>
                End
              </Button>
            ),
          },
        ]}
      />
    </Section>
  )
}
