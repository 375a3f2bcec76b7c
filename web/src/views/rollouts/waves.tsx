/** The waves of a rollout on a time axis: bar = how long, fill = how its devices do. */
import { isFinal } from '~/api/rollouts'
import type { Forecast, RolloutSpec, RolloutSummary, WaveSummary } from '~/api/rollout-types'
import { cx } from '~/ui/cx'
import { Mark } from '~/ui/mark'
import { count, plural, percent } from '~/ui/number'
import { Section } from '~/ui/panel'
import { axisLabels, clock, duration, Time, useNow } from '~/ui/time'

import { CountsBar, countsText } from './counts-bar'
import { ENDED, WAVES } from './look'
import { timeline } from './timeline'

export function Waves({ summary, spec, forecast }: { summary: RolloutSummary; spec: RolloutSpec; forecast?: Forecast | undefined }) {
  const now = useNow()
  const drawn = timeline(summary, now, forecast)
  const { finish } = drawn
  const axis = axisLabels(drawn.ticks.map((tick) => tick.at), drawn.from, now, drawn.seconds)
  return (
    <Section
      title="Waves"
      actions={
        drawn.bars.some((b) => b.estimate) && (
          <span className="text-sm text-muted">
            {finish ? (
              <>
                done about <span className="font-medium text-ink">{clock(finish.p50.at, now)}</span> (p50), by{' '}
                <span className="font-medium text-ink">{clock(finish.p90.at, now)}</span> in nine of ten runs (p90)
              </>
            ) : (
              'dashed: an estimate'
            )}
          </span>
        )
      }
      flush
    >
      <div className="grid grid-cols-[minmax(92px,auto)_1fr] gap-x-4 px-4 py-3 lg:grid-cols-[minmax(120px,auto)_1fr_minmax(200px,auto)]">
        <span className="text-xs text-muted" aria-hidden="true">{axis.day}</span>
        <div className="relative h-5 text-xs text-muted" aria-hidden="true">
          {drawn.ticks.map((tick, i) => (
            <span
              key={tick.at}
              className={cx('absolute -translate-x-1/2 whitespace-nowrap', (drawn.seconds || drawn.ticks.length > 4) && 'max-sm:even:hidden')}
              style={{ left: `${Math.min(97, Math.max(3, tick.left * 100))}%` }}
            >
              {axis.labels[i]}
            </span>
          ))}
        </div>
        <span className="max-lg:hidden" />
        {summary.waves.map((wave) => {
          const bar = drawn.bars.find((b) => b.number === wave.number)
          return (
            <div key={wave.number} className="col-span-full grid grid-cols-subgrid items-center border-t border-line py-2">
              <div>
                <p className="font-medium">
                  Wave {wave.number}{' '}
                  <span className="font-normal text-muted">{spec.waves?.[wave.number - 1]?.selector ?? `to ${wave.toPercent} %`}</span>
                </p>
                <WaveMark wave={wave} over={isFinal(summary.phase)} />
              </div>
              <div className="relative h-9 min-w-0">
                {drawn.ticks.map((tick) => (
                  <span key={tick.at} aria-hidden="true" className="absolute inset-y-0 border-l border-line" style={{ left: `${tick.left * 100}%` }} />
                ))}
                {bar?.late && (
                  <span
                    aria-hidden="true"
                    className="absolute top-1/2 border-t border-dashed border-muted"
                    style={{ left: `${bar.left * 100 + bar.width * 100}%`, width: `${bar.late.width * 100}%` }}
                  >
                    <span className="absolute -top-1.5 right-0 h-3 border-r border-muted" />
                  </span>
                )}
                {finish &&
                  [finish.p50, finish.p90].map((moment, i) => (
                    <span
                      key={i}
                      aria-hidden="true"
                      className={cx('absolute inset-y-0 border-l lg:-inset-y-2', i === 0 ? 'border-muted' : 'border-dashed border-muted')}
                      style={{ left: `${moment.left * 100}%` }}
                    />
                  ))}
                {bar && (
                  <span
                    className="absolute top-1/2 flex h-5 -translate-y-1/2"
                    style={{ left: `${bar.left * 100}%`, width: `max(6px, ${bar.width * 100}%)` }}
                  >
                    {bar.estimate ? (
                      <span className="w-full rounded-sm border border-dashed border-muted bg-sunken" />
                    ) : (
                      <CountsBar counts={wave.counts} className="h-full" />
                    )}
                  </span>
                )}
                {drawn.now !== undefined && (
                  <span aria-hidden="true" className="absolute inset-y-0 border-l border-accent lg:-inset-y-2" style={{ left: `${drawn.now * 100}%` }} />
                )}
              </div>
              <div className="text-sm max-lg:col-span-full max-lg:flex max-lg:flex-wrap max-lg:gap-x-3">
                <p>{wave.state === 'waiting' ? plural(wave.size, 'device') : countsText(wave.counts)}</p>
                <p className="text-muted">
                  <WaveNote wave={wave} />
                </p>
              </div>
            </div>
          )
        })}
        {drawn.wayBack && (
          <div className="col-span-full grid grid-cols-subgrid items-center border-t border-line py-2">
            <div>
              <p className="font-medium">Way back</p>
              <p className="text-sm text-muted">to {summary.from?.version ?? 'nothing'}</p>
            </div>
            <div className="relative h-9 min-w-0">
              {drawn.ticks.map((tick) => (
                <span key={tick.at} aria-hidden="true" className="absolute inset-y-0 border-l border-line" style={{ left: `${tick.left * 100}%` }} />
              ))}
              <span
                aria-hidden="true"
                className="absolute top-1/2 h-5 -translate-y-1/2 rounded-sm border border-muted"
                style={{
                  left: `${drawn.wayBack.left * 100}%`,
                  width: `max(6px, ${drawn.wayBack.width * 100}%)`,
                  background: 'repeating-linear-gradient(45deg, var(--muted) 0 1px, transparent 1px 5px)',
                }}
              />
            </div>
            <p className="text-sm max-lg:col-span-full">
              {plural(summary.counts.rolledBack, 'device')} back, {count(summary.counts.rollingBack)} on the way
            </p>
          </div>
        )}
      </div>
    </Section>
  )
}

