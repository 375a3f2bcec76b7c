/** Alerts by location: the worst places first. */
import type { Alert } from '~/api/incidents'

const RANK: Record<string, number> = { critical: 2, warning: 1 }
const rank = (alert: Alert): number => RANK[alert.severity] ?? 0

export interface Group {
  location: string
  alerts: Alert[]
}

export function byLocation(alerts: readonly Alert[]): Group[] {
  const groups = new Map<string, Alert[]>()
  for (const alert of alerts) groups.set(alert.location, [...(groups.get(alert.location) ?? []), alert])
  const worst = (group: Group): number => Math.max(...group.alerts.map(rank))
  return [...groups]
    .map(([location, some]) => ({ location, alerts: some.toSorted((a, b) => rank(b) - rank(a) || b.startedAt - a.startedAt) }))
    .toSorted((a, b) => worst(b) - worst(a) || b.alerts.length - a.alerts.length || a.location.localeCompare(b.location))
}
