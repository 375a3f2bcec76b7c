/** A real fleet for a test: a server, somebody logged in, agents that were claimed, an app of theirs, and signed releases of it. */
import { chmod, copyFile, mkdir, writeFile } from 'node:fs/promises'

import { expect, type Page } from '@playwright/test'

import { type Site, freePort, program } from './processes'

const PASSWORD = 'correct horse battery'

export interface Agent {
  name: string
  /** Where its app answers. */
  port: number
  /** What its app is configured with. */
  values: Record<string, string>
}

export interface Fleet {
  origin: string
  agents: Agent[]
  /** Writes the configuration of each agent's app. */
  configure: () => Promise<void>
  /** What each agent's app says it is. */
  served: () => Promise<string[]>
}

const object = (kind: string, name: string, spec: object): string =>
  `---\n${JSON.stringify({ apiVersion: 'farshore.dev/v1', kind, metadata: { name }, spec })}\n`

/** What is served at a port: a version, or `nothing`. */
async function served(port: number): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/version`).catch(() => undefined)
  return response === undefined ? 'nothing' : ((await response.json()) as { version: string }).version
}

export interface Server {
  origin: string
  /** Where devices connect. */
  devicePort: number
}

/** Starts a server; the page is logged in, and so is the command line. */
export async function startServer(site: Site, page: Page): Promise<Server> {
  const server = site.start('farshore', ['serve', '--data-dir', 'data', '--api-listen', '127.0.0.1:0', '--device-listen', '127.0.0.1:0', '--first-tenant', 'acme'])
  const [, link = ''] = await server.says(/(https:\/\/\S+\/login#link=\S+)/)
  const [, fingerprint = ''] = await server.says(/CA fingerprint:\s+(sha256:[0-9a-f]{64})/)
  const [, device = ''] = await server.says(/Device port:\s+(https:\/\/\S+)/)
  const origin = new URL(link).origin

  // The first admin comes by the one-time link and chooses a password; the same person on the command line.
  await page.goto(link)
  await page.getByLabel('Password').fill(PASSWORD)
  await page.getByRole('button', { name: 'Set password and log in' }).click()
  await expect(page.getByRole('link', { name: 'Devices' })).toBeVisible()
  await site.farshore(['login', origin, '--ca-fingerprint', fingerprint, '--email', 'admin@farshore.local', '--password-stdin'], `${PASSWORD}\n`)
  return { origin, devicePort: Number(new URL(device).port) }
}

/** Starts a server and `count` agents; the page is logged in, and so is the command line. `more` is in the runners' environment. */
export async function startFleet(site: Site, page: Page, count: number, more: Record<string, string> = {}): Promise<Fleet> {
  const { origin } = await startServer(site, page)
  // A token, the agents, and the page shows them.
  const token = JSON.parse(await site.farshore(['token', 'create', 'shop', '--uses', String(count), '--channel', 'prod', '--location', 'riga-1', '-o', 'json'])) as { status: { token: string } }
  const tills = Array.from({ length: count }, (_, i) => String(i + 1))
  for (const till of tills) await site.agent(`a${till}`, token.status.token, `till=${till}`, more)
  await page.goto(`${origin}/devices`)
  const agents: Agent[] = []
  for (const till of tills) {
    let name = ''
    await expect
      .poll(async () => (name = (await site.farshore(['get', 'devices', '-l', `till=${till}`, '-o', 'name'])).trim().replace(/^device\//, '')), { timeout: 20_000 })
      .not.toBe('')
    const port = await freePort()
    agents.push({ name, port, values: { PORT: String(port), TILL: till } })
    await expect(page.getByRole('link', { name, exact: true })).toBeVisible({ timeout: 20_000 })
  }

  const configure = async (): Promise<void> => {
    const configs = agents.map((agent, i) => object('Config', `till-${i + 1}`, { app: 'edge-web', device: agent.name, values: agent.values }))
    await writeFile(site.path('configs.yaml'), configs.join(''))
    await site.farshore(['apply', '-f', 'configs.yaml'])
  }
  await writeFile(site.path('fleet.yaml'), object('App', 'edge-web', {}) + object('Channel', 'prod', {}) + object('Placement', 'everywhere', { app: 'edge-web' }))
  await site.farshore(['apply', '-f', 'fleet.yaml'])
  await configure()
  await site.farshore(['key', 'generate'])
  await site.farshore(['key', 'init', '--key', 'release.key'])
  return { origin, agents, configure, served: () => Promise.all(agents.map((agent) => served(agent.port))) }
}

/**
 * Packs, signs and pushes a release of the app; `env` is what it runs with besides its configuration. With a `script`, that is run in the
 * place of its program, and its manifest says `terms` besides.
 */
export async function pushRelease(site: Site, version: string, env: Record<string, string>, script?: string, terms: object = {}): Promise<void> {
  const folder = `app-${version}`
  const file = site.path(folder, 'bin', 'edge-web-service')
  await mkdir(site.path(folder, 'bin'), { recursive: true })
  if (script === undefined) await copyFile(program('edge-web-service'), file)
  else await writeFile(file, script)
  await chmod(file, 0o755)
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
    ...terms,
  }
  await writeFile(site.path(`${folder}.json`), JSON.stringify(manifest))
  const platform = `linux/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}`
  await site.farshore(['release', 'pack', folder, '--out', `${folder}.tar.gz`])
  await site.farshore(['release', 'sign', '--key', 'release.key', `${folder}.json`, '--artifact', `${platform}=${folder}.tar.gz`, '--out', `out-${version}`])
  await site.farshore(['release', 'push', `out-${version}`])
}

/** A rollout of the app as a file. */
export function rolloutFile(name: string, version: string): string {
  return object('Rollout', name, {
    app: 'edge-web',
    channel: 'prod',
    release: `edge-web@${version}`,
    waves: [{ percent: 50, soakSeconds: 1 }, { percent: 100, soakSeconds: 1 }],
    failureThreshold: 30,
    maxUnavailable: 2,
  })
}
