/** What the gate looks at: failures against the threshold, the sequential test against its two lines, and what is down against the budgets. */
import type { ReactNode } from 'react'

import { currentWave } from '~/api/rollouts'
import type { Evidence as Found, GroupStand, RolloutSpec, RolloutSummary } from '~/api/rollout-types'
import { cx } from '~/ui/cx'
import { count, percent, plural } from '~/ui/number'
import { Section } from '~/ui/panel'

export function Evidence({ summary, spec, groups }: { summary: RolloutSummary; spec: RolloutSpec; groups: GroupStand[] }) {
  const wave = currentWave(summary)
  return (
    <Section title={wave ? `Evidence in wave ${wave.number}` : 'Evidence'} flush>
      <div className="grid gap-x-8 gap-y-5 p-4 md:grid-cols-2 xl:grid-cols-3">
        <Failures summary={summary} acceptable={spec.acceptableFailureRate} />
        {wave?.evidence && <SequentialTest found={wave.evidence} bad={summary.threshold} good={(spec.acceptableFailureRate ?? 5) / 100} />}
        <InFlight summary={summary} slow={spec.slowStart !== false} />
      </div>
      {spec.groupBy !== undefined && spec.groupBy.length > 0 && (
        <p className="border-t border-line px-4 py-2 text-sm text-muted">
          Shared with everything else that takes devices down:{' '}
          {spec.groupBy
            .map((g) => (g.minAvailable === undefined ? `in each ${g.label} at most ${g.maxUnavailable} down` : `in each ${g.label} at least ${g.minAvailable} up`))
            .join('; ')}
          .
        </p>
      )}
      <Groups groups={groups} />
    </Section>
  )
}

const SHOWN = 12

