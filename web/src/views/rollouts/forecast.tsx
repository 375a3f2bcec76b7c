/** Before the start: what this plan would do, played through with the fleet's own past by the same engine. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import type { ReactNode } from 'react'

import { forecastQuery, rolloutPlanQuery } from '~/api/rollouts'
import type { Forecast, ForecastWave, Rollout, RolloutSpec, RolloutSummary } from '~/api/rollout-types'
import { Button } from '~/ui/button'
import { Command } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Icon } from '~/ui/icon'
import { count, percent, plural } from '~/ui/number'
import { Failure, Loading, Section } from '~/ui/panel'
import { clock, longDuration, Time, useNow } from '~/ui/time'

import { DeviceRows } from './device-rows'
import { Characteristic } from './characteristic'
import { Waves } from './waves'

export function ForecastView({ rollout }: { rollout: Rollout }) {
  const id = rollout.metadata.uid
  const query = useQuery(forecastQuery(id))
  const plan = useInfiniteQuery(rolloutPlanQuery(id))
  const first = plan.data?.pages[0]
  const forecast = query.data
  const summary: RolloutSummary = first
    ? { ...rollout.status.summary, population: first.population, waves: first.waves }
    : rollout.status.summary
  const again = (
    <Button small busy={query.isFetching} onClick={() => void query.refetch()}>
      <Icon name="retry" size={14} />
      Simulate again
    </Button>
  )
  return (
    <>
      {query.isError && !query.data ? (
        <Failure what="There is no forecast" error={query.error} retry={() => void query.refetch()} />
      ) : !forecast ? (
        <Section title="Forecast">
          <Loading what="the forecast" lines={5} />
        </Section>
      ) : (
        <>
          <Section title="Forecast" actions={again} flush>
            <Figures forecast={forecast} />
            {forecast.blocked.length > 0 && <Blocked blocked={forecast.blocked} />}
            {forecast.assumptions !== undefined && forecast.assumptions.length > 0 && (
              <details className="border-t border-line px-4 py-2 text-sm text-muted">
                <summary>What was taken for granted</summary>
                <ul className="mt-1 list-disc pl-5">
                  {forecast.assumptions.map((one) => (
                    <li key={one}>{one}</li>
                  ))}
                </ul>
              </details>
            )}
          </Section>
          <Waves summary={summary} spec={rollout.spec} forecast={forecast} />
          <div className="grid items-start gap-4 xl:grid-cols-2">
            <Section title="If the release is bad" flush>
              <Characteristic rows={forecast.operatingCharacteristic} spec={rollout.spec} devices={forecast.devices} />
            </Section>
            <div className="flex min-w-0 flex-col gap-4">
              <PeakDown peaks={forecast.peakDown} />
              <SmallWaves waves={forecast.waves} spec={rollout.spec} />
            </div>
          </div>
        </>
      )}
      <Section title="Who is in which wave" flush>
        {plan.isError ? (
          <div className="p-4">
            <Failure what="The plan can’t be shown" error={plan.error} retry={() => void plan.refetch()} />
          </div>
        ) : !first ? (
          <div className="p-4">
            <Loading what="the plan" />
          </div>
        ) : first.population === 0 ? (
          <p className="px-4 py-3 text-muted">No device of channel {rollout.spec.channel} runs {rollout.spec.app} now. Devices that join later take the release at the end.</p>
        ) : (
          <>
            <p className="px-4 py-2 text-sm text-muted">As it would be if it started now; the same each time while the fleet stays the same.</p>
            <DeviceRows
              planned
              label="Planned members"
              items={plan.data?.pages.flatMap((page) => withTimes(page.items, forecast)) ?? []}
              total={first.metadata.total ?? first.population}
              onEnd={() => {
                if (plan.hasNextPage && !plan.isFetching) void plan.fetchNextPage()
              }}
            />
          </>
        )}
      </Section>
      <Command text={`farshore rollout simulate ${rollout.metadata.name}`} label="Copy as command" />
    </>
  )
}

/** A device's turn is about when its wave begins. */
function withTimes<T extends { wave: number }>(items: readonly T[], forecast: Forecast | undefined): (T & { aboutSeconds?: number })[] {
  const starts = new Map(forecast?.waves.map((w) => [w.wave, w.startsP50]))
  return items.map((item) => {
    const at = starts.get(item.wave)
    return typeof at !== 'number' ? item : { ...item, aboutSeconds: at }
  })
}

function Figure({ title, note, bad = false, children }: { title: string; note?: ReactNode; bad?: boolean; children: ReactNode }) {
  return (
    <div>
      <dt className="text-sm text-muted">{title}</dt>
      <dd className={cx('text-lg font-medium', bad && 'text-warn')}>{children}</dd>
      {note !== undefined && <dd className="text-sm text-muted">{note}</dd>}
    </div>
  )
}

