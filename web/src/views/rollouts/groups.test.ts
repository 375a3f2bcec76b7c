import { expect, it } from 'vitest'

import type { RolloutDevice } from '~/api/types'

import { groupDevices } from './groups'

const device = (location: string, model: string, bucket: RolloutDevice['bucket']): RolloutDevice => ({
  device: '', name: '', location, model, wave: 1, late: false, bucket, since: 0,
})

it('counts devices by location or model, those with failures first', () => {
  const all = [device('riga', 'pi', 'ok'), device('riga', 'pi', 'ok'), device('tartu', 'nuc', 'failed'), device('', 'pi', 'rolled-back')]
  expect(groupDevices(all, 'location').map((g) => [g.name, g.total, g.counts.ok, g.counts.failed, g.counts.rolledBack])).toEqual([
    ['tartu', 1, 0, 1, 0],
    ['riga', 2, 2, 0, 0],
    ['', 1, 0, 0, 1],
  ])
  expect(groupDevices(all, 'model').map((g) => [g.name, g.total])).toEqual([['nuc', 1], ['pi', 3]])
})
