/** `/incidents/$id`: one incident: what happened, what was done, the evidence. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useParams } from '@tanstack/react-router'
import { useState, type ReactNode } from 'react'

import { ApiError, post, seg } from '~/api/client'
import { downloadEvidence, incidentQuery, type Incident } from '~/api/incidents'
import { eventsQuery, keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Mark } from '~/ui/mark'
import { bytes } from '~/ui/number'
import { Empty, Failure, Loading, Page, Section, StaleNote } from '~/ui/panel'
import { clockSeconds, duration, Time } from '~/ui/time'

import { actionOf, causeOf, INCIDENT_STATES, UNKNOWN } from './look'

export function IncidentView() {
  const { id } = useParams({ from: '/shell/incidents/$id' })
  const incident = useQuery(incidentQuery(id))
  const above = (
    <nav aria-label="Breadcrumb" className="text-sm text-muted">
      <Link to="/incidents" className="hover:text-ink">
        Incidents
      </Link>
    </nav>
  )
  if (!incident.data) {
    const gone = incident.error instanceof ApiError && incident.error.status === 404
    return (
      <Page title={id} above={above}>
        {gone ? (
          <Empty title="There is no such incident" />
        ) : incident.isError ? (
          <Failure what="The incident can’t be shown" error={incident.error} retry={() => void incident.refetch()} />
        ) : (
          <Section title="Timeline">
            <Loading what="the incident" />
          </Section>
        )}
      </Page>
    )
  }
  const shown = incident.data
  const { spec, status } = shown
  return (
    <Page
      title={shown.metadata.name}
      above={above}
      beside={<Mark word={status.state} look={INCIDENT_STATES[status.state] ?? UNKNOWN} focusable className="text-lg font-medium" />}
      actions={<Actions incident={shown} />}
    >
      {incident.isError && <StaleNote error={incident.error} since={<Time at={incident.dataUpdatedAt} />} />}
      <p className="-mt-2 text-lg [overflow-wrap:anywhere]">
        <span className="font-medium">{causeOf(spec.cause)}</span>: {status.message}
      </p>
      <Facts incident={shown} />
      <Timeline incident={shown} />
      <EvidenceSection incident={shown} />
    </Page>
  )
}

function Facts({ incident }: { incident: Incident }) {
  const { spec, status } = incident
  const over = status.endedAt ?? status.resolvedAt
  const facts: [string, ReactNode][] = [
    [
      'Device',
      <Link key="d" to="/devices/$id" params={{ id: spec.deviceName }} className="hover:text-accent">
        {spec.deviceName}
        {spec.location !== '' && <span className="text-muted"> · {spec.location}</span>}
      </Link>,
    ],
    ['App', spec.app === undefined ? 'the device itself' : `${spec.app} ${spec.version ?? ''}`],
    [
      'Rollout',
      spec.rollout === undefined ? (
        'none'
      ) : (
        <Link key="r" to="/rollouts/$id" params={{ id: spec.rolloutName ?? spec.rollout }} className="hover:text-accent">
          {spec.rolloutName ?? spec.rollout}
        </Link>
      ),
    ],
    ['Began', <Time key="b" at={spec.startedAt} />],
    ['Well again', over === undefined ? 'not yet' : `after ${duration(over - spec.startedAt)}`],
    ['Signs', String(status.signs)],
    ['Acknowledged', status.acknowledgedBy === undefined ? 'by nobody yet' : `by ${status.acknowledgedBy}`],
    ['Resolved', status.resolvedBy === undefined ? 'not yet' : `by ${status.resolvedBy}`],
  ]
  return (
    <dl className="panel grid grid-cols-2 gap-x-6 gap-y-2 px-4 py-3 sm:grid-cols-4">
      {facts.map(([name, value]) => (
        <div key={name} className="min-w-0">
          <dt className="text-sm text-muted">{name}</dt>
          <dd className="[overflow-wrap:anywhere]">{value}</dd>
        </div>
      ))}
    </dl>
  )
}

interface Line {
  at: number
  what: string
  detail: string
  own: boolean
}

const BEFORE_MS = 10 * 60_000
const EVENTS = 200

/** What the device did and what people did, with its events in between. */
function Timeline({ incident }: { incident: Incident }) {
  const { spec, status } = incident
  const events = useQuery(eventsQuery({ subjectKind: 'Device', subject: spec.device, limit: EVENTS }))
  const until = (status.endedAt ?? status.resolvedAt ?? Number.POSITIVE_INFINITY) + 60_000
  const lines: Line[] = [
    { at: spec.startedAt, what: 'Began', detail: status.message, own: true },
    ...status.actions.map((a) => ({
      at: a.at,
      what: actionOf(a.kind) + (a.count > 1 ? ` ×${a.count}` : ''),
      detail: a.message,
      own: true,
    })),
    ...status.notes.map((n) => ({ at: n.at, what: n.did, detail: `${n.by}${n.comment === '' ? '' : `: ${n.comment}`}`, own: true })),
    ...(status.endedAt === undefined ? [] : [{ at: status.endedAt, what: 'Well again', detail: '', own: true }]),
    ...(events.data?.items ?? [])
      .filter((e) => e.at >= spec.startedAt - BEFORE_MS && e.at <= until)
      .map((e) => ({ at: e.at, what: e.type, detail: e.message, own: false })),
  ]
  lines.sort((a, b) => a.at - b.at)
  return (
    <Section title="Timeline" flush>
      <ol className="divide-y divide-line">
        {lines.map((line, index) => (
          <li key={`${line.at}-${index}`} className="grid grid-cols-[5rem_minmax(9rem,12rem)_1fr] gap-x-3 px-4 py-1.5">
            <time dateTime={new Date(line.at).toISOString()} className="text-muted">
              {clockSeconds(line.at)}
            </time>
            <span className={line.own ? 'font-medium' : 'text-muted'}>{line.what}</span>
            <span className="[overflow-wrap:anywhere]">{line.detail}</span>
          </li>
        ))}
      </ol>
    </Section>
  )
}

