/** `/rollouts/new`: which release goes to which channel, in what waves, and when it stops. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'
import { useState } from 'react'

import { ApiError, keyring, post } from '~/api/client'
import { appsQuery, channelsQuery, keys, releasesQuery, summaryQuery } from '~/api/queries'
import { act } from '~/api/rollouts'
import type { Release, Rollout, RolloutSpec, WaveSpec } from '~/api/types'
import { useDenied } from '~/frame/me'
import { Button, buttonClass } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { count, plural } from '~/ui/number'
import { Failure, Page, Section } from '~/ui/panel'
import { toYaml } from '~/ui/yaml'

interface WaveRow {
  key: number
  percent: number
  soakMinutes: number
}

let nextKey = 0
const wave = (percent: number, soakMinutes: number): WaveRow => ({ key: nextKey++, percent, soakMinutes })

/** `edge-web-1-1-0-prod`; names are DNS labels, unique among rollouts. */
export const nameFor = (app: string, version: string, channel: string): string =>
  `${app}-${version}-${channel}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 63)

/** What is wrong with the waves; undefined: nothing. */
export function wrongWaves(waves: { percent: number }[]): string | undefined {
  for (const [i, { percent }] of waves.entries()) {
    if (!Number.isInteger(percent) || percent < 1 || percent > 100) return `Wave ${i + 1} is 1 to 100 percent.`
    const before = waves[i - 1]?.percent ?? 0
    if (percent <= before) return `Percent is cumulative: wave ${i + 1} must be more than ${before}.`
  }
  return waves.at(-1)?.percent === 100 ? undefined : 'The last wave must reach every device: 100 percent.'
}

export function NewRollout() {
  const search = useSearch({ from: '/shell/rollouts/new' })
  const navigate = useNavigate()
  const client = useQueryClient()
  const denied = useDenied('rollout.write')
  const apps = useQuery(appsQuery)
  const channels = useQuery(channelsQuery)
  const releases = useQuery(releasesQuery)
  const [app, setApp] = useState(search.app ?? '')
  const [channel, setChannel] = useState(search.channel ?? '')
  const [release, setRelease] = useState(search.release ?? '')
  const [waves, setWaves] = useState(() => [wave(5, 10), wave(25, 10), wave(100, 10)])
  const [threshold, setThreshold] = useState(30)
  const [budget, setBudget] = useState('25%')
  const [onFailure, setOnFailure] = useState<'rollback' | 'pause'>('rollback')
  const [name, setName] = useState<string | undefined>()
  const [comment, setComment] = useState('')
  const [keyFor] = useState(keyring)

  const chosenApp = app || (apps.data?.items.length === 1 ? (apps.data.items[0]?.metadata.name ?? '') : '')
  const ofApp = (releases.data?.items ?? []).filter((r) => r.spec.manifest.app === chosenApp)
  const version = (r: Release): string => r.spec.manifest.version
  const current = channels.data?.items.find((c) => c.metadata.name === channel)?.status.releases.find((r) => r.app === chosenApp)?.version
  const reach = useQuery({ ...summaryQuery({ channel, app: chosenApp }), enabled: channel !== '' && chosenApp !== '' })
  const population = reach.data?.total

  const shownName = name ?? (chosenApp && channel && release ? nameFor(chosenApp, release, channel) : '')
  const spec: RolloutSpec = {
    app: chosenApp,
    channel,
    release: `${chosenApp}@${release}`,
    waves: waves.map((w): WaveSpec => ({ percent: w.percent, soakSeconds: Math.round(w.soakMinutes * 60) })),
    failureThreshold: threshold,
    maxUnavailable: /^\d+$/.test(budget) ? Number(budget) : budget,
    onFailure,
  }
  const yaml = (): string => toYaml({ apiVersion: 'farshore.dev/v1', kind: 'Rollout', metadata: { name: shownName }, spec })
  const bad = wrongWaves(waves)
  const missing = [chosenApp === '' && 'an app', channel === '' && 'a channel', release === '' && 'a release'].filter(Boolean)

  const make = useMutation({
    mutationFn: async (start: boolean) => {
      const body = { metadata: { name: shownName }, spec }
      // Without a reason to keep, it starts as it is made.
      if (start && comment === '') return post<Rollout>('/rollouts', body, keyFor([body, 'start']))
      const made = await post<Rollout>('/rollouts?start=false', body, keyFor([body, 'later']))
      if (start) await act(made.metadata.uid, 'start', { comment }, keyFor([made.metadata.uid, comment]))
      return made
    },
    onSuccess: (made) => {
      void client.invalidateQueries({ queryKey: keys.rollouts })
      void navigate({ to: '/rollouts/$id', params: { id: made.metadata.name } })
    },
  })
  const problem = make.error instanceof ApiError ? make.error : undefined
  const change = (at: number, part: Partial<WaveRow>): void =>
    setWaves(waves.map((w, i) => (i === at ? { ...w, ...part } : w)))
  const off = denied ?? (missing.length > 0 ? `Choose ${missing.join(', ')} first.` : bad)

  return (
    <Page
      title="New rollout"
      above={
        <Link to="/rollouts" className="text-sm text-muted hover:text-ink">
          Rollouts
        </Link>
      }
    >
      <form
        className="grid max-w-5xl items-start gap-4 lg:grid-cols-2"
        onSubmit={(event) => {
          event.preventDefault()
          if (off === undefined) make.mutate(true)
        }}
      >
        <Section title="What goes where">
          <div className="flex flex-col gap-4">
            <Field label="App" error={problem?.field('app')}>
              {(ids) => (
                <select {...ids} className="field" value={chosenApp} onChange={(e) => { setApp(e.target.value); setRelease('') }}>
                  <option value="">Choose an app</option>
                  {apps.data?.items.map((a) => <option key={a.metadata.uid}>{a.metadata.name}</option>)}
                </select>
              )}
            </Field>
            <Field
              label="Channel"
              error={problem?.field('channel')}
              help={population === undefined ? undefined : `${plural(population, 'device')} of this channel ${population === 1 ? 'runs' : 'run'} ${chosenApp}${current === undefined ? '' : `; the channel is at ${current}`}.`}
            >
              {(ids) => (
                <select {...ids} className="field" value={channel} onChange={(e) => setChannel(e.target.value)}>
                  <option value="">Choose a channel</option>
                  {channels.data?.items.map((c) => <option key={c.metadata.uid}>{c.metadata.name}</option>)}
                </select>
              )}
            </Field>
            <Field label="Release" error={problem?.field('release')} help={chosenApp !== '' && releases.isSuccess && ofApp.length === 0 ? 'This app has no release yet.' : undefined}>
              {(ids) => (
                <select {...ids} className="field" value={release} onChange={(e) => setRelease(e.target.value)}>
                  <option value="">Choose a release</option>
                  {ofApp.map((r) => (
                    <option key={r.metadata.uid} value={version(r)}>
                      {version(r)}
                      {version(r) === current ? ' (the channel has it)' : ''}
                    </option>
                  ))}
                </select>
              )}
            </Field>
            <Field label="Name" error={problem?.field('name')} help="Made from the above when left empty.">
              {(ids) => <input {...ids} className="field" value={shownName} onChange={(e) => setName(e.target.value || undefined)} />}
            </Field>
          </div>
        </Section>

        <Section title="Waves">
          <div className="flex flex-col gap-2">
            {waves.map((w, i) => {
              const upTo = population === undefined ? undefined : Math.min(population, Math.max(1, Math.ceil((population * w.percent) / 100)))
              return (
                <div key={w.key} className="flex flex-wrap items-center gap-2">
                  <span className="w-14 font-medium">Wave {i + 1}</span>
                  <label className="flex items-center gap-1.5">
                    <span className="text-muted">to</span>
                    <input type="number" min={1} max={100} required aria-label={`Wave ${i + 1}, percent`} className="field w-18!" value={w.percent} onChange={(e) => change(i, { percent: e.target.valueAsNumber })} />%
                  </label>
                  <label className="flex items-center gap-1.5">
                    <span className="text-muted">soaks</span>
                    <input type="number" min={0} max={43200} step="any" required aria-label={`Wave ${i + 1}, soak in minutes`} className="field w-18!" value={w.soakMinutes} onChange={(e) => change(i, { soakMinutes: e.target.valueAsNumber })} />
                    min
                  </label>
                  <span className="text-sm text-muted">{upTo === undefined ? '' : `${count(upTo)} in all`}</span>
                  <span className="flex-1" />
                  <button type="button" aria-label={`Remove wave ${i + 1}`} className={buttonClass('ghost', true)} onClick={() => setWaves(waves.filter((_, at) => at !== i))} disabled={waves.length === 1}>
                    <Icon name="close" size={12} />
                  </button>
                </div>
              )
            })}
            {bad !== undefined && <p className="text-sm text-bad">{bad}</p>}
            <div>
              <Button
                small
                onClick={() => {
                  const before = waves.at(-2)?.percent ?? 0
                  setWaves([...waves.slice(0, -1), wave(Math.min(99, Math.max(before + 1, Math.round((before + 100) / 2))), 10), ...waves.slice(-1)])
                }}
              >
                <Icon name="plus" size={12} />
                Add a wave
              </Button>
            </div>
          </div>
          <div className="mt-5 grid gap-4 sm:grid-cols-2">
            <Field label="Halts at" help="Percent of a wave’s reporting devices that failed." error={problem?.field('failureThreshold')}>
              {(ids) => <input {...ids} type="number" min={1} max={100} required className="field" value={threshold} onChange={(e) => setThreshold(e.target.valueAsNumber)} />}
            </Field>
            <Field label="At once" help="Devices in flight: a number, or a percentage such as 25%." error={problem?.field('maxUnavailable')}>
              {(ids) => <input {...ids} className="field" required pattern="[0-9]{1,7}|[0-9]{1,3}%" value={budget} onChange={(e) => setBudget(e.target.value.trim())} />}
            </Field>
            <Field label="When it halts" className="sm:col-span-2">
              {(ids) => (
                <select {...ids} className="field" value={onFailure} onChange={(e) => setOnFailure(e.target.value === 'pause' ? 'pause' : 'rollback')}>
                  <option value="rollback">Take every touched device back to the old release</option>
                  <option value="pause">Pause and wait for a person</option>
                </select>
              )}
            </Field>
          </div>
        </Section>

        <div className="flex flex-col gap-4 lg:col-span-2">
          <Field label="Why" help="Kept in the history.">
            {(ids) => <input {...ids} className="field" value={comment} onChange={(e) => setComment(e.target.value)} />}
          </Field>
          {make.isError && <Failure what="The rollout was not made" error={make.error} />}
          <div className="flex flex-wrap items-center gap-2">
            <Button type="submit" kind="primary" disabledReason={off} busy={make.isPending}>
              <Icon name="play" size={14} />
              Start{population !== undefined && off === undefined ? ` for ${plural(population, 'device')}` : ''}
            </Button>
            <Button disabledReason={off} busy={make.isPending} onClick={() => make.mutate(false)}>
              Make it, start later
            </Button>
            <span className="flex-1" />
            <CopyButton small={false} label="Copy as YAML" text={yaml} />
          </div>
        </div>
      </form>
    </Page>
  )
}
