/** The chart of the gateways' readings, by role and label only, against the stand-in server. */
import { expect, test, type Page } from '@playwright/test'

test.use({ viewport: { width: 1440, height: 900 } })

const panel = (page: Page) => page.getByRole('region', { name: 'Readings', exact: true })
const table = (page: Page) => panel(page).getByRole('table')

test('from all locations to one, to its device, to the device’s page, with what is drawn in the address', async ({ page, context }) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write'])
  await page.goto('/gateways')
  await expect(table(page)).toHaveAccessibleName('climate · humidity by location')
  await expect(table(page).getByRole('row')).toHaveCount(3)
  await panel(page).getByLabel('Measurement').selectOption('press · bar (4)')
  await panel(page).getByLabel('Value').selectOption('greatest')
  await panel(page).getByRole('group', { name: 'Range of time' }).getByRole('button', { name: '6h' }).click()
  await expect(page).toHaveURL(/measurement=press&field=bar&aggregate=max&range=6h/)

  await table(page).getByRole('link', { name: 'riga-1' }).click()
  await expect(table(page)).toHaveAccessibleName('press · bar by device')
  await expect(table(page).getByRole('row')).toHaveCount(4)
  await expect(page.getByText('3 gateways, 2,436,532 readings waiting')).toBeVisible()
  await expect(page.getByRole('region', { name: 'Gateways', exact: true }).getByRole('row')).toHaveCount(4)
  await panel(page).getByRole('button', { name: 'Command' }).click()
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe('farshore series -m press -f bar --location riga-1 --since 6h --step 90s -a max --by device')

  await table(page).getByRole('link', { name: 'gw-0003' }).click()
  await expect(page).toHaveURL(/location=riga-1&device=gw-0003/)
  await expect(table(page)).toHaveAccessibleName('press · bar by series')
  await page.reload()
  await expect(panel(page).getByLabel('Measurement')).toHaveValue('["press","bar"]')
  await expect(panel(page).getByLabel('Value')).toHaveValue('max')
  await expect(table(page)).toHaveAccessibleName('press · bar by series')
  await table(page).getByRole('link', { name: 'line=3' }).click()
  await expect(page).toHaveURL(/\/devices\/gw-0003\?range=6h$/)
  await page.goBack()
  await page.goBack()
  await expect(table(page)).toHaveAccessibleName('press · bar by device')
})

test('keys lead down and up again, and the crosshair goes along the axis of time', async ({ page }) => {
  await page.goto('/gateways')
  await table(page).getByRole('link', { name: 'riga-1' }).press('Enter')
  const here = panel(page).getByRole('navigation', { name: 'Whose readings' }).getByText('riga-1')
  await expect(here).toBeFocused()
  await expect(table(page).getByRole('row')).toHaveCount(4)
  await expect(here).toBeFocused()

  const chart = panel(page).getByRole('slider')
  await chart.focus()
  await expect(chart).toHaveAttribute('aria-valuetext', /Arrow keys/)
  await chart.press('End')
  await chart.press('ArrowLeft')
  await expect(chart).toHaveAttribute('aria-valuetext', /^\d\d:\d\d:\d\d: gw-0003 [\d.]+, gw-0043 –, gw-0083 [\d.]+$/)
  await expect(table(page).getByRole('columnheader', { name: /^At \d\d:\d\d:\d\d$/ })).toBeVisible()
  await expect(table(page).getByRole('row', { name: /gw-0043/ }).getByRole('cell').nth(1)).toHaveText('–')
  await chart.blur()
  await expect(table(page).getByRole('columnheader', { name: 'Last' })).toBeVisible()

  await page.keyboard.press('u')
  await expect(table(page)).toHaveAccessibleName('climate · humidity by location')
  await expect(page).toHaveURL(/\/gateways\?measurement=climate&field=humidity$/)
})

