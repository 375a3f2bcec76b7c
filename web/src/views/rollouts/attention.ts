/** Which rollouts need a person now, and why. Pure: Home and the list say the same. */
import { approvalsMissing } from '~/api/rollouts'
import type { RolloutSummary } from '~/api/rollout-types'
import { plural } from '~/ui/number'
import type { Shape, Tone } from '~/ui/state'

export interface Need {
  /** The lower, the more urgent. */
  rank: number
  shape: Shape
  tone: Tone
  /** After the rollout's name: "is paused". */
  what: string
}

const DAY_MS = 24 * 3_600_000

export function needOf(s: RolloutSummary, now: number): Need | undefined {
  if (s.phase === 'rolling-back') return { rank: 0, shape: 'back', tone: 'bad', what: 'halted and is going back' }
  if (s.phase === 'paused') {
    const what = s.pause?.why === 'failures' ? 'halted and waits for a decision' : 'is paused and waits for a decision'
    return { rank: s.pause?.why === 'failures' ? 0 : 2, shape: 'bars', tone: s.pause?.why === 'failures' ? 'bad' : 'warn', what }
  }
  if (s.phase === 'failed' && now - (s.finishedAt ?? s.phaseSince) < DAY_MS) {
    return { rank: 1, shape: 'cross', tone: 'bad', what: 'halted and went back' }
  }
  const missing = approvalsMissing(s)
  if (s.phase === 'running' && missing > 0) {
    return { rank: 2, shape: 'bars', tone: 'warn', what: `waits for ${plural(missing, 'person', 'people')} to approve wave ${s.wave}` }
  }
  if (s.phase === 'pending') return { rank: 5, shape: 'dot', tone: 'info', what: 'waits for somebody to start it' }
  return undefined
}
