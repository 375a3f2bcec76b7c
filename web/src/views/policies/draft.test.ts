import { describe, expect, it } from 'vitest'

import type { PolicySpec } from '~/api/policies'

import { differences, draftOf, specOf } from './draft'

const FULL: PolicySpec = {
  description: 'night',
  selector: 'role=kiosk',
  priority: 10,
  rules: {
    health: { conditions: [{ name: 'full', when: 'metric("cpu") > 0.9', forSeconds: 60, app: 'web' }, { name: 'hot', when: 'metric("temperature") > 90.0' }] },
    restart: { maxRestarts: 5, backoffMs: 500 },
    rollback: { afterRestarts: 3, to: 'safe-mode', safeMode: [{ app: 'web', version: '1.0.0' }], reboot: false },
    resources: { memoryBytes: 268435456 },
    isolation: { seccomp: 'strict', maskedPaths: ['/home', '/srv/a b'], writablePaths: [] },
    schedule: { windows: [{ kind: 'maintenance', cron: '0 2 * * *', durationSeconds: 5400, timeZone: 'Europe/Riga' }], energy: 'any', blackouts: [{ from: '2026-12-24', to: '2026-12-26' }] },
    retention: { logBytes: 65536, releases: 2 },
    operations: {
      exec: true,
      execInside: true,
      runbooks: [
        { name: 'flush', command: ['/usr/bin/flush'] },
        { name: 'ping', description: 'asks a till', command: ['/bin/sh', '-c', 'ping -c "3" $1', '-'], timeoutSeconds: 20, app: 'shop', service: 'web', arguments: [{ name: 'host', pattern: 'till-*' }, { name: 'size', pattern: '?', optional: true }], later: 7 },
      ],
    },
    reporting: { sampleSeconds: 5 },
  },
}

describe('a policy in the form', () => {
  it('comes back as it was', () => {
    expect(specOf(draftOf(FULL))).toEqual(FULL)
  })

  it('keeps rules that it has no field for', () => {
    const spec: PolicySpec = { description: '', selector: '', priority: 0, rules: { restart: { maxRestarts: 2, later: 7 }, tomorrow: { x: true } } }
    expect(specOf(draftOf(spec))).toEqual(spec)
  })

  it('leaves out what is not said, and what is no number goes to the server as it was typed', () => {
    const draft = draftOf({ rules: {} })
    draft.values['restart.maxRestarts'] = 'many'
    expect(specOf(draft).rules).toEqual({ restart: { maxRestarts: 'many' } })
    draft.values['restart.maxRestarts'] = ' '
    draft.values['isolation.maskedPaths'] = ' /home  "/srv/a b" '
    expect(specOf(draft).rules).toEqual({ isolation: { maskedPaths: ['/home', '/srv/a b'] } })
    draft.values['isolation.maskedPaths'] = ''
    expect(specOf(draft).rules).toEqual({})
  })
})

describe('two versions', () => {
  it('differ by path, item by item', () => {
    const after: PolicySpec = { ...FULL, rules: { ...FULL.rules, restart: { maxRestarts: 3, backoffMs: 500 }, operations: { runbooks: [{ name: 'flush', command: ['/usr/bin/flush', '-v'] }] } } }
    expect(differences(FULL, after)).toEqual([
      { path: 'rules.operations.exec', from: 'true', to: undefined },
      { path: 'rules.operations.execInside', from: 'true', to: undefined },
      { path: 'rules.operations.runbooks[0].command[1]', from: undefined, to: '-v' },
      ...['app', 'arguments[0].name', 'arguments[0].pattern', 'arguments[1].name', 'arguments[1].optional', 'arguments[1].pattern', 'command[0]', 'command[1]', 'command[2]', 'command[3]', 'description', 'later', 'name', 'service', 'timeoutSeconds'].map((path) =>
        expect.objectContaining({ path: `rules.operations.runbooks[1].${path}`, to: undefined }),
      ),
      { path: 'rules.restart.maxRestarts', from: '5', to: '3' },
    ])
  })
})
