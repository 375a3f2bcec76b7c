/** Pictures of each view against the mock server, to look at. `node dev/shots.mjs [name…]` → `dev/out/*.png`. */
import { spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { chromium } from '@playwright/test'

const here = fileURLToPath(new URL('.', import.meta.url))
const wanted = process.argv.slice(2)
const port = 4199
const base = `http://127.0.0.1:${port}`

const SHOTS = [
  ['home', '/'],
  ['home-empty', '/', { scene: 'empty' }],
  ['home-loading', '/', { scene: 'slow' }],
  ['home-error', '/', { scene: 'error' }],
  ['add-device', '/?add=device'],
  ['devices', '/devices'],
  ['devices-filtered', '/devices?labelSelector=role%3Dkiosk&health=failing'],
  ['devices-empty', '/devices', { scene: 'empty' }],
  ['devices-nomatch', '/devices?q=nothing-like-that'],
  ['devices-loading', '/devices', { scene: 'slow' }],
  ['devices-error', '/devices', { scene: 'error' }],
  ['devices-deep', '/devices', { act: async (page) => { await page.locator('[role=table]').evaluate((e) => e.scrollTo(0, 250_000)); await page.waitForTimeout(3000) } }],
  ['devices-selected', '/devices', { act: async (page) => { for (const key of ['j', 'x', 'j', 'x', 'j']) await page.keyboard.press(key) } }],
  ['device', '/devices/gw-1563', { wait: 2500 }],
  ['device-isolation', '/devices/kiosk-0000', { wait: 2500 }],
  ['device-range', '/devices/gw-1563?range=24h', { wait: 2500, act: (page) => page.mouse.move(500, 700) }],
  ['device-operations', '/devices/gw-1563', { wait: 1500, tall: true, act: async (page) => { await page.getByRole('button', { name: 'Output' }).first().click(); await page.waitForTimeout(2500) } }],
  ['device-ask', '/devices/gw-1563', { act: async (page) => { await page.getByRole('button', { name: /^Operate/ }).click(); await page.getByRole('menuitem', { name: 'Drain…' }).click(); await page.getByRole('button', { name: 'See what it does…' }).click(); await page.waitForTimeout(500) } }],
  ['devices-ask', '/devices', { act: async (page) => { for (const key of ['j', 'x', 'j', 'x', 'j', 'x']) await page.keyboard.press(key); await page.getByRole('button', { name: 'Operate on the selected devices' }).click(); await page.getByRole('menuitem', { name: 'Run a runbook…' }).click(); await page.getByRole('combobox', { name: 'Runbook' }).fill('check-printer'); await page.getByRole('button', { name: 'See what it does…' }).click(); await page.waitForTimeout(500) } }],
  ['device-command', '/devices/gw-1563', { act: async (page) => { await page.getByRole('button', { name: /^Operate/ }).click(); await page.getByRole('menuitem', { name: 'Run a runbook…' }).click(); await page.getByRole('textbox', { name: /ommand/ }).fill('df -h /data'); await page.getByLabel('Inside app').fill('edge-web'); await page.waitForTimeout(300) } }],
  ['devices-operate', '/devices?labelSelector=role%3Dtill', { act: async (page) => { await page.getByRole('button', { name: 'Operate on devices by selector' }).click(); await page.getByRole('menuitem', { name: 'Drain…' }).click(); await page.getByRole('button', { name: 'See what it does…' }).click(); await page.waitForTimeout(500) } }],
  ['policy-runbooks', '/policies/kiosks', { tall: true, act: async (page) => { await page.getByRole('button', { name: 'Add an argument' }).first().click() } }],
  ['policies', '/policies'],
  ['policy', '/policies/kiosks', { tall: true }],
  ['policy-isolation', '/policies/kiosks', { act: async (page) => { const part = page.locator('summary', { hasText: 'Isolation' }); await part.click(); await part.scrollIntoViewIfNeeded(); await page.mouse.wheel(0, 400) } }],
  ['incidents', '/incidents'],
  ['alerts', '/alerts'],
  ['alert-rules', '/alerts/rules'],
  ['alert-rule', '/alerts/rules', { act: (page) => page.getByRole('button', { name: 'Change tills-offline' }).click() }],
  ['alert-routes', '/alerts/routes'],
  ['alert-route', '/alerts/routes', { act: (page) => page.getByRole('button', { name: 'Change night-watch' }).click() }],
  ['alert-messages', '/alerts/messages'],
  ['device-pending', '/devices?lifecycle=pending', { act: async (page) => { await page.locator('[aria-rowindex="2"]').click(); await page.waitForTimeout(800) } }],
  ['device-error', '/devices/kiosk-0000', { scene: 'error', wait: 3000 }],
  ['gateways', '/gateways'],
  ['gateways-readings', '/gateways', { wait: 2000, act: (page) => page.getByRole('heading', { name: 'Readings' }).scrollIntoViewIfNeeded() }],
  ['gateways-location', '/gateways?location=riga-1&measurement=climate&field=humidity&by=series&range=6h', { wait: 2000, act: async (page) => { const chart = page.getByRole('slider'); await chart.focus(); for (let i = 0; i < 9; i += 1) await page.keyboard.press('PageDown') } }],
  ['gateways-device', '/gateways?location=riga-1&device=gw-0083&range=7d', { wait: 2000, act: (page) => page.getByRole('heading', { name: 'Readings' }).scrollIntoViewIfNeeded() }],
  ['gateways-nowhere', '/gateways?location=atlantis'],
  ['gateways-sink', '/gateways', { act: (page) => page.getByRole('button', { name: 'Change collector' }).click() }],
  ['document-rules', '/documents'],
  ['document-rules-empty', '/documents', { scene: 'empty' }],
  ['document-rules-form', '/documents', { act: (page) => page.getByRole('button', { name: 'Change calibration' }).click() }],
  ['gateways-pipelines', '/gateways', { act: (page) => page.getByRole('heading', { name: 'Pipelines' }).first().scrollIntoViewIfNeeded() }],
  ['device-pipelines', '/devices/gw-1563', { wait: 2500, act: (page) => page.getByRole('heading', { name: 'Pipelines' }).first().scrollIntoViewIfNeeded() }],
  ['gateways-empty', '/gateways', { scene: 'empty' }],
  ['gateways-error', '/gateways', { scene: 'error', wait: 6000 }],
  ['gateways-loading', '/gateways', { scene: 'slow' }],
  ['device-connectivity', '/devices/gw-1563', { wait: 2500, act: (page) => page.getByRole('heading', { name: /Connect/ }).first().scrollIntoViewIfNeeded() }],
  ['document-rules-error', '/documents', { scene: 'error', wait: 6000 }],
  ['device-readings', '/devices/gw-1563', { wait: 2500, act: (page) => page.getByRole('heading', { name: 'Readings of sensors' }).scrollIntoViewIfNeeded() }],
  ['rollouts', '/rollouts'],
  ['rollout', '/rollouts/edge-web-1-1-prod?bucket=failed'],
  ['rollout-failed', '/rollouts/edge-web-1-1-canary'],
  ['rollout-approve', '/rollouts/price-sync-2-4-1-prod?by=location', { tall: true }],
  ['rollout-draft', '/rollouts/edge-web-1-1-everywhere', { tall: true }],
  ['rollout-draft-error', '/rollouts/edge-web-1-1-everywhere', { scene: 'error', wait: 3000 }],
  ['rollout-held', '/rollouts/edge-web-1-1-lab', { tall: true }],
  ['rollout-models', '/rollouts/edge-web-1-1-prod?by=model&bucket=waiting', { tall: true }],
  ['rollout-abort', '/rollouts/edge-web-1-1-prod', { act: (page) => page.getByRole('button', { name: 'Abort…' }).click() }],
  ['rollout-loading', '/rollouts/edge-web-1-1-prod', { scene: 'slow' }],
  ['rollout-new', '/rollouts/new?app=edge-web&channel=prod&release=1.1.0'],
  ['rollout-new-open', '/rollouts/new?app=edge-web&channel=prod&release=1.1.0', { tall: true, act: async (page) => { for (const part of await page.locator('section[aria-label="More rules"] > details > summary').all()) await part.click(); for (const add of await page.getByRole('button', { name: /^Add a (budget|tripwire|window|blackout)$/ }).all()) await add.click() } }],
  ['rollouts-attention', '/rollouts?show=attention'],
  ['rollouts-nomatch', '/rollouts?q=nothing-like-that'],
  ['rollouts-empty', '/rollouts', { scene: 'empty' }],
  ['rollouts-error', '/rollouts', { scene: 'error', wait: 6000 }],
  ['rollouts-loading', '/rollouts', { scene: 'slow' }],
  ['releases', '/releases'],
  ['artifacts', '/artifacts'],
  ['apps', '/apps'],
  ['tokens', '/tokens'],
  ['users', '/users'],
  ['login', '/login', { scene: 'out' }],
  ['login-link', '/login#link=abc', { scene: 'out' }],
  ['palette', '/devices', { act: async (page) => { await page.keyboard.press('Control+k'); await page.keyboard.type('kiosk'); await page.waitForTimeout(700) } }],
  ['keys', '/devices', { act: (page) => page.keyboard.press('?') }],
  ['menu', '/', { act: async (page) => { const menu = page.getByRole('button', { name: 'Menu', exact: true }); if (await menu.isVisible()) await menu.click(); else await page.getByRole('button', { name: /^Account/ }).click() } }],
  ['notfound', '/no/such/place'],
]
const SIZES = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } }

