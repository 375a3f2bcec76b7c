/**
 * Documents and the twin with real processes: a gateway and a person change the same document while there is no network between them; the
 * conflict is shown, somebody chooses, and both sides have the same. The rule that says so is written in the form.
 */
import { expect, test } from '@playwright/test'

import { startServer } from './line/fleet'
import { Site } from './line/processes'
import { Relay } from './line/relay'

let site: Site
let relay: Relay | undefined

test.beforeEach(async () => {
  site = await Site.make()
})

test.afterEach(async () => {
  await site.end()
  await relay?.end()
  relay = undefined
})

/** An app on the device, at the gateway's local HTTP. */
async function app(local: string, method: string, path: string, body?: object): Promise<{ status: number; json: unknown }> {
  const response = await fetch(`${local}${path}`, { method, ...(body ? { body: JSON.stringify(body) } : {}) })
  const text = await response.text()
  return { status: response.status, json: text === '' ? undefined : JSON.parse(text) }
}

test('both sides change a document without a network, somebody chooses, and both have the same', async ({ page }) => {
  const { origin, devicePort } = await startServer(site, page)
  relay = await Relay.to(devicePort)
  const key = (await site.farshore(['sync', 'create-key', 'hall', '--location', 'riga-1'])).trim()
  const gateway = site.start('farshore-agent', ['gateway'], {
    CLOUD_API_KEY: key,
    CLOUD_API_URL: `https://127.0.0.1:${relay.port}`,
    LOCAL_DB_PATH: site.path('hall', 'journal'),
    FARSHORE_STATE_DIR: site.path('hall', 'state'),
    GATEWAY_HTTP_LISTEN: '127.0.0.1:0',
    GATEWAY_MQTT_LISTEN: '127.0.0.1:0',
  })
  const [, ready = ''] = await gateway.says(/ready (\{.*\})/)
  const local = `http://${(JSON.parse(ready) as { http: string }).http}`
  const document = '/documents/settings/main'
  const here = async (): Promise<unknown> => (await app(local, 'GET', document)).json
  const pending = async (): Promise<number> => ((await app(local, 'GET', '/documents')).json as { status: { pending: number } }).status.pending

  // The rule, in the form: of the volume somebody decides.
  await page.goto(`${origin}/documents`)
  await page.getByRole('button', { name: 'New rules…' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Collection').fill('settings')
  await dialog.getByRole('button', { name: 'Add a rule' }).click()
  await dialog.getByLabel('Rule 2, path').fill('/volume')
  await dialog.getByLabel('Rule 2, strategy').selectOption('custom')
  await dialog.getByLabel('Rule 2, resolver').fill('edge +')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await expect(dialog.getByLabel('Rule 2, resolver')).toHaveAttribute('aria-invalid', 'true')
  await dialog.getByLabel('Rule 2, strategy').selectOption('manual')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await expect(page.getByRole('region', { name: 'Rules of documents' })).toContainText('/volume manual')

  // An app writes, and the page shows it.
  expect((await app(local, 'PUT', document, { volume: 3, name: 'hall' })).status).toBe(200)
  await expect.poll(pending, { timeout: 30_000 }).toBe(0)
  await page.goto(`${origin}/devices/hall`)
  const documents = page.locator('section').filter({ has: page.getByRole('heading', { name: 'Documents', exact: true }) })
  await expect(documents.getByRole('button', { name: /^settings\/main/ })).toBeVisible({ timeout: 30_000 })

  // Both change it without a network: the same leaf, and one each.
  relay.cut()
  expect((await app(local, 'PATCH', document, { volume: 5, light: 'off' })).status).toBe(200)
  expect(await pending()).toBe(1)
  await documents.getByRole('button', { name: /^settings\/main/ }).click()
  await dialog.getByRole('button', { name: 'Edit…' }).click()
  await dialog.getByLabel('Document').fill(JSON.stringify({ volume: 7, name: 'big hall' }))
  await dialog.getByRole('button', { name: 'Save' }).click()
  await expect(dialog.getByRole('heading', { name: 'settings/main', exact: true })).toBeVisible()
  await dialog.getByRole('button', { name: 'Close' }).click()
  await expect(documents.getByText('not on the device yet').first()).toBeVisible()
  expect(await here()).toEqual({ volume: 5, name: 'hall', light: 'off' })

  // With the network back both sides have the same, and the volume waits for somebody.
  relay.mend()
  await expect(documents.getByText('1 conflict to decide')).toBeVisible({ timeout: 90_000 })
  const conflict = documents.getByRole('listitem').filter({ hasText: '/volume' })
  await expect(conflict).toContainText('nobody has chosen')
  await expect.poll(here, { timeout: 60_000 }).toEqual({ volume: 7, name: 'big hall', light: 'off' })

  await conflict.getByRole('button', { name: 'Keep the device’s' }).click()
  await expect(documents.getByText('1 conflict to decide')).toBeHidden()
  await expect.poll(here, { timeout: 60_000 }).toEqual({ volume: 5, name: 'big hall', light: 'off' })
  await expect.poll(pending).toBe(0)
  const cloud = JSON.parse(await site.farshore(['document', 'get', 'hall', 'settings/main', '-o', 'json'])) as { value: unknown }
  expect(cloud.value).toEqual(await here())
  await documents.getByRole('button', { name: 'Show 1 decided' }).click()
  await expect(documents.getByRole('listitem').filter({ hasText: '/volume' })).toContainText('chose the device’s')

  // The twin: what is desired is pending until the device reports it.
  const twin = page.locator('section').filter({ has: page.getByRole('heading', { name: 'Twin', exact: true }) })
  await twin.getByRole('button', { name: 'Change desired…' }).click()
  await dialog.getByLabel('Desired').fill('{"interval": 10}')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await expect(twin.getByRole('list', { name: 'Desired and not reported' })).toContainText('/interval')
  const desired = async (): Promise<unknown> => ((await app(local, 'GET', '/twin')).json as { desired: unknown }).desired
  await expect.poll(desired, { timeout: 60_000 }).toEqual({ interval: 10 })
  await app(local, 'PATCH', '/twin/reported', { interval: 10, firmware: '1.2' })
  await expect(twin.getByText('Everything that is desired is reported.')).toBeVisible({ timeout: 60_000 })
  await expect(twin.getByRole('region', { name: 'Reported' })).toContainText('"firmware": "1.2"')
})
