/**
 * What the kernel tells, on the page as it happens, with real processes and a real kernel: a bad release loses segments and ends, is restarted, and is
 * gone back from; ends and lost segments appear on the open page of the device with who has seen them, and lie in the evidence. Once by eBPF, and
 * once where that is forbidden.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { promisify } from 'node:util'

import { expect, test, type Locator, type Page } from '@playwright/test'

import { pushRelease, rolloutFile, startFleet } from './line/fleet'
import { Site } from './line/processes'

/** A program that listens and never takes anybody in: it says its port and does nothing any more. */
const DEAF = `
const server = require('node:net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
  require('node:fs').writeSync(1, server.address().port + '\\n')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
})`

/** Whoever knocks there when both places are taken is not heard: the first segment is sent again after a second. */
class Deaf {
  private readonly taken: Socket[] = []
  private constructor(
    private readonly child: ChildProcess,
    readonly port: number,
  ) {}

  static async start(): Promise<Deaf> {
    const child = spawn(process.execPath, ['-e', DEAF], { stdio: ['ignore', 'pipe', 'inherit'] })
    if (child.stdout === null) throw new Error('it has no output')
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    const deaf = new Deaf(child, Number(said.toString()))
    for (let place = 0; place < 2; place += 1) {
      const socket = connect(deaf.port, '127.0.0.1')
      await once(socket, 'connect')
      deaf.taken.push(socket)
    }
    return deaf
  }

  async end(): Promise<void> {
    for (const socket of this.taken) socket.on('error', () => undefined).destroy()
    const ended = once(this.child, 'exit')
    this.child.kill('SIGKILL')
    await ended
  }
}

let site: Site
let deaf: Deaf

test.beforeEach(async () => {
  site = await Site.make()
  deaf = await Deaf.start()
})

test.afterEach(async () => {
  await site.end()
  await deaf.end()
})

/** Knocks, and fails before anybody could have opened. */
const loses = (port: number): string => `#!/bin/bash
(exec 3<>/dev/tcp/127.0.0.1/${port}) 2>/dev/null &
sleep 2.5
exit 7
`

interface Detail {
  source?: string
  code?: number
  main?: boolean
}

/** As it was kept, or as the black box remembers it. */
interface KernelEvent {
  type: string
  payload?: Detail
  detail?: Detail
}

const section = (page: Page, title: string): Locator => page.locator('section').filter({ has: page.getByRole('heading', { name: title, exact: true }) })

/** The archive of evidence, downloaded from the page of the incident; what the kernel told, in it. */
async function evidence(page: Page): Promise<KernelEvent[]> {
  const downloading = page.waitForEvent('download')
  await page.getByRole('button', { name: 'Download the archive' }).click()
  const path = await (await downloading).path()
  const unpacked = await promisify(execFile)('tar', ['-xzOf', path, '--wildcards', '*/kernel-events.json'], { maxBuffer: 32 << 20 })
  return JSON.parse(unpacked.stdout) as KernelEvent[]
}

