/** `/rollouts/$id`: one rollout, judged in front of one's eyes. */
import { useQuery } from '@tanstack/react-query'
import { Link, useParams, useSearch } from '@tanstack/react-router'

import { ApiError } from '~/api/client'
import { isFinal, rolloutQuery } from '~/api/rollouts'
import type { HistoryEntry, Rollout, Waiting } from '~/api/types'
import { CopyButton } from '~/ui/copy'
import { Mark } from '~/ui/mark'
import { percent, plural } from '~/ui/number'
import { Empty, Failure, Loading, Page, Section, StaleNote } from '~/ui/panel'
import { Time } from '~/ui/time'
import { Why } from '~/ui/why'
import { toYaml } from '~/ui/yaml'

import { eventLook } from '../device/events'
import { Glyph } from '~/ui/mark'
import { RolloutDevices } from './devices'
import { Evidence } from './evidence'
import { PHASES } from './look'
import { RolloutVerbs } from './verbs'
import { Waves } from './waves'

export function RolloutView() {
  const { id } = useParams({ from: '/shell/rollouts/$id' })
  const { bucket } = useSearch({ from: '/shell/rollouts/$id' })
  const rollout = useQuery(rolloutQuery(id))
  const above = (
    <nav aria-label="Breadcrumb" className="text-sm text-muted">
      <Link to="/rollouts" className="hover:text-ink">
        Rollouts
      </Link>
    </nav>
  )
  if (!rollout.data) {
    const gone = rollout.error instanceof ApiError && rollout.error.status === 404
    return (
      <Page title={id} above={above}>
        {gone ? (
          <Empty title="There is no such rollout" />
        ) : rollout.isError ? (
          <Failure what="The rollout can’t be shown" error={rollout.error} retry={() => void rollout.refetch()} />
        ) : (
          <>
            <Section title="Evidence">
              <Loading what="the rollout" lines={2} />
            </Section>
            <Section title="Waves" className="min-h-56">
              <Loading what="waves" />
            </Section>
          </>
        )}
      </Page>
    )
  }
  const shown = rollout.data
  const s = shown.status.summary
  return (
    <Page
      title={shown.metadata.name}
      above={above}
      beside={<Mark word={s.phase} look={PHASES[s.phase] ?? PHASES.unknown} focusable className="text-lg font-medium" />}
      actions={
        <>
          <RolloutVerbs rollout={shown} />
          <CopyButton small={false} label="Command" text={`farshore describe rollout/${shown.metadata.name}`} />
          <CopyButton small={false} label="YAML" text={() => toYaml({ apiVersion: shown.apiVersion, kind: shown.kind, metadata: { name: shown.metadata.name }, spec: shown.spec })} />
        </>
      }
    >
      {rollout.isError && <StaleNote error={rollout.error} since={<Time at={rollout.dataUpdatedAt} />} />}
      <Head rollout={shown} />
      <Evidence summary={s} />
      <Waves summary={s} />
      <RolloutDevices rollout={shown} bucket={bucket} />
      <History entries={shown.status.history ?? []} />
    </Page>
  )
}

function Head({ rollout }: { rollout: Rollout }) {
  const s = rollout.status.summary
  return (
    <div className="-mt-2 flex flex-col gap-1">
      <p className="text-lg">
        <Link to="/releases" search={{ app: s.app }} className="font-medium hover:text-accent">
          {s.app}
        </Link>{' '}
        {s.from && <span className="text-muted">{s.from.version} → </span>}
        <span className="font-medium">{s.to.version}</span>
        <span className="text-muted"> in channel </span>
        <Link to="/devices" search={{ channel: s.channel }} className="font-medium hover:text-accent">
          {s.channel}
        </Link>
        <span className="text-muted">
          {s.wave > 0 && ` · wave ${s.wave} of ${s.waves.length}`} · {plural(s.population, 'device')} · halts at {percent(s.threshold)}
          {s.startedAt !== undefined && (
            <>
              {' '}
              · started <Time at={s.startedAt} />
            </>
          )}
          {s.finishedAt !== undefined && (
            <>
              {' '}
              · ended <Time at={s.finishedAt} />
            </>
          )}
        </span>
      </p>
      <Why reasons={s.reasons} />
      <WaitingFor waiting={rollout.status.waiting ?? []} />
      {s.deadline !== undefined && !isFinal(s.phase) && (
        <p className="text-sm text-muted">
          Decides by itself at the latest <Time at={s.deadline} />.
        </p>
      )}
    </div>
  )
}

const OWNERS: Record<Waiting['owner'], string> = {
  engine: 'nobody needs to act',
  device: 'the device has to act',
  operator: 'a person has to act',
  unknown: '',
}

function WaitingFor({ waiting }: { waiting: Waiting[] }) {
  if (waiting.length === 0) return null
  return (
    <div className="flex gap-1.5">
      <span className="whitespace-nowrap text-muted">waits for:</span>
      <ul className="min-w-0">
        {waiting.map((one) => (
          <li key={`${one.reason.code}${one.reason.message}`} className="[overflow-wrap:anywhere]">
            <span className={one.owner === 'operator' ? 'font-medium text-warn' : undefined}>{one.reason.message}</span>{' '}
            <span className="text-sm text-muted">
              {OWNERS[one.owner] ?? ''}; until <Time at={one.until} />
            </span>
          </li>
        ))}
      </ul>
    </div>
  )
}

function History({ entries }: { entries: HistoryEntry[] }) {
  return (
    <Section title="History" flush>
      {entries.length === 0 ? (
        <p className="px-4 py-3 text-muted">Nothing has happened yet.</p>
      ) : (
        <ol className="divide-y divide-line">
          {entries.toReversed().map((entry) => {
            const { shape, tone } = eventLook(entry.what.toLowerCase())
            return (
              <li key={`${entry.at}${entry.what}${entry.message}`} className="flex gap-2.5 px-4 py-2">
                <span className="pt-1">
                  <Glyph shape={shape} tone={tone} />
                </span>
                <div className="min-w-0 flex-1">
                  <p className="[overflow-wrap:anywhere]">{entry.message}</p>
                  {entry.comment !== undefined && entry.comment !== '' && <p className="text-muted">“{entry.comment}”</p>}
                </div>
                <Time at={entry.at} className="shrink-0 text-sm text-muted" />
              </li>
            )
          })}
        </ol>
      )}
    </Section>
  )
}
