import { expect, it } from 'vitest'

import { commandOf, freshDraft, nextKey, specOf, waveRow, wrongWaves } from './draft'

const target = { app: 'edge-web', channel: 'prod', release: 'edge-web@1.1' }

it('writes only what differs from the defaults, and the command for it', () => {
  const spec = specOf(target, freshDraft())
  expect(spec).toEqual({
    ...target,
    waves: [5, 25, 100].map((percent) => ({ percent, soakSeconds: 600 })),
    failureThreshold: 30,
    maxUnavailable: '25%',
    onFailure: 'rollback',
  })
  expect(commandOf('web', spec, '', false)).toBe(
    'farshore rollout create --name web --app edge-web --channel prod --to 1.1 --wave 5%:600s --wave 25%:600s --wave 100%:600s --failure-threshold 30 --max-unavailable 25% --on-failure rollback --no-start',
  )
})

it('writes what was asked for in the words of the file, and applies it where no flag says it', () => {
  const draft = {
    ...freshDraft(), budgetOf: 'minAvailable' as const, budget: '3', approval: 'two-people' as const, offline: 'skip' as const,
    waves: [{ ...waveRow(1), by: 'selector' as const, selector: 'ring=canary' }, waveRow(100)],
    groupBy: [{ key: nextKey(), label: 'location', of: 'maxUnavailable' as const, amount: '10%' }],
    dependsOn: 'a, b', promoteTo: 'prod',
  }
  const spec = specOf(target, draft)
  expect(spec).toMatchObject({
    minAvailable: 3, approval: 'two-people', offline: { policy: 'skip', deadlineSeconds: 86_400 }, groupBy: [{ label: 'location', maxUnavailable: '10%' }],
    waves: [{ selector: 'ring=canary', soakSeconds: 600 }, { percent: 100 }], dependsOn: ['a', 'b'], promotion: { to: 'prod', mode: 'draft', afterSoakSeconds: 86_400 },
  })
  expect(spec).not.toHaveProperty('maxUnavailable')
  expect(commandOf('web', spec, 'kind: Rollout\n', true)).toBe("farshore apply -f - <<'EOF'\nkind: Rollout\nEOF")
})

it('says how devices go to the release where somebody chose it', () => {
  const spec = specOf(target, { ...freshDraft(), activation: 'blue-green' })
  expect(spec.activation).toBe('blue-green')
  expect(commandOf('web', spec, '', true)).toContain(' --activation blue-green ')
})

it('refuses waves that can never be meant', () => {
  expect(wrongWaves([waveRow(5), waveRow(100)])).toBeUndefined()
  expect(wrongWaves([waveRow(50)])).toMatch(/100 percent/)
  expect(wrongWaves([waveRow(50), waveRow(50), waveRow(100)])).toMatch(/more than 50/)
  expect(wrongWaves([{ ...waveRow(1), by: 'selector' }, waveRow(100)])).toMatch(/selector/)
})
