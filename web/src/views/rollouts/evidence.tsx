/** What the gate looks at: failures against the threshold, and what is in flight against the budget. */
import type { RolloutSummary } from '~/api/types'
import { cx } from '~/ui/cx'
import { count, percent } from '~/ui/number'

export function Evidence({ summary }: { summary: RolloutSummary }) {
  const wave = summary.waves.find((w) => w.number === summary.wave)
  const [failed, reported] = [wave?.failed ?? 0, wave?.reported ?? 0]
  const ratio = summary.failureRatio
  const over = ratio !== undefined && ratio >= summary.threshold
  return (
    <div className="panel grid gap-x-10 gap-y-4 px-4 py-3 sm:grid-cols-2">
      <div>
        <p className="flex items-baseline justify-between gap-3">
          <span className="font-semibold">Failures{wave ? ` in wave ${wave.number}` : ''}</span>
          <span>
            <span className={cx('font-medium', over && 'text-bad')}>{ratio === undefined ? 'no reports yet' : percent(ratio)}</span>
            {reported > 0 && <span className="text-muted"> {count(failed)} of {count(reported)} that reported</span>}
          </span>
        </p>
        <div
          role="meter"
          aria-label="Share of failures"
          aria-valuemin={0}
          aria-valuemax={100}
          aria-valuenow={Math.round((ratio ?? 0) * 100)}
          aria-valuetext={`${ratio === undefined ? 'no reports yet' : percent(ratio)}; halts at ${percent(summary.threshold)}`}
          className="relative mt-2 h-2.5 rounded-sm bg-line"
        >
          <span
            className={cx('absolute inset-y-0 left-0 rounded-sm', over ? 'bg-bad' : (ratio ?? 0) > summary.threshold / 2 ? 'bg-warn' : 'bg-muted')}
            style={{ width: `${Math.min(100, (ratio ?? 0) * 100)}%` }}
          />
          <span className="absolute -top-1 -bottom-1 border-l-2 border-ink" style={{ left: `${summary.threshold * 100}%` }} />
        </div>
        <p className="relative mt-1.5 h-4 text-xs text-muted">
          <span
            className="absolute whitespace-nowrap"
            style={summary.threshold > 0.6 ? { right: `${100 - summary.threshold * 100}%` } : { left: `${summary.threshold * 100}%` }}
          >
            halts at {percent(summary.threshold)}
          </span>
        </p>
      </div>
      <div>
        <p className="flex items-baseline justify-between gap-3">
          <span className="font-semibold">In flight</span>
          <span>
            <span className="font-medium">{count(summary.inFlight)}</span>
            <span className="text-muted"> of a budget of {count(summary.budget)}</span>
          </span>
        </p>
        <div
          role="meter"
          aria-label="Devices in flight"
          aria-valuemin={0}
          aria-valuemax={Math.max(summary.budget, summary.inFlight)}
          aria-valuenow={summary.inFlight}
          className="mt-2 flex h-2.5 gap-0.5"
        >
          {summary.budget <= 40 ? (
            Array.from({ length: Math.max(summary.budget, summary.inFlight) }, (_, i) => (
              <span key={i} className={cx('flex-1 rounded-sm', i < summary.inFlight ? 'bg-accent' : 'bg-line')} />
            ))
          ) : (
            <span className="relative flex-1 overflow-hidden rounded-sm bg-line">
              <span className="absolute inset-y-0 left-0 bg-accent" style={{ width: `${(summary.inFlight / summary.budget) * 100}%` }} />
            </span>
          )}
        </div>
        <p className="mt-1.5 text-xs text-muted">devices that may be down on purpose at the same time</p>
      </div>
    </div>
  )
}
