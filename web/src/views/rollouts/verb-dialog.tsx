/** One verb, before it is done: what it does to how many devices, and why somebody wants it. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { keyring } from '~/api/client'
import { keys } from '~/api/queries'
import { act, approvalsMissing, currentWave, type Verb } from '~/api/rollouts'
import type { Rollout, RolloutSummary } from '~/api/rollout-types'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Dialog } from '~/ui/dialog'
import { count, percent, plural } from '~/ui/number'
import { Failure } from '~/ui/panel'

const DONE: Record<Verb, string> = {
  start: 'Rollout started',
  pause: 'Rollout paused',
  resume: 'Rollout resumed',
  approve: 'Gate approved',
  reject: 'Rollout rejected',
  'skip-wave': 'Wave skipped',
  'retry-failed': 'Failed devices are tried again',
  abort: 'Rollout aborted',
  rollback: 'Rollout goes back',
  'release-hold': 'Hold released',
}

const touched = (s: RolloutSummary): number => s.counts.ok + s.counts.updating + s.counts.failed + s.counts.rollingBack

/** What happens, to how many. */
export function says(verb: Verb, { spec, status }: Rollout): string {
  const s = status.summary
  const first = s.waves[0]
  const wave = currentWave(s)
  const next = s.waves.find((w) => w.number === s.wave + 1)
  const followed = next ? `Wave ${next.number} with ${plural(next.size, 'device')} begins.` : 'It was the last wave: the channel then points to the new release.'
  switch (verb) {
    case 'start':
      return first && s.population > 0
        ? `${plural(s.population, 'device')} in ${plural(s.waves.length, 'wave')} get ${s.app} ${s.to.version}; the first wave has ${plural(first.size, 'device')}.`
        : `The devices of channel ${s.channel} get ${s.app} ${s.to.version}, wave by wave.`
    case 'pause':
      return `${plural(s.inFlight, 'device is', 'devices are')} in flight and may finish; ${plural(s.counts.waiting, 'device')} that wait get nothing until it is resumed.`
    case 'resume':
      return `${plural(s.counts.waiting, 'device')} still wait for ${s.app} ${s.to.version}.${s.pause?.why === 'failures' ? ` ${plural(s.counts.failed, 'failure')} so far will no longer halt it.` : ''}`
    case 'approve': {
      const missing = approvalsMissing(s)
      const seen = wave ? `Wave ${wave.number}: ${count(wave.failed)} of ${count(wave.reported)} failed (${percent(wave.failureRatio ?? 0)}). ` : ''
      return missing > 1 ? `${seen}You are one of ${count(missing)} people it still needs; the gate opens with the last of them.` : `${seen}${followed}`
    }
    case 'reject':
      return `It ends here. ${s.from && spec.onFailure !== 'pause' ? `${plural(touched(s), 'device goes', 'devices go')} back to ${s.from.version}` : `${plural(touched(s), 'device')} that were touched are treated as after a halt`}, and ${s.app} ${s.to.version} is held back in ${s.channel} until somebody releases it.`
    case 'skip-wave':
      return `The gate of wave ${s.wave} opens without its evidence: ${wave ? `${count(wave.reported)} of ${count(wave.size)} have reported, ${count(wave.failed)} failed. ` : ''}${next ? followed : ''} Devices of this wave that have not taken the release take it later.`
    case 'retry-failed':
      return `${plural(s.counts.failed, 'device')} that failed ${s.counts.failed === 1 ? 'tries' : 'try'} ${s.app} ${s.to.version} once more, within the budget of ${count(s.budget)}. Their earlier failures no longer count.`
    case 'abort':
      return `${plural(s.counts.ok, 'device')} ${s.counts.ok === 1 ? 'has' : 'have'} ${s.to.version}, ${plural(s.inFlight, 'device is', 'devices are')} in flight, ${plural(s.counts.waiting, 'device')} ${s.counts.waiting === 1 ? 'was' : 'were'} not touched. An aborted rollout can’t be resumed.`
    case 'rollback':
      return `${plural(touched(s), 'device goes', 'devices go')} back to ${s.from?.version ?? 'what they had'}, within the budget of ${count(s.budget)}; ${plural(s.counts.waiting, 'device')} ${s.counts.waiting === 1 ? 'was' : 'were'} not touched. It ends with that.`
    case 'release-hold':
      return `${s.app} ${s.to.version} is held back in ${s.channel}: ${status.heldBack?.reason ?? 'its rollout failed'}. After this it may be rolled out there again. Nothing starts by itself.`
  }
}

function pressed(verb: Verb, s: RolloutSummary, rollback: boolean): string {
  switch (verb) {
    case 'start':
      return s.population > 0 ? `Start for ${plural(s.population, 'device')}` : 'Start the rollout'
    case 'approve':
      return `Approve wave ${s.wave}`
    case 'reject':
      return `Reject and end it`
    case 'skip-wave':
      return `Skip wave ${s.wave}`
    case 'retry-failed':
      return `Try ${plural(s.counts.failed, 'device')} again`
    case 'abort':
      return rollback ? `Abort and take ${plural(touched(s), 'device')} back` : 'Abort the rollout'
    case 'rollback':
      return `Take ${plural(touched(s), 'device')} back`
    case 'release-hold':
      return 'Release the hold'
    case 'pause':
      return 'Pause the rollout'
    case 'resume':
      return 'Resume the rollout'
  }
}

const TITLES: Record<Verb, string> = {
  start: 'Start', pause: 'Pause', resume: 'Resume', approve: 'Approve', reject: 'Reject', 'skip-wave': 'Skip a wave of',
  'retry-failed': 'Retry failed devices of', abort: 'Abort', rollback: 'Roll back', 'release-hold': 'Release the hold of',
}
const DANGER: readonly Verb[] = ['abort', 'rollback', 'reject']

export function VerbDialog({ rollout, verb, onClose }: { rollout: Rollout; verb: Verb; onClose: () => void }) {
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
      announce(DONE[verb])
      void client.invalidateQueries({ queryKey: keys.rollouts })
      void client.invalidateQueries({ queryKey: [...keys.forecast, rollout.metadata.uid] })
      onClose()
    },
  })
  return (
    <Dialog
      title={`${TITLES[verb]} ${rollout.metadata.name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Leave it as it is</Button>
          <Button kind={DANGER.includes(verb) ? 'danger' : 'primary'} busy={run.isPending} onClick={() => run.mutate()}>
            {pressed(verb, s, rollback)}
          </Button>
        </>
      }
    >
      <p>{says(verb, rollout)}</p>
      {canGoBack && (
        <fieldset className="mt-4 flex flex-col gap-2">
          <legend className="mb-1 text-sm text-muted">Devices that were touched</legend>
          <label className="flex items-start gap-2">
            <input type="radio" name="rollback" checked={rollback} onChange={() => setRollback(true)} className="mt-1 accent-accent" />
            <span>
              Take {plural(touched(s), 'device')} back to {s.from?.version}, within the budget of {s.budget}
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
