/** What the rules of documents show and do, by role and label only, against the stand-in server. */
import { AxeBuilder } from '@axe-core/playwright'
import { expect, test } from '@playwright/test'

test.use({ viewport: { width: 1440, height: 900 } })

test('rules of a collection are made, what is wrong is told at its field, changed and deleted', async ({ page }) => {
  await page.goto('/documents')
  const table = page.getByRole('region', { name: 'Rules of documents' })
  await expect(table.getByRole('row')).toHaveCount(4)
  await expect(table.getByRole('row').nth(2)).toContainText('may only read')
  await expect(table.getByRole('row').nth(1)).toContainText('400 days')
  await page.getByRole('button', { name: 'New rules…' }).click()
  const dialog = page.getByRole('dialog')
  const save = dialog.getByRole('button', { name: 'Save' })
  await expect(save).toHaveAccessibleDescription('Say for which collection.')
  await dialog.getByLabel('Collection').fill('Counters')
  await save.click()
  await expect(dialog.getByLabel('Collection')).toHaveAccessibleDescription(/small letters/)
  await dialog.getByLabel('Collection').fill('counters')
  await dialog.getByRole('button', { name: 'Add a rule' }).click()
  await dialog.getByLabel('Rule 2, path').fill('/total')
  await dialog.getByLabel('Rule 2, strategy').selectOption('custom')
  await dialog.getByLabel('Rule 2, resolver').fill('edge + cloud -')
  await save.click()
  await expect(dialog.getByText('the resolver does not compile').first()).toBeVisible()
  await expect(dialog.getByLabel('Rule 2, resolver')).toHaveAttribute('aria-invalid', 'true')
  await dialog.getByLabel('Rule 2, resolver').fill('edge + cloud - base')
  await dialog.getByLabel('Conflicts are kept for (days)').fill('1000')
  await save.click()
  await expect(dialog.getByLabel('Conflicts are kept for (days)')).toHaveAccessibleDescription('is 1 to 400')
  await dialog.getByLabel('Conflicts are kept for (days)').fill('90')
  await dialog.getByLabel('Devices may only read these documents').check()
  await save.click()
  await expect(dialog).toBeHidden()
  const made = table.getByRole('row').filter({ hasText: 'counters' })
  await expect(made).toContainText('edge + cloud - base')
  await expect(made).toContainText('90 days')

  await page.getByRole('button', { name: 'Change counters' }).click()
  await dialog.getByRole('button', { name: 'Remove rule 2' }).click()
  await dialog.getByLabel('Rule 1, strategy').selectOption('edge-wins')
  await save.click()
  await expect(made).toContainText('edge-wins')
  await page.getByRole('button', { name: 'Delete the rules of counters' }).click()
  await expect(dialog).toContainText('devices may change them again')
  await dialog.getByRole('button', { name: 'Delete the rules' }).click()
  await expect(table.getByRole('row')).toHaveCount(4)
})

test('rules that somebody else changed meanwhile are not overwritten', async ({ page, request }) => {
  await page.goto('/documents')
  await page.getByRole('button', { name: 'Change settings' }).click()
  const other = await request.put('/api/document-collections/settings', { data: { rules: [{ path: '', strategy: 'merge' }, { path: '/volume', strategy: 'manual' }], readOnly: false } })
  expect(other.status()).toBe(200)
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Rule 1, strategy').selectOption('cloud-wins')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await expect(dialog.getByRole('alert')).toContainText('It was changed meanwhile')
})

for (const [name, width] of [
  ['wide', 1440],
  ['phone', 390],
] as const) {
  test(`axe finds nothing in the form (${name})`, async ({ page }) => {
    await page.setViewportSize({ width, height: 844 })
    await page.goto('/documents')
    await page.getByRole('button', { name: 'Change calibration' }).click()
    await expect(page.getByLabel('Rule 2, resolver')).toBeVisible()
    const { violations } = await new AxeBuilder({ page }).analyze()
    expect(violations.map((one) => `${one.id}: ${one.help}`)).toEqual([])
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width)
  })
}
