/**
 * 10,000 rows scroll at 60 frames: each frame does a bounded piece of work, however long the list is and however fast it turns.
 *
 * What is asked for is counted, not timed: layouts, styles and elements made are the same on every machine. What a frame's work takes in the
 * page's own processor time is printed beside it; on a quiet machine it fits into a frame.
 */
import { expect, test } from '@playwright/test'

test.use({ viewport: { width: 1440, height: 900 } })

const FRAMES = 40
const ROW_PIXELS = 34

for (const [name, pixels] of [
  ['read', 34],
  ['turned over with a wheel', 120],
] as const) {
  test(`ten thousand devices ${name}: a frame's work is bounded`, async ({ page }, info) => {
    test.setTimeout(120_000)
    await page.goto('/devices')
    const table = page.getByRole('table', { name: 'Devices' })
    await expect(table.getByRole('link').first()).toBeVisible()
    // What will be scrolled over is read first: what is measured is drawing, not the server.
    await table.evaluate((element, end) => element.scrollTo(0, end), FRAMES * pixels + 900)
    await expect(table.getByRole('row').last().getByRole('link')).toBeVisible()
    await table.evaluate((element) => element.scrollTo(0, 0))
    await expect(table.getByText('gw-0003')).toBeVisible()

    const client = await page.context().newCDPSession(page)
    // The thread's own time: other processes of a busy machine do not count.
    await client.send('Performance.enable', { timeDomain: 'threadTicks' })
    const taken = async (): Promise<Record<string, number>> =>
      Object.fromEntries((await client.send('Performance.getMetrics')).metrics.map((metric) => [metric.name, metric.value]))

    const before = await taken()
    const seen = await table.evaluate(
      async (element, { frames, step }) => {
        const seen = { rows: 0, added: 0, scrolled: 0 }
        const observer = new MutationObserver((records) => {
          for (const record of records) seen.added += [...record.addedNodes].filter((node) => node instanceof HTMLElement).length
        })
        observer.observe(element, { childList: true, subtree: true })
        const start = element.scrollTop
        for (let i = 0; i <= frames; i++) {
          await new Promise(requestAnimationFrame)
          seen.rows = Math.max(seen.rows, element.querySelectorAll('[role=row]').length)
          element.scrollTop += step
        }
        await new Promise(requestAnimationFrame)
        observer.disconnect()
        seen.scrolled = element.scrollTop - start
        return seen
      },
      { frames: FRAMES, step: pixels },
    )
    const after = await taken()
    const perFrame = (metric: string): number => ((after[metric] ?? 0) - (before[metric] ?? 0)) / FRAMES
    const layouts = perFrame('LayoutCount')
    const styles = perFrame('RecalcStyleCount')
    const said =
      `${layouts.toFixed(2)} layouts, ${styles.toFixed(2)} styles, ${(seen.added / FRAMES).toFixed(2)} elements made, ` +
      `${(perFrame('TaskDuration') * 1000).toFixed(2)} ms a frame; ${seen.rows} rows at most`
    info.annotations.push({ type: 'frames', description: said })
    console.log(`${name}: ${said}`)

    expect(seen.scrolled).toBe((FRAMES + 1) * pixels)
    // The rows in sight and a few around them.
    expect(seen.rows).toBeLessThan(60)
    // One for what moved, one for what the rows measure; a list that measures each row for itself takes dozens.
    expect(layouts).toBeGreaterThan(0)
    expect(layouts).toBeLessThan(4)
    expect(styles).toBeLessThan(6)
    // A row that comes into sight is made once; those in sight keep their elements.
    expect(seen.added).toBeLessThanOrEqual(Math.ceil(seen.scrolled / ROW_PIXELS) + 10)
  })
}