const server = spawn(process.execPath, [`${here}mock-server.mjs`, String(port)], { stdio: ['ignore', 'pipe', 'inherit'] })
await new Promise((resolve) => server.stdout.once('data', resolve))
mkdirSync(`${here}out`, { recursive: true })
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
})
try {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const theme of ['light', 'dark']) {
      for (const [name, path, { scene, act, wait = 900, tall = false } = {}] of SHOTS) {
        const id = `${name}-${size}-${theme}`
        if (wanted.length > 0 && !wanted.some((w) => id === w || id.startsWith(`${w}-${size}`) || `${name}-${theme}` === w)) continue
        const context = await browser.newContext({ viewport: tall ? { ...viewport, height: 2100 } : viewport, colorScheme: theme, deviceScaleFactor: 1, reducedMotion: 'reduce' })
        if (scene) await context.addCookies([{ name: 'mock', value: scene, url: base }])
        const page = await context.newPage()
        page.on('pageerror', (error) => console.error(`${id}: ${error.message}`))
        page.on('console', (message) => { if (message.type() === 'error' && !/status of (4|5)/.test(message.text())) console.error(`${id}: ${message.text()}`) })
        await page.goto(base + path)
        await page.waitForTimeout(wait)
        await act?.(page)
        await page.waitForTimeout(250)
        await page.screenshot({ path: `${here}out/${id}.png` })
        await context.close()
      }
    }
  }
} finally {
  await browser.close()
  server.kill()
}
