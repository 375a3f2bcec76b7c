/**
 * One rollout from the form to the way back, with real processes and by the page alone: it is made, foretold, started, approved after its first wave,
 * halts in its second, is taken back by a person, and its release is held back until somebody says otherwise.
 */
import { writeFile } from 'node:fs/promises'

import { expect, test, type Page } from '@playwright/test'

import { pushRelease, rolloutFile, startFleet } from './line/fleet'
import { Site } from './line/processes'

let site: Site

test.beforeEach(async () => {
  site = await Site.make()
})

test.afterEach(async () => {
  await site.end()
})

/** Presses a verb, gives the reason, and confirms. */
async function say(page: Page, verb: string, comment: string, confirm: RegExp): Promise<void> {
  await page.getByRole('button', { name: `${verb}…` }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Why').fill(comment)
  await dialog.getByRole('button', { name: confirm }).click()
  await expect(dialog).toBeHidden()
}

test('a rollout is made, foretold, started, approved, halted and taken back', async ({ page }) => {
  const { origin, agents, configure, served } = await startFleet(site, page, 3)
  await pushRelease(site, '1.0', {})
  await pushRelease(site, '1.1', { FAIL_HEALTH_WHEN: 'BAD=yes' })
  await writeFile(site.path('good.yaml'), rolloutFile('edge-web-1.0', '1.0'))
  await site.farshore(['apply', '-f', 'good.yaml'])
  await expect.poll(served, { timeout: 90_000 }).toEqual(['1.0', '1.0', '1.0'])

  // Made with the form.
  await page.goto(`${origin}/rollouts/edge-web-1.0`)
  await expect(page.getByRole('note', { name: /^succeeded\./ })).toBeVisible({ timeout: 60_000 })
  await page.getByRole('link', { name: 'Next rollout…' }).click()
  await page.getByLabel('Release').selectOption('1.1')
  await page.getByLabel('Wave 1, percent').fill('50')
  await page.getByRole('button', { name: 'Remove wave 2' }).click()
  for (const wave of [1, 2]) await page.getByLabel(`Wave ${wave}, soak in minutes`).fill('0.02')
  await page.getByLabel('At most down at once').fill('2')
  await page.getByLabel('When it halts').selectOption('pause')
  await page.getByLabel('Gates open').selectOption('one-person')
  await page.getByRole('button', { name: 'Make it and see the forecast' }).click()

  // Foretold: when it would be done, and who is in which wave. The device of the second wave is made one that 1.1 fails on.
  await expect(page.getByRole('heading', { level: 1, name: 'edge-web-1-1-prod' })).toBeVisible()
  await expect(page.getByText('Done in half of the runs (p50)')).toBeVisible({ timeout: 30_000 })
  await expect(page.getByText('If the release is bad')).toBeVisible()
  const planned = page.getByRole('table', { name: 'Planned members' }).getByRole('row')
  await expect(planned).toHaveCount(agents.length + 1)
  const second = planned.filter({ has: page.getByRole('cell', { name: '2', exact: true }) })
  await expect(second).toHaveCount(1)
  const unlucky = await second.getByRole('link').textContent()
  for (const agent of agents) if (agent.name === unlucky) agent.values.BAD = 'yes'
  await configure()
  await expect.poll(served, { timeout: 60_000 }).toEqual(['1.0', '1.0', '1.0'])

  // Started; the first wave is good and waits for a person.
  await say(page, 'Start', 'kiosk fix', /^Start/)
  await expect(page.getByText(/Wave 1 is good and waits for a person to approve/)).toBeVisible({ timeout: 90_000 })
  expect((await served()).filter((version) => version === '1.1')).toHaveLength(2)
  await say(page, 'Approve', 'seen on both tills', /^Approve wave 1$/)

  // The second wave halts it.
  await expect(page.getByRole('note', { name: /^paused\./ })).toBeVisible({ timeout: 90_000 })
  await expect(page.getByText(/wave 2 halted: 1 of /).first()).toBeVisible()
  await expect(page.getByText(/“seen on both tills”/)).toBeVisible()

  // A person takes it back; the release is held back, and says so until it is released.
  await say(page, 'Roll back', 'prices are wrong', /^Take .* back$/)
  await expect(page.getByText(/is held back in prod/)).toBeVisible({ timeout: 90_000 })
  await expect.poll(served, { timeout: 60_000 }).toEqual(['1.0', '1.0', '1.0'])
  await expect(page.getByText(/“prices are wrong”/)).toBeVisible()
  await say(page, 'Release the hold', 'it was the shelf', /^Release the hold$/)
  await expect(page.getByText(/is held back in prod/)).toBeHidden()
})
