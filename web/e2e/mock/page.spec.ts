/** What the page does, by role and label only, against the stand-in server. */
import { expect, test } from '@playwright/test'

test.use({ viewport: { width: 1440, height: 900 } })

test('a filter that is typed is in the address, as a chip, and in the command', async ({ page, context }) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write'])
  await page.goto('/devices')
  // The page listens to keys once it is drawn, and the field has them once it has the focus.
  await expect(page.getByRole('table', { name: 'Devices' })).toBeVisible()
  await page.keyboard.press('/')
  await expect(page.locator('input:focus')).toBeVisible()
  await page.keyboard.type('role=kiosk health=failing')
  await page.keyboard.press('Enter')
  await expect(page).toHaveURL(/labelSelector=role%3Dkiosk/)
  await expect(page).toHaveURL(/health=failing/)
  await expect(page.getByRole('button', { name: 'Remove the filter role=kiosk' })).toBeVisible()
  await page.getByRole('button', { name: 'Copy as command' }).click()
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(
    'farshore get devices -l role=kiosk --field-selector health=failing',
  )
  await page.getByRole('button', { name: 'Remove the filter health=failing' }).click()
  await expect(page).not.toHaveURL(/health=/)
})

test('ten thousand rows: only those in view are in the document, and the end can be reached', async ({ page }) => {
  await page.goto('/devices')
  const table = page.getByRole('table', { name: 'Devices' })
  await expect(table).toHaveAttribute('aria-rowcount', '10001')
  await expect(table.getByRole('row').nth(1)).toBeVisible()
  expect(await table.getByRole('row').count()).toBeLessThan(80)
  await table.evaluate((element) => element.scrollTo(0, element.scrollHeight))
  await expect(table.getByText('till-9997')).toBeVisible({ timeout: 20_000 })
  expect(await table.getByRole('row').count()).toBeLessThan(80)
})

test('keys walk the list, open a device, go to its neighbour and back up', async ({ page }) => {
  await page.goto('/devices?location=riga-1')
  await expect(page.getByRole('table', { name: 'Devices' }).getByRole('link').first()).toBeVisible()
  for (const key of ['j', 'j', 'o']) await page.keyboard.press(key)
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('gw-0043')
  await expect(page.getByRole('heading', { level: 1 })).toBeFocused()
  await page.keyboard.press(']')
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('gw-0083')
  await page.keyboard.press('u')
  await expect(page).toHaveURL(/\/devices\?location=riga-1$/)
  await page.keyboard.press('g')
  await page.keyboard.press('r')
  await expect(page.getByRole('heading', { level: 1, name: 'Rollouts' })).toBeVisible()
})

test('an action that does not fit is disabled and says why', async ({ page }) => {
  await page.goto('/devices')
  await page.getByRole('checkbox', { name: 'Select gw-0003' }).click()
  const approve = page.getByRole('button', { name: 'Approve' })
  await expect(approve).toHaveAttribute('aria-disabled', 'true')
  await expect(approve).toHaveAccessibleDescription('Only pending devices can be approved.')
})

test('rows are selected one by one and as a range, and all that match at once', async ({ page }) => {
  await page.goto('/devices?location=riga-1')
  for (const name of ['gw-0003', 'gw-0083']) await page.getByRole('checkbox', { name: `Select ${name}` }).click()
  await expect(page.getByText('2 devices selected')).toBeVisible()
  await page.getByRole('checkbox', { name: 'Select gw-0163' }).click({ modifiers: ['Shift'] })
  await expect(page.getByText('4 devices selected')).toBeVisible()
  await page.getByRole('button', { name: /^Select all 1,/ }).click()
  await expect(page.getByText(/^1,\d+ devices selected/)).toBeVisible()
  await page.getByRole('button', { name: 'Cordon', exact: true }).click()
  await expect(page.getByRole('dialog')).toContainText(/Cordon 1,\d+ devices/)
})