function Figures({ forecast }: { forecast: Forecast }) {
  const madeAt = forecast.at
  const now = useNow()
  const peak = forecast.peakDown.toSorted((a, b) => b.devices / Math.max(1, b.of) - a.devices / Math.max(1, a.of))[0]
  const at = (seconds: number | null | undefined): ReactNode =>
    typeof seconds !== 'number' ? 'not in this time' : <>{longDuration(seconds * 1000)} <span className="text-sm font-normal text-muted">{clock(madeAt + seconds * 1000, now)}</span></>
  return (
    <dl className="grid grid-cols-2 gap-x-8 gap-y-4 px-4 py-3 md:grid-cols-4">
      <Figure title="Done in half of the runs (p50)" note={`${plural(forecast.devices, 'device')} in ${plural(forecast.waves.length, 'wave')}`}>
        {at(forecast.finishP50Seconds)}
      </Figure>
      <Figure title="Done in nine of ten (p90)" note={<>{forecast.runs !== undefined && `${plural(forecast.runs, 'run')}, `}made <Time at={madeAt} />{forecast.tookMs !== undefined && ` in ${(forecast.tookMs / 1000).toFixed(1)} s`}</>}>
        {at(forecast.finishP90Seconds)}
      </Figure>
      <Figure title="Runs that finish" bad={forecast.finishes < 0.95} note={ended(forecast)}>
        {percent(forecast.finishes)}
      </Figure>
      {peak && (
        <Figure title="Most down at once" note={peak.label === '' ? 'in the whole fleet' : `${peak.label}=${peak.group}`}>
          {count(peak.devices)} <span className="text-sm font-normal text-muted">of {count(peak.of)}</span>
        </Figure>
      )}
    </dl>
  )
}

/** How the runs that did not succeed ended. */
function ended({ endings = [], finishes }: Forecast): string {
  const shown = endings.filter((e) => e.share > 0.004)
  if (shown.length === 0) return finishes > 0.995 ? 'with a good release' : 'the others wait for a person or for devices'
  return shown.map((e) => `${percent(e.share)} ${e.how}`).join(', ')
}

function Blocked({ blocked }: { blocked: Forecast['blocked'] }) {
  const now = useNow()
  return (
    <div className="border-t border-line px-4 py-2.5">
      <p className="text-sm text-muted">Held up by</p>
      <ul className="mt-1">
        {blocked.map((one) => (
          <li key={one.why}>
            <span className="font-medium">{one.devices === 0 ? 'the rollout' : plural(one.devices, 'device')}</span>: {one.why}
            {one.firstAt !== undefined && (
              <span className="text-muted">
                {' '}
                first {clock(one.firstAt, now)}
              </span>
            )}
            {one.seconds !== undefined && one.seconds > 0 && <span className="text-muted">, {longDuration(one.seconds * 1000)} in all</span>}
          </li>
        ))}
      </ul>
    </div>
  )
}

const SHOWN_PEAKS = 8

function PeakDown({ peaks }: { peaks: Forecast['peakDown'] }) {
  if (peaks.length === 0) return null
  const sorted = peaks.toSorted((a, b) => b.devices / Math.max(1, b.of) - a.devices / Math.max(1, a.of))
  return (
    <Section title="Most down at once" flush>
      <ul className="flex flex-col gap-1.5 px-4 py-3">
        {sorted.slice(0, SHOWN_PEAKS).map((peak) => (
          <li key={`${peak.group}${peak.label}`} className="flex items-center gap-3 text-sm">
            <span className="w-36 truncate">
              {peak.label === '' ? 'whole fleet' : (<><span className="text-muted">{peak.label}=</span>{peak.group || 'none'}</>)}
            </span>
            <span aria-hidden="true" className="h-2 flex-1 overflow-hidden rounded-sm bg-line">
              <span className="block h-full bg-accent" style={{ width: `${Math.min(100, (peak.devices / Math.max(1, peak.of)) * 100)}%` }} />
            </span>
            <span className="w-28 text-right">
              {count(peak.devices)} of {count(peak.of)}
            </span>
          </li>
        ))}
      </ul>
      {sorted.length > SHOWN_PEAKS && <p className="px-4 pb-3 text-sm text-muted">and {plural(sorted.length - SHOWN_PEAKS, 'group')} with a smaller share</p>}
    </Section>
  )
}

const ON_SMALL: Record<NonNullable<RolloutSpec['onSmallWave']>, string> = {
  halt: 'it halts all the same (onSmallWave: halt)',
  pause: 'it pauses and a person decides (onSmallWave: pause)',
  'retry-elsewhere': 'as many other devices try it once more (onSmallWave: retry-elsewhere)',
}

/** Waves too small for the promised error: what arithmetic alone gets wrong there. */
function SmallWaves({ waves, spec }: { waves: readonly ForecastWave[]; spec: RolloutSpec }) {
  const promised = (spec.falseHaltPercent ?? 1) / 100
  const small = waves.flatMap((w) => (w.realError && w.realError.falseHalt > promised ? [{ ...w, realError: w.realError }] : []))
  if (small.length === 0) return null
  return (
    <Section title="Waves too small for the promised error" flush>
      <table className="w-full">
        <thead>
          <tr className="border-b border-line text-left text-sm text-muted">
            <th className="px-4 py-1.5 font-normal">Wave</th>
            <th className="px-4 py-1.5 text-right font-normal">Devices</th>
            <th className="px-4 py-1.5 text-right font-normal">Halts a good release</th>
            <th className="px-4 py-1.5 text-right font-normal">Misses a bad one</th>
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {small.map((w) => (
            <tr key={w.wave}>
              <td className="px-4 py-1">{w.wave}</td>
              <td className="px-4 py-1 text-right">{count(w.devices)}</td>
              <td className="px-4 py-1 text-right text-warn">{percent(w.realError.falseHalt, 1)}</td>
              <td className="px-4 py-1 text-right">{percent(w.realError.missed, 1)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p className="px-4 py-2 text-sm text-muted">
        Promised: {percent(promised)} over the whole rollout. When such a wave halts, {ON_SMALL[spec.onSmallWave ?? 'halt']}. Larger first waves make it rarer.
      </p>
    </Section>
  )
}