function EvidenceSection({ incident }: { incident: Incident }) {
  const run = useMutation({ mutationFn: () => downloadEvidence(incident), onSuccess: () => announce('Evidence downloaded') })
  const parts = incident.status.evidence
  return (
    <Section
      title="Evidence"
      actions={
        <>
          <Button small busy={run.isPending} onClick={() => run.mutate()}>
            Download the archive
          </Button>
          <CopyButton label="Command" text={`farshore incident evidence ${incident.metadata.name}`} />
        </>
      }
    >
      {run.isError && <Failure what="The archive can’t be downloaded" error={run.error} />}
      <p>
        One archive with the release, the rollout, the app’s log, measurements and events from ten minutes before, and a post-mortem to be
        filled in.
      </p>
      {parts.length === 0 ? (
        <p className="mt-1 text-muted">No black box has come from the device yet.</p>
      ) : (
        <ul className="mt-1 text-muted">
          {parts.map((part) => (
            <li key={part.part}>
              Black box “{part.part}”, taken <Time at={part.takenAt} />, {bytes(part.bytes)}
            </li>
          ))}
        </ul>
      )}
    </Section>
  )
}

function Actions({ incident }: { incident: Incident }) {
  const denied = useDenied('incident.write')
  const [asked, setAsked] = useState<'acknowledge' | 'resolve' | undefined>()
  const { status } = incident
  return (
    <>
      <Button
        disabledReason={denied ?? (status.acknowledgedBy === undefined ? undefined : `${status.acknowledgedBy} has done so already.`)}
        onClick={() => setAsked('acknowledge')}
      >
        Acknowledge…
      </Button>
      <Button
        kind="primary"
        disabledReason={denied ?? (status.state === 'open' ? undefined : 'It is resolved already.')}
        onClick={() => setAsked('resolve')}
      >
        Resolve…
      </Button>
      <CopyButton small={false} label="Command" text={`farshore describe incident/${incident.metadata.name}`} />
      {asked && <Say incident={incident} verb={asked} onClose={() => setAsked(undefined)} />}
    </>
  )
}

function Say({ incident, verb, onClose }: { incident: Incident; verb: 'acknowledge' | 'resolve'; onClose: () => void }) {
  const client = useQueryClient()
  const [comment, setComment] = useState('')
  const run = useMutation({
    mutationFn: () => post<Incident>(`/incidents/${seg(incident.metadata.uid)}:${verb}`, { comment }),
    onSuccess: () => {
      announce(verb === 'resolve' ? 'Incident resolved' : 'Incident acknowledged')
      void client.invalidateQueries({ queryKey: keys.incidents })
      onClose()
    },
  })
  const title = verb === 'resolve' ? 'Resolve' : 'Acknowledge'
  return (
    <Dialog
      title={`${title} ${incident.metadata.name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={run.isPending} onClick={() => run.mutate()}>
            {title}
          </Button>
        </>
      }
    >
      <p className="mb-3">
        {verb === 'resolve' ? 'It opens again by itself when the device tells of more.' : 'Others see that you look after it.'}
      </p>
      <Field label="Comment">
        {(ids) => <textarea {...ids} className="field h-20 w-full" maxLength={1000} value={comment} onChange={(e) => setComment(e.target.value)} />}
      </Field>
      {run.isError && (
        <div className="mt-3">
          <Failure what="That did not work" error={run.error} />
        </div>
      )}
    </Dialog>
  )
}
