/** `/rollouts/new`: which release goes to which channel, in what waves, and when it stops. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'
import { useState } from 'react'

import { ApiError, keyring, post } from '~/api/client'
import { appsQuery, channelsQuery, keys, releasesQuery, summaryQuery } from '~/api/queries'
import { act } from '~/api/rollouts'
import type { ApprovalRule, Rollout } from '~/api/rollout-types'
import type { Release } from '~/api/types'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { plural } from '~/ui/number'
import { Failure, Page, Section } from '~/ui/panel'
import { toYaml } from '~/ui/yaml'

import { Advanced } from './advanced'
import { commandOf, freshDraft, nameFor, specOf, wrongWaves, type Draft } from './draft'
import { APPROVALS, WavesEditor } from './waves-editor'

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
  const [draft, setDraft] = useState(freshDraft)
  const set = (part: Partial<Draft>): void => setDraft((before) => ({ ...before, ...part }))
  const [name, setName] = useState<string | undefined>()
  const [comment, setComment] = useState('')
  const [keyFor] = useState(keyring)

  const chosenApp = app || (apps.data?.items.length === 1 ? (apps.data.items[0]?.metadata.name ?? '') : '')
  const ofApp = (releases.data?.items ?? []).filter((r) => r.spec.manifest.app === chosenApp)
  const version = (r: Release): string => r.spec.manifest.version
  const slots = ofApp.find((r) => version(r) === release)?.spec.manifest.run.slots
  const current = channels.data?.items.find((c) => c.metadata.name === channel)?.status.releases.find((r) => r.app === chosenApp)?.version
  const reach = useQuery({ ...summaryQuery({ channel, app: chosenApp }), enabled: channel !== '' && chosenApp !== '' })
  const population = reach.data?.total

  const shownName = name ?? (chosenApp && channel && release ? nameFor(chosenApp, release, channel) : '')
  const spec = specOf({ app: chosenApp, channel, release: `${chosenApp}@${release}` }, draft)
  const yaml = (): string => toYaml({ apiVersion: 'farshore.dev/v1', kind: 'Rollout', metadata: { name: shownName }, spec })
  const bad = draft.growth === 'written' ? wrongWaves(draft.waves) : undefined
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
  const wrong = (problem?.problem.errors ?? []).map((e) => ({ ...e, field: e.field.replace(/^spec\./, '') }))
  const error = (field: string): string | undefined => wrong.find((e) => e.field === field)?.message
  const wrongIn = (...prefixes: string[]): boolean => wrong.some((e) => prefixes.some((prefix) => e.field.startsWith(prefix)))
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
        className="grid max-w-6xl items-start gap-4 lg:grid-cols-[minmax(0,2fr)_minmax(0,3fr)]"
        onSubmit={(event) => {
          event.preventDefault()
          if (off === undefined) make.mutate(true)
        }}
      >
        <Section title="What goes where">
          <div className="flex flex-col gap-4">
            <Field label="App" error={error('app')}>
              {(ids) => (
                <select {...ids} className="field" value={chosenApp} onChange={(e) => { setApp(e.target.value); setRelease('') }}>
                  <option value="">Choose an app</option>
                  {apps.data?.items.map((a) => <option key={a.metadata.uid}>{a.metadata.name}</option>)}
                </select>
              )}
            </Field>
            <Field
              label="Channel"
              error={error('channel')}
              help={population === undefined ? undefined : `${plural(population, 'device')} of this channel ${population === 1 ? 'runs' : 'run'} ${chosenApp}${current === undefined ? '' : `; the channel is at ${current}`}.`}
            >
              {(ids) => (
                <select {...ids} className="field" value={channel} onChange={(e) => setChannel(e.target.value)}>
                  <option value="">Choose a channel</option>
                  {channels.data?.items.map((c) => <option key={c.metadata.uid}>{c.metadata.name}</option>)}
                </select>
              )}
            </Field>
            <Field label="Release" error={error('release')} help={chosenApp !== '' && releases.isSuccess && ofApp.length === 0 ? 'This app has no release yet.' : undefined}>
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
            <Field
              label="On each device"
              error={error('activation')}
              help={release === '' ? undefined : slots === undefined ? 'This release has no slots: the old one is stopped first.' : `It has slots, ports ${slots.blue} and ${slots.green}.`}
            >
              {(ids) => (
                <select {...ids} className="field" value={draft.activation} onChange={(e) => set({ activation: e.target.value as Draft['activation'] })}>
                  <option value="">As the release says{release === '' ? '' : slots === undefined ? ': replace' : ': blue-green'}</option>
                  <option value="blue-green">Blue-green: start and check it beside the old one, then switch</option>
                  <option value="replace">Replace: stop the old one, start the new one</option>
                </select>
              )}
            </Field>
            <Field label="Name" error={error('metadata.name') ?? error('name')} help="Made from the above when left empty.">
              {(ids) => <input {...ids} className="field" value={shownName} onChange={(e) => setName(e.target.value || undefined)} />}
            </Field>
          </div>
        </Section>

        <Section title="Waves">
          <WavesEditor draft={draft} set={set} population={population} error={error} />
          {bad !== undefined && <p className="mt-2 text-sm text-bad">{bad}</p>}
          <div className="mt-5 grid gap-4 sm:grid-cols-2">
            <Field label="Halts at" help="Percent of a wave’s reporting devices that failed." error={error('failureThreshold')}>
              {(ids) => <input {...ids} type="number" min={1} max={100} required className="field" value={Number.isNaN(draft.failureThreshold) ? '' : draft.failureThreshold} onChange={(e) => set({ failureThreshold: e.target.valueAsNumber })} />}
            </Field>
            <Field
              label={draft.budgetOf === 'maxUnavailable' ? 'At most down at once' : 'At least up at all times'}
              help="A number of devices, or a percentage such as 25%."
              error={error(draft.budgetOf)}
            >
              {(ids) => (
                <div className="flex gap-2">
                  <input {...ids} className="field" required pattern="[0-9]{1,7}|[0-9]{1,3}%" value={draft.budget} onChange={(e) => set({ budget: e.target.value.trim() })} />
                  <select aria-label="Budget counts" className="field w-auto!" value={draft.budgetOf} onChange={(e) => set({ budgetOf: e.target.value === 'minAvailable' ? 'minAvailable' : 'maxUnavailable' })}>
                    <option value="maxUnavailable">down</option>
                    <option value="minAvailable">up</option>
                  </select>
                </div>
              )}
            </Field>
            <Field label="When it halts" error={error('onFailure')}>
              {(ids) => (
                <select {...ids} className="field" value={draft.onFailure} onChange={(e) => set({ onFailure: e.target.value as Draft['onFailure'] })}>
                  <option value="rollback">Take every touched device back</option>
                  <option value="rollback-wave">Take that wave back, then pause</option>
                  <option value="pause">Pause and wait for a person</option>
                </select>
              )}
            </Field>
            <Field label="Gates open" error={error('approval')}>
              {(ids) => (
                <select {...ids} className="field" value={draft.approval} onChange={(e) => set({ approval: e.target.value as ApprovalRule })}>
                  {APPROVALS.map(([value, text]) => <option key={value} value={value}>{text}</option>)}
                </select>
              )}
            </Field>
          </div>
        </Section>

        <section className="panel lg:col-span-2" aria-label="More rules">
          <Advanced draft={draft} set={set} channels={(channels.data?.items ?? []).map((c) => c.metadata.name).filter((c) => c !== channel)} error={error} wrongIn={wrongIn} />
        </section>

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
              Make it and see the forecast
            </Button>
            <span className="flex-1" />
            <CopyButton small={false} label="Copy as command" text={() => commandOf(shownName, spec, yaml(), true)} />
            <CopyButton small={false} label="Copy as YAML" text={yaml} />
          </div>
        </div>
      </form>
    </Page>
  )
}
