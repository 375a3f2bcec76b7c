/** Rollouts: what is asked for, and the rules of what may be done to one. */
import { queryOptions } from '@tanstack/react-query'

import { get, post, seg } from './client'
import { keys, SHORT_LIST } from './queries'
import type { List, Rollout, RolloutDevice, RolloutPhase } from './types'

/** Without events, progress within a wave would not be seen; a rollout that moves is asked again this often. */
const MOVING_MS = 4000

const FINAL: readonly RolloutPhase[] = ['succeeded', 'failed', 'aborted', 'superseded']
export const isFinal = (phase: RolloutPhase): boolean => FINAL.includes(phase)
const isMoving = (phase: RolloutPhase): boolean => phase === 'running' || phase === 'rolling-back'

export const rolloutsQuery = queryOptions({
  queryKey: [...keys.rollouts, 'list'],
  queryFn: ({ signal }) => get<List<Rollout>>('/rollouts', { limit: SHORT_LIST }, signal),
  refetchInterval: (query) =>
    query.state.data?.items.some((r) => isMoving(r.status.summary.phase))
      ? MOVING_MS
      : false,
})

export const rolloutQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.rollouts, 'one', id],
    queryFn: ({ signal }) => get<Rollout>(`/rollouts/${seg(id)}`, undefined, signal),
    refetchInterval: (query) => {
      const phase = query.state.data?.status.summary.phase
      return phase !== undefined && isMoving(phase) ? MOVING_MS / 2 : false
    },
  })

export const rolloutDevicesQuery = (id: string, bucket: string) =>
  queryOptions({
    queryKey: [...keys.rollouts, 'one', id, 'devices', bucket],
    queryFn: ({ signal }) =>
      get<List<RolloutDevice>>(`/rollouts/${seg(id)}/devices`, { bucket, limit: SHORT_LIST }, signal),
  })

export type Verb = 'start' | 'pause' | 'resume' | 'abort'

export const act = (id: string, verb: Verb, body: { comment: string; rollback?: boolean }, key: string): Promise<Rollout> =>
  post<Rollout>(`/rollouts/${seg(id)}:${verb}`, body, key)

/** Why a verb can't be used in this phase; undefined: it can. */
export function cannot(verb: Verb, phase: RolloutPhase): string | undefined {
  if (isFinal(phase)) return `It is over (${phase}). To go back, make a rollout to the earlier release.`
  if (verb === 'start' && phase !== 'pending') return 'It has started already.'
  if (verb === 'pause' && phase !== 'running') return `Only a running rollout can be paused; this one is ${phase}.`
  if (verb === 'resume' && phase !== 'paused') return `Only a paused rollout can be resumed; this one is ${phase}.`
  if (verb === 'abort' && phase === 'rolling-back') return 'It is going back already.'
  return undefined
}
