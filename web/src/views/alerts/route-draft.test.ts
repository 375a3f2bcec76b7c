import { describe, expect, it } from 'vitest'

import type { AlertRouteSpec } from '~/api/incidents'

import { draftOf, specOf } from './route-draft'

const COMMON = { enabled: false, sendResolved: true, minSeverity: 'critical' as const, groupWaitSeconds: 30, matchers: [{ name: 'location', value: 'Riga', isEqual: true }, { name: 'app', value: 'web', isEqual: false }] }
const MAIL: AlertRouteSpec = { ...COMMON, type: 'email', email: { to: ['a@example.com', 'b@example.com'], from: 'f@example.com', host: 'mail.example.com', port: 465, tls: 'tls', ca: '-----BEGIN CERTIFICATE-----\n', username: 'u' } }
const HOOK: AlertRouteSpec = { ...COMMON, type: 'webhook', webhook: { url: 'https://example.com/', format: 'alertmanager' } }

describe('a route in the form', () => {
  it('comes back as it was, without what is secret', () => {
    for (const spec of [MAIL, HOOK]) expect(specOf(draftOf(spec))).toEqual(spec)
  })

  it('gives secrets only when they are typed, and an authority only where there is TLS', () => {
    const typed = specOf({ ...draftOf(MAIL), password: 'hunter2', tls: 'none' })
    expect(typed).toMatchObject({ email: { password: 'hunter2', tls: 'none' } })
    expect(typed).not.toHaveProperty('email.ca')
  })

  it('leaves what is no number to the server, and reads matchers itself', () => {
    expect(specOf({ ...draftOf(MAIL), port: 'smtp' })).toMatchObject({ email: { port: 'smtp' } })
    expect(specOf({ ...draftOf(HOOK), matchers: 'location' })).toContain('“location” is no matcher')
  })
})
