/** Start, pause, resume, abort: each says what it does to how many devices, and asks why. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useState } from 'react'

import { keyring } from '~/api/client'
import { keys } from '~/api/queries'
import { act, cannot, isFinal, type Verb } from '~/api/rollouts'
import type { Rollout, RolloutSummary } from '~/api/types'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button, buttonClass } from '~/ui/button'
import { Dialog } from '~/ui/dialog'
import { Icon, type IconName } from '~/ui/icon'
import { plural } from '~/ui/number'
import { Failure } from '~/ui/panel'

const VERBS: Record<Verb, { title: string; icon: IconName; done: string }> = {
  start: { title: 'Start', icon: 'play', done: 'started' },
  pause: { title: 'Pause', icon: 'pause', done: 'paused' },
  resume: { title: 'Resume', icon: 'play', done: 'resumed' },
  abort: { title: 'Abort', icon: 'stop', done: 'aborted' },
}

export function RolloutVerbs({ rollout, small = false }: { rollout: Rollout; small?: boolean }) {
  const [asked, setAsked] = useState<Verb | undefined>()
  const denied = useDenied('rollout.write')
  const { phase } = rollout.status.summary
  if (isFinal(phase)) {
    const { app, channel, to } = rollout.status.summary
    return (
      <Link to="/rollouts/new" search={phase === 'succeeded' ? { app, channel } : { app, channel, release: to.version }} className={buttonClass('plain', small)}>
        <Icon name="plus" size={14} />
        {phase === 'succeeded' ? 'Next rollout…' : 'Try again…'}
      </Link>
    )
  }
  const first: Verb = phase === 'pending' ? 'start' : phase === 'paused' ? 'resume' : 'pause'
  return (
    <>
      {[first, 'abort' as const].map((verb) => (
        <Button
          key={verb}
          small={small}
          kind={verb === 'abort' ? 'danger' : verb === 'start' || verb === 'resume' ? 'primary' : 'plain'}
          disabledReason={denied ?? cannot(verb, phase)}
          onClick={() => setAsked(verb)}
        >
          <Icon name={VERBS[verb].icon} size={14} />
          {VERBS[verb].title}…
        </Button>
      ))}
      {asked && <VerbDialog rollout={rollout} verb={asked} onClose={() => setAsked(undefined)} />}
    </>
  )
}

const touched = (s: RolloutSummary): number => s.counts.ok + s.counts.updating + s.counts.failed + s.counts.rollingBack

function says(verb: Verb, s: RolloutSummary): string {
  const first = s.waves[0]
  switch (verb) {
    case 'start':
      return first && s.population > 0
        ? `${plural(s.population, 'device')} in ${plural(s.waves.length, 'wave')} get ${s.app} ${s.to.version}; the first wave has ${plural(first.size, 'device')}.`
        : `The devices of channel ${s.channel} get ${s.app} ${s.to.version}, wave by wave.`
    case 'pause':
      return `${plural(s.inFlight, 'device is', 'devices are')} in flight and may finish; ${plural(s.counts.waiting, 'device')} that wait get nothing until it is resumed.`
    case 'resume':
      return `${plural(s.counts.waiting, 'device')} still wait for ${s.app} ${s.to.version}.${s.pause?.why === 'failures' ? ` ${plural(s.counts.failed, 'failure')} so far will no longer halt it.` : ''}`
    case 'abort':
      return `${plural(s.counts.ok, 'device')} ${s.counts.ok === 1 ? 'has' : 'have'} ${s.to.version}, ${plural(s.inFlight, 'device is', 'devices are')} in flight, ${plural(s.counts.waiting, 'device')} ${s.counts.waiting === 1 ? 'was' : 'were'} not touched. An aborted rollout can’t be resumed.`
  }
}

function VerbDialog({ rollout, verb, onClose }: { rollout: Rollout; verb: Verb; onClose: () => void }) {
  const client = useQueryClient()
  const s = rollout.status.summary
  const canGoBack = verb === 'abort' && s.from !== undefined && s.phase !== 'pending'
  const [comment, setComment] = useState('')
  const [rollback, setRollback] = useState(canGoBack)
  const [keyFor] = useState(keyring)
  const run = useMutation({
    mutationFn: () => {
      const body = { comment, ...(verb === 'abort' ? { rollback } : {}) }
      return act(rollout.metadata.uid, verb, body, keyFor(body))
    },
    onSuccess: () => {
      announce(`Rollout ${VERBS[verb].done}`)
      void client.invalidateQueries({ queryKey: keys.rollouts })
      onClose()
    },
  })
  const back = touched(s)
  return (
    <Dialog
      title={`${VERBS[verb].title} ${rollout.metadata.name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Leave it as it is</Button>
          <Button kind={verb === 'abort' ? 'danger' : 'primary'} busy={run.isPending} onClick={() => run.mutate()}>
            {verb === 'abort' && rollback ? `Abort and take ${plural(back, 'device')} back` : `${VERBS[verb].title} the rollout`}
          </Button>
        </>
      }
    >
      <p>{says(verb, s)}</p>
      {canGoBack && (
        <fieldset className="mt-4 flex flex-col gap-2">
          <legend className="mb-1 text-sm text-muted">Devices that were touched</legend>
          <label className="flex items-start gap-2">
            <input type="radio" name="rollback" checked={rollback} onChange={() => setRollback(true)} className="mt-1 accent-accent" />
            <span>
              Take {plural(back, 'device')} back to {s.from?.version}, within the budget of {s.budget}
            </span>
          </label>
          <label className="flex items-start gap-2">
            <input type="radio" name="rollback" checked={!rollback} onChange={() => setRollback(false)} className="mt-1 accent-accent" />
            <span>Leave every device with what it has</span>
          </label>
        </fieldset>
      )}
      <label className="mt-4 block">
        <span className="mb-1 block text-sm text-muted">Why (kept in the history)</span>
        <textarea className="field" rows={2} value={comment} onChange={(event) => setComment(event.target.value)} />
      </label>
      {run.isError && (
        <div className="mt-3">
          <Failure what="That did not work" error={run.error} />
        </div>
      )}
    </Dialog>
  )
}
