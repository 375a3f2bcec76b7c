/**
 * Two projects: `mock` looks at every view against the stand-in server; `line` runs real processes.
 *
 * A `line` spec starts its own server, from the folder of programs that `FARSHORE_BIN_DIR` names (`../target/debug` without it).
 * Debian's chromium is used; nothing is downloaded.
 */
import { defineConfig } from '@playwright/test'

process.env.PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD = '1'

const MOCK_PORT = 4197

export default defineConfig({
  testDir: 'e2e',
  outputDir: 'test-results',
  fullyParallel: true,
  forbidOnly: Boolean(process.env.CI),
  // On the build machine only, and reported as flaky: docs/decisions/0009.
  retries: process.env.CI ? 1 : 0,
  workers: 2,
  timeout: 60_000,
  // A bound for a busy machine with two cores, not a speed that is asked for.
  expect: { timeout: 20_000 },
  reporter: [['list']],
  use: {
    browserName: 'chromium',
    ignoreHTTPSErrors: true,
    reducedMotion: 'reduce',
    // Recorded on a second try only: a trace of every test costs more than the test.
    trace: 'on-first-retry',
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: [
        '--no-sandbox',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--no-first-run',
      ],
    },
  },
  projects: [
    { name: 'mock', testMatch: /mock\/.*\.spec\.ts$/, use: { baseURL: `http://127.0.0.1:${MOCK_PORT}` } },
    { name: 'line', testMatch: /e2e\/(line|demo|rollout|operations|documents|kernel)\.spec\.ts$/, timeout: 300_000, workers: 1 },
  ],
  ...(process.argv.includes('--project=mock')
    ? {
        webServer: {
          command: `node dev/mock-server.mjs ${MOCK_PORT}`,
          url: `http://127.0.0.1:${MOCK_PORT}/api/me`,
          reuseExistingServer: false,
        },
      }
    : {}),
})
