import { describe, expect, it } from 'vitest'

import type { SeriesLine } from '~/api/series'

import { command, into, parseGatewaySearch, shownOf, usualBy } from './search'

const OFFER = { measurement: 'climate', field: 'humidity', series: 3 }
const gateway = (n: number, location: string) => ({ device: `uid-${n}`, deviceName: `gw-${n}`, location })
const line = (part: Partial<SeriesLine>): SeriesLine => ({ ...OFFER, at: [], values: [], ...part })

it('takes from an address what it knows, and nothing else', () => {
  expect(parseGatewaySearch({ location: 'riga-1', range: '6h', aggregate: 'max', by: 'device', measurement: '42', field: '' })).toEqual({ location: 'riga-1', range: '6h', aggregate: 'max', by: 'device', measurement: '42' })
  expect(parseGatewaySearch({ range: '1y', aggregate: 'median', by: 'moon', device: 3 })).toEqual({})
})

it('shows the gateways of a location or a device, by its name or its uid', () => {
  const all = [gateway(1, 'riga-1'), gateway(2, 'riga-2')]
  expect(shownOf(all, {})).toHaveLength(2)
  expect(shownOf(all, { location: 'riga-2' })).toEqual([all[1]])
  expect(shownOf(all, { device: 'gw-1' })).toEqual([all[0]])
  expect(shownOf(all, { device: 'uid-1' })).toEqual([all[0]])
  expect(shownOf(all, { location: 'riga-2', device: 'gw-1' })).toEqual([])
})

it('draws a line for each location, where there are several', () => {
  expect(usualBy({}, [gateway(1, 'riga-1'), gateway(2, 'riga-2')])).toBe('location')
  expect(usualBy({}, [gateway(1, ''), gateway(2, '')])).toBe('device')
  expect(usualBy({ location: 'riga-1' }, [])).toBe('device')
  expect(usualBy({ device: 'gw-1' }, [])).toBe('series')
})

describe('a line leads', () => {
  const chosen = { measurement: 'climate', field: 'humidity' }
  it('from all to its location, from there to its device, from there to the device’s page', () => {
    expect(into(line({ location: 'riga-1' }), 'location', { range: '6h' }, OFFER)).toEqual({ search: { range: '6h', ...chosen, location: 'riga-1' } })
    const device = line({ location: 'riga-1', deviceName: 'gw-1', device: 'uid-1' })
    expect(into(device, 'device', { location: 'riga-1', by: 'device' }, OFFER)).toEqual({ search: { ...chosen, location: 'riga-1', device: 'gw-1' } })
    expect(into(device, 'series', { location: 'riga-1', device: 'gw-1' }, OFFER)).toEqual({ device: 'gw-1' })
  })

  it('nowhere, where it has no location', () => {
    expect(into(line({ location: '' }), 'location', {}, OFFER)).toBeUndefined()
  })

  it('to its device although that has no location', () => {
    expect(into(line({ location: '', deviceName: 'gw-1' }), 'device', {}, { measurement: 'temp', field: '', series: 1 })).toEqual({ search: { measurement: 'temp', device: 'gw-1' } })
  })
})

it('the command reads the same', () => {
  expect(command({}, OFFER, 'location', 15_000)).toBe('farshore series -m climate -f humidity --since 1h --step 15s --by location')
  expect(command({ location: 'hall 7', aggregate: 'max', range: '7d' }, { ...OFFER, field: '' }, 'device', 3_600_000)).toBe("farshore series -m climate --location 'hall 7' --since 7d --step 3600s -a max --by device")
  expect(command({ location: 'riga-1', device: 'gw-1' }, OFFER, 'series', 15_000)).toBe('farshore series -m climate -f humidity -d gw-1 --since 1h --step 15s')
})
