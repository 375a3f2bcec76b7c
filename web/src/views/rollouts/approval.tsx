/** A gate that waits for people: what they decide on, who has said yes, and how many are still needed. */
import { approvalsMissing, currentWave } from '~/api/rollouts'
import type { Rollout } from '~/api/rollout-types'
import { useMe } from '~/frame/me'
import { Glyph } from '~/ui/mark'
import { count, percent, plural } from '~/ui/number'
import { Time } from '~/ui/time'

export function ApprovalNote({ rollout }: { rollout: Rollout }) {
  const { summary, history = [] } = rollout.status
  const me = useMe()
  const wave = currentWave(summary)
  const missing = approvalsMissing(summary)
  if (!wave || missing === 0) return null
  const given = wave.approvals ?? []
  const mine = me !== undefined && given.some((a) => a.by.replace(/^user:/, '') === me.email)
  return (
    <section aria-label="Approval" className="rounded border border-warn bg-warn-soft px-4 py-3">
      <p className="font-medium">
        Wave {wave.number} is good and waits for {missing === 1 && given.length === 0 ? 'a person' : `${plural(missing, given.length > 0 ? 'more person' : 'different person', given.length > 0 ? 'more people' : 'different people')}`} to approve
      </p>
      <p className="text-sm text-muted">
        {count(wave.reported)} of {count(wave.size)} reported, {count(wave.failed)} failed ({percent(wave.failureRatio ?? 0)}; halts at {percent(summary.threshold)}).
        {mine ? ' You have approved; it needs somebody else as well.' : ''}
      </p>
      {given.length > 0 && (
        <ul className="mt-1.5">
          {given.map((one) => (
            <li key={`${one.by}${one.at}`} className="flex flex-wrap items-center gap-x-2">
              <Glyph shape="check" tone="ok" />
              <span>{one.by.replace(/^user:/, '')}</span>
              <Said comment={history.find((entry) => entry.at === one.at && entry.who === one.by)?.comment} />
              <Time at={one.at} className="text-sm text-muted" />
            </li>
          ))}
        </ul>
      )}
    </section>
  )
}

function Said({ comment }: { comment: string | undefined }) {
  return comment === undefined || comment === '' ? null : <span className="text-muted">“{comment}”</span>
}
