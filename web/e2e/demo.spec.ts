/** The demonstration, watched in a browser: real processes, TLS, real releases; a bad one stops itself and goes back. */
import { expect, test } from '@playwright/test'

import { startFarshore, type Farshore } from './support/farshore'

test.describe.configure({ mode: 'serial' })

let farshore: Farshore

test.beforeAll(async () => {
  farshore = await startFarshore('--devices', '12')
})
test.afterAll(async () => {
  await farshore?.stop()
})

test('the printed link logs in; devices, their measurements and the halted rollout are on the page', async ({ page }) => {
  const problems: string[] = []
  page.on('pageerror', (error) => problems.push(error.message))
  page.on('response', (response) => {
    if (response.status() >= 500) problems.push(`${response.status()} ${response.url()}`)
  })

  await page.goto(farshore.link)
  await expect(page.getByRole('heading', { level: 1, name: 'Home' })).toBeVisible()
  expect(page.url()).not.toContain('fsll_')
  await expect(page.getByText('live', { exact: true })).toBeVisible()

  await page.getByRole('link', { name: 'Devices' }).first().click()
  const table = page.getByRole('table', { name: 'Devices' })
  await expect(table).toHaveAttribute('aria-rowcount', /^1[3-9]$/)
  await table.getByRole('link').first().click()
  await expect(page.getByText('one sample a second')).toBeVisible()

  // The demonstration rolls 1.1 out to prod, where it fails on some: nobody reloads the page.
  await page.goto(`${farshore.url}/rollouts`)
  const bad = page.getByRole('link', { name: /edge-web-1-1-prod/ })
  await expect(bad).toBeVisible({ timeout: 240_000 })
  await bad.click()
  await expect(page.getByRole('heading', { level: 1, name: 'edge-web-1-1-prod' })).toBeVisible()
  await expect(page.getByRole('note', { name: /^failed\./ })).toBeVisible({ timeout: 120_000 })
  await expect(page.getByRole('note', { name: /^halted\./ })).toBeVisible()
  await expect(page.getByText(/halted/).first()).toBeVisible()
  await expect(page.getByText(/^rolled back: \d+ devices have 1\.0 again/).first()).toBeVisible()

  expect(problems).toEqual([])
})
