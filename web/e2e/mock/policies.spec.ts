/** What the editor of policies does, by role and label only, against the stand-in server. */
import { expect, test } from '@playwright/test'

test.use({ viewport: { width: 1440, height: 900 } })

test('a new policy is written in a form, wrong values are told at their field, and it is looked at before it is made', async ({ page }) => {
  await page.goto('/policies/new')
  await page.getByLabel('Name', { exact: true }).fill('night-shift')
  await page.getByLabel('Selector').fill('role=kiosk')
  await page.getByText('Windows', { exact: true }).click()
  await page.getByRole('button', { name: 'Add a window' }).click()
  await page.getByLabel('Window 1, opens (cron)').fill('at two')
  await page.getByRole('button', { name: 'Show what it changes' }).click()
  await expect(page.getByText('has five fields: write minute, hour, day of month')).not.toHaveCount(0)
  await page.getByLabel('Window 1, opens (cron)').fill('0 2 * * *')
  await page.getByText('Restart', { exact: true }).click()
  await page.getByLabel('Most restarts').fill('4')
  await page.getByRole('button', { name: 'Show what it changes' }).click()
  const preview = page.getByRole('status', { name: 'What it would change' })
  await expect(preview).toContainText('would obey something else than now')
  await expect(preview.getByRole('list', { name: 'Changes' })).toContainText('restart.maxRestarts')
  await page.getByRole('tab', { name: 'YAML' }).click()
  await expect(page.getByLabel('The policy as YAML')).toContainText('cron: "0 2 * * *"')
  await page.getByRole('button', { name: 'Make it' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'night-shift' })).toBeVisible()
})

test('a preview is forgotten as soon as something else is written', async ({ page }) => {
  await page.goto('/policies/kiosks')
  await page.getByLabel('Most restarts').fill('2')
  await page.getByRole('button', { name: 'Show what it changes' }).click()
  await expect(page.getByRole('status', { name: 'What it would change' })).toBeVisible()
  await page.getByLabel('Most restarts').fill('1')
  await expect(page.getByRole('status', { name: 'What it would change' })).toBeHidden()
})

test('what was changed is shown, undone and saved; two versions are compared', async ({ page }) => {
  await page.goto('/policies/calm-restarts')
  const save = page.getByRole('button', { name: 'Save as version 4' })
  await expect(save).toHaveAttribute('aria-disabled', 'true')
  await page.getByLabel('Most restarts').fill('99')
  await expect(page.getByRole('list', { name: 'What you changed' })).toContainText('rules.restart.maxRestarts')
  await save.click()
  await expect(page.getByText('is 0 to 60')).not.toHaveCount(0)
  await page.getByRole('button', { name: 'Undo' }).click()
  await expect(page.getByLabel('Most restarts')).toHaveValue('5')
  await page.getByLabel('From version').selectOption('1')
  await expect(page.getByRole('list', { name: 'What is different' })).toContainText('rules.restart.maxRestarts')
})
