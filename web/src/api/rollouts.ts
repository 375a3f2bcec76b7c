/** Rollouts: what is asked for, and the rules of what may be done to one. */
import { infiniteQueryOptions, queryOptions } from '@tanstack/react-query'

import { get, post, seg } from './client'
import { keys, SHORT_LIST } from './queries'
import type { Explanation, Forecast, Rollout, RolloutPlan, RolloutSummary, WaveSummary } from './rollout-types'
import type { List, RolloutDevice, RolloutPhase } from './types'

/** Without events, progress within a wave would not be seen; a rollout that moves is asked again this often. */
const MOVING_MS = 4000

const FINAL: readonly RolloutPhase[] = ['succeeded', 'failed', 'aborted', 'superseded']
export const isFinal = (phase: RolloutPhase): boolean => FINAL.includes(phase)
export const isMoving = (phase: RolloutPhase): boolean => phase === 'running' || phase === 'rolling-back'

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

/** Why it is where it is; `moving`: it is asked again while the rollout moves. */
export const rolloutWhyQuery = (id: string, moving: boolean) =>
  queryOptions({
    queryKey: [...keys.rollouts, 'one', id, 'why'],
    queryFn: ({ signal }) => get<Explanation>(`/rollouts/${seg(id)}/why`, undefined, signal),
    refetchInterval: moving ? MOVING_MS : false,
  })

/** One page of its devices after another, in the order in which it takes them; no bucket: all. */
export const rolloutDevicesQuery = (id: string, bucket: string | undefined) =>
  infiniteQueryOptions({
    queryKey: [...keys.rollouts, 'one', id, 'devices', bucket ?? 'all'],
    queryFn: ({ signal, pageParam }) =>
      get<List<RolloutDevice>>(`/rollouts/${seg(id)}/devices`, { bucket, limit: SHORT_LIST, continue: pageParam }, signal),
    initialPageParam: '',
    getNextPageParam: (page) => page.metadata.continue,
  })

/** Which device is in which wave; before the start as it would be if it started now. */
export const rolloutPlanQuery = (id: string) =>
  infiniteQueryOptions({
    queryKey: [...keys.rollouts, 'one', id, 'plan'],
    queryFn: ({ signal, pageParam }) =>
      get<RolloutPlan>(`/rollouts/${seg(id)}/plan`, { limit: SHORT_LIST, continue: pageParam }, signal),
    initialPageParam: '',
    getNextPageParam: (page) => page.metadata.continue,
  })

/** A forecast is work for the server: it is kept for a minute and made anew when somebody asks. */
export const forecastQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.forecast, id],
    queryFn: ({ signal }) => post<Forecast>(`/rollouts/${seg(id)}:simulate`, {}, undefined, signal),
    staleTime: 60_000,
    retry: false,
  })

export type Verb = 'start' | 'pause' | 'resume' | 'approve' | 'reject' | 'skip-wave' | 'retry-failed' | 'abort' | 'rollback' | 'release-hold'

export interface VerbBody {
  comment: string
  rollback?: boolean
}

export const act = (id: string, verb: Verb, body: VerbBody, key: string): Promise<Rollout> =>
  post<Rollout>(`/rollouts/${seg(id)}:${verb}`, body, key)

/** The wave that runs, waits for approval or halted. */
export const currentWave = (s: RolloutSummary): WaveSummary | undefined => s.waves.find((w) => w.number === s.wave)

/** How many people still have to approve the gate of the current wave; 0: nobody. */
export function approvalsMissing(s: RolloutSummary): number {
  const wave = currentWave(s)
  if (wave?.state !== 'awaiting-approval') return 0
  return Math.max(1, (wave.approvalsNeeded ?? 1) - (wave.approvals?.length ?? 0))
}

/** Why a verb can't be used now; undefined: it can. */
export function cannot(verb: Verb, s: RolloutSummary, held = false): string | undefined {
  const { phase } = s
  if (verb === 'release-hold') return held ? undefined : 'Its release is not held back.'
  if (isFinal(phase)) return `It is over (${phase}). To go back, make a rollout to the earlier release.`
  const awaits = currentWave(s)?.state === 'awaiting-approval'
  switch (verb) {
    case 'start':
      return phase === 'pending' ? undefined : 'It has started already.'
    case 'pause':
      return phase === 'running' ? undefined : `Only a running rollout can be paused; this one is ${phase}.`
    case 'resume':
      return phase === 'paused' ? undefined : `Only a paused rollout can be resumed; this one is ${phase}.`
    case 'approve':
    case 'reject':
      return awaits ? undefined : 'No gate waits for approval now.'
    case 'skip-wave':
      return phase === 'running' || phase === 'paused' ? undefined : `No wave runs; it is ${phase}.`
    case 'retry-failed':
      if (phase !== 'running' && phase !== 'paused') return `No wave runs; it is ${phase}.`
      return s.counts.failed > 0 ? undefined : 'No device has failed.'
    case 'abort':
      return phase === 'rolling-back' ? 'It is going back already.' : undefined
    case 'rollback':
      if (phase === 'rolling-back') return 'It is going back already.'
      if (phase === 'pending') return 'No device has been touched.'
      return s.from === undefined ? 'There is no release before it to go back to.' : undefined
  }
}
