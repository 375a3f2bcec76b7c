/** `/rollouts/$id`: one rollout, judged in front of one's eyes; before its start, what it would do. */
import { useQuery } from '@tanstack/react-query'
import { Link, useParams, useSearch } from '@tanstack/react-router'

import { ApiError } from '~/api/client'
import { forecastQuery, isFinal, isMoving, rolloutQuery, rolloutWhyQuery } from '~/api/rollouts'
import type { Cause, Rollout } from '~/api/rollout-types'
import { CopyButton } from '~/ui/copy'
import { Mark } from '~/ui/mark'
import { percent, plural } from '~/ui/number'
import { Empty, Failure, Loading, Page, Section, StaleNote } from '~/ui/panel'
import { Time } from '~/ui/time'
import { WhyChain } from '~/ui/why-chain'
import { toYaml } from '~/ui/yaml'

import { IncidentPanel } from '../incidents/list'
import { ApprovalNote } from './approval'
import { RolloutDevices } from './devices'
import { Evidence } from './evidence'
import { ForecastView } from './forecast'
import { History } from './history'
import { PHASES } from './look'
import { RolloutVerbs } from './verbs'
import { Waves } from './waves'

export function RolloutView() {
  const { id } = useParams({ from: '/shell/rollouts/$id' })
  const { bucket, by } = useSearch({ from: '/shell/rollouts/$id' })
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
      <ApprovalNote rollout={shown} />
      {s.phase === 'pending' ? (
        <ForecastView rollout={shown} />
      ) : (
        <>
          <RunningWaves rollout={shown} />
          <Evidence summary={s} spec={shown.spec} groups={shown.status.groups ?? []} />
          <RolloutDevices rollout={shown} bucket={bucket} by={by} />
        </>
      )}
      <IncidentPanel of={{ rollout: shown.metadata.uid }} />
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
          {s.wave > 0 && ` · wave ${s.wave} of ${s.waves.length}`}
          {s.population > 0 && ` · ${plural(s.population, 'device')}`}
          {s.activation === 'blue-green' && ' · blue-green, the old release is kept for the soak'} · halts at {percent(s.threshold)}
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
      <WhyOf rollout={rollout} />
    </div>
  )
}

/** The live chain; until it is there, or where it can't be had, what the rollout itself says. */
function WhyOf({ rollout }: { rollout: Rollout }) {
  const s = rollout.status.summary
  const why = useQuery(rolloutWhyQuery(rollout.metadata.uid, isMoving(s.phase)))
  const own: Cause[] = [
    ...s.reasons,
    ...(rollout.status.waiting ?? []).map((w) => ({ ...w.reason, owner: w.owner, deadline: w.until })),
  ]
  return <WhyChain chain={why.data?.chain ?? own} about={`rollout/${rollout.metadata.name}`} />
}

/** A forecast is work for the server; what runs is foretold anew at most this often. */
const FORECAST_MS = 120_000

function RunningWaves({ rollout }: { rollout: Rollout }) {
  const s = rollout.status.summary
  const wanted = !isFinal(s.phase) && s.phase !== 'rolling-back'
  const forecast = useQuery({
    ...forecastQuery(rollout.metadata.uid),
    enabled: wanted,
    staleTime: FORECAST_MS,
    refetchInterval: FORECAST_MS,
    refetchOnWindowFocus: false,
  })
  return <Waves summary={s} spec={rollout.spec} forecast={wanted ? forecast.data : undefined} />
}
