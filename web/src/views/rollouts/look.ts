/** How a rollout's states look: shape, word and colour, as everywhere. */
import type { WaveSummary } from '~/api/rollout-types'
import type { Bucket, Counts, RolloutPhase } from '~/api/types'
import type { Look } from '~/ui/state'

export const PHASES: Record<RolloutPhase, Look> = {
  pending: { shape: 'dot', tone: 'info', means: 'Made, not started.' },
  running: { shape: 'arrow', tone: 'info', means: 'Devices take the new release, wave by wave.' },
  paused: { shape: 'bars', tone: 'warn', means: 'Nothing more is started until a person decides.' },
  'rolling-back': { shape: 'back', tone: 'bad', means: 'Every device that was touched gets the old release back, within the budget.' },
  succeeded: { shape: 'check', tone: 'ok', means: 'The channel points to the new release.' },
  failed: { shape: 'cross', tone: 'bad', means: 'Halted by failures; everyone who can be reached has the old release again.' },
  aborted: { shape: 'cross', tone: 'quiet', means: 'Ended by a person, or nobody decided in time.' },
  superseded: { shape: 'empty', tone: 'quiet', means: 'A newer rollout of the same channel and app took over.' },
  unknown: { shape: 'question', tone: 'quiet', means: 'This page does not know this word.' },
}

export const WAVES: Record<WaveSummary['state'], Look> = {
  waiting: { shape: 'ring', tone: 'quiet', means: 'The gate of the wave before has not opened yet.' },
  running: { shape: 'arrow', tone: 'info', means: 'Its devices take the release.' },
  soaking: { shape: 'half', tone: 'info', means: 'Everyone who can be reached has reported; it must stay good for its soak.' },
  'at-gate': { shape: 'half', tone: 'warn', means: 'Its soak is over; the condition of its gate is not true yet.' },
  'awaiting-approval': { shape: 'bars', tone: 'warn', means: 'Its devices are good; people have to approve before the next wave.' },
  passed: { shape: 'check', tone: 'ok', means: 'Its gate has opened.' },
  halted: { shape: 'cross', tone: 'bad', means: 'Too many failures.' },
  unknown: { shape: 'question', tone: 'quiet', means: 'This page does not know this word.' },
}

/** How far a wave got, once its rollout is over. */
export const ENDED: Record<'stopped' | 'not begun', Look> = {
  stopped: { shape: 'empty', tone: 'quiet', means: 'The rollout ended while this wave ran.' },
  'not begun': { shape: 'ring', tone: 'quiet', means: 'The rollout ended before this wave.' },
}

export interface BucketLook extends Look {
  bucket: Bucket
  key: keyof Counts
  /** How a stretch of this looks in a bar. */
  fill: string
}

const HATCH = 'repeating-linear-gradient(135deg, transparent 0 3px, var(--surface) 3px 5px)'

export const BUCKETS: readonly BucketLook[] = [
  { bucket: 'ok', key: 'ok', shape: 'check', tone: 'ok', means: 'Took the release and committed it.', fill: 'var(--ok)' },
  { bucket: 'updating', key: 'updating', shape: 'arrow', tone: 'info', means: 'In flight: holds a permit, or has not reported the outcome.', fill: `${HATCH}, var(--accent)` },
  { bucket: 'waiting', key: 'waiting', shape: 'ring', tone: 'quiet', means: 'Waits for its wave, or for a place in the budget.', fill: 'var(--line)' },
  { bucket: 'failed', key: 'failed', shape: 'cross', tone: 'bad', means: 'Did not get healthy, refused, or got bad later.', fill: 'var(--bad)' },
  { bucket: 'unreachable', key: 'unreachable', shape: 'question', tone: 'warn', means: 'Not heard; neither success nor failure. Takes the release when it returns.', fill: `${HATCH}, var(--warn)` },
  { bucket: 'rolling-back', key: 'rollingBack', shape: 'back', tone: 'warn', means: 'Going back, or waiting for its turn to.', fill: `${HATCH}, var(--bad)` },
  { bucket: 'rolled-back', key: 'rolledBack', shape: 'back', tone: 'quiet', means: 'Has the old release again.', fill: 'var(--muted)' },
  { bucket: 'excluded', key: 'excluded', shape: 'empty', tone: 'quiet', means: 'Pinned, cordoned, held, gone, or with an agent that is too old for it: left out of the judgement.', fill: 'var(--line-strong)' },
]
