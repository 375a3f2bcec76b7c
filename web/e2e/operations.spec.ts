/**
 * Operations with real processes: a runbook is written in the form of policies, run on a device and read as it comes; a shell that the policy
 * does not allow is refused before anything happens; devices that a selector names are drained as far as their budget allows.
 */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { expect, test, type Locator, type Page } from '@playwright/test'

import { pushRelease, rolloutFile, startFleet } from './line/fleet'
import { Site } from './line/processes'

let site: Site
/** Open to everybody, because runbooks run as a user of their own. */
let open: string

test.beforeEach(async () => {
  site = await Site.make()
  open = await mkdtemp(join(tmpdir(), 'farshore-open-'))
  await chmod(open, 0o777)
})

test.afterEach(async () => {
  await site.end()
  await rm(open, { recursive: true, force: true })
})

async function operate(page: Page, menu: string | RegExp, verb: string): Promise<void> {
  await page.getByRole('button', { name: menu }).click()
  await page.getByRole('menuitem', { name: verb }).click()
}

/** What the device of this page was asked. */
const asked = (page: Page): Locator => page.locator('section').filter({ has: page.getByRole('heading', { name: 'Operations', exact: true }) })

test('a runbook is run and read as it comes, a shell is refused, and a drain keeps its budget', async ({ page }) => {
  const { origin, agents, served } = await startFleet(site, page, 2)
  await pushRelease(site, '1.0', {})
  await writeFile(site.path('good.yaml'), rolloutFile('edge-web-1.0', '1.0'))
  await site.farshore(['apply', '-f', 'good.yaml'])

  // The runbook, in the form.
  await page.goto(`${origin}/policies/new`)
  await page.getByLabel('Name', { exact: true }).fill('tills')
  await page.getByLabel('Selector').fill('till in (1,2)')
  await page.getByText('Operations', { exact: true }).click()
  await page.getByRole('button', { name: 'Add a runbook' }).click()
  await page.getByLabel('Runbook 1, name').fill('wait')
  await page.getByLabel('Runbook 1, command').fill('sh -c true')
  await page.getByRole('button', { name: 'Show what it changes' }).click()
  await expect(page.getByText('begins with the absolute path of a program').first()).toBeVisible()
  await page.getByLabel('Runbook 1, command').fill(`/bin/sh -c "echo \\"first $1\\"; while [ ! -e ${open}/go ]; do sleep 0.05; done; echo last" -`)
  await page.getByRole('button', { name: 'Add an argument' }).click()
  await page.getByLabel('Runbook 1, argument 1, name').fill('word')
  await page.getByLabel('Runbook 1, argument 1, pattern').fill('a*')
  await page.getByRole('button', { name: 'Make it' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'tills' })).toBeVisible()
  await expect(page.getByLabel('Runbook 1, command')).toHaveValue(/^\/bin\/sh -c "echo/)
  await expect.poll(served, { timeout: 60_000 }).toEqual(['1.0', '1.0'])

  // On a device: looked at, asked for, read while it runs, and recorded.
  const name = agents[0]?.name ?? ''
  await page.goto(`${origin}/devices/${name}`)
  await operate(page, /^Operate/, 'Run a runbook…')
  const dialog = page.getByRole('dialog')
  await dialog.getByRole('combobox', { name: 'Runbook' }).fill('wait')
  await dialog.getByLabel('Arguments').fill('bcd')
  await dialog.getByRole('button', { name: 'See what it does…' }).click()
  await expect(dialog.getByRole('status')).toContainText('argument word does not fit')
  await dialog.getByLabel('Arguments').fill('abc')
  await dialog.getByLabel('Why').fill('the queue is stuck')
  await dialog.getByRole('button', { name: 'See what it does…' }).click()
  await expect(dialog.getByRole('status')).toContainText('1 device of 1')
  await dialog.getByRole('button', { name: 'Run a runbook on 1 device' }).click()
  const operations = asked(page)
  await expect(operations.getByText('running', { exact: true })).toBeVisible({ timeout: 20_000 })
  await operations.getByRole('button', { name: 'Output' }).click()
  const output = page.getByRole('log', { name: 'Output' })
  await expect(output).toHaveText(/^first abc\s*$/)
  await writeFile(join(open, 'go'), '')
  await expect(output).toContainText('last')
  await expect(operations.getByText('succeeded', { exact: true })).toBeVisible()
  await expect(operations.getByText('the queue is stuck')).toBeVisible()
  await page.reload()
  await asked(page).getByRole('button', { name: 'Output' }).click()
  await expect(page.getByRole('log', { name: 'Output' })).toHaveText(/first abc\s+last/)

  // A shell is not allowed, and nothing is done.
  await operate(page, /^Operate/, 'Run a runbook…')
  await dialog.getByLabel('Or any command').fill('id')
  await dialog.getByRole('button', { name: 'See what it does…' }).click()
  await expect(dialog.getByRole('status')).toContainText('does not allow a free command')
  await expect(dialog.getByRole('button', { name: /^Run a runbook on/ })).toHaveAttribute('aria-disabled', 'true')
  await dialog.getByRole('button', { name: 'Cancel' }).click()

  // Both tills, by a selector: one at a time, for they are in one place.
  await page.goto(`${origin}/devices`)
  await operate(page, 'Operate on devices by selector', 'Drain…')
  await dialog.getByLabel('Devices').fill('till in (')
  await dialog.getByRole('button', { name: 'See what it does…' }).click()
  await expect(dialog.getByRole('alert')).toBeVisible()
  await dialog.getByLabel('Devices').fill('till in (1,2)')
  await dialog.getByLabel('Why').fill('new shelves')
  await dialog.getByRole('button', { name: 'See what it does…' }).click()
  await expect(dialog.getByRole('status')).toContainText('2 devices of 2')
  await expect(dialog.getByRole('status')).toContainText('stops its apps')
  await dialog.getByRole('button', { name: 'Drain on 2 devices' }).click()
  await expect(dialog).toBeHidden()
  await expect.poll(async () => (await served()).toSorted(), { timeout: 30_000 }).toEqual(['1.0', 'nothing'])
  const [down, up] = (await served()).map((version, i) => ({ version, name: agents[i]?.name ?? '' })).toSorted((a, b) => b.version.localeCompare(a.version))
  await page.goto(`${origin}/devices/${down?.name ?? ''}`)
  await expect(page.getByText('drained', { exact: true }).first()).toBeVisible({ timeout: 20_000 })
  await page.goto(`${origin}/devices/${up?.name ?? ''}`)
  const waiting = asked(page)
  await expect(waiting.getByText(/the budget of location=riga-1: 1 of 2 down already/)).toBeVisible({ timeout: 20_000 })
  await waiting.getByRole('button', { name: 'Cancel' }).click()
  await expect(waiting.getByText('cancelled', { exact: true })).toBeVisible()
  await page.goto(`${origin}/devices`)
  await operate(page, 'Operate on devices by selector', 'Uncordon…')
  await dialog.getByLabel('Devices').fill('till in (1,2)')
  await dialog.getByRole('button', { name: 'See what it does…' }).click()
  await dialog.getByRole('button', { name: 'Uncordon on 2 devices' }).click()
  await expect.poll(served, { timeout: 30_000 }).toEqual(['1.0', '1.0'])
})
