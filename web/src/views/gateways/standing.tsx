/** How a gateway stands, in a word and why. */
import type { GatewaySync } from '~/api/gateways'
import { Glyph } from '~/ui/mark'
import { longDuration } from '~/ui/time'

/** Later than this, a gateway that should report each minute is away. */
const LATE_MS = 3 * 60_000

export function Standing({ gateway, now }: { gateway: GatewaySync; now: number }) {
  const { report } = gateway
  const away = now - gateway.reportedAt > LATE_MS
  const drain = report.drainSeconds
  const [shape, tone, text] = away
    ? (['ring', 'quiet', 'not heard of'] as const)
    : report.backlogPoints === 0
      ? (['full', 'ok', 'all sent'] as const)
      : drain !== undefined && drain < 5
        ? (['full', 'ok', 'up to date'] as const)
      : (['half', 'warn', drain === undefined ? 'sending' : `sent in about ${longDuration(drain * 1000)}`] as const)
  return (
    <span className="flex items-center gap-1.5" title={report.lastError}>
      <Glyph shape={shape} tone={tone} size={10} />
      {text}
    </span>
  )
}
