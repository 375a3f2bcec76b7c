/** The places of the rail, the palette and the `g` keys: one list. */
import type { IconName } from '~/ui/icon'

export interface Place {
  to: string
  title: string
  icon: IconName
  /** After `g`. */
  key: string
  permission?: string
  group: 'fleet' | 'administration'
}

export const PLACES: readonly Place[] = [
  { to: '/', title: 'Home', icon: 'home', key: 'h', group: 'fleet' },
  { to: '/devices', title: 'Devices', icon: 'device', key: 'd', permission: 'device.read', group: 'fleet' },
  { to: '/apps', title: 'Apps', icon: 'app', key: 'a', permission: 'fleet.read', group: 'fleet' },
  { to: '/rollouts', title: 'Rollouts', icon: 'rollout', key: 'r', permission: 'rollout.read', group: 'fleet' },
  { to: '/gateways', title: 'Gateways', icon: 'gateway', key: 'w', permission: 'device.read', group: 'fleet' },
  { to: '/documents', title: 'Documents', icon: 'document', key: 'o', permission: 'device.read', group: 'fleet' },
  { to: '/policies', title: 'Policies', icon: 'policy', key: 'p', permission: 'policy.read', group: 'fleet' },
  { to: '/incidents', title: 'Incidents', icon: 'incident', key: 'i', permission: 'incident.read', group: 'fleet' },
  { to: '/alerts', title: 'Alerts', icon: 'bell', key: 'l', permission: 'incident.read', group: 'fleet' },
  { to: '/releases', title: 'Releases', icon: 'release', key: 'e', permission: 'release.read', group: 'fleet' },
  { to: '/artifacts', title: 'Artifacts', icon: 'artifact', key: 'f', permission: 'release.read', group: 'fleet' },
  { to: '/tokens', title: 'Claim tokens', icon: 'token', key: 't', permission: 'claim.read', group: 'administration' },
  { to: '/users', title: 'Users', icon: 'user', key: 'u', permission: 'user.read', group: 'administration' },
]
