/** Devices of a rollout counted by location or model. Pure, for its test. */
import type { Counts, RolloutDevice } from '~/api/types'

import { BUCKETS } from './look'

export type Grouping = 'location' | 'model'
export const isGrouping = (word: unknown): word is Grouping => word === 'location' || word === 'model'

export interface DeviceGroup {
  name: string
  total: number
  counts: Counts
}

const ZERO: Counts = { waiting: 0, updating: 0, ok: 0, failed: 0, unreachable: 0, rollingBack: 0, rolledBack: 0, excluded: 0 }
const KEYS = new Map<string, keyof Counts>(BUCKETS.map((b) => [b.bucket, b.key]))

/** Where most failed first, then the biggest. */
export function groupDevices(devices: readonly RolloutDevice[], by: Grouping): DeviceGroup[] {
  const groups = new Map<string, DeviceGroup>()
  for (const device of devices) {
    const name = device[by]
    let group = groups.get(name)
    if (!group) groups.set(name, (group = { name, total: 0, counts: { ...ZERO } }))
    group.total += 1
    const key = KEYS.get(device.bucket)
    if (key !== undefined) group.counts[key] += 1
  }
  return [...groups.values()].toSorted(
    (a, b) => b.counts.failed - a.counts.failed || b.total - a.total || a.name.localeCompare(b.name),
  )
}