/** The groups in which somebody is down or waits: which one keeps the rollout waiting, and because of whom. */
function Groups({ groups }: { groups: GroupStand[] }) {
  const busy = groups.filter((g) => g.down > 0 || g.waiting > 0 || g.full)
  if (busy.length === 0) return null
  return (
    <div className="overflow-x-auto border-t border-line px-4 py-2">
      <table className="w-full text-sm">
        <caption className="sr-only">Budgets of groups</caption>
        <thead>
          <tr className="text-left text-muted">
            <th className="py-1 pr-4 font-normal">Group</th>
            <th className="py-1 pr-4 text-right font-normal">Down</th>
            <th className="py-1 pr-4 font-normal">By</th>
            <th className="py-1 text-right font-normal">Wait</th>
          </tr>
        </thead>
        <tbody>
          {busy.slice(0, SHOWN).map((g) => (
            <tr key={`${g.label}=${g.value}`} className="border-t border-line">
              <td className="py-1 pr-4 [overflow-wrap:anywhere]">
                {g.label}={g.value} <span className="text-muted">of {count(g.size)}</span>
              </td>
              <td className="py-1 pr-4 text-right whitespace-nowrap">
                {count(g.down)} of {count(g.budget)} {g.full && <span className="text-muted">full</span>}
              </td>
              <td className="py-1 pr-4 text-muted">{because(g)}</td>
              <td className="py-1 text-right">{count(g.waiting)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {busy.length > SHOWN && <p className="py-1 text-xs text-muted">{plural(busy.length - SHOWN, 'more group')}</p>}
    </div>
  )
}

function because(g: GroupStand): string {
  const parts = []
  if (g.downByRollout > 0) parts.push(`${count(g.downByRollout)} by this rollout${g.downUnreachable > 0 ? `, ${count(g.downUnreachable)} out of reach with a permit` : ''}`)
  if (g.downByOthers > 0) parts.push(`${count(g.downByOthers)} by others`)
  if (g.minAvailable !== undefined) parts.push(`${count(g.up)} up, at least ${g.minAvailable}`)
  return parts.join('; ')
}

function Head({ title, value, note, bad = false }: { title: string; value: ReactNode; note: ReactNode; bad?: boolean }) {
  return (
    <p className="flex flex-wrap items-baseline justify-between gap-x-3">
      <span className="font-medium">{title}</span>
      <span>
        <span className={cx('font-medium', bad && 'text-bad')}>{value}</span> <span className="text-muted">{note}</span>
      </span>
    </p>
  )
}

function Failures({ summary, acceptable }: { summary: RolloutSummary; acceptable: number | undefined }) {
  const wave = currentWave(summary)
  const [failed, reported] = [wave?.failed ?? 0, wave?.reported ?? 0]
  const ratio = summary.failureRatio
  const over = ratio !== undefined && ratio >= summary.threshold
  const halts = summary.threshold * 100
  return (
    <div>
      <Head
        title="Failures"
        bad={over}
        value={ratio === undefined ? 'no reports yet' : percent(ratio)}
        note={reported > 0 ? `${count(failed)} of ${count(reported)} that reported` : ''}
      />
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
        {acceptable !== undefined && (
          <span className="absolute inset-y-0 border-l border-dashed border-muted" style={{ left: `${acceptable}%` }} />
        )}
        <span className="absolute -top-1 -bottom-1 border-l-2 border-ink" style={{ left: `${halts}%` }} />
      </div>
      <p className="relative mt-1.5 h-4 text-xs text-muted">
        {acceptable !== undefined && halts > 25 && <span className="absolute left-0">{acceptable} % is noise</span>}
        <span className="absolute whitespace-nowrap" style={halts > 60 ? { right: `${100 - halts}%` } : { left: `${halts}%` }}>
          halts at {percent(summary.threshold)}
        </span>
      </p>
    </div>
  )
}

/** `3 times`, `1,200 times`; beyond a million only that. */
function times(value: number): string {
  const factor = Math.exp(Math.abs(value))
  return factor > 1e6 ? 'more than a million times' : `${factor < 10 ? factor.toFixed(1) : count(factor)} times`
}

function verdict({ value, haltAt, passAt }: Found): string {
  if (value >= haltAt) return 'enough to halt'
  if (value <= passAt) return 'enough to trust it'
  return Math.abs(value) < 0.05 ? 'says nothing yet' : value > 0 ? 'leans to bad' : 'leans to good'
}

/** Wald's test: the evidence walks to the left with each success and to the right, where the halt line is, with each failure. */
function SequentialTest({ found, good, bad }: { found: Found; good: number; bad: number }) {
  const { value, haltAt, passAt } = found
  // What is far beyond the left line is no news.
  const low = Math.min(passAt, Math.max(value, -2 * haltAt)) - 0.4
  const high = Math.max(haltAt, value) + 0.4
  const place = (at: number): number => Math.max(0, ((at - low) / (high - low)) * 100)
  const [zero, now] = [place(0), place(value)]
  const over = value >= haltAt
  return (
    <div>
      <Head title="Sequential test" bad={over} value={verdict(found)} note="" />
      <div
        role="meter"
        aria-label="Evidence of the sequential test"
        aria-valuemin={passAt}
        aria-valuemax={haltAt}
        aria-valuenow={Math.max(passAt, Math.min(haltAt, value))}
        aria-valuetext={`${verdict(found)}: ${value.toFixed(2)}; halts at ${haltAt.toFixed(2)}, good enough at ${passAt.toFixed(2)}`}
        className="relative mt-2 h-2.5 rounded-sm bg-line"
      >
        <span
          className={cx('absolute inset-y-0', over ? 'bg-bad' : value > 0 ? 'bg-warn' : 'bg-ok')}
          style={{ left: `${Math.min(zero, now)}%`, width: `max(2px, ${Math.abs(now - zero)}%)` }}
        />
        <span className="absolute inset-y-0 border-l border-muted" style={{ left: `${zero}%` }} />
        <span className="absolute -top-1 -bottom-1 border-l-2 border-ok" style={{ left: `${place(passAt)}%` }} />
        <span className="absolute -top-1 -bottom-1 border-l-2 border-ink" style={{ left: `${place(haltAt)}%` }} />
      </div>
      <p className="relative mt-1.5 h-4 text-xs text-muted">
        <span className="absolute whitespace-nowrap" style={{ left: `${place(passAt)}%` }}>
          good enough
        </span>
        <span className="absolute whitespace-nowrap" style={{ right: `${100 - place(haltAt)}%` }}>
          halt line
        </span>
      </p>
      <p className="text-xs text-muted">
        {Math.abs(value) < 0.05
          ? `Tells a release that fails on ${percent(good)} from one that fails on ${percent(bad)}.`
          : `These reports are ${times(value)} likelier from a ${value > 0 ? 'bad' : 'good'} release (${percent(value > 0 ? bad : good)}) than from a ${value > 0 ? 'good' : 'bad'} one.`}
      </p>
    </div>
  )
}

function InFlight({ summary, slow }: { summary: RolloutSummary; slow: boolean }) {
  const { inFlight, budget, allowedNow } = summary
  const now = allowedNow ?? budget
  return (
    <div>
      <Head title="In flight" value={count(inFlight)} note={`of a budget of ${count(budget)}`} />
      <div
        role="meter"
        aria-label="Devices in flight"
        aria-valuemin={0}
        aria-valuemax={Math.max(budget, inFlight)}
        aria-valuenow={inFlight}
        className="mt-2 flex h-2.5 gap-0.5"
      >
        {budget <= 40 ? (
          Array.from({ length: Math.max(budget, inFlight) }, (_, i) => (
            <span key={i} className={cx('flex-1 rounded-sm', i < inFlight ? 'bg-accent' : i < now ? 'bg-line-strong' : 'bg-line')} />
          ))
        ) : (
          <span className="relative flex-1 overflow-hidden rounded-sm bg-line">
            <span className="absolute inset-y-0 left-0 bg-line-strong" style={{ width: `${(Math.min(now, budget) / budget) * 100}%` }} />
            <span className="absolute inset-y-0 left-0 bg-accent" style={{ width: `${(inFlight / budget) * 100}%` }} />
          </span>
        )}
      </div>
      <p className="mt-1.5 text-xs text-muted">
        {slow && now < budget
          ? `slow start: ${plural(now, 'device')} at once until more have reported`
          : 'devices that may be down on purpose at the same time'}
      </p>
    </div>
  )
}
