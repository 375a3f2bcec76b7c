/** Every address of the page. What a view shows is in its address: filters, ranges, what is open. */
import type { QueryClient } from '@tanstack/react-query'
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
} from '@tanstack/react-router'

import type { DeliveryState } from '~/api/incidents'
import { parseRange } from '~/ui/range'
import { DELIVERY_STATES } from '~/views/alerts/states'
import { parseFilters } from '~/views/devices/filters'
import { parseGatewaySearch } from '~/views/gateways/search'
import { parseRolloutFilters } from '~/views/rollouts/filters'
import { isGrouping, type Grouping } from '~/views/rollouts/groups'

import { Shell } from './frame/shell'
import { parseNext } from './frame/next'
import { Broken, NotFound } from './views/fallback'

const text = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : typeof value === 'number' ? String(value) : undefined

const root = createRootRouteWithContext<{ client: QueryClient }>()({ component: Outlet, notFoundComponent: NotFound })

const login = createRoute({
  getParentRoute: () => root,
  path: '/login',
  validateSearch: parseNext,
  component: lazyRouteComponent(() => import('./views/login'), 'Login'),
})

const shell = createRoute({ getParentRoute: () => root, id: 'shell', component: Shell, notFoundComponent: NotFound })

const home = createRoute({
  getParentRoute: () => shell,
  path: '/',
  validateSearch: (search: Record<string, unknown>): { add?: 'device' } => (search.add === 'device' ? { add: 'device' } : {}),
  component: lazyRouteComponent(() => import('./views/home/home'), 'Home'),
})

const devices = createRoute({
  getParentRoute: () => shell,
  path: '/devices',
  validateSearch: parseFilters,
  component: lazyRouteComponent(() => import('./views/devices/devices'), 'Devices'),
})

const device = createRoute({
  getParentRoute: () => shell,
  path: '/devices/$id',
  validateSearch: parseRange,
  component: lazyRouteComponent(() => import('./views/device/device'), 'DeviceView'),
})

const rollouts = createRoute({
  getParentRoute: () => shell,
  path: '/rollouts',
  validateSearch: parseRolloutFilters,
  component: lazyRouteComponent(() => import('./views/rollouts/rollouts'), 'Rollouts'),
})

const newRollout = createRoute({
  getParentRoute: () => shell,
  path: '/rollouts/new',
  validateSearch: (search: Record<string, unknown>): { app?: string; channel?: string; release?: string } => {
    const out: { app?: string; channel?: string; release?: string } = {}
    for (const key of ['app', 'channel', 'release'] as const) {
      const value = text(search[key])
      if (value !== undefined) out[key] = value
    }
    return out
  },
  component: lazyRouteComponent(() => import('./views/rollouts/new/new-rollout'), 'NewRollout'),
})

const rollout = createRoute({
  getParentRoute: () => shell,
  path: '/rollouts/$id',
  validateSearch: (search: Record<string, unknown>): { bucket?: string; by?: Grouping } => {
    const bucket = text(search.bucket)
    return { ...(bucket === undefined ? {} : { bucket }), ...(isGrouping(search.by) ? { by: search.by } : {}) }
  },
  component: lazyRouteComponent(() => import('./views/rollouts/rollout'), 'RolloutView'),
})

const releases = createRoute({
  getParentRoute: () => shell,
  path: '/releases',
  validateSearch: (search: Record<string, unknown>): { app?: string } => {
    const app = text(search.app)
    return app === undefined ? {} : { app }
  },
  component: lazyRouteComponent(() => import('./views/releases'), 'Releases'),
})

const artifacts = createRoute({
  getParentRoute: () => shell,
  path: '/artifacts',
  component: lazyRouteComponent(() => import('./views/artifacts'), 'Artifacts'),
})

const apps = createRoute({
  getParentRoute: () => shell,
  path: '/apps',
  component: lazyRouteComponent(() => import('./views/apps'), 'Apps'),
})

