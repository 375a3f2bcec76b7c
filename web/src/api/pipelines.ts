/** Pipelines of gateways: the configs that hold them, and how they stand on a device. */
import { queryOptions } from '@tanstack/react-query'

import { call, del, get, post, seg } from './client'
import { keys } from './queries'
import type { Config, UnixMs } from './types'

export interface StepReport {
  kind: string
  taken: number
  passed: number
  late: number
  dropped: number
  cut: number
  raised: number
  openWindows: number
}

export interface PipelineReport {
  name: string
  activeAlerts: number
  steps: StepReport[]
}

/** Counts are since the gateway started. */
export interface ProcessingReport {
  source?: 'control-plane' | 'file' | 'aggregates' | 'program'
  config?: string
  digest?: string
  refused?: { digest?: string; why: string }
  trouble?: string
  points: number
  backlog: number
  series: number
  late: number
  dropped: number
  alertsRaised: number
  alertsCleared: number
  messages: number
  calls: number
  callsFailed: number
  written: number
  lost: number
  pipelines: PipelineReport[]
  stepsLeftOut?: number
}

export interface DevicePipelines {
  device: string
  deviceName: string
  state: 'none' | 'own' | 'pending' | 'running' | 'refused' | 'unknown'
  wanted?: { config: string; layer: string; resourceVersion: number; digest: string; text: string }
  running?: ProcessingReport
  reportedAt?: UnixMs
}

/** A gateway says how it stands when it has sent something, and once a minute. */
const EVERY = 5_000

export const pipelinesQuery = (device: string) =>
  queryOptions({
    queryKey: [...keys.pipelines, device],
    queryFn: ({ signal }) => get<DevicePipelines>(`/devices/${seg(device)}/pipelines`, undefined, signal),
    refetchInterval: EVERY,
  })

/** Whose gateways a config is for. */
export interface Scope {
  selector?: string
  device?: string
}

/** Makes the config, or changes one that was seen. What it says to apps stays. */
export function setPipelines(name: string, scope: Scope, text: string, before: Config | undefined, key: string): Promise<Config> {
  if (before === undefined) return post<Config>('/configs', { metadata: { name }, spec: { ...scope, values: {}, gateway: { pipelines: text } } }, key)
  const { values, references } = before.spec
  return replace(before, { ...scope, values, references, gateway: { pipelines: text } })
}

/** The config goes, unless it says something to apps. */
export function removePipelines(config: Config): Promise<unknown> {
  const { gateway: _, ...rest } = config.spec
  const saysSomething = Object.keys({ ...config.spec.values, ...config.spec.references }).length > 0
  if (!saysSomething) return del(`/configs/${seg(config.metadata.uid)}`)
  return replace(config, rest)
}

const replace = (config: Config, spec: Config['spec']): Promise<Config> =>
  call<Config>('PUT', `/configs/${seg(config.metadata.uid)}`, {
    body: { metadata: { name: config.metadata.name, labels: config.metadata.labels, managedBy: config.metadata.managedBy }, spec },
    headers: { 'if-match': `"${config.metadata.resourceVersion}"` },
  })