for (const { ebpf, ends, lost, says } of [
  { ebpf: 'on', ends: 'ebpf', lost: 'ebpf', says: { ends: 'eBPF', lost: 'eBPF' } },
  { ebpf: 'off', ends: 'netlink', lost: 'proc', says: { ends: 'netlink', lost: '/proc' } },
]) {
  test(`with eBPF ${ebpf}, ends and lost segments are on the page during an incident, and in its evidence`, async ({ page }) => {
    const root = process.getuid?.() === 0
    if (!root) console.error('WITHOUT ROOT NEITHER EBPF NOR THE PROCESS CONNECTOR IS TO BE HAD: NOTHING IS TESTED')
    test.skip(!root, 'only root can look into the kernel')
    const { origin, agents, served } = await startFleet(site, page, 1, { FARSHORE_EBPF: ebpf })
    const name = agents[0]?.name ?? ''
    await pushRelease(site, '1.0', {})
    await pushRelease(site, '1.1', {}, loses(deaf.port), { startTimeoutSeconds: 30, restart: { backoffMs: 50, maxBackoffMs: 100, maxRestarts: 1 } })
    await writeFile(site.path('good.yaml'), rolloutFile('edge-web-1.0', '1.0'))
    await site.farshore(['apply', '-f', 'good.yaml'])
    const phase = async (): Promise<string> => {
      const rollout = JSON.parse(await site.farshore(['get', 'rollout', 'edge-web-1.0', '-o', 'json'])) as { status: { summary: { phase: string } } }
      return rollout.status.summary.phase
    }
    await expect.poll(phase, { timeout: 60_000 }).toBe('succeeded')

    // The page of the device is open, and says who looks.
    await page.goto(`${origin}/devices/${name}`)
    await expect(page.getByText('one sample a second')).toBeVisible()
    const sense = (signal: string): Locator => section(page, 'Told by the kernel').locator('dt').filter({ hasText: signal })
    await expect(sense('Processes that end')).toContainText(says.ends)
    await expect(sense('TCP retransmits')).toContainText(says.lost)
    await page.evaluate(() => Object.assign(window, { theSame: true }))

    // What happens from here on appears on it by itself.
    await writeFile(site.path('bad.yaml'), rolloutFile('edge-web-1.1', '1.1'))
    await site.farshore(['apply', '-f', 'bad.yaml'])
    const event = (type: string, text: RegExp): Locator => section(page, 'Events').getByRole('listitem').filter({ hasText: type }).filter({ hasText: text })
    await expect(event('process_exit', /the process of edge-web .*exited with 7/).first()).toContainText(`seen by ${says.ends}`, { timeout: 60_000 })
    // Where others on this machine lose many, they are told together once a minute.
    const segments = ebpf === 'on' ? new RegExp(`TCP segments? to 127\\.0\\.0\\.1:${deaf.port} (was|were) sent again`) : /TCP segments? (was|were) sent again/
    await expect(event('tcp_retransmit', segments).first()).toContainText(`seen by ${says.lost}`, { timeout: 90_000 })

    // The incident is on it too; its own page shows the restart, then the way back.
    await section(page, 'Incidents').getByRole('link', { name: /^Process ended/ }).first().click({ timeout: 60_000 })
    await expect(page.getByRole('heading', { name: 'Timeline', exact: true })).toBeVisible()
    const lines = section(page, 'Timeline').getByRole('listitem')
    const line = (what: RegExp): Locator => lines.filter({ hasText: what })
    await expect(line(/Restarted/).first()).toBeVisible({ timeout: 30_000 })
    await expect(line(/Rolled back/).first()).toBeVisible({ timeout: 60_000 })
    await expect(line(/process_exit.*exited with 7/).first()).toBeVisible({ timeout: 30_000 })
    const order = await lines.allTextContents()
    expect(order.findIndex((text) => text.includes('Restarted'))).toBeLessThan(order.findIndex((text) => text.includes('Rolled back')))
    await expect.poll(served, { timeout: 60_000 }).toEqual(['1.0'])
    await expect(page.getByText('Black box “given-up”')).toBeVisible({ timeout: 30_000 })
    expect(await page.evaluate(() => 'theSame' in window), 'the page was never loaded again').toBe(true)

    // And in the evidence, with who has seen it.
    const told = await evidence(page)
    const of = (type: string) => told.filter((one) => one.type === type).map((one) => one.payload ?? one.detail ?? {})
    const exits = of('process_exit').filter((exit) => exit.main === true && exit.code === 7)
    expect(exits.length, 'each of its two ends').toBeGreaterThanOrEqual(2)
    expect(new Set(exits.map((exit) => exit.source))).toEqual(new Set([ends]))
    // Of a busy machine's many, told together, not each one is kept: that this one was told is seen on the page above.
    const again = of('tcp_retransmit')
    expect(again.length, 'segments sent again').toBeGreaterThanOrEqual(1)
    expect(new Set(again.map((one) => one.source))).toEqual(new Set([lost]))
  })
}
