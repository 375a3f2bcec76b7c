/**
 * The whole line with real processes: two agents are claimed and seen, 1.0 is rolled out, then 1.1, which fails on one of them: it halts and
 * goes back, and the page says why.
 */
import { writeFile } from 'node:fs/promises'

import { expect, test } from '@playwright/test'

import { pushRelease, rolloutFile, startFleet } from './line/fleet'
import { Site } from './line/processes'

let site: Site

test.beforeEach(async () => {
  site = await Site.make()
})

test.afterEach(async () => {
  await site.end()
})

test('a bad release stops itself and goes back, in front of your eyes', async ({ page }) => {
  const { origin, agents, served } = await startFleet(site, page, 2)
  await pushRelease(site, '1.0', {})
  await pushRelease(site, '1.1', { FAIL_HEALTH_WHEN: 'TILL=2' })

  // 1.0 goes out and stays.
  await writeFile(site.path('good.yaml'), rolloutFile('edge-web-1.0', '1.0'))
  await site.farshore(['apply', '-f', 'good.yaml'])
  await page.goto(`${origin}/rollouts/edge-web-1.0`)
  await expect(page.getByText('succeeded', { exact: true }).first()).toBeVisible({ timeout: 60_000 })
  expect(await served()).toEqual(['1.0', '1.0'])

  // 1.1 fails on one of them: it halts and goes back.
  await writeFile(site.path('bad.yaml'), rolloutFile('edge-web-1.1', '1.1'))
  await site.farshore(['apply', '-f', 'bad.yaml'])
  await page.goto(`${origin}/rollouts/edge-web-1.1`)
  await expect(page.getByText(/wave \d halted: 1 of \d/).first()).toBeVisible({ timeout: 90_000 })
  await expect(page.getByText(/rolled back: /).first()).toBeVisible({ timeout: 60_000 })
  await expect(page.getByText(/check web: it answered 503/).first()).toBeVisible()
  await expect.poll(served, { timeout: 30_000 }).toEqual(['1.0', '1.0'])

  // The device that failed says why as well, and runs what it ran before.
  await page.goto(`${origin}/devices/${agents[1]?.name ?? ''}`)
  await expect(page.getByText(/version 1\.1 failed here: .*503/).first()).toBeVisible({ timeout: 20_000 })
  await expect(page.getByText('conforming', { exact: true }).first()).toBeVisible()
})