const tokens = createRoute({
  getParentRoute: () => shell,
  path: '/tokens',
  component: lazyRouteComponent(() => import('./views/tokens'), 'Tokens'),
})

const users = createRoute({
  getParentRoute: () => shell,
  path: '/users',
  component: lazyRouteComponent(() => import('./views/users'), 'Users'),
})

const documents = createRoute({
  getParentRoute: () => shell,
  path: '/documents',
  component: lazyRouteComponent(() => import('./views/documents/rules'), 'DocumentRules'),
})

const policies = createRoute({
  getParentRoute: () => shell,
  path: '/policies',
  component: lazyRouteComponent(() => import('./views/policies/policies'), 'Policies'),
})

const policy = createRoute({
  getParentRoute: () => shell,
  path: '/policies/$id',
  component: lazyRouteComponent(() => import('./views/policies/policy'), 'PolicyView'),
})

const incidents = createRoute({
  getParentRoute: () => shell,
  path: '/incidents',
  validateSearch: (search: Record<string, unknown>): { state?: 'open' | 'resolved' } =>
    search.state === 'open' || search.state === 'resolved' ? { state: search.state } : {},
  component: lazyRouteComponent(() => import('./views/incidents/incidents'), 'Incidents'),
})

const incident = createRoute({
  getParentRoute: () => shell,
  path: '/incidents/$id',
  component: lazyRouteComponent(() => import('./views/incidents/incident'), 'IncidentView'),
})

const alerts = createRoute({
  getParentRoute: () => shell,
  path: '/alerts',
  validateSearch: (search: Record<string, unknown>): { state?: 'ended' } => (search.state === 'ended' ? { state: 'ended' } : {}),
  component: lazyRouteComponent(() => import('./views/alerts/alerts'), 'Alerts'),
})

const gateways = createRoute({
  getParentRoute: () => shell,
  path: '/gateways',
  validateSearch: parseGatewaySearch,
  component: lazyRouteComponent(() => import('./views/gateways/gateways'), 'Gateways'),
})

const alertRules = createRoute({
  getParentRoute: () => shell,
  path: '/alerts/rules',
  component: lazyRouteComponent(() => import('./views/alerts/rules'), 'AlertRules'),
})

const alertRoutes = createRoute({
  getParentRoute: () => shell,
  path: '/alerts/routes',
  component: lazyRouteComponent(() => import('./views/alerts/routes'), 'AlertRoutes'),
})

const alertMessages = createRoute({
  getParentRoute: () => shell,
  path: '/alerts/messages',
  validateSearch: (search: Record<string, unknown>): { state?: DeliveryState } => {
    const state = DELIVERY_STATES.find((known) => known === search.state)
    return state === undefined ? {} : { state }
  },
  component: lazyRouteComponent(() => import('./views/alerts/messages'), 'AlertMessages'),
})

const nowhere = createRoute({ getParentRoute: () => shell, path: '$', component: NotFound })

const tree = root.addChildren([
  login,
  shell.addChildren([home, devices, device, rollouts, newRollout, rollout, releases, artifacts, apps, documents, policies, policy, incidents, incident, alerts, alertRules, alertRoutes, alertMessages, gateways, tokens, users, nowhere]),
])

/** A value as it stands in the address: no quotes around text, so that addresses can be typed. */
function stringifySearch(search: Record<string, unknown>): string {
  const out = new URLSearchParams()
  for (const [key, value] of Object.entries(search)) {
    if (value !== undefined && value !== null && value !== '') out.set(key, String(value))
  }
  const text = out.toString()
  return text ? `?${text}` : ''
}

export const makeRouter = (client: QueryClient) =>
  createRouter({
    routeTree: tree,
    context: { client },
    defaultPreload: 'intent',
    defaultErrorComponent: Broken,
    notFoundMode: 'fuzzy',
    search: { strict: true },
    parseSearch: (text) => Object.fromEntries(new URLSearchParams(text)),
    stringifySearch,
  })

declare module '@tanstack/react-router' {
  interface Register {
    router: ReturnType<typeof makeRouter>
  }
}
