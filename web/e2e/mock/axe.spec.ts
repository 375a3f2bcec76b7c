/** axe finds nothing in any view: light and dark, wide and phone, full, empty, failing and loading. */
import { AxeBuilder } from '@axe-core/playwright'
import { expect, test, type Page } from '@playwright/test'

const VIEWS: [name: string, path: string, ready: string][] = [
  ['home', '/', 'Needs attention'],
  ['add a device', '/?add=device', 'Make a claim token'],
  ['devices', '/devices', 'gw-0003'],
  ['devices, filtered', '/devices?labelSelector=role%3Dkiosk&health=failing', 'health=failing'],
  ['device', '/devices/gw-1563', 'Desired state'],
  ['rollouts', '/rollouts', 'edge-web-1-1-prod'],
  ['rollout', '/rollouts/edge-web-1-1-prod?bucket=failed', 'halts at 30'],
  ['rollout by model', '/rollouts/edge-web-1-1-prod?by=model', 'Raspberry Pi 5'],
  ['rollout that waits for approval', '/rollouts/price-sync-2-4-1-prod', 'waits for 1 more person'],
  ['rollout before its start', '/rollouts/edge-web-1-1-everywhere', 'If the release is bad'],
  ['rollout that failed', '/rollouts/edge-web-1-1-lab', 'is held back in dev'],
  ['rollouts, filtered', '/rollouts?show=attention', 'is paused and waits'],
  ['new rollout', '/rollouts/new?app=edge-web&channel=prod&release=1.1.0', 'Start for'],
  ['incidents', '/incidents', 'gw-0123'],
  ['incident', '/incidents/inc-0041', 'went back to 1.0.0'],
  ['alerts', '/alerts', 'nothing was heard from'],
  ['alert rules', '/alerts/rules', 'A till is missed at once.'],
  ['alert routes', '/alerts/routes', 'night-watch'],
  ['gateways', '/gateways', 'hall-7-spring'],
  ['readings of a gateway', '/gateways?location=riga-1&device=gw-0003&measurement=climate&field=humidity', 'room=b'],
  ['rules of documents', '/documents', 'edge.checked > cloud.checked'],
  ['messages about alerts', '/alerts/messages', 'wants no more messages'],
  ['policies', '/policies', 'kiosks'],
  ['policy', '/policies/kiosks', 'Save as version'],
  ['new policy', '/policies/new', 'Make it'],
  ['releases', '/releases', 'signed with'],
  ['artifacts', '/artifacts', 'edge-web-1.1.0-amd64.tar.zst'],
  ['apps', '/apps', 'Placements'],
  ['claim tokens', '/tokens', 'till-batch'],
  ['users', '/users', 'anna@northwind.example'],
  ['login', '/login', 'Password'],
  ['nothing', '/no/such/place', 'This address leads nowhere'],
]

async function clean(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze()
  expect(
    violations.map((v) => `${v.id}: ${v.help}\n${v.nodes.map((n) => `  ${n.target.join(' ')}\n  ${n.failureSummary ?? ''}`).join('\n')}`),
  ).toEqual([])
}

for (const theme of ['light', 'dark'] as const) {
  test.describe(theme, () => {
    test.use({ colorScheme: theme, viewport: { width: 1440, height: 900 } })
    for (const [name, path, ready] of VIEWS) {
      test(`axe finds nothing on ${name}`, async ({ page }) => {
        await page.goto(path)
        await expect(page.getByText(ready).first()).toBeAttached()
        await clean(page)
      })
    }
  })
}

test.describe('phone', () => {
  test.use({ viewport: { width: 390, height: 844 } })
  for (const [name, path, ready] of VIEWS) {
    test(`axe finds nothing on ${name}, and nothing is wider than the screen`, async ({ page }) => {
      await page.goto(path)
      await expect(page.getByText(ready).first()).toBeAttached()
      await clean(page)
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390)
      expect(await page.evaluate(() => document.querySelector('main')?.scrollWidth ?? 0)).toBeLessThanOrEqual(390)
    })
  }
})

for (const [scene, path, ready] of [
  ['empty', '/', 'Add your first device'],
  ['empty', '/devices', 'No devices yet'],
  ['empty', '/rollouts', 'No rollouts yet'],
  ['empty', '/releases', 'No releases yet'],
  ['empty', '/documents', 'No collection has rules'],
  ['error', '/', 'the database did not answer in time'],
  ['error', '/devices', 'the database did not answer in time'],
  ['error', '/rollouts', 'the database did not answer in time'],
  ['error', '/gateways', 'The gateways can’t be listed'],
  ['slow', '/devices', 'Devices'],
  ['slow', '/rollouts/x', 'Loading waves'],
  ['error', '/rollouts/edge-web-1-1-everywhere', 'The rollout can’t be shown'],
] as const) {
  test(`axe finds nothing on ${path} when it is ${scene}`, async ({ page, context, baseURL }) => {
    await context.addCookies([{ name: 'mock', value: scene, url: baseURL ?? '' }])
    await page.goto(path)
    await expect(page.getByText(ready).first()).toBeAttached({ timeout: 15_000 })
    await clean(page)
  })
}
