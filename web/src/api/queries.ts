/** What the page asks for, with the keys under which answers are kept. */
import { keepPreviousData, queryOptions } from '@tanstack/react-query'

import { get, seg, type Query } from './client'
import type {
  App,
  Artifact,
  Channel,
  ClaimToken,
  Config,
  Device,
  DeviceConnectivity,
  DeviceSummary,
  FleetEvent,
  List,
  Me,
  Measurements,
  Pin,
  Placement,
  Release,
  User,
} from './types'

export const keys = {
  me: ['me'],
  summary: ['device-summary'],
  devicePages: ['device-pages'],
  device: ['device'],
  metrics: ['metrics'],
  events: ['events'],
  rollouts: ['rollouts'],
  forecast: ['forecast'],
  releases: ['releases'],
  artifacts: ['artifacts'],
  apps: ['apps'],
  placements: ['placements'],
  channels: ['channels'],
  pins: ['pins'],
  configs: ['configs'],
  policies: ['policies'],
  claimTokens: ['claim-tokens'],
  users: ['users'],
  incidents: ['incidents'],
  alerts: ['alerts'],
  silences: ['silences'],
  gateways: ['gateways'],
  pipelines: ['pipelines'],
  readings: ['readings'],
  offered: ['series-offered'],
  documents: ['documents'],
  documentCollections: ['document-collections'],
  gatewayKeys: ['gateway-keys'],
  sinks: ['sinks'],
  alertRules: ['alert-rules'],
  alertRoutes: ['alert-routes'],
  deliveries: ['alert-deliveries'],
} as const satisfies Record<string, readonly string[]>

/** How many objects of the short lists (apps, channels, tokens, …) are shown at most. */
export const SHORT_LIST = 1000

const list = <T>(key: readonly string[], path: string, query: Query = {}) =>
  queryOptions({
    queryKey: [...key, 'list', query],
    queryFn: ({ signal }) => get<List<T>>(path, { limit: SHORT_LIST, ...query }, signal),
  })

export const meQuery = queryOptions({
  queryKey: keys.me,
  queryFn: ({ signal }) => get<Me>('/me', undefined, signal),
  staleTime: 60_000,
})

export const summaryQuery = (filters: Query = {}) =>
  queryOptions({
    queryKey: [...keys.summary, filters],
    queryFn: ({ signal }) => get<DeviceSummary>('/devices/summary', filters, signal),
    placeholderData: keepPreviousData,
  })

export const devicesQuery = (query: Query) =>
  queryOptions({
    queryKey: [...keys.device, 'some', query],
    queryFn: ({ signal }) => get<List<Device>>('/devices', query, signal),
  })

export const deviceQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.device, id],
    queryFn: ({ signal }) => get<Device>(`/devices/${seg(id)}`, undefined, signal),
  })

/** Seven days; told anew when the device changes, and every minute, because time goes on. */
export const deviceConnectivityQuery = (id: string) =>
  queryOptions({
    queryKey: [...keys.device, id, 'connectivity'],
    queryFn: ({ signal }) => get<DeviceConnectivity>(`/devices/${seg(id)}/connectivity`, undefined, signal),
    refetchInterval: 60_000,
  })

export const fetchMetrics = (id: string, query: Query, signal?: AbortSignal): Promise<Measurements> =>
  get<Measurements>(`/devices/${seg(id)}/metrics`, query, signal)

export const eventsQuery = (query: Query) =>
  queryOptions({
    queryKey: [...keys.events, query],
    queryFn: ({ signal }) => get<List<FleetEvent>>('/events', query, signal),
  })

export const releasesQuery = list<Release>(keys.releases, '/releases')
export const artifactsQuery = list<Artifact>(keys.artifacts, '/artifacts')
export const appsQuery = list<App>(keys.apps, '/apps')
export const placementsQuery = list<Placement>(keys.placements, '/placements')
export const channelsQuery = list<Channel>(keys.channels, '/channels')
export const pinsQuery = list<Pin>(keys.pins, '/pins')
export const configsQuery = list<Config>(keys.configs, '/configs')
export const claimTokensQuery = list<ClaimToken>(keys.claimTokens, '/claim-tokens')
export const usersQuery = list<User>(keys.users, '/users')