function WaveMark({ wave, over }: { wave: WaveSummary; over: boolean }) {
  if (over && (wave.state === 'running' || wave.state === 'soaking')) {
    return <Mark word="stopped" look={ENDED.stopped} focusable className="text-sm" />
  }
  if (over && wave.state === 'waiting') return <Mark word="not begun" look={ENDED['not begun']} focusable className="text-sm" />
  return <Mark word={wave.state} look={WAVES[wave.state] ?? WAVES.unknown} focusable className="text-sm" />
}

function WaveNote({ wave }: { wave: WaveSummary }) {
  const verdict =
    wave.reported > 0 ? `${wave.failed} of ${wave.reported} failed (${percent(wave.failureRatio ?? 0)})` : 'no reports yet'
  if (wave.state === 'waiting') return <>then soaks {duration(wave.soakSeconds * 1000)}</>
  if (wave.state === 'awaiting-approval') {
    const [given, needed] = [wave.approvals?.length ?? 0, wave.approvalsNeeded ?? 1]
    return (
      <>
        {verdict}; approved by {count(given)} of {plural(needed, 'person', 'people')}
      </>
    )
  }
  if (wave.state === 'soaking') {
    return (
      <>
        {verdict}; soak ends <Time at={wave.soakUntil} />
      </>
    )
  }
  if (wave.startedAt !== undefined && wave.finishedAt !== undefined) {
    return (
      <>
        {verdict}, took {duration(wave.finishedAt - wave.startedAt)}
      </>
    )
  }
  return <>{verdict}</>
}
