/**
 * The whole line with real processes: two agents are claimed and seen, 1.0 is rolled out, then 1.1, which fails on one of them: it halts and
 * goes back, and the page says why.
 */
import { chmod, copyFile, mkdir, writeFile } from 'node:fs/promises'

import { expect, test } from '@playwright/test'

import { Site, freePort, program } from './line/processes'

const PASSWORD = 'correct horse battery'

let site: Site

test.beforeEach(async () => {
  site = await Site.make()
})

test.afterEach(async () => {
  await site.end()
})

async function pushRelease(version: string, env: Record<string, string>): Promise<void> {
  const folder = `app-${version}`
  await mkdir(site.path(folder, 'bin'), { recursive: true })
  await copyFile(program('edge-web-service'), site.path(folder, 'bin', 'edge-web-service'))
  await chmod(site.path(folder, 'bin', 'edge-web-service'), 0o755)
  await writeFile(site.path(folder, 'version.txt'), `${version}\n`)
  const manifest = {
    schema: 'farshore.dev/release/v1',
    tenant: 'acme',
    app: 'edge-web',
    version,
    run: { command: ['bin/edge-web-service', '--port', '${PORT}'], env },
    health: [{ name: 'web', probe: { type: 'http', port: '$PORT', path: '/healthz' }, intervalSeconds: 1, failureThreshold: 2 }],
    soakSeconds: 2,
    startTimeoutSeconds: 6,
  }
  await writeFile(site.path(`${folder}.json`), JSON.stringify(manifest))
  await site.farshore(['release', 'pack', folder, '--out', `${folder}.tar.gz`])
  await site.farshore(['release', 'sign', '--key', 'release.key', `${folder}.json`, '--artifact', `linux/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}=${folder}.tar.gz`, '--out', `out-${version}`])
  await site.farshore(['release', 'push', `out-${version}`])
}

function rollout(name: string, version: string): string {
  return JSON.stringify({
    apiVersion: 'farshore.dev/v1',
    kind: 'Rollout',
    metadata: { name },
    spec: {
      app: 'edge-web',
      channel: 'prod',
      release: `edge-web@${version}`,
      waves: [{ percent: 50, soakSeconds: 1 }, { percent: 100, soakSeconds: 1 }],
      failureThreshold: 30,
      maxUnavailable: 2,
    },
  })
}

async function served(port: number): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/version`).catch(() => undefined)
  return response === undefined ? 'nothing' : ((await response.json()) as { version: string }).version
}

test('a bad release stops itself and goes back, in front of your eyes', async ({ page }) => {
  const server = site.start('farshore', ['serve', '--data-dir', 'data', '--api-listen', '127.0.0.1:0', '--device-listen', '127.0.0.1:0', '--first-tenant', 'acme'])
  const [, link = ''] = await server.says(/(https:\/\/\S+\/login#link=\S+)/)
  const [, fingerprint = ''] = await server.says(/CA fingerprint:\s+(sha256:[0-9a-f]{64})/)
  const origin = new URL(link).origin

  // The first admin comes by the one-time link and chooses a password.
  await page.goto(link)
  await page.getByLabel('Password').fill(PASSWORD)
  await page.getByRole('button', { name: 'Set password and log in' }).click()
  await expect(page.getByRole('link', { name: 'Devices' })).toBeVisible()

  // The same person on the command line; then a token, two agents, and the page shows them.
  await site.farshore(['login', origin, '--ca-fingerprint', fingerprint, '--email', 'admin@farshore.local', '--password-stdin'], `${PASSWORD}\n`)
  const token = JSON.parse(await site.farshore(['token', 'create', 'shop', '--uses', '2', '--channel', 'prod', '--location', 'riga-1', '-o', 'json'])) as { status: { token: string } }
  await site.agent('a1', token.status.token, 'till=1')
  await site.agent('a2', token.status.token, 'till=2')
  await page.goto(`${origin}/devices`)
  const nameOf = async (till: string): Promise<string> => {
    let name = ''
    await expect
      .poll(async () => (name = (await site.farshore(['get', 'devices', '-l', `till=${till}`, '-o', 'name'])).trim().replace(/^device\//, '')), { timeout: 20_000 })
      .not.toBe('')
    return name
  }
  const [one, two] = [await nameOf('1'), await nameOf('2')]
  for (const name of [one, two]) await expect(page.getByRole('link', { name, exact: true })).toBeVisible({ timeout: 20_000 })

  // What runs where, and a signed release.
  const [portOne, portTwo] = [await freePort(), await freePort()]
  const objects = [
    { kind: 'App', metadata: { name: 'edge-web' }, spec: {} },
    { kind: 'Channel', metadata: { name: 'prod' }, spec: {} },
    { kind: 'Placement', metadata: { name: 'everywhere' }, spec: { app: 'edge-web' } },
    { kind: 'Config', metadata: { name: 'till-1' }, spec: { app: 'edge-web', device: one, values: { PORT: String(portOne), TILL: 'one' } } },
    { kind: 'Config', metadata: { name: 'till-2' }, spec: { app: 'edge-web', device: two, values: { PORT: String(portTwo), TILL: 'two' } } },
  ]
  const yaml = objects.map((object) => `---\n${JSON.stringify({ apiVersion: 'farshore.dev/v1', ...object })}\n`).join('')
  await writeFile(site.path('fleet.yaml'), yaml)
  await site.farshore(['apply', '-f', 'fleet.yaml'])
  await site.farshore(['key', 'generate'])
  await site.farshore(['key', 'init', '--key', 'release.key'])
  await pushRelease('1.0', {})
  await pushRelease('1.1', { FAIL_HEALTH_WHEN: 'TILL=two' })

  // 1.0 goes out and stays.
  await writeFile(site.path('good.yaml'), rollout('edge-web-1.0', '1.0'))
  await site.farshore(['apply', '-f', 'good.yaml'])
  await page.goto(`${origin}/rollouts/edge-web-1.0`)
  await expect(page.getByText('succeeded', { exact: true }).first()).toBeVisible({ timeout: 60_000 })
  expect([await served(portOne), await served(portTwo)]).toEqual(['1.0', '1.0'])

  // 1.1 fails on one of them: it halts and goes back.
  await writeFile(site.path('bad.yaml'), rollout('edge-web-1.1', '1.1'))
  await site.farshore(['apply', '-f', 'bad.yaml'])
  await page.goto(`${origin}/rollouts/edge-web-1.1`)
  await expect(page.getByText(/wave \d halted: 1 of \d/).first()).toBeVisible({ timeout: 90_000 })
  await expect(page.getByText(/rolled back: /).first()).toBeVisible({ timeout: 60_000 })
  await expect(page.getByText(/check web: it answered 503/).first()).toBeVisible()
  await expect.poll(async () => [await served(portOne), await served(portTwo)], { timeout: 30_000 }).toEqual(['1.0', '1.0'])

  // The device that failed says why as well, and runs what it ran before.
  await page.goto(`${origin}/devices/${two}`)
  await expect(page.getByText(/version 1\.1 failed here: .*503/).first()).toBeVisible({ timeout: 20_000 })
  await expect(page.getByText('conforming', { exact: true }).first()).toBeVisible()
})