test('a filter is a chip that can be taken away, and an address that leads nowhere says so', async ({ page }) => {
  await page.goto('/gateways?location=riga-2')
  await expect(table(page).getByRole('link', { name: 'gw-1563' })).toBeVisible()
  await page.getByRole('button', { name: 'Remove the filter location=riga-2' }).click()
  await expect(page).toHaveURL(/\/gateways$/)
  await page.goto('/gateways?location=atlantis')
  await expect(page.getByText('No gateway here')).toBeVisible()
  await expect(panel(page)).toHaveCount(0)
  await page.getByRole('link', { name: 'Show all gateways' }).click()
  await expect(panel(page)).toBeVisible()
})

test('nothing measured, not all of it, an error and a long wait are told', async ({ page }) => {
  await page.goto('/gateways?measurement=no-such')
  await expect(panel(page).getByText('No readings of no-such in the last 1h.')).toBeVisible()

  await page.route(/\/api\/series\?/, async (route) => {
    const response = await route.fetch()
    await route.fulfill({ response, json: { ...(await response.json()), truncated: true } })
  })
  await page.goto('/gateways')
  await expect(panel(page).getByRole('status')).toContainText('Not all of it.')
  await expect(table(page).getByRole('row')).toHaveCount(3)

  await page.unroute(/\/api\/series\?/)
  let fails = true
  await page.route(/\/api\/series\?/, (route) =>
    fails ? route.fulfill({ status: 400, contentType: 'application/problem+json', json: { title: 'The request is not valid', status: 400, code: 'invalid', detail: 'too much is asked for' } }) : route.continue(),
  )
  await page.goto('/gateways')
  await expect(panel(page).getByRole('alert')).toContainText('The readings can’t be read: The request is not valid')
  await expect(panel(page).getByRole('alert')).toContainText('too much is asked for')
  fails = false
  await panel(page).getByRole('button', { name: 'Try again' }).click()
  await expect(table(page).getByRole('row')).toHaveCount(3)

  await page.unroute(/\/api\/series\?/)
  await page.route(/\/api\/series\/latest/, () => undefined)
  await page.goto('/gateways')
  await expect(panel(page).getByText('Loading readings')).toBeAttached()
  await page.unroute(/\/api\/series\/latest/)
  await page.route(/\/api\/series\/latest/, (route) => route.fulfill({ json: { items: [], metadata: {} } }))
  await page.goto('/gateways')
  await expect(panel(page).getByText('No readings have come in yet.')).toBeVisible()
})

test('of more lines than can be drawn the others are counted', async ({ page }) => {
  await page.route(/\/api\/series\?/, async (route) => {
    const response = await route.fetch()
    const range = await response.json()
    const items = Array.from({ length: 75 }, (_, n) => ({ ...range.items[0], location: `hall-${n + 1}` }))
    await route.fulfill({ response, json: { ...range, items } })
  })
  await page.goto('/gateways')
  await expect(table(page).getByRole('row')).toHaveCount(61)
  await expect(table(page).getByRole('row').nth(10)).toContainText('hall-10')
  await expect(panel(page).getByText('15 more lines')).toBeVisible()
})

test.describe('phone', () => {
  test.use({ viewport: { width: 390, height: 844 }, hasTouch: true })
  test('the chart is drawn, leads down, and nothing is wider than the screen', async ({ page }) => {
    await page.goto('/gateways')
    await table(page).getByRole('link', { name: 'riga-1' }).tap()
    await expect(table(page).getByRole('row')).toHaveCount(4)
    await expect(table(page).getByRole('columnheader', { name: 'Least' })).toBeHidden()
    const chart = panel(page).getByRole('slider')
    await chart.scrollIntoViewIfNeeded()
    const box = await chart.boundingBox()
    expect(box?.width).toBeGreaterThan(300)
    expect(box?.width).toBeLessThan(390)
    for (const name of ['5m', '7d', 'Series']) await panel(page).getByRole('button', { name, exact: true }).tap()
    await expect(page).toHaveURL(/range=7d/)
    await expect(table(page).getByRole('row')).toHaveCount(5)
    expect(await page.evaluate(() => document.querySelector('main')?.scrollWidth ?? 0)).toBeLessThanOrEqual(390)
  })
})
