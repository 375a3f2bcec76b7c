import { expect, test } from 'vitest'

import type { Alert } from '~/api/incidents'

import { byLocation } from './group'

const alert = (uid: string, location: string, severity: Alert['severity'], startedAt = 0): Alert => ({
  uid,
  location,
  severity,
  startedAt,
  rule: 'r',
  state: 'firing',
  subject: { kind: 'Device', uid, name: uid },
  labels: {},
  summary: '',
  silencedBy: [],
})

test('the worst place comes first, and in it the worst and newest alert', () => {
  const groups = byLocation([
    alert('a', 'Riga', 'info'),
    alert('b', 'Riga', 'warning', 1),
    alert('c', 'Riga', 'warning', 2),
    alert('d', 'Tallinn', 'critical'),
    alert('e', '', 'info'),
  ])
  expect(groups.map((g) => g.location)).toEqual(['Tallinn', 'Riga', ''])
  expect(groups[1]?.alerts.map((a) => a.uid)).toEqual(['c', 'b', 'a'])
  expect(byLocation([])).toEqual([])
})