test('pausing says how many, asks why, and shows in the history', async ({ page }) => {
  await page.goto('/rollouts/edge-web-1-1-prod')
  await page.getByRole('button', { name: 'Pause…' }).click()
  const dialog = page.getByRole('dialog')
  await expect(dialog).toContainText('2 devices are in flight')
  await dialog.getByLabel('Why').fill('looking at kiosk-0003')
  await dialog.getByRole('button', { name: 'Pause the rollout' }).click()
  await expect(page.getByText('“looking at kiosk-0003”')).toBeVisible()
  await page.getByRole('button', { name: 'Resume…' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Resume the rollout' }).click()
  await expect(page.getByRole('button', { name: 'Pause…' })).toBeVisible()
})

test('a claim token is shown once, with the command for the device', async ({ page }) => {
  await page.goto('/tokens')
  await page.getByRole('button', { name: 'New claim token' }).click()
  await page.getByLabel('Name of the token').fill('from-a-test')
  await page.getByRole('button', { name: 'Make a claim token' }).click()
  await expect(page.getByRole('dialog')).toContainText('farshore-agent claim --server')
  await page.getByRole('button', { name: 'Done' }).click()
  await expect(page.getByRole('cell', { name: 'from-a-test' })).toBeVisible()
})

test('a device is seen live: one sample a second', async ({ page }) => {
  await page.goto('/devices/gw-0043?range=5m')
  await expect(page.getByText('one sample a second')).toBeVisible()
  await expect(page.getByRole('img', { name: 'CPU over the last 5m' })).toBeVisible()
})

test('a silent device is not called live, though its stream is open', async ({ page }) => {
  const open = page.waitForResponse('**/metrics/stream')
  await page.goto('/devices/gw-0003?range=5m')
  await open
  await expect(page.getByText('not live', { exact: true })).toBeVisible()
  await expect(page.getByText('one sample a second')).toBeHidden()
})

test('a device shows how it stood to its control plane in the last seven days', async ({ page }) => {
  await page.goto('/devices/gw-1563')
  const section = page.locator('section', { has: page.getByRole('heading', { name: 'Connectivity' }) })
  await expect(section.getByRole('img', { name: /^The last 7 days: online 9\d\.\d\d %, 2 outages$/ })).toBeVisible()
  const outages = section.getByRole('list', { name: 'Outages, newest first' }).getByRole('listitem')
  await expect(outages).toHaveCount(2)
  await expect(outages.first()).toContainText(/for 9 min\s*captive portal/)
  await expect(outages.last()).toContainText('has no address')
})

test('one stream serves two tabs', async ({ context }) => {
  let streams = 0
  context.on('request', (request) => {
    if (request.url().endsWith('/api/events/stream')) streams += 1
  })
  const [one, two] = [await context.newPage(), await context.newPage()]
  for (const page of [one, two]) {
    await page.goto('/devices')
    await expect(page.getByText('live', { exact: true })).toBeVisible()
  }
  expect(streams).toBeLessThanOrEqual(1)
})

test('a one-time link leaves the address at once and asks for a password', async ({ page }) => {
  await page.goto('/login#link=secret')
  await expect(page.getByRole('heading', { name: 'Choose a password' })).toBeVisible()
  expect(page.url()).not.toContain('secret')
  await page.getByLabel('Password').fill('a long enough password')
  await page.getByRole('button', { name: 'Set password and log in' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'Home' })).toBeVisible()
})

test('a wrong password says so, and an address elsewhere is not followed', async ({ page }) => {
  await page.goto('/login?next=//evil.example/')
  await page.getByLabel('Email').fill('anna@northwind.example')
  await page.getByLabel('Password').fill('wrong')
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('alert')).toContainText('the email or the password is wrong')
  await page.getByLabel('Password').fill('right')
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'Home' })).toBeVisible()
})

test('who is not logged in comes to the login and from there to where they wanted', async ({ page, context, baseURL }) => {
  await context.addCookies([{ name: 'mock', value: 'out', url: baseURL ?? '' }])
  await page.goto('/rollouts?x=1')
  await expect(page).toHaveURL(/\/login\?next=/)
  await context.clearCookies()
  await page.getByLabel('Email').fill('anna@northwind.example')
  await page.getByLabel('Password').fill('right')
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'Rollouts' })).toBeVisible()
})

test('the theme is set before the first paint and stays chosen', async ({ page }) => {
  await page.emulateMedia({ colorScheme: 'light' })
  await page.goto('/')
  await page.getByRole('button', { name: /^Account/ }).click()
  await page.getByRole('menuitemradio', { name: 'Dark' }).click()
  await expect(page.locator('html')).toHaveAttribute('data-theme', 'dark')
  await page.route('**/assets/*.js', (route) => route.abort())
  await page.reload()
  await expect(page.locator('html')).toHaveAttribute('data-theme', 'dark')
})

test('the palette finds a device and opens it', async ({ page }) => {
  await page.goto('/')
  await expect(page.getByRole('heading', { level: 1, name: 'Home' })).toBeVisible()
  await page.keyboard.press('Control+k')
  await page.getByRole('combobox').fill('kiosk-0012')
  await expect(page.getByRole('option', { name: /kiosk-0012/ }).first()).toBeVisible()
  await page.keyboard.press('Enter')
  await expect(page.getByRole('heading', { level: 1, name: 'kiosk-0012' })).toBeVisible()
})

test('Enter that comes before the answer is for the first thing found', async ({ page }) => {
  let answer = (): void => {}
  const asked = new Promise<void>((resolve) => (answer = resolve))
  await page.route(/\/api\/devices\?.*q=/, async (route) => {
    await asked
    await route.continue()
  })
  await page.goto('/')
  await expect(page.getByRole('heading', { level: 1, name: 'Home' })).toBeVisible()
  await page.keyboard.press('Control+k')
  await page.getByRole('combobox').fill('kiosk-0012')
  await page.keyboard.press('Enter')
  await expect(page.getByRole('listbox', { name: 'Results' })).toHaveAttribute('aria-busy', 'true')
  answer()
  await expect(page.getByRole('heading', { level: 1, name: 'kiosk-0012' })).toBeVisible()
})
